use std::time::{Duration, Instant};

use super::dir::{DevDir, Shape};
use super::story::Story;
use super::watch::Seen;
use crate::admin::api::{MembersView, StatusView};

fn status(id: u64, role: &str, term: u64) -> StatusView {
    serde_json::from_value(serde_json::json!({
        "id": id, "group": "g", "role": role, "leader": null, "term": term, "applied": 1, "committed": 1,
        "last_log": 1, "snapshot": 0, "purged": 0, "version": "0", "client": "", "peer": "", "admin": "",
        "uptime_seconds": 1, "pid": 1, "keys": 0,
    }))
    .unwrap()
}

fn members(list: &[(u64, bool, &str)]) -> MembersView {
    let list: Vec<_> = list
        .iter()
        .map(|(id, voter, health)| {
            serde_json::json!({
                "id": id, "role": "follower", "voter": voter, "peer": "", "client": "", "admin": "",
                "applied": 1, "matched": 1, "lag": 0, "health": health, "progress": null,
            })
        })
        .collect();
    serde_json::from_value(serde_json::json!({ "members": list, "leader": 1, "term": 1, "group": "g" })).unwrap()
}

struct Teller {
    story: Story,
    now: Instant,
}

impl Teller {
    fn new() -> Self {
        let now = Instant::now();
        Teller { story: Story::new(now), now }
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self
    }

    fn sees(&mut self, number: u16, status: Option<StatusView>) -> Vec<String> {
        self.story.seen(&Seen { number, asked: self.now, status, members: None }, self.now)
    }

    fn sees_members(&mut self, view: MembersView) -> Vec<String> {
        let status = Some(status(1, "leader", 1));
        self.story.seen(&Seen { number: 1, asked: self.now, status, members: Some(view) }, self.now)
    }
}

#[test]
fn a_killed_leader_an_election_and_the_way_back_are_told() {
    let mut teller = Teller::new();
    assert_eq!(teller.sees(1, Some(status(1, "leader", 1))), ["member 1 leads, in term 1"]);
    assert!(teller.sees(2, Some(status(2, "follower", 1))).is_empty());
    assert!(teller.sees(1, Some(status(1, "leader", 1))).is_empty());
    let now = teller.now;
    assert_eq!(
        teller.story.ended(1, 77, "was killed by signal 9", now),
        ["member 1 (process 77) was killed by signal 9; it was the leader"]
    );
    assert!(teller.after(100).sees(1, None).is_empty());
    let elected = teller.after(500).sees(2, Some(status(2, "leader", 2)));
    assert_eq!(elected, ["member 2 leads, in term 2, 0.6 s after the leader was lost"]);
    let late = Seen { number: 1, asked: teller.now, status: Some(status(1, "leader", 1)), members: None };
    let now = teller.after(100).now;
    assert_eq!(teller.story.restarted(1, 78, now), ["member 1 is started again (process 78)"]);
    assert!(teller.story.seen(&late, now).is_empty(), "an answer of the dead process");
    assert_eq!(teller.after(100).sees(1, Some(status(1, "follower", 2))), ["member 1 is back as follower"]);
}

#[test]
fn a_member_that_hangs_is_told_once() {
    let mut teller = Teller::new();
    teller.sees(1, Some(status(1, "leader", 1)));
    teller.sees(2, Some(status(2, "follower", 1)));
    // That there is no answer shows only when it was waited for in vain.
    assert!(teller.after(600).sees(1, None).is_empty());
    assert_eq!(
        teller.after(100).sees(2, Some(status(2, "leader", 2))),
        ["member 2 leads, in term 2, 0.7 s after the leader was lost"]
    );
    assert_eq!(teller.after(1000).sees(1, None), ["member 1 does not answer"]);
    assert!(teller.after(1000).sees(1, None).is_empty());
    // It has heard nothing of the election yet.
    assert_eq!(teller.after(100).sees(1, Some(status(1, "leader", 1))), ["member 1 answers again as follower"]);
    assert!(teller.after(100).sees(1, Some(status(1, "follower", 2))).is_empty());
}

#[test]
fn a_deposed_leader_that_has_not_noticed_is_not_news() {
    let mut teller = Teller::new();
    teller.sees(1, Some(status(1, "leader", 1)));
    teller.sees(2, Some(status(2, "leader", 2)));
    assert!(teller.sees(1, Some(status(1, "leader", 1))).is_empty());
    assert!(teller.sees(2, Some(status(2, "leader", 2))).is_empty());
}

#[test]
fn changes_of_membership_are_told() {
    let mut teller = Teller::new();
    teller.sees_members(members(&[(1, true, "ok"), (2, true, "ok")]));
    let view = members(&[(1, true, "ok"), (2, true, "lagging"), (4, false, "lagging")]);
    assert_eq!(teller.sees_members(view), ["member 4 was added, as learner"]);
    assert_eq!(
        teller.sees_members(members(&[(1, true, "ok"), (4, true, "ok")])),
        ["member 4 has a vote now", "member 4 has caught up", "member 2 was removed"]
    );
}

const ANY: Shape = Shape { members: None, base_port: None };

#[test]
fn only_its_own_directory_is_used_and_wiped() {
    let root = tempfile::tempdir().unwrap();
    let foreign = root.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "ten years").unwrap();
    for fresh in [false, true] {
        let error = DevDir::open(&foreign, ANY, fresh).unwrap_err().to_string();
        assert!(error.contains("was not made by 'quorate dev'"), "{error}");
    }
    assert!(foreign.join("thesis.txt").exists());

    let own = root.path().join("own");
    let dir = DevDir::open(&own, ANY, false).unwrap();
    let busy = DevDir::open(&own, ANY, true).unwrap_err().to_string();
    assert!(busy.contains("another 'quorate dev' runs"), "{busy}");
    drop(dir);
    std::fs::create_dir(own.join("member-1")).unwrap();
    for name in ["member-1/IDENTITY", "member-1.log", "member-notes.txt", "mine.txt"] {
        std::fs::write(own.join(name), "x").unwrap();
    }
    std::os::unix::fs::symlink(&foreign, own.join("member-2")).unwrap();
    assert!(DevDir::open(&own, ANY, false).unwrap().slots()[0].has_identity());
    assert!(!DevDir::open(&own, ANY, true).unwrap().slots()[0].has_identity());
    let mut left: Vec<_> =
        std::fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, [".quorate-dev", "member-notes.txt", "mine.txt"]);
    assert!(foreign.join("thesis.txt").exists(), "a link is deleted, not what it points to");
}

#[test]
fn a_second_start_knows_the_first() {
    let root = tempfile::tempdir().unwrap();
    let open = |members, base_port, fresh| {
        let dir = DevDir::open(root.path(), Shape { members, base_port }, fresh)?;
        anyhow::Ok(dir.slots().iter().map(|slot| slot.port).collect::<Vec<_>>())
    };
    assert_eq!(open(Some(2), Some(7301), false).unwrap(), [7301, 7302]);
    // No member was started: a port was taken, say. Another choice is free.
    assert_eq!(open(Some(2), Some(7101), false).unwrap(), [7101, 7102]);
    std::fs::create_dir(root.path().join("member-1")).unwrap();
    assert_eq!(open(None, None, false).unwrap(), [7101, 7102]);
    assert_eq!(open(Some(4), None, false).unwrap().len(), 4);
    assert!(open(None, Some(7201), false).unwrap_err().to_string().contains("7101"));
    assert_eq!(open(None, Some(7201), true).unwrap(), [7201, 7202, 7203]);
}
