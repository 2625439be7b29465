//! Members that come, go, and come back as somebody else.

use std::sync::atomic::Ordering::Relaxed;

use quorate::admin::api::Request;

use crate::history::{Act, Outcome};

use super::Ended;
use super::script::{NOTES, Stage, expect, text_of};

/// Whoever is alone can't make himself the majority by sending the others away.
pub async fn an_isolated_leader_cannot_remove_the_others(s: Stage) -> Ended {
    let old = s.leader().await?;
    let mut kept = vec![s.client(old).write(NOTES).await?];
    let others = s.others(old);
    s.cut(&[old], &others)?;
    for other in &others {
        let id = s.id(*other)?;
        expect(s.admin(old, Request::Remove { id }).await.is_err(), format!("the leader alone removed member {id}"))?;
    }
    let (text, outcome) = s.client(old).with_patience(3000).try_write(NOTES).await;
    expect(!matches!(outcome, Outcome::Done(_)), format!("the leader alone acknowledged {text}"))?;
    let next = s.leader_besides(old).await?;
    kept.push(s.client(next).write(NOTES).await?);
    s.mend()?;
    s.serves(old).await?;
    s.wait(500).await;
    for number in s.numbers() {
        let members = s.machine(number)?.group().map_or(0, |group| group.members().len());
        expect(members == 3, format!("machine {number} counts {members} members"))?;
    }
    s.client(old).must_find(NOTES, &kept).await
}

/// The others send away whoever is alone: he acknowledges and shows nothing more, cut off or not.
pub async fn a_leader_that_was_removed_while_alone_has_no_power(s: Stage) -> Ended {
    let old = s.leader().await?;
    let mut kept = vec![s.client(old).write(NOTES).await?];
    let (id, others) = (s.id(old)?, s.others(old));
    s.cut(&[old], &others)?;
    let next = s.leader_besides(old).await?;
    // It may not have heard of the other one yet.
    while let Err(why) = s.admin(next, Request::Remove { id }).await {
        expect(s.run.story.now().as_secs() < 20, why)?;
        s.wait(100).await;
    }
    let knows = |number: usize| s.machine(number).is_ok_and(|m| m.group().is_some_and(|g| g.members().len() == 2));
    s.until("the removal is known", || others.iter().all(|number| knows(*number))).await?;
    kept.push(s.client(next).write(NOTES).await?);
    powerless(&s, old, &kept).await?;
    s.mend()?;
    s.wait(1000).await;
    powerless(&s, old, &kept).await?;
    kept.push(s.client(next).write(NOTES).await?);
    expect(others.iter().all(|number| knows(*number)), "it is a member again")?;
    s.client(next).must_find(NOTES, &kept).await?;
    let machine = s.machine(old)?;
    s.cut_power(old)?;
    machine.empty_disk();
    s.start(old)?;
    s.serves(old).await
}

/// A member that is out acknowledges no write, and shows nothing that is old.
async fn powerless(s: &Stage, out: usize, kept: &[String]) -> Ended {
    for _ in 0..3 {
        let (text, outcome) = s.client(out).with_patience(3000).try_write(NOTES).await;
        expect(!matches!(outcome, Outcome::Done(_)), format!("a member that is out acknowledged {text}"))?;
        if let Outcome::Done(rets) = s.client(out).with_patience(3000).ask(NOTES, Act::Get).await {
            let found = text_of(&rets);
            let old = kept.iter().any(|text| !found.contains(text.as_str()));
            expect(!old, format!("a member that is out showed {found}, without all of {kept:?}"))?;
        }
    }
    Ok(())
}

/// A machine that wants to join while nobody answers must not begin a group of its own.
pub async fn a_machine_that_comes_first_waits_for_the_group(s: Stage) -> Ended {
    let kept = s.client(1).write(NOTES).await?;
    for number in s.numbers() {
        s.kill(number)?;
    }
    let all = s.numbers();
    let new = s.run.add_machine();
    new.build();
    s.wait(2000).await;
    expect(new.group().is_none(), "it serves although there is no group")?;
    for number in all {
        s.start(number)?;
    }
    // Its supervisor starts it again if it gave up meanwhile.
    s.leader().await?;
    new.start();
    s.serves(new.number).await?;
    s.client(new.number).must_find(NOTES, &[kept]).await
}

/// Two machines are to join, and each was told to ask the other one first. Neither may wait for the other: whoever is not
/// in the group yet says so.
pub async fn two_that_are_to_join_do_not_wait_for_each_other(s: Stage) -> Ended {
    // A machine asks the others in the order of their numbers.
    let (new, stays) = ([1, 2], 3);
    s.hand_over(stays).await?;
    let kept = s.client(stays).write(NOTES).await?;
    let group = s.machine(stays)?.group().ok_or("the leader does not serve")?;
    for number in new {
        let id = s.id(number)?;
        s.admin(stays, Request::Remove { id }).await?;
        s.until("it is out", || group.members().iter().all(|(member, ..)| *member != id)).await?;
        s.wait(500).await;
    }
    for number in new {
        s.cut_power(number)?;
        s.machine(number)?.empty_disk();
    }
    for number in new {
        s.start(number)?;
    }
    for number in new {
        s.serves(number).await?;
        s.client(number).must_find(NOTES, std::slice::from_ref(&kept)).await?;
    }
    Ok(())
}

/// The leader itself is removed: another one leads, and what was the leader acknowledges nothing more.
pub async fn a_removed_leader_acknowledges_nothing_more(s: Stage) -> Ended {
    let old = s.leader().await?;
    let id = s.id(old)?;
    let mut kept = vec![s.client(old).write(NOTES).await?];
    // It has to run somewhere when it is out: two can't lose one more.
    let _ = s.admin(s.others(old)[0], Request::Remove { id }).await;
    let next = s.leader_besides(old).await?;
    let knows = |number: usize| s.machine(number).is_ok_and(|m| m.group().is_some_and(|g| g.members().len() == 2));
    s.until("the removal is known", || s.others(old).into_iter().all(knows)).await?;
    kept.push(s.client(next).write(NOTES).await?);
    powerless(&s, old, &kept).await?;
    s.wait(500).await;
    powerless(&s, old, &kept).await?;
    let machine = s.machine(old)?;
    s.cut_power(old)?;
    machine.empty_disk();
    s.start(old)?;
    s.serves(old).await?;
    expect(s.id(old)? != id, "an id was used twice")?;
    s.client(old).must_find(NOTES, &kept).await
}

/// A disk was lost. What comes back at that address knows nothing, and must not vote, or lead, or wipe the others.
pub async fn an_empty_disk_under_an_old_id_is_not_counted(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let (empty, third) = (s.others(leader)[0], s.others(leader)[1]);
    let mut kept = vec![s.client(leader).write(NOTES).await?];
    let machine = s.machine(empty)?;
    s.cut_power(empty)?;
    machine.ruined.store(true, Relaxed);
    machine.empty_disk();
    s.kill(third)?;
    s.start(empty)?;
    let began = s.run.story.now();
    while (s.run.story.now() - began).as_secs() < 4 {
        let (text, outcome) = s.client(leader).with_patience(3000).try_write(NOTES).await;
        expect(!matches!(outcome, Outcome::Done(_)), format!("one of three, with an empty one, acknowledged {text}"))?;
        expect(machine.group().is_none_or(|group| !group.is_leader()), "the empty one leads")?;
        machine.start();
        s.wait(100).await;
    }
    s.start(third)?;
    s.serves(third).await?;
    let leader = s.leader().await?;
    kept.push(s.client(leader).write(NOTES).await?);
    s.client(leader).must_find(NOTES, &kept).await
}

/// Two against two: neither half acknowledges anything.
pub async fn half_of_an_even_group_is_no_majority(s: Stage) -> Ended {
    for number in s.numbers() {
        s.serves(number).await?;
    }
    let leader = s.leader().await?;
    let mut kept = vec![s.client(leader).write(NOTES).await?];
    let others = s.others(leader);
    s.cut(&[leader, others[0]], &others[1..])?;
    s.wait(20).await;
    for _ in 0..2 {
        for number in s.numbers() {
            let (text, outcome) = s.client(number).with_patience(2500).try_write(NOTES).await;
            expect(!matches!(outcome, Outcome::Done(_)), format!("two of four acknowledged {text}"))?;
        }
    }
    s.mend()?;
    kept.push(s.client(1).write(NOTES).await?);
    s.client(2).must_find(NOTES, &kept).await
}

/// A member was just taken in when the leader dies. Whoever leads next brings it to its vote.
pub async fn a_change_survives_the_death_of_its_leader(s: Stage) -> Ended {
    for round in 0..2 {
        let leader = s.leader().await?;
        let (new, group) = s.taken_in_by(leader).await?;
        s.wait(round * 2).await;
        let members = group.members();
        let voters = members.iter().filter(|(.., votes)| *votes).count();
        expect(voters == members.len() - 1, "the new one votes already")?;
        s.cut_power(leader)?;
        s.leader_besides(leader).await?;
        s.until("the new one runs", || {
            new.start();
            new.is_on() && new.votes()
        })
        .await?;
        s.start(leader)?;
        s.serves(leader).await?;
    }
    let kept = s.client(1).write(NOTES).await?;
    for number in s.numbers() {
        s.client(number).must_find(NOTES, std::slice::from_ref(&kept)).await?;
    }
    Ok(())
}

/// A membership comes back from a log, from a checkpoint, and from a log behind a checkpoint: always the same one.
pub async fn members_are_the_same_after_replay_and_snapshot(s: Stage) -> Ended {
    let new = s.run.add_machine();
    new.build();
    s.serves(new.number).await?;
    let away = s.others(s.leader().await?)[0];
    let id = s.id(away)?;
    let leader = s.leader().await?;
    s.admin(leader, Request::Remove { id }).await?;
    s.wait(1500).await;
    s.kill(away)?;
    let rest = s.others(away);
    let known = |number: usize| {
        let group = s.machine(number).ok().and_then(|machine| machine.group());
        group.map(|group| group.members().into_iter().map(|(id, _, votes)| (id, votes)).collect::<Vec<_>>())
    };
    let before = known(leader).ok_or("the leader does not serve")?;
    expect(before.len() == 3 && before.iter().all(|(_, votes)| *votes), format!("the members are {before:?}"))?;
    for _ in 0..2 {
        rest.iter().try_for_each(|number| s.cut_power(*number))?;
        rest.iter().try_for_each(|number| s.start(*number))?;
        for number in &rest {
            s.serves(*number).await?;
        }
        s.leader().await?;
        s.wait(300).await;
        for number in &rest {
            let after = known(*number);
            expect(after.as_ref() == Some(&before), format!("machine {number}: {before:?} became {after:?}"))?;
        }
        s.wait(1200).await;
    }
    for number in &rest {
        expect(s.told(*number, "checkpoint up to") > 0, format!("machine {number} never made a checkpoint"))?;
    }
    // What follows is known from a snapshot alone: no entry behind it says who is in the group.
    let leader = s.leader().await?;
    let behind = *rest.iter().find(|number| **number != leader).ok_or("there is one only")?;
    let installed = s.told(behind, "installed a snapshot");
    s.kill(behind)?;
    for _ in 0..25 {
        s.client(leader).write(NOTES).await?;
        s.wait(60).await;
    }
    s.start(behind)?;
    s.until("it installs a snapshot", || s.told(behind, "installed a snapshot") > installed).await?;
    s.wait(300).await;
    let after = known(behind);
    expect(after.as_ref() == Some(&before), format!("a snapshot: {before:?} became {after:?}"))?;
    let machine = s.machine(away)?;
    machine.empty_disk();
    s.start(away)?;
    s.serves(away).await?;
    s.until("all know the same", || s.numbers().iter().all(|number| known(*number) == known(leader))).await?;
    expect(known(away).is_some_and(|members| members.len() == 4), "it is no member")
}
