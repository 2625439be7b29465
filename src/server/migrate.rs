//! The facts of MIGRATE. The session runs it, for it waits for another server; what it does is in [`crate::migrate`].

use quorate_keyspace::spec::{Arg, Begin, Command, Find, KeySpec, Meta, acl, flag, key};

use super::cx::{SessionOp, ShellHandler};
use crate::migrate::find_keys;

const MOVED: u32 = key::RW | key::ACCESS | key::DELETE;

const KEYS: KeySpec = KeySpec {
    begin: Begin::Keyword("KEYS", -2),
    find: Find::Range { last: -1, step: 1, limit: 0 },
    ..KeySpec::one(MOVED | key::INCOMPLETE)
};

const KEY: &[Arg] = &[Arg::key("key", 0), Arg::word("empty-string", "\"\"")];

const AUTH: &[Arg] = &[
    Arg::string("auth").token("AUTH").display("password").since("4.0.7"),
    Arg::block("auth2", &[Arg::string("username"), Arg::string("password")]).token("AUTH2").since("6.0.0"),
];

pub(super) static TABLE: &[Command<ShellHandler>] = &[Command {
    meta: Meta {
        name: "migrate",
        summary: "Moves keys to another server.",
        since: "2.6.0",
        complexity: "O(N) for the N bytes of the values, which are sent over the network",
        arity: -6,
        // Told by the handler's type elsewhere; this handler is the session's.
        flags: flag::WRITE,
        acl: acl::KEYSPACE | acl::DANGEROUS,
        keys: &[KeySpec::at(3, MOVED), KEYS],
        find_keys: Some(find_keys),
        args: &[
            Arg::string("host"),
            Arg::int("port"),
            Arg::one_of("key-selector", KEY),
            Arg::int("destination-db"),
            Arg::int("timeout"),
            Arg::word("copy", "COPY").optional().since("3.0.0"),
            Arg::word("replace", "REPLACE").optional().since("3.0.0"),
            Arg::one_of("authentication", AUTH).optional(),
            Arg::key("keys", 1).token("KEYS").display("key").optional().multiple().since("3.0.6"),
        ],
        tips: &["nondeterministic_output"],
        history: &[
            ("3.0.0", "Takes `COPY` and `REPLACE`."),
            ("3.0.6", "Takes `KEYS`."),
            ("4.0.7", "Takes `AUTH`."),
            ("6.0.0", "Takes `AUTH2`."),
        ],
        ..Meta::BASE
    },
    handler: ShellHandler::Session(SessionOp::Migrate),
    subcommands: &[],
}];
