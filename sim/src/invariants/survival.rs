//! A crash costs no member its data: what a disk has promised to keep is enough to start again (Raft paper, section 5.6:
//! servers restart from what is on stable storage). Bytes that were never synced may be lost, torn or kept.
//!
//! So a member whose disk has kept all its promises must never say that something on it is damaged or gone.

use std::sync::atomic::Ordering::Relaxed;

use crate::machine::Machine;

pub const NAME: &str = "a crash costs no member its data";

/// What members say of a directory that they can't go on with.
const DAMAGE: [&str; 4] = ["corrupt", "is gone", "is lost", "does not read back"];

/// The hint of a refusal to take a machine in, which speaks of lost disks, too.
const REFUSED: &str = "already has the peer address";

/// A process that ended with these words has found its data damaged or gone.
pub fn is_damage(words: &str) -> bool {
    !words.contains(REFUSED) && DAMAGE.iter().any(|word| words.contains(word))
}

/// The process of that machine has ended by itself.
pub fn ended(machine: &Machine, words: &str) {
    let spoilt = machine.ruined.load(Relaxed) || machine.faulty_disk.load(Relaxed);
    if !spoilt && is_damage(words) {
        machine.run.story.broken(NAME, format!("machine {} can't start any more: {words}", machine.number));
    }
}
