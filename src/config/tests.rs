use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn set(settings: &Settings, pairs: &[(&str, &str)]) -> Result<(), String> {
    let pairs: Vec<(&[u8], &[u8])> = pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    settings.plan(&pairs).and_then(|change| settings.apply(&change)).map_err(|error| error.to_string())
}

fn get(settings: &Settings, name: &str) -> String {
    settings.get(name).unwrap_or_else(|| panic!("no setting {name}"))
}

#[test]
fn every_default_is_a_value_and_every_name_is_unique() {
    let settings = Settings::default();
    for spec in specs() {
        assert!(spec.name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'), "{}", spec.name);
        assert_eq!(spec.default_value().text, spec.default, "the default of {} is in its shown form", spec.name);
        assert!(!spec.help.is_empty() && !spec.help.ends_with('.'), "help of {}", spec.name);
    }
    settings.check().unwrap();
}

#[test]
fn what_config_get_shows_config_set_takes() {
    // Redis' own suite does this to every setting that it does not name as immutable.
    let settings = Settings::default();
    let skipped = |spec: &Spec| spec.has(FIXED | PROTECTED);
    for spec in specs().filter(|spec| !skipped(spec)) {
        let value = get(&settings, spec.name);
        set(&settings, &[(spec.name, &value)]).unwrap();
        assert_eq!(get(&settings, spec.name), value, "{}", spec.name);
    }
}

#[test]
fn refusals_read_as_those_of_redis() {
    let settings = Settings::default();
    let failed = |name: &str, problem: &str| {
        Err(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {problem}"))
    };
    for (name, value, problem) in [
        ("maxclients", "0", "argument must be between 1 and 4294967295 inclusive"),
        ("maxclients", "x", "argument couldn't be parsed into an integer"),
        ("timeout", "-1", "argument must be between 0 and 2147483647 inclusive"),
        ("timeout", "01", "argument couldn't be parsed into an integer"),
        ("maxmemory", "1x", "argument must be a memory value"),
        ("maxmemory", "-1", "argument must be a memory value"),
        ("proto-max-bulk-len", "1", "argument must be between 1048576 and 9223372036854775807 inclusive"),
        ("maxmemory-clients", "200%", "percentage argument must be less or equal to 100"),
        ("maxmemory-clients", "x", "argument must be a memory or percent value"),
        ("protected-mode", "maybe", "argument must be 'yes' or 'no'"),
        ("daemonize", "yes", "can't set immutable config"),
        ("appendonly", "maybe", "argument must be 'yes' or 'no'"),
        ("appendonly", "no", "can't set immutable config"),
        ("port", "x", "argument couldn't be parsed into an integer"),
        ("databases", "16", "can't set immutable config"),
        ("port", "1", "can't set immutable config"),
        ("dir", "/tmp", "can't set protected config"),
        ("save", "100", "Invalid save parameters"),
        ("save", "0 1", "Invalid save parameters"),
        ("oom-score-adj-values", "1 2", "wrong number of arguments"),
        ("client-output-buffer-limit", "normal 1 2", "Wrong number of arguments in buffer limit configuration."),
        ("client-output-buffer-limit", "master 1 2 3", "Invalid client class specified in buffer limit configuration."),
        (
            "client-output-buffer-limit",
            "pubsub 1 2 -3",
            "Error in hard, soft or soft_seconds setting in buffer limit configuration.",
        ),
        ("notify-keyspace-events", "KEq", "Invalid event class character. Use 'Ag$lshzxeKEtmdn'."),
        (
            "latency-tracking-info-percentiles",
            "50 101",
            "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]",
        ),
        ("shutdown-on-sigterm", "save nosave", "shutdown options SAVE and NOSAVE can't be used simultaneously"),
        ("repl-diskless-load", "x", "argument(s) must be one of the following: disabled, on-empty-db, swapdb"),
    ] {
        assert_eq!(set(&settings, &[(name, value)]), failed(name, problem), "{name} {value}");
    }
    assert_eq!(
        set(&settings, &[("maxmemory", "1"), ("nonsense", "2"), ("daemonize", "yes")]),
        Err("ERR Unknown option or number of arguments for CONFIG SET - 'nonsense'".into())
    );
    assert_eq!(set(&settings, &[("maxmemory", "1"), ("MAXMEMORY", "2")]), failed("MAXMEMORY", "duplicate parameter"));
    assert_eq!(set(&settings, &[("port", "1"), ("port", "2")]), failed("port", "duplicate parameter"));
    let port = get(&settings, "port");
    assert_eq!(set(&settings, &[("port", &port), ("timeout", "0")]), Ok(()));
}

#[test]
fn several_pairs_change_together_or_not_at_all() {
    let settings = Settings::default();
    set(&settings, &[("maxmemory", "10000002")]).unwrap();
    let before = settings.generation();
    assert!(set(&settings, &[("maxmemory", "10000001"), ("maxmemory-clients", "200%"), ("timeout", "5")]).is_err());
    assert_eq!(get(&settings, "maxmemory"), "10000002");
    assert_eq!((get(&settings, "timeout"), settings.generation()), ("0".into(), before));
    set(&settings, &[("maxmemory", "1mb"), ("timeout", "5"), ("save", "3000 5")]).unwrap();
    assert_eq!((settings.maxmemory(), settings.timeout().unwrap().as_secs()), (1 << 20, 5));
    assert_eq!(get(&settings, "save"), "3000 5");
}

#[test]
fn a_hook_that_refuses_takes_everything_back() {
    let settings = Settings::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    settings.on_change(Id::Timeout, move |settings| {
        seen.fetch_add(settings.number(Id::Timeout) as usize, Ordering::Relaxed);
        Ok(())
    });
    settings.on_change(Id::Maxclients, |settings| match settings.maxclients() {
        10_000 => Ok(()),
        _ => Err("not enough file descriptors".into()),
    });
    assert_eq!(
        set(&settings, &[("timeout", "7"), ("maxclients", "5")]),
        Err("ERR CONFIG SET failed (possibly related to argument 'maxclients') - not enough file descriptors".into())
    );
    assert_eq!((get(&settings, "timeout"), get(&settings, "maxclients")), ("0".into(), "10000".into()));
    assert_eq!(calls.load(Ordering::Relaxed), 7, "told of the change, and of its end");
}

#[test]
fn names_patterns_and_aliases_are_found_once_each() {
    let settings = Settings::default();
    let found = settings.matching(&[b"maxmemory", b"MAXMEMORY*", b"bind", b"*of", b"Timeout", b"nothing"]);
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["maxmemory", "maxmemory-samples", "maxmemory-clients", "bind", "slaveof", "replicaof", "Timeout"] {
        assert_eq!(names.iter().filter(|found| **found == name).count(), 1, "{name} in {names:?}");
    }
    let all = settings.matching(&[b"*"]);
    assert!(all.iter().all(|(name, _)| name != "key-load-delay"), "hidden");
    assert_eq!(settings.matching(&[b"key-load-delay"]).len(), 1);
    assert_eq!(get(&settings, "hash-max-ziplist-entries"), "512");
}

#[test]
fn settings_of_the_group_wait_for_the_log() {
    let settings = Settings::default();
    let change =
        settings.plan(&[(b"hash-max-ziplist-entries", b"7"), (b"timeout", b"3"), (b"hash-max-listpack-value", b"1kb")]);
    let change = change.unwrap();
    assert_eq!(
        change.replicated(),
        [("hash-max-listpack-entries", "7".to_owned()), ("hash-max-listpack-value", "1024".to_owned())]
    );
    settings.apply(&change).unwrap();
    assert_eq!((get(&settings, "timeout"), get(&settings, "hash-max-listpack-entries")), ("3".into(), "512".into()));
    assert!(settings.set_replicated("hash-max-listpack-entries", "7"));
    assert_eq!(get(&settings, "hash-max-ziplist-entries"), "7");
    assert!(!settings.set_replicated("timeout", "9"));
    assert!(!settings.set_replicated("from-the-future", "9"));
}

#[test]
fn one_class_of_buffer_limits_changes_alone() {
    let settings = Settings::default();
    set(&settings, &[("client-output-buffer-limit", "normal 1mb 2kb 3 replica 1 2 3")]).unwrap();
    assert_eq!(
        get(&settings, "client-output-buffer-limit"),
        "normal 1048576 2048 3 slave 1 2 3 pubsub 33554432 8388608 60"
    );
    let [normal, _, pubsub] = settings.client_output_buffer_limits();
    assert_eq!(normal, BufferLimit { hard_bytes: 1 << 20, soft_bytes: 2048, soft_seconds: 3 });
    assert_eq!(pubsub.soft_seconds, 60);
}

#[test]
fn shapes_are_kept_as_redis_shows_them() {
    let settings = Settings::default();
    for (name, value, shown) in [
        ("notify-keyspace-events", "KEA", "AKE"),
        ("notify-keyspace-events", "Kgx$", "g$xK"),
        ("latency-tracking-info-percentiles", "50.0 99.90 100", "50 99.9 100"),
        ("latency-tracking-info-percentiles", "", ""),
        ("shutdown-on-sigint", "force NOW", "now force"),
        ("maxmemory-clients", "50%", "50%"),
        ("loglevel", "VERBOSE", "verbose"),
        ("write-timeout", "3s", "3000"),
    ] {
        let change = settings.plan(&[(name.as_bytes(), value.as_bytes())]).unwrap();
        settings.apply(&change).unwrap();
        change.replicated().iter().for_each(|(name, value)| assert!(settings.set_replicated(name, value)));
        assert_eq!(get(&settings, name), shown, "{name} {value}");
    }
}

#[test]
fn what_is_open_to_others_must_be_guarded() {
    let refused = |pairs: &[(&str, &str)]| Settings::of(pairs).map(drop).unwrap_err().to_string();
    assert!(refused(&[("peer", "10.0.0.1:17001")]).contains("no secret"));
    assert!(refused(&[("peer", "db1.example:17001")]).contains("no secret"));
    assert!(refused(&[("admin", "0.0.0.0:8001")]).contains("no token"));
    assert!(refused(&[("advertise-admin", "0.0.0.0:1")]).contains("advertise-admin"));
    assert!(refused(&[("peer", "0.0.0.0:17001"), ("secret", "s")]).contains("advertise-peer"));
    assert!(refused(&[("peer", "127.0.0.1:7001")]).contains("'port' and 'peer' are the same port 7001"));
    assert!(refused(&[("heartbeat-ms", "200")]).contains("election-timeout-ms"));
    assert!(refused(&[("appendonly", "no")]).contains("always has it at 'yes'"));
    assert!(refused(&[("cluster-enabled", "yes")]).contains("always"));
    assert!(refused(&[("port", "60000")]).contains("'peer' is not a port"));
    Settings::of(&[("peer", "localhost:1"), ("admin", "[::1]:2"), ("bind", "127.0.0.9")]).unwrap();
    let open = Settings::of(&[
        ("peer", "0.0.0.0:1"),
        ("secret", "s"),
        ("advertise-peer", "db1:1"),
        ("bind", "* -::*"),
        ("advertise-client", "db1:7001"),
    ]);
    assert_eq!(open.unwrap().advertise_peer(), "db1:1");
}

#[test]
fn others_are_told_an_address_that_they_can_use() {
    let told = |pairs: &[(&str, &str)]| {
        let settings = Settings::of(pairs).unwrap();
        [settings.advertise_client(), settings.advertise_admin(), settings.advertise_peer()]
    };
    assert_eq!(told(&[]), ["127.0.0.1:7001", "127.0.0.1:8001", "127.0.0.1:17001"]);
    assert_eq!(told(&[("bind", "*")])[0], "127.0.0.1:7001");
    assert_eq!(told(&[("bind", "127.0.0.1 -10.0.0.5")])[0], "10.0.0.5:7001");
    let open =
        [("bind", "* -::*"), ("peer", "[fd00::1]:9"), ("secret", "s"), ("admin", "0.0.0.0:8"), ("admin-token", "t")];
    assert_eq!(told(&open), ["[fd00::1]:7001", "[fd00::1]:8", "[fd00::1]:9"]);
}

#[test]
fn addresses_derive_from_the_client_port() {
    let settings = Settings::of(&[("port", "6379"), ("bind", "::1 127.0.0.1")]).unwrap();
    assert_eq!((settings.peer(), settings.admin()), ("127.0.0.1:16379".into(), "127.0.0.1:7379".into()));
    assert_eq!(get(&settings, "peer"), "127.0.0.1:16379");
    assert_eq!(settings.advertise_client(), "[::1]:6379");
    set(&settings, &[("peer", "127.0.0.1:16379"), ("peer", "")]).unwrap_err();
    set(&settings, &[("peer", "127.0.0.1:16379")]).unwrap();
}

fn file_with(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("quorate.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn a_file_is_read_and_flags_win() {
    let (_dir, path) = file_with(
        "port = 7009\nbind = [\"127.0.0.1\", \"-::1\"]\nprotected-mode = false\nmaxmemory = \"1gb\" # plenty\n\
         slave-read-only = \"no\"\n",
    );
    let settings = Settings::load(Some(&path), &[("port".into(), "7010".into())]).unwrap();
    assert_eq!((settings.port(), settings.maxmemory(), settings.protected_mode()), (7010, 1 << 30, false));
    assert_eq!(settings.bind(), [("127.0.0.1".into(), false), ("::1".into(), true)]);
    assert_eq!(settings.without_effect(), ["replica-read-only"]);
}

#[test]
fn mistakes_in_a_file_are_told_with_their_place() {
    let problem = |text: &str| {
        let (_dir, path) = file_with(text);
        Settings::load(Some(&path), &[]).map(drop).unwrap_err().to_string()
    };
    assert!(
        problem("maxclient = 1").contains("quorate.toml: there is no setting 'maxclient' (is 'maxclients' meant?)")
    );
    assert!(problem("port = 99999").contains("port = '99999': argument must be between"));
    assert!(problem("requirepass = [{}]").contains("requirepass must be"));
    assert!(problem("port = ").contains("quorate.toml: TOML parse error at line 1"));
    assert!(problem("[server]\nport = 1").contains("server must be"));
    let hidden = problem("admin-token = \"t\"\nsecret = [1, 2]\npeer = \"verysecret\"");
    assert!(hidden.contains("HOST:PORT"));
    let missing = Settings::load(Some(std::path::Path::new("/nonexistent/q.toml")), &[]).unwrap_err();
    assert!(missing.to_string().starts_with("/nonexistent/q.toml: "));
    let (_dir, broken) = file_with("port = ");
    for error in [missing, Settings::load(Some(&broken), &[]).unwrap_err()] {
        assert!(std::error::Error::source(&error).is_none(), "what is wrong is told once: {error}");
    }
}

#[test]
fn a_rewrite_keeps_comments_and_order() {
    let (_dir, path) = file_with(
        "# Ours.\nmaxmemory = \"1gb\" # plenty\n\n# Patience.\ntimeout = 5 # seconds\nprotected-mode = true\n\
         hash-max-listpack-entries = 100\nslave-priority = 9\n",
    );
    let settings = Settings::load(Some(&path), &[("dir".into(), "/data".into())]).unwrap();
    set(&settings, &[("timeout", "6"), ("protected-mode", "no"), ("replica-priority", "8"), ("loglevel", "warning")])
        .unwrap();
    settings.rewrite().unwrap();
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "# Ours.\nmaxmemory = \"1gb\" # plenty\n\n# Patience.\ntimeout = 6 # seconds\nprotected-mode = false\n\
         hash-max-listpack-entries = 100\nslave-priority = 8\ndir = \"/data\"\nloglevel = \"warning\"\n"
    );
    let again = Settings::load(Some(&path), &[]).unwrap();
    for spec in specs().filter(|spec| !spec.has(REPLICATED)) {
        assert_eq!(again.get(spec.name), settings.get(spec.name), "{}", spec.name);
    }
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn a_rewrite_keeps_the_file_as_private_as_it_was() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, path) = file_with("requirepass = \"a\"\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let settings = Settings::load(Some(&path), &[]).unwrap();
    set(&settings, &[("requirepass", "b")]).unwrap();
    settings.rewrite().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "requirepass = \"b\"\n");
    let none = Settings::default().rewrite().unwrap_err().to_string();
    assert_eq!(none, "ERR The server is running without a config file");
}

#[test]
fn a_rewrite_tells_no_secret_to_those_who_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, path) = file_with("timeout = 5\n");
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let flags = [("secret", "s1"), ("admin-token", "t1"), ("requirepass", "p1")];
    let settings = Settings::load(Some(&path), &flags.map(|(name, value)| (name.into(), value.into()))).unwrap();
    set(&settings, &[("timeout", "6")]).unwrap();
    settings.rewrite().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "timeout = 6\n", "the flags will say them again");
    // Set at run time it must come back after a restart, but not in the open.
    set(&settings, &[("requirepass", "p2"), ("timeout", "7")]).unwrap();
    let refused = settings.rewrite().unwrap_err().to_string();
    assert!(refused.starts_with("ERR Rewriting config file: others may read it, and requirepass"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "timeout = 6\n");
    mode(0o600);
    settings.rewrite().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "timeout = 7\nrequirepass = \"p2\"\n");
}

#[test]
fn config_get_tells_neither_the_secret_nor_the_admin_token() {
    let settings = Settings::of(&[("secret", "s1"), ("admin-token", "t1")]).unwrap();
    let shown = settings.matching(&[b"*", b"secret", b"SECRET", b"admin-token", b"secre?"]);
    assert!(
        shown.len() > 50
            && shown
                .iter()
                .all(|(name, value)| { name != "secret" && name != "admin-token" && value != "s1" && value != "t1" })
    );
    assert!(settings.matching(&[b"secret"]).is_empty());
}

#[test]
fn secrets_are_not_printed() {
    let settings = Settings::of(&[("secret", "hunter2"), ("requirepass", "hunter3")]).unwrap();
    assert!(!format!("{settings:?}").contains("hunter"));
    assert!(Settings::is_sensitive(b"RequirePass") && !Settings::is_sensitive(b"port"));
}

#[test]
fn the_settings_of_the_group_are_those_that_the_keyspace_knows() {
    let keyspace = quorate_keyspace::Settings::default();
    for spec in specs().filter(|spec| spec.has(REPLICATED)) {
        assert!(keyspace.by_name(spec.name).is_some(), "the keyspace does not know {}", spec.name);
    }
    let settings = Settings::default();
    for (name, _) in keyspace.all() {
        assert!(settings.set_replicated(name, &get(&settings, name)), "{name} is not replicated here");
    }
}
