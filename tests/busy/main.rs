//! A machine whose processors have nothing left: nobody may be elected for it. A target of its own, so that no other
//! test runs beside it.

use quorate_testkit::load::Load;
use quorate_testkit::{Cluster, ClusterOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate");

/// Keeps all processors busy, twice over, until it is dropped.
struct Burners(Arc<AtomicBool>);

impl Burners {
    fn light() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..2 * thread::available_parallelism().map_or(2, usize::from) {
            let over = over.clone();
            thread::spawn(move || {
                while !over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(over)
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_full_processor_elects_nobody() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY));
    cluster.wait_settled();
    let story = |cluster: &Cluster| {
        let status = cluster.members[cluster.leader()].status().expect("the leader's status");
        (status["leader"].as_u64(), status["term"].as_u64())
    };
    let before = story(&cluster);
    assert!(before.0.is_some() && before.1.is_some(), "the status tells leader and term: {before:?}");
    let burners = Burners::light();
    let load = Load::start(50, &cluster.addrs());
    thread::sleep(Duration::from_secs(10));
    let after = story(&cluster);
    let books = load.stop();
    drop(burners);
    assert_eq!(before, after, "leader and term");
    assert!(books.acked() > 0);
    assert_eq!(books.unknown(), 0, "nothing was in doubt");
    books.check(&mut cluster.members[0].conn());
}
