//! Whether those that answer are enough to decide something, and who is missing. Nothing here asks anybody.

use std::collections::BTreeSet;

use crate::types::{MemberId, Metrics};

/// Who is silent, if that leaves no majority. While the voters change both the old and the new need one.
pub(crate) fn no_majority(metrics: &Metrics, answering: &BTreeSet<MemberId>) -> Option<String> {
    metrics.membership_config.membership().get_joint_config().iter().find_map(|voters| {
        let (here, needed) = (voters.intersection(answering).count(), voters.len() / 2 + 1);
        (here < needed).then(|| {
            let silent: Vec<_> = voters.difference(answering).map(ToString::to_string).collect();
            format!(
                "of {} voters {needed} must agree, and only {here} can be reached (silent: {})",
                voters.len(),
                silent.join(", ")
            )
        })
    })
}

/// Whether a majority of those that remain answers, and one of those that are.
pub(crate) fn majority_stays(
    voters: &BTreeSet<MemberId>,
    answering: &BTreeSet<MemberId>,
    out: MemberId,
) -> Result<(), String> {
    let rest: BTreeSet<_> = voters.iter().copied().filter(|id| *id != out).collect();
    if rest.is_empty() {
        return Err(format!("member {out} is the only voter: without it there is no group"));
    }
    let silent = |set: &BTreeSet<MemberId>| -> Vec<_> { set.difference(answering).copied().collect() };
    for (set, when) in [(voters, "for the change itself"), (&rest, "after it")] {
        let majority = set.len() / 2 + 1;
        let here = set.intersection(answering).count();
        if here < majority {
            return Err(format!(
                "removing member {out} needs {majority} of {} voters {when}, and only {here} answer (silent: {:?}); \
                 bring them back or remove them first",
                set.len(),
                silent(set)
            ));
        }
    }
    Ok(())
}
