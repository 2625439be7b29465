//! The families of commands: one file each, handlers above, ONE table at the foot.
//!
//! # How a command is added
//! 1. A handler in its family's file: `fn name(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) ->
//!    Result<(), CmdError>`, or with `cx: &mut WriteCx<'_>` when it may change the keyspace. The number of arguments
//!    has been checked against the arity; `args` stands behind the name (and the subcommand's name).
//! 2. An entry in the `COMMANDS` table at the file's foot: name, arity and handler go to the family's function, which
//!    knows the group and the ACL category, and `Meta { summary: "..", .., ..Meta::BASE }` says the rest. `write` and
//!    `readonly` and the ACL categories that follow from flags are not written: the handler's type tells them.
//! 3. A new family also gets a line in `TABLES` below. A new type of value gets a variant of `Value` and of `ValueRef`
//!    in `item.rs`, where the compiler then names the places that need an arm, and an `impl Collection`; its `Element`
//!    gets a kind in `chunking.rs`, and DUMP and RESTORE its form in `rdb`.
//!
//! # What a handler must keep to
//! * Check everything first, then change, then reply: an `Err` must mean that nothing has changed. (What was
//!   written to `out` before an `Err` is taken back by the caller.)
//! * Time is `cx.now_ms()`, chance is `cx.rng()`. `cx.get`, `cx.string`, `cx.hash` never show a key that is past due.
//! * Collections change through `cx.edit` / `cx.edit_or_create` (they bump the revision, and remove what is empty), and
//!   only once `cx.hash` and its like have shown that there is something to change: a look costs no chunk. Strings change
//!   through `cx.set_string`; `cx.remove`, `cx.take`, `cx.put`, `cx.rename`, `cx.expire`, `cx.persist` do
//!   what they say; `cx.in_db(n)` is the same command in another database.
//! * `out.is_muted()`: followers throw replies away, so costly ones need not be computed.

pub mod bitmap;
pub mod expire;
pub mod generic;
pub mod hash;
pub mod object;
pub mod scan;
pub mod server;
pub mod sort;
pub mod string;

use crate::spec::{Command, Handler};

/// Every table of this crate.
pub(crate) static TABLES: &[&[Command<Handler>]] = &[
    string::COMMANDS,
    bitmap::COMMANDS,
    generic::COMMANDS,
    expire::COMMANDS,
    scan::COMMANDS,
    object::COMMANDS,
    sort::COMMANDS,
    hash::COMMANDS,
    server::COMMANDS,
];
