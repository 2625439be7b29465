//! The public cases against a genuine Redis: what this proves is the runner.

use quorate_testkit::cases::cases;
use quorate_testkit::ports::PortBlock;
use quorate_testkit::{Conn, RedisServer};

#[test]
fn a_genuine_redis_passes_every_public_case() {
    let server = RedisServer::start(&mut PortBlock::take(), &[]);
    let cases = cases("7.0.0");
    let run = |case: &quorate_testkit::cases::Case| {
        let mut conn = Conn::open(server.addr).expect("a connection");
        case.run(&mut conn).err()
    };
    let failures: Vec<String> = cases.iter().filter_map(run).collect();
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), cases.len(), failures.join("\n"));
    assert_eq!(cases.len(), 350, "the cases that apply to 7.0");
}
