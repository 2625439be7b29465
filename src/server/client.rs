//! The facts of CLIENT. The session runs it, as it does what stands in `connection`.

use quorate_keyspace::spec::{Arg, Command, Group, Meta, acl, flag};

use super::cx::{SessionOp, ShellHandler};

pub(super) static TABLE: &[Command<ShellHandler>] = &[Command {
    meta: Meta {
        name: "client",
        summary: "Holds the commands about connections.",
        since: "2.4.0",
        group: Group::Connection,
        complexity: "Depends on subcommand.",
        arity: -2,
        ..Meta::BASE
    },
    handler: ShellHandler::Container,
    subcommands: &[
        Command {
            meta: Meta {
                name: "caching",
                summary: "Says whether the keys of the next command are tracked.",
                since: "6.0.0",
                group: Group::Connection,
                arity: 3,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::one_of("mode", &[Arg::word("yes", "YES"), Arg::word("no", "NO")])],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientCaching),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "getname",
                summary: "Tells the name of this connection.",
                since: "2.6.9",
                group: Group::Connection,
                arity: 2,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientGetName),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "getredir",
                summary: "Tells which connection gets the invalidation messages of this one.",
                since: "6.0.0",
                group: Group::Connection,
                arity: 2,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientGetRedir),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "help",
                summary: "Explains the subcommands.",
                since: "5.0.0",
                group: Group::Connection,
                arity: 2,
                flags: flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientHelp),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "id",
                summary: "Tells the id of this connection.",
                since: "5.0.0",
                group: Group::Connection,
                arity: 2,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientId),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "info",
                summary: "Tells everything known about this connection.",
                since: "6.2.0",
                group: Group::Connection,
                arity: 2,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                tips: &["nondeterministic_output"],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientInfo),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "kill",
                summary: "Closes connections.",
                since: "2.4.0",
                group: Group::Connection,
                complexity: "O(N) with N the number of connections",
                arity: -3,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::one_of(
                    "filter",
                    &[
                        Arg::string("old-format").display("ip:port"),
                        Arg::one_of(
                            "new-format",
                            &[
                                Arg::int("client-id").token("ID").optional().since("2.8.12"),
                                Arg::one_of(
                                    "client-type",
                                    &[
                                        Arg::word("normal", "normal"),
                                        Arg::word("master", "master").since("3.2.0"),
                                        Arg::word("slave", "slave"),
                                        Arg::word("replica", "replica").since("5.0.0"),
                                        Arg::word("pubsub", "pubsub"),
                                    ],
                                )
                                .token("TYPE")
                                .optional()
                                .since("2.8.12"),
                                Arg::string("username").token("USER").optional(),
                                Arg::string("addr").token("ADDR").display("ip:port").optional(),
                                Arg::string("laddr").token("LADDR").display("ip:port").optional().since("6.2.0"),
                                Arg::one_of("skipme", &[Arg::word("yes", "YES"), Arg::word("no", "NO")])
                                    .token("SKIPME")
                                    .optional(),
                            ],
                        )
                        .multiple(),
                    ],
                )],
                history: &[
                    ("2.8.12", "Filters, ID among them."),
                    ("3.2.0", "TYPE knows master."),
                    ("5.0.0", "TYPE says replica for slave, and takes both."),
                    ("6.2.0", "LADDR."),
                ],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientKill),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "list",
                summary: "Lists the open connections.",
                since: "2.4.0",
                group: Group::Connection,
                complexity: "O(N) with N the number of connections",
                arity: -2,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[
                    Arg::one_of(
                        "client-type",
                        &[
                            Arg::word("normal", "normal"),
                            Arg::word("master", "master"),
                            Arg::word("replica", "replica"),
                            Arg::word("pubsub", "pubsub"),
                        ],
                    )
                    .token("TYPE")
                    .optional()
                    .since("5.0.0"),
                    Arg::int("client-id").token("ID").optional().multiple().since("6.2.0"),
                ],
                tips: &["nondeterministic_output"],
                history: &[
                    ("2.8.12", "Field id."),
                    ("5.0.0", "Filter TYPE."),
                    ("6.0.0", "Field user."),
                    ("6.2.0", "Fields argv-mem, tot-mem, laddr and redir; filter ID."),
                    ("7.0.0", "Fields resp, multi-mem, rbs and rbp."),
                    ("7.0.3", "Field ssub."),
                ],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientList),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "no-evict",
                summary: "Keeps this connection from being evicted, or not.",
                since: "7.0.0",
                group: Group::Connection,
                arity: 3,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::one_of("enabled", &[Arg::word("on", "ON"), Arg::word("off", "OFF")])],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientNoEvict),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "no-touch",
                summary: "Changes nothing: no read renews the idle time of a key here, whatever is asked for.",
                since: "7.2.0",
                group: Group::Connection,
                arity: 3,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::one_of("enabled", &[Arg::word("on", "ON"), Arg::word("off", "OFF")])],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientNoTouch),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "pause",
                summary: "Holds back commands for a time.",
                since: "3.0.0",
                group: Group::Connection,
                arity: -3,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[
                    Arg::int("timeout"),
                    Arg::one_of("mode", &[Arg::word("write", "WRITE"), Arg::word("all", "ALL")])
                        .optional()
                        .since("6.2.0"),
                ],
                history: &[("6.2.0", "Modes WRITE and ALL.")],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientPause),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "reply",
                summary: "Switches replies on and off.",
                since: "3.2.0",
                group: Group::Connection,
                arity: 3,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::one_of(
                    "action",
                    &[Arg::word("on", "ON"), Arg::word("off", "OFF"), Arg::word("skip", "SKIP")],
                )],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientReply),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "setinfo",
                summary: "Notes something about this client, such as its library.",
                since: "7.2.0",
                group: Group::Connection,
                arity: 4,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::one_of(
                    "attr",
                    &[Arg::string("libname").token("lib-name"), Arg::string("libver").token("lib-ver")],
                )],
                tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientSetInfo),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "setname",
                summary: "Names this connection.",
                since: "2.6.9",
                group: Group::Connection,
                arity: 3,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::string("connection-name")],
                tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientSetName),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "tracking",
                summary: "Switches client-side caching with invalidation messages on or off.",
                since: "6.0.0",
                group: Group::Connection,
                complexity: "O(1), and O(N) with N prefixes given",
                arity: -3,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[
                    Arg::one_of("status", &[Arg::word("on", "ON"), Arg::word("off", "OFF")]),
                    Arg::int("client-id").token("REDIRECT").optional(),
                    Arg::string("prefix").token("PREFIX").optional().multiple_token(),
                    Arg::word("BCAST", "BCAST").optional(),
                    Arg::word("OPTIN", "OPTIN").optional(),
                    Arg::word("OPTOUT", "OPTOUT").optional(),
                    Arg::word("NOLOOP", "NOLOOP").optional(),
                ],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientTracking),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "trackinginfo",
                summary: "Tells how client-side caching is set for this connection.",
                since: "6.2.0",
                group: Group::Connection,
                arity: 2,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientTrackingInfo),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "unblock",
                summary: "Ends the blocking command of another connection.",
                since: "5.0.0",
                group: Group::Connection,
                complexity: "O(log N) with N the number of connections",
                arity: -3,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[
                    Arg::int("client-id"),
                    Arg::one_of("unblock-type", &[Arg::word("timeout", "TIMEOUT"), Arg::word("error", "ERROR")])
                        .optional(),
                ],
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientUnblock),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "unpause",
                summary: "Ends CLIENT PAUSE.",
                since: "6.2.0",
                group: Group::Connection,
                complexity: "O(N) with N the number of paused connections",
                arity: 2,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                ..Meta::BASE
            },
            handler: ShellHandler::Session(SessionOp::ClientUnpause),
            subcommands: &[],
        },
    ],
}];
