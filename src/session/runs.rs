//! Which commands of a batch run together.
//!
//! The more there are in one run, the fewer locks and rounds of the log they cost; but a client must not make the member
//! hold a pipeline's worth of large replies.

use quorate_keyspace::error::CmdError;
use quorate_keyspace::spec::{self, flag};
use tokio::io::{AsyncRead, AsyncWrite};

use super::found::{Class, Found};
use super::{READ_COMMANDS, Session, slices};
use crate::executor::ANSWER_BYTES;
use crate::resp::Command;

/// Writes that answer with a value, which may be long. SET does if it is told to.
const TELLING: [&str; 5] = ["getset", "getdel", "getex", "set", "sort"];
/// Commands of a unit of writes that answer with values, at most.
const UNIT_VALUES: usize = 64;

/// Whether the reply may be as long as a value.
fn tells_values(command: &Command, found: &Found) -> bool {
    let name = found.entry.full_name.as_str();
    let asked = || command.iter().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"get"));
    found.class == Class::Read || TELLING.contains(&name) && (name != "set" || asked())
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// Where the run that begins at `at` ends: at the next command of another class. A few quick reads that stand
    /// between writes go along with them: each change from one to the other would cost a round of the log.
    pub(super) fn run_end(
        &self,
        batch: &[Command],
        found: &[Result<Found, CmdError>],
        at: usize,
        class: Class,
    ) -> usize {
        let skip = |mut at: usize, class: Class, flags: u32| {
            while at < found.len()
                && found[at].as_ref().is_ok_and(|f| f.class == class && f.entry.flags & flags == flags)
            {
                at += 1;
            }
            at
        };
        let mut end = skip(at, class, 0);
        if class != Class::Write {
            return end;
        }
        while !self.state.read_only && !self.memory_is_used_up() {
            let reads = skip(end, Class::Read, flag::FAST);
            let writes = skip(reads, Class::Write, 0);
            if writes == reads || reads - at > READ_COMMANDS {
                break;
            }
            end = writes;
        }
        self.bounded(batch, found, at, end)
    }

    /// The replies of a unit of writes are made in one go and held together, so what answers with values goes into one
    /// only as long as they are small: here, at this moment, for what is applied when the unit is may differ. Because
    /// of that their number is bounded too.
    fn bounded(&self, batch: &[Command], found: &[Result<Found, CmdError>], at: usize, end: usize) -> usize {
        let run = || (at..end).filter_map(|nth| Some((nth, &batch[nth], found[nth].as_ref().ok()?)));
        let mut telling = run().filter(|(_, command, found)| tells_values(command, found)).peekable();
        if telling.next().is_none() || telling.peek().is_none() {
            return end;
        }
        let engine = self.shared.executor().engine();
        let (db, now_ms) = (self.state.db, engine.now_ms());
        engine.with(|keyspace| {
            let mut bytes = 0;
            let telling = run().filter(|(_, command, found)| tells_values(command, found));
            for (count, (nth, command, found)) in telling.enumerate() {
                let args = slices(command);
                let keys = spec::keys_of(found.entry.meta, &args).unwrap_or_default();
                bytes += keys.iter().map(|(key, _)| keyspace.string_len(now_ms, db, args[*key])).sum::<usize>();
                if count > 0 && (bytes > ANSWER_BYTES || count >= UNIT_VALUES) {
                    return nth;
                }
            }
            end
        })
    }
}

#[cfg(test)]
mod tests {
    use quorate_keyspace::spec::{self, Handler, key};

    use super::*;

    /// Writes that look at a value, or move it, and answer with numbers or a word.
    const SHORT: [&str; 14] = [
        "bitfield",
        "bitop",
        "copy",
        "decr",
        "decrby",
        "hincrby",
        "hincrbyfloat",
        "incr",
        "incrby",
        "incrbyfloat",
        "move",
        "rename",
        "renamenx",
        "setbit",
    ];

    #[test]
    fn whoever_adds_a_write_says_whether_it_answers_with_values() {
        let all = spec::table().iter().copied().flatten();
        let looks = all.filter(|command| {
            matches!(command.handler, Handler::Write(_))
                && command.meta.keys.iter().any(|spec| spec.flags & key::ACCESS != 0)
        });
        let mut found: Vec<&str> = looks.map(|command| command.meta.name).collect();
        let mut known = [&TELLING[..], &SHORT].concat();
        found.sort_unstable();
        known.sort_unstable();
        assert_eq!(found, known);
    }
}
