//! The facts of the commands that the session runs itself. Their code is in the session, for they change the
//! connection's own state.

use quorate_keyspace::spec::{Arg, Command, Deprecated, Group, KeySpec, Meta, acl, flag, key};

use super::cx::{SessionOp, ShellHandler};

pub(super) static TABLE: &[Command<ShellHandler>] = &[
    Command {
        meta: Meta {
            name: "asking",
            summary: "Says that the next command follows an -ASK redirection.",
            since: "3.0.0",
            group: Group::Cluster,
            arity: 1,
            flags: flag::FAST,
            acl: acl::CONNECTION,
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Asking),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "auth",
            summary: "Proves to the server who the client is.",
            group: Group::Connection,
            complexity: "O(N) where N is the number of passwords defined for the user",
            arity: -2,
            flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::NO_AUTH | flag::ALLOW_BUSY,
            acl: acl::CONNECTION,
            args: &[Arg::string("username").optional().since("6.0.0"), Arg::string("password")],
            history: &[("6.0.0", "Takes a user name before the password.")],
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Auth),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "discard",
            summary: "Forgets the transaction.",
            since: "2.0.0",
            group: Group::Transactions,
            complexity: "O(N) with N the number of queued commands",
            arity: 1,
            flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::ALLOW_BUSY,
            acl: acl::TRANSACTION,
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Discard),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "echo",
            summary: "Gives back its argument.",
            group: Group::Connection,
            arity: 2,
            flags: flag::LOADING | flag::STALE | flag::FAST,
            acl: acl::CONNECTION,
            args: &[Arg::string("message")],
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Echo),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "exec",
            summary: "Runs the commands of the transaction.",
            since: "1.2.0",
            group: Group::Transactions,
            complexity: "That of its commands",
            arity: 1,
            flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::SKIP_SLOWLOG,
            acl: acl::TRANSACTION,
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Exec),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "hello",
            summary: "Greets the server: chooses the protocol, authenticates and names the connection.",
            since: "6.0.0",
            group: Group::Connection,
            arity: -1,
            flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::NO_AUTH | flag::ALLOW_BUSY,
            acl: acl::CONNECTION,
            args: &[Arg::block(
                "arguments",
                &[
                    Arg::int("protover"),
                    Arg::block("auth", &[Arg::string("username"), Arg::string("password")]).token("AUTH").optional(),
                    Arg::string("clientname").token("SETNAME").optional(),
                ],
            )
            .optional()],
            history: &[("6.2.0", "Without a version it only tells about the connection.")],
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Hello),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "multi",
            summary: "Begins a transaction.",
            since: "1.2.0",
            group: Group::Transactions,
            arity: 1,
            flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::ALLOW_BUSY,
            acl: acl::TRANSACTION,
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Multi),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "ping",
            summary: "Answers PONG, or its argument.",
            group: Group::Connection,
            arity: -1,
            flags: flag::FAST,
            acl: acl::CONNECTION,
            args: &[Arg::string("message").optional()],
            tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Ping),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "quit",
            summary: "Closes this connection.",
            group: Group::Connection,
            arity: -1,
            flags: flag::ALLOW_BUSY | flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::NO_AUTH,
            acl: acl::CONNECTION,
            deprecated: Some(Deprecated { since: "7.2.0", replaced_by: "just closing the connection" }),
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Quit),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "readonly",
            summary: "Lets this connection read from a member that does not lead.",
            since: "3.0.0",
            group: Group::Cluster,
            arity: 1,
            flags: flag::FAST | flag::LOADING | flag::STALE,
            acl: acl::CONNECTION,
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::ReadOnly),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "readwrite",
            summary: "Takes READONLY back.",
            since: "3.0.0",
            group: Group::Cluster,
            arity: 1,
            flags: flag::FAST | flag::LOADING | flag::STALE,
            acl: acl::CONNECTION,
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::ReadWrite),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "reset",
            summary: "Makes this connection as if it were new.",
            since: "6.2.0",
            group: Group::Connection,
            arity: 1,
            flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::NO_AUTH | flag::ALLOW_BUSY,
            acl: acl::CONNECTION,
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Reset),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "select",
            summary: "Chooses the database of this connection.",
            group: Group::Connection,
            arity: 2,
            flags: flag::LOADING | flag::STALE | flag::FAST,
            acl: acl::CONNECTION,
            args: &[Arg::int("index")],
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Select),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "unwatch",
            summary: "Forgets the watched keys.",
            since: "2.2.0",
            group: Group::Transactions,
            arity: 1,
            flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::ALLOW_BUSY,
            acl: acl::TRANSACTION,
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Unwatch),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "watch",
            summary: "Lets the next EXEC run only if these keys stay as they are.",
            since: "2.2.0",
            group: Group::Transactions,
            complexity: "O(1) a key",
            arity: -2,
            flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::ALLOW_BUSY,
            acl: acl::TRANSACTION,
            keys: &[KeySpec::range(1, -1, 1, key::RO)],
            args: &[Arg::key("key", 0).multiple()],
            ..Meta::BASE
        },
        handler: ShellHandler::Session(SessionOp::Watch),
        subcommands: &[],
    },
];
