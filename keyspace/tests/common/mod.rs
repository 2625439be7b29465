//! A member of a group without the group: entries go in as the log would bring them, replies come out.
//! For the tests of every family; see `goldens.rs` for replies recorded from a real server.

#![allow(dead_code, reason = "each test binary uses its own part")]

use bytes::{Bytes, BytesMut};
use quorate_keyspace::spec::{self, Handler};
use quorate_keyspace::{
    Args, Keyspace, Proto, ReplyBuf, Stamp, UnitHead, UnitKind, View, Watch, encode_entry, encode_expire_unit,
    encode_setting_unit, encode_unit, view::Restore,
};

/// A keyspace with a clock of its own.
pub struct Member {
    pub keyspace: Keyspace,
    pub now_ms: u64,
    pub seed: u64,
    pub db: u16,
    pub proto: Proto,
}

impl Default for Member {
    fn default() -> Self {
        Self::over(Keyspace::new(16, [7, 11]))
    }
}

/// Splits a line at blanks; `"..."` quotes, with `\xHH`, `\n`, `\r`, `\t`, `\\` and `\"` in it.
pub fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(first) = chars.next() {
        if first.is_whitespace() {
            continue;
        }
        let mut word = Vec::new();
        if first != '"' {
            word.extend(first.to_string().bytes());
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                word.extend(c.to_string().bytes());
            }
            words.push(word);
            continue;
        }
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => word.push(match chars.next() {
                    Some('n') => b'\n',
                    Some('r') => b'\r',
                    Some('t') => b'\t',
                    Some('x') => {
                        let digits: String = chars.by_ref().take(2).collect();
                        u8::from_str_radix(&digits, 16).expect("two hex digits")
                    }
                    Some(other) => u8::try_from(other).expect("an ASCII escape"),
                    None => panic!("escape at the end of {line}"),
                }),
                c => word.extend(c.to_string().bytes()),
            }
        }
        words.push(word);
    }
    words
}

/// Bytes as goldens write them.
pub fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

impl Member {
    pub fn over(keyspace: Keyspace) -> Self {
        Self { keyspace, now_ms: 1_700_000_000_000, seed: 1, db: 0, proto: Proto::Resp2 }
    }

    /// One entry of the log with these units.
    pub fn entry(&mut self, units: &[Bytes]) -> BytesMut {
        self.seed += 1;
        let mut entry = BytesMut::new();
        encode_entry(Stamp { time_ms: self.now_ms, seed: self.seed }, units, &mut entry);
        entry
    }

    pub fn unit(&self, kind: UnitKind, watches: &[Watch], lines: &[&str]) -> Bytes {
        let commands: Vec<Vec<Vec<u8>>> = lines.iter().map(|line| words(line)).collect();
        let head = UnitHead { kind, proto: self.proto, watches };
        encode_unit(head, commands.iter().map(|args| (self.db, args.as_slice())))
    }

    /// Applies one unit and gives its replies.
    pub fn apply(&mut self, unit: Bytes) -> String {
        let entry = self.entry(&[unit]);
        shown(&self.keyspace.apply(&entry, true).expect("an entry of ours")[0])
    }

    /// Runs a command as the shell would: reads beside the log, the rest through it.
    pub fn run_args(&mut self, args: &[Vec<u8>]) -> String {
        let slices: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        if let Ok((command, at)) = spec::lookup_full(&slices)
            && matches!(command.handler, Handler::Read(_))
        {
            let mut out = ReplyBuf::new(self.proto);
            let args = Args::new(&slices, at);
            self.keyspace.read(self.now_ms, self.seed, self.db, command, args, &mut out);
            return shown(&out.take());
        }
        let head = UnitHead { kind: UnitKind::Batch, proto: self.proto, watches: &[] };
        let unit = encode_unit(head, [(self.db, args)].into_iter());
        self.apply(unit)
    }

    /// The same of a line.
    pub fn run(&mut self, line: &str) -> String {
        self.run_args(&words(line))
    }

    /// Runs a line and compares its reply.
    #[track_caller]
    pub fn expect(&mut self, line: &str, reply: &str) {
        assert_eq!(self.run(line), shown(reply.as_bytes()), "reply of {line}");
    }

    pub fn transaction(&mut self, watches: &[Watch], lines: &[&str]) -> String {
        let unit = self.unit(UnitKind::Transaction, watches, lines);
        self.apply(unit)
    }

    pub fn watch(&self, key: &str) -> Watch {
        let revision = self.keyspace.revision(self.now_ms, self.db, key.as_bytes());
        Watch { db: self.db, key: Bytes::copy_from_slice(key.as_bytes()), revision }
    }

    pub fn set(&mut self, name: &str, value: i64) {
        let unit = encode_setting_unit(name, value);
        self.apply(unit);
    }

    /// What the leader's active expiry does.
    pub fn expire_due(&mut self, limit: usize) -> usize {
        let due = self.keyspace.due(self.now_ms, limit);
        let keys: Vec<(u16, &[u8])> = due.iter().map(|(db, key)| (*db, &key[..])).collect();
        self.apply(encode_expire_unit(keys.into_iter()));
        due.len()
    }

    /// Another member made of this one's snapshot.
    pub fn restored(&self) -> Self {
        let view = self.keyspace.view();
        let keyspace = Keyspace::from_view(&restore(&view));
        Self { keyspace, ..*self }
    }
}

/// Through bytes and back.
pub fn restore(view: &View) -> View {
    let mut restore = Restore::new(&view.header()).expect("our own header");
    for (chunk, _) in view.chunks() {
        let mut bytes = Vec::new();
        view.encode(chunk, &mut bytes);
        restore.add(chunk, &bytes).expect("our own chunk");
    }
    restore.finish().expect("all chunks")
}

/// Ids and digests of all chunks: equal on members that hold the same.
pub fn fingerprint(view: &View) -> Vec<(u128, u128)> {
    view.chunks().map(|(chunk, _)| (chunk, view.digest(chunk))).collect()
}
