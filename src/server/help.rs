//! The form of HELP: one simple string a line, as every container of Redis answers it.

use quorate_keyspace::reply::ReplyBuf;

/// Writes the head, the lines, and HELP's own entry. A line that explains is indented by four blanks.
pub(super) fn help(out: &mut ReplyBuf, command: &str, lines: &[&str]) {
    out.array(lines.len() + 3);
    out.simple(&format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for line in lines {
        out.simple(line);
    }
    out.simple("HELP");
    out.simple("    Print this help.");
}
