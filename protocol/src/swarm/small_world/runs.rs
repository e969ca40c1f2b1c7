//! Jobs in the small world: undisturbed, with doubled messages, claimed, and with kills.

use super::job::heavy;
use super::*;

pub(super) const LIMIT: Duration = Duration::from_millis(120_000);

pub(super) fn undisturbed(steps: u64) -> Vec<u64> {
    let mut world = World::new(4);
    world.submit(spec(3, steps));
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!(world.epochs, 1);
    world.learnt()
}

#[test]
fn a_job_runs_to_its_end_and_its_state_can_be_pulled() {
    let mut world = World::new(4);
    world.submit(spec(3, 8));
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!(world.losses.len(), 8);
    assert_eq!(world.open_max, 2, "one pass is computed while another is read");
    let job = world.plan.as_ref().unwrap().job;
    let to = world.submitter;
    world.later(to, Duration::ZERO, Happening::Input(Input::Command(Command::Pull(job))));
    assert!(world.run_until(LIMIT, |w| w.pulled == 3));
}

#[test]
fn messages_that_are_heard_twice_change_nothing() {
    let expected = undisturbed(12);
    let mut world = World::new(4);
    world.doubles = true;
    world.submit(spec(3, 12));
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!(world.epochs, 1);
    assert_eq!(world.learnt(), expected);
}

/// Goal: no message that is lost holds a job up, begins it anew, or changes a loss. Method: every n-th is lost from the first
/// plan on, with backups and with replicas. News that is lost may stay untold, but not the end.
#[test]
fn messages_that_are_lost_change_nothing() {
    for (job, peers) in [(spec(3, 40), 4), (heavy((2, 2, 1), 12), 4)] {
        let run = |losing| {
            let mut world = World::new(peers);
            world.submit(job.clone());
            assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
            world.losing = losing;
            assert!(world.run_until(LIMIT, |w| w.finished), "{losing}: {:?}", world.trace);
            assert_eq!(world.epochs, 1, "{losing}: {:?}", world.trace);
            world.losses
        };
        let expected = run(0);
        for losing in (3..40).chain([61, 97, 197]) {
            let told = run(losing);
            assert_eq!(told.last_key_value(), expected.last_key_value(), "every {losing}th");
            assert!(told.iter().all(|(step, loss)| expected[step].to_bits() == loss.to_bits()));
        }
    }
}

/// Goal: a job outlives its submitter, and whoever hands it in again gets what it learnt. Method: kill the submitter at
/// many moments, hand the same job in at another peer, which is told of the last step at least; pull.
#[test]
fn a_job_without_a_submitter_goes_on_and_can_be_claimed() {
    let expected = undisturbed(12);
    for moment in 0..30u64 {
        let mut world = World::new(4);
        world.submit(spec(3, 12));
        assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
        let pause = Duration::from_micros(moment * 17_300);
        let until = world.now + pause;
        world.run_until(pause, |w| w.now >= until);
        let plan = world.plan.clone().unwrap();
        world.kill(world.submitter);
        let claimer = *world.peers.keys().nth(usize::try_from(moment % 5).unwrap()).unwrap();
        if claimer == world.submitter {
            continue;
        }
        world.submitter = claimer;
        world.finished = false;
        world.losses.clear();
        world.submit(spec(3, 12));
        assert!(world.run_until(LIMIT, |w| w.finished), "moment {moment}: {:?}", world.trace);
        assert!(world.losses.contains_key(&Step::new(11)), "moment {moment}: {:?}", world.losses);
        let pull = Input::Command(Command::Pull(plan.job));
        world.later(claimer, Duration::ZERO, Happening::Input(pull));
        assert!(world.run_until(LIMIT, |w| w.pulled == 3), "moment {moment}: {:?}", world.trace);
        for (step, loss) in &world.losses {
            let index = usize::try_from(step.number()).unwrap();
            assert_eq!(loss.to_bits(), expected[index], "moment {moment}, step {step}");
        }
    }
}

/// Goal: no kill loses a step or changes a loss. Method: kill owners, leader or submitter at many moments.
#[test]
fn killing_any_member_at_any_moment_changes_no_loss() {
    let expected = undisturbed(12);
    for moment in 0..40u64 {
        for who in 0..4 {
            let mut world = World::new(4);
            world.submit(spec(3, 12));
            assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
            let pause = Duration::from_micros(moment * 9_700);
            let until = world.now + pause;
            world.run_until(pause, |w| w.now >= until);
            let plan = world.plan.clone().unwrap();
            let victim = match who {
                3 => world.leader.unwrap(),
                stage => plan.owner(StageId::new(stage)).unwrap(),
            };
            world.kill(victim);
            assert!(
                world.run_until(LIMIT, |w| w.finished),
                "moment {moment}, victim {who}: {:?} {:?}",
                world.trace,
                world.losses.len()
            );
            assert_eq!(world.epochs, 2, "one repair: {:?}", world.trace);
            assert_eq!(world.learnt(), expected, "moment {moment}, victim {who}");
        }
    }
}

/// Goal: a member that is cut off for a while costs no loss, and comes back without what it held. Method: an owner, or the
/// leader, hears nobody for ten seconds; the others go on meanwhile.
#[test]
fn a_member_that_was_left_behind_lets_the_job_go() {
    let expected = undisturbed(400);
    for who in 0..4 {
        let mut world = World::new(5);
        world.submit(spec(3, 400));
        assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
        world.pass(Duration::from_millis(500));
        let first = world.plan.clone().unwrap();
        let lone = match who {
            3 => world.leader.unwrap(),
            stage => first.owner(StageId::new(stage)).unwrap(),
        };
        world.apart.insert(lone);
        world.pass(Duration::from_millis(10_000));
        world.apart.clear();
        assert!(!world.finished && world.epochs > 1, "{:?}", world.trace);
        world.pass(Duration::from_millis(5_000));
        let stale = world.peers[&lone].job(first.job).and_then(|(_, plan, _)| plan).cloned();
        assert!(stale.is_none_or(|p| p.epoch > first.epoch), "{who} holds on to an old plan");
        assert!(world.run_until(LIMIT, |w| w.finished), "{who}: {:?}", world.trace);
        assert_eq!(world.learnt(), expected, "{who}");
    }
}

#[test]
fn a_voter_without_a_part_is_replaced_once_it_is_gone() {
    let mut world = World::new(5);
    let mut spec = spec(3, 400);
    spec.swarm.backups = 0;
    world.submit(spec);
    assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
    let plan = world.plan.clone().unwrap();
    let owns = |p: &PeerId| plan.stages.iter().any(|s| s.owner == *p);
    let idle = |p: &&PeerId| !owns(p) && Some(**p) != world.leader && **p != world.submitter;
    let bystander = *plan.council.iter().find(idle).unwrap();
    world.kill(bystander);
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    let council = &world.plan.as_ref().unwrap().council;
    assert!(!council.contains(&bystander) && council.len() == plan.council.len() - 1);
    assert_eq!((world.losses.len(), world.epochs), (400, 2));
}

#[test]
fn a_refused_shipment_is_sent_again_and_counts_once() {
    let expected = undisturbed(12);
    let mut world = World::new(4);
    world.submit(spec(3, 12));
    assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
    world.refusals = 9;
    // That no step reports what nobody took is asserted where the news is heard.
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!((world.refusals, world.epochs), (0, 1));
    assert_eq!(world.learnt(), expected);
}

/// Goal: members that own several stages each work, and losing one costs nothing. Method: six stages on three peers, each
/// owner killed at some moments.
#[test]
fn a_member_may_own_several_stages() {
    let mut several = spec(6, 12);
    several.swarm.stages_per_peer = 2;
    let expected = undisturbed(12);
    for moment in 0..12u64 {
        for who in 0..3 {
            let mut world = World::new(3);
            world.submit(several.clone());
            assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
            let plan = world.plan.clone().unwrap();
            let owned = |peer| plan.stages.iter().filter(|s| s.owner == peer).count();
            assert!(plan.stages.iter().all(|stage| owned(stage.owner) == 2), "{plan:?}");
            if moment > 0 {
                world.pass(Duration::from_micros(moment * 41_300));
                world.kill(plan.stages[who].owner);
            }
            assert!(world.run_until(LIMIT, |w| w.finished), "moment {moment}: {:?}", world.trace);
            assert_eq!(world.learnt(), expected, "moment {moment}, owner {who}");
            if moment == 0 {
                assert_eq!((world.epochs, world.open_max), (1, 1));
            }
        }
    }
}

/// Goal: jobs of many members run and recover. Method: twelve stages on fourteen peers, the last owner killed.
#[test]
fn a_job_of_more_members_than_a_council_needs_runs_and_recovers() {
    let expected = undisturbed(12);
    for moment in [0u64, 60_000, 333_000] {
        let mut world = World::new(14);
        world.submit(spec(12, 12));
        assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
        world.pass(Duration::from_micros(moment));
        let plan = world.plan.clone().unwrap();
        if moment > 0 {
            world.kill(plan.stages[11].owner);
        }
        assert!(world.run_until(LIMIT, |w| w.finished), "moment {moment}: {:?}", world.trace);
        assert_eq!(world.epochs, 1 + usize::from(moment > 0), "{:?}", world.trace);
        assert_eq!(world.learnt(), expected, "moment {moment}");
    }
}
