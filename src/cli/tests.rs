use clap::{CommandFactory, Parser};

use super::table::{bytes, duration, table};
use super::*;
use crate::config::{INERT, specs};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_setting_is_a_flag_and_those_that_do_something_are_in_the_help() {
    let mut command = Cli::command();
    let help = command.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
    for spec in specs() {
        let line = format!("quorate serve --{} x", spec.name);
        let words = line.split(' ');
        assert!(Cli::try_parse_from(words).is_ok(), "--{} is no flag", spec.name);
        let shown = help.contains(&format!("--{} <", spec.name)) || help.contains(&format!("--{} [<", spec.name));
        assert_eq!(shown, !spec.has(INERT), "{} in the help", spec.name);
    }
}

#[test]
fn flags_become_settings() {
    let line = "quorate serve --dir d --port 7005 --bind 127.0.0.1 ::1 --slave-read-only no --slowlog-log-slower-than -1 --join http://a:1 \
                --join http://b:2";
    let Command::Serve(serve) = parse(line).unwrap().command else { panic!("not serve") };
    let shown = format!("{serve:?}");
    for part in [
        r#"("port", "7005")"#,
        r#"("bind", "127.0.0.1 ::1")"#,
        r#"("replica-read-only", "no")"#,
        r#"("slowlog-log-slower-than", "-1")"#,
        r#"join: ["http://a:1", "http://b:2"]"#,
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(parse("quorate serve --bootstrap --join http://a:1").is_err());
    assert!(parse("quorate serve --maxclient 5").unwrap_err().to_string().contains("--maxclients"));
}

#[test]
fn an_admin_address_may_stand_anywhere() {
    for line in [
        "quorate status --admin http://h:1 --json",
        "quorate member list --admin http://h:1 --json",
        "quorate member --admin http://h:1 --json list",
        "quorate leader transfer 3 --admin http://h:1 --json",
    ] {
        let target = match parse(line).unwrap().command {
            Command::Status(status) => status.target,
            Command::Member(member) => member.target,
            Command::Leader(leader) => leader.target,
            other => panic!("{other:?}"),
        };
        assert_eq!((target.admin.as_str(), target.json), ("http://h:1", true), "{line}");
    }
}

#[test]
fn admin_addresses_are_checked() {
    let client = |url: &str| http::Client::new(url, None, http::PATIENCE);
    assert_eq!(client("127.0.0.1:8001").unwrap().base(), "http://127.0.0.1:8001");
    assert_eq!(client("http://h:8001/").unwrap().base(), "http://h:8001");
    for bad in ["https://h:1", "http://h", "ftp://h:1", "http://h:x", "http://h h:1", ""] {
        assert!(client(bad).is_err(), "{bad}");
    }
    assert!(http::Client::new("http://h:1", Some("a\r\nb".into()), http::PATIENCE).is_err());
}

#[test]
fn a_table_is_as_wide_as_its_cells() {
    let rows = [vec!["1".into(), "leader".into(), "12".into()], vec!["12".into(), "x".into(), "-".into()]];
    assert_eq!(table(&["id", "role", "lag"], &rows), "  id  role    lag\n   1  leader   12\n  12  x         -\n");
    assert_eq!([bytes(0), bytes(999), bytes(1500), bytes(2_000_000_000)], ["0 B", "999 B", "1.5 kB", "2.0 GB"]);
    assert_eq!(
        [duration(59), duration(61), duration(3660), duration(90_000)],
        ["59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]
    );
}
