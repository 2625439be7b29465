//! Leaders that die, are cut off, or come back.

use std::time::Duration;

use crate::history::{Act, Outcome};

use super::Ended;
use super::script::{NOTES, Stage, expect, text_of};

/// Followers that stored entries and never applied them would have nothing to serve.
pub async fn after_the_leaders_death_the_others_serve_everything(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let mut writer = s.client(leader);
    let mut kept = Vec::new();
    for _ in 0..30 {
        kept.push(writer.write(NOTES).await?);
    }
    s.cut_power(leader)?;
    let next = s.leader_besides(leader).await?;
    s.client(next).must_find(NOTES, &kept).await?;
    kept.push(s.client(next).write(NOTES).await?);
    s.start(leader)?;
    s.serves(leader).await?;
    s.hand_over(leader).await?;
    s.client(leader).must_find(NOTES, &kept).await
}

/// All healthy again: the group serves soon, and then nobody wins another election for five seconds.
pub async fn a_group_that_was_killed_comes_back_and_stays_calm(s: Stage) -> Ended {
    let kept = s.client(1).write(NOTES).await?;
    for round in 0..3 {
        s.wait(300).await;
        for machine in s.numbers() {
            if round == 1 { s.cut_power(machine)? } else { s.kill(machine)? }
        }
        s.wait(100).await;
        for machine in s.numbers() {
            s.start(machine)?;
        }
        for machine in s.numbers() {
            s.serves(machine).await?;
        }
        s.leader().await?;
        s.client(2).must_find(NOTES, std::slice::from_ref(&kept)).await?;
    }
    s.wait(1000).await;
    let before = s.run.oracles.elections.count();
    s.wait(5000).await;
    let after = s.run.oracles.elections.count();
    expect(before == after, format!("{} elections were won although nothing was broken", after - before))
}

/// A leader alone keeps entries that nobody else has. They must give way, on its disk too.
pub async fn a_leader_cut_off_and_killed_forks_no_history(s: Stage) -> Ended {
    let old = s.leader().await?;
    let mut kept = vec![s.client(old).write(NOTES).await?];
    s.cut(&[old], &s.others(old))?;
    let mut lonely = Vec::new();
    for _ in 0..3 {
        let mut caller = s.client(old).with_patience(100);
        let (text, outcome) = caller.try_write(NOTES).await;
        expect(!matches!(outcome, Outcome::Done(_)), "a leader alone acknowledged a write")?;
        lonely.push(text);
    }
    s.kill(old)?;
    let next = s.leader_besides(old).await?;
    for _ in 0..5 {
        kept.push(s.client(next).write(NOTES).await?);
    }
    s.start(old)?;
    s.wait(300).await;
    s.mend()?;
    s.serves(old).await?;
    s.hand_over(old).await?;
    s.client(old).must_find(NOTES, &kept).await?;
    let found = s.client(old).read(NOTES).await?;
    expect(!lonely.iter().any(|text| found.contains(text.as_str())), format!("{lonely:?} came back: {found}"))
}

/// Its connections stay open, and it never answers. Who has asked it is told as soon as another one leads: reads have
/// their answer from that one, and a write's outcome is unknown.
pub async fn a_leader_that_hangs_is_not_waited_for(s: Stage) -> Ended {
    let (mut answered, mut unknown) = (0, 0);
    for round in 0..6 {
        let leader = s.leader().await?;
        let kept = s.client(leader).write(NOTES).await?;
        for machine in s.others(leader) {
            s.client(machine).must_find(NOTES, std::slice::from_ref(&kept)).await?;
        }
        let mut tasks = Vec::new();
        s.pause(leader)?;
        let began = s.run.story.now();
        for machine in s.others(leader) {
            let (stage, kept) = (s.clone(), kept.clone());
            tasks.push(tokio::spawn(async move {
                let mut caller = stage.client(machine);
                if round % 2 == 0 {
                    let found = caller.ask(NOTES, Act::Get).await;
                    let Outcome::Done(rets) = &found else { return Err(format!("the read answered {found}")) };
                    expect(text_of(rets).contains(&kept), format!("{kept} is not in {found}"))?;
                    return Ok((1, 0, stage.run.story.now()));
                }
                let (_, outcome) = caller.try_write(NOTES).await;
                let unknown = matches!(outcome, Outcome::Unknown(_));
                let known = matches!(outcome, Outcome::Done(_));
                expect(unknown || known, format!("the write answered {outcome}"))?;
                Ok::<_, String>((i32::from(known), i32::from(unknown), stage.run.story.now()))
            }));
        }
        s.leader_besides(leader).await?;
        let led = s.run.story.now();
        for task in tasks {
            let (done, lost, now) = task.await.map_err(|error| error.to_string())??;
            (answered, unknown) = (answered + done, unknown + lost);
            let after = now.saturating_sub(led);
            let words = format!("{after:?} after another one led, {:?} after the old one hung", now - began);
            expect(after < Duration::from_millis(1500), format!("an answer came {words}"))?;
        }
        s.resume(leader)?;
        s.wait(600).await;
    }
    expect(answered >= 6 && unknown > 0, format!("{answered} were answered, {unknown} are unknown"))
}

/// Cuts, kills, pauses and a new member at once, five times over.
pub async fn all_kinds_of_faults_at_once_lose_nothing(s: Stage) -> Ended {
    let mut kept = Vec::new();
    for round in 0..5 {
        let leader = s.leader().await?;
        kept.push(s.client(leader).write(NOTES).await?);
        let others = s.others(leader);
        s.cut(&[leader, others[0]], &others[1..])?;
        if round % 2 == 0 {
            s.kill(others[1])?
        } else {
            s.cut_power(others[1])?
        }
        s.pause(others[2])?;
        if round == 1 {
            s.run.add_machine().build();
        }
        s.wait(250 + 200 * round).await;
        s.resume(others[2])?;
        s.mend()?;
        s.start(others[1])?;
        s.wait(200).await;
    }
    for machine in s.numbers() {
        s.serves(machine).await?;
        s.client(machine).must_find(NOTES, &kept).await?;
    }
    Ok(())
}
