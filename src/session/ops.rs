//! The commands that are about the connection itself.

use bytes::Bytes;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::number::parse_int;
use quorate_keyspace::reply::Proto;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Session;
use super::found::Found;
use super::state::State;
use crate::config::FollowerMode;
use crate::migrate::{Done, Migration, Plan};
use crate::resp::Command;
use crate::server::{REDIS_VERSION, SessionOp};

const WRONG_PASSWORD: CmdError = CmdError::fixed("WRONGPASS invalid username-password pair or user is disabled.");

const NOT_AN_INT: CmdError =
    CmdError::fixed("ERR value is out of range, value must between -2147483648 and 2147483647");

/// The number of a database that exists, or SELECT's refusal.
pub(super) fn parse_db(arg: &[u8], databases: u16) -> Result<u16, CmdError> {
    let db = i32::try_from(parse_int(arg).ok_or(CmdError::NOT_INTEGER)?).map_err(|_| NOT_AN_INT)?;
    u16::try_from(db).ok().filter(|db| *db < databases).ok_or(CmdError::DB_RANGE)
}

/// Compares without telling by its time where the difference is.
fn same_secret(given: &[u8], wanted: &[u8]) -> bool {
    let difference = given.iter().zip(wanted).fold(0, |seen, (a, b)| seen | (a ^ b));
    difference == 0 && given.len() == wanted.len()
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// Runs one of the session's own commands. An error is written by the caller, and takes back what was written.
    pub(super) async fn session_op(&mut self, op: SessionOp, command: &Command, found: &Found) -> Result<(), CmdError> {
        let args = &command[found.first_arg..];
        match op {
            SessionOp::Ping => self.ping(args),
            SessionOp::Echo => {
                self.out.bulk(&args[0]);
                Ok(())
            }
            SessionOp::Quit => {
                self.state.closing = true;
                self.out.ok();
                Ok(())
            }
            SessionOp::Select => {
                self.state.db = parse_db(&args[0], self.shared.settings.databases())?;
                self.out.ok();
                Ok(())
            }
            SessionOp::Auth => self.auth(args),
            SessionOp::Hello => self.hello(args),
            SessionOp::Reset => {
                self.reset();
                Ok(())
            }
            SessionOp::ReadOnly => {
                self.state.read_only = true;
                self.out.ok();
                Ok(())
            }
            SessionOp::ReadWrite => {
                self.state.read_only = false;
                self.out.ok();
                Ok(())
            }
            SessionOp::Asking => {
                self.out.ok();
                Ok(())
            }
            SessionOp::Multi => self.multi(),
            SessionOp::Discard => self.discard(),
            SessionOp::Exec => self.exec().await,
            SessionOp::Watch => self.watch(args).await,
            SessionOp::Migrate => self.migrate(command).await,
            SessionOp::Unwatch => {
                self.state.watches.clear();
                self.out.ok();
                Ok(())
            }
            SessionOp::ClientPause | SessionOp::ClientUnblock if args.len() > 2 => {
                let sub = String::from_utf8_lossy(&command[1]);
                Err(CmdError::new(format!(
                    "ERR unknown subcommand or wrong number of arguments for '{sub}'. Try CLIENT HELP."
                )))
            }
            SessionOp::ClientInfo | SessionOp::ClientList => {
                self.publish_view(&found.entry.full_name);
                self.client_op(op, args)
            }
            _ => self.client_op(op, args),
        }
    }

    /// MIGRATE. Nobody waits for what a closed connection has asked for: it is given up, and the keys stay.
    async fn migrate(&mut self, command: &Command) -> Result<(), CmdError> {
        let plan = Plan::parse(command.args())?;
        let (shared, client) = (self.shared.clone(), self.client.clone());
        let mut migration = Migration::new(shared.executor(), self.state.db, &plan);
        tokio::select! {
            biased;
            () = client.killed() => return Ok(()),
            () = migration.send() => {}
        }
        // A CLIENT PAUSE may have come meanwhile.
        if !self.unpaused(true).await {
            return Ok(());
        }
        match migration.finish().await? {
            Done::Moved => self.out.ok(),
            Done::NoKey => self.out.simple("NOKEY"),
        }
        Ok(())
    }

    fn ping(&mut self, args: &[Bytes]) -> Result<(), CmdError> {
        match args {
            [] => self.out.simple("PONG"),
            [text] => self.out.bulk(text),
            _ => return Err(CmdError::arity("ping")),
        }
        Ok(())
    }

    /// Checks a user name and password; counts and reports what is wrong.
    fn check_password(&mut self, user: &[u8], password: &[u8]) -> Result<(), CmdError> {
        let right = match self.shared.settings.requirepass() {
            // The default user without a password takes any.
            None => user == b"default",
            Some(wanted) => user == b"default" && same_secret(password, wanted.as_bytes()),
        };
        if right {
            self.state.authenticated = true;
            return Ok(());
        }
        self.shared.metrics.auth_failures.inc();
        Err(WRONG_PASSWORD)
    }

    fn auth(&mut self, args: &[Bytes]) -> Result<(), CmdError> {
        match args {
            [password] => {
                if self.shared.settings.requirepass().is_none() {
                    return Err(CmdError::fixed(
                        "ERR AUTH <password> called without any password configured for the default user. Are you \
                         sure your configuration is correct?",
                    ));
                }
                self.check_password(b"default", password)?;
            }
            [user, password] => self.check_password(user, password)?,
            _ => return Err(CmdError::SYNTAX),
        }
        self.out.ok();
        Ok(())
    }

    fn hello(&mut self, args: &[Bytes]) -> Result<(), CmdError> {
        let mut proto = self.state.proto;
        let mut rest = args;
        if let Some((version, more)) = args.split_first() {
            proto = match parse_int(version) {
                Some(2) => Proto::Resp2,
                Some(3) => Proto::Resp3,
                Some(_) => return Err(CmdError::fixed("NOPROTO unsupported protocol version")),
                None => {
                    return Err(CmdError::fixed("ERR Protocol version is not an integer or out of range"));
                }
            };
            rest = more;
        }
        let mut name: Option<&Bytes> = None;
        let mut user: Option<(&Bytes, &Bytes)> = None;
        loop {
            match rest {
                [] => break,
                [word, who, password, more @ ..] if word.eq_ignore_ascii_case(b"auth") => {
                    user = Some((who, password));
                    rest = more;
                }
                [word, wanted, more @ ..] if word.eq_ignore_ascii_case(b"setname") => {
                    super::client::check_name(wanted)?;
                    name = Some(wanted);
                    rest = more;
                }
                [word, ..] => {
                    let word = String::from_utf8_lossy(word);
                    return Err(CmdError::new(format!("ERR Syntax error in HELLO option '{word}'")));
                }
            }
        }
        if let Some((who, password)) = user {
            self.check_password(who, password)?;
        }
        if !self.state.authenticated {
            return Err(CmdError::fixed(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                 the same time",
            ));
        }
        if let Some(name) = name {
            self.set_name(name);
        }
        self.state.proto = proto;
        self.out.set_proto(proto);
        self.say_hello();
        Ok(())
    }

    fn say_hello(&mut self) {
        let redirects = self.shared.settings.follower_mode() == FollowerMode::Redirect;
        let leads = !redirects || self.shared.is_loaded() && self.shared.executor().group().is_leader();
        let out = &mut self.out;
        out.map(7);
        out.bulk(b"server");
        out.bulk(b"redis");
        out.bulk(b"version");
        out.bulk(REDIS_VERSION.as_bytes());
        out.bulk(b"proto");
        out.int(if self.state.proto == Proto::Resp3 { 3 } else { 2 });
        out.bulk(b"id");
        out.int(self.client.id as i64);
        out.bulk(b"mode");
        out.bulk(if redirects { b"cluster" } else { b"standalone" });
        out.bulk(b"role");
        out.bulk(if leads { b"master" } else { b"replica" });
        out.bulk(b"modules");
        out.array(0);
    }

    fn reset(&mut self) {
        self.state = State::new(self.shared.settings.requirepass().is_none());
        self.out.set_proto(self.state.proto);
        self.client.update(|view| {
            view.name.clear();
            view.no_evict = false;
            view.no_touch = false;
        });
        self.out.simple("RESET");
    }
}
