//! Jobs that start from weights which only the submitter holds.

use super::job::given;
use super::runs::{LIMIT, undisturbed};
use super::*;

#[test]
fn owners_pull_the_weights_and_backups_take_their_owners_state() {
    let mut world = World::new(4);
    world.submit(given(3, 8));
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!((world.learnt(), world.epochs), (undisturbed(8), 1));
    let plan = world.plan.clone().unwrap();
    let owners: BTreeSet<PeerId> = plan.stages.iter().map(|s| s.owner).collect();
    let got: BTreeSet<PeerId> = world.given.iter().map(|(_, to)| *to).collect();
    assert_eq!(got, owners);
}

#[test]
fn doubled_messages_and_refused_shipments_change_nothing() {
    let mut world = World::new(4);
    world.doubles = true;
    world.submit(given(3, 12));
    assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
    world.refusals = 9;
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!((world.learnt(), world.epochs), (undisturbed(12), 1));
}

/// Goal: an owner that dies before, while or after it has its weights costs no step and changes no loss. Method: kill
/// each owner, and the leader, at many moments from the first plan on.
#[test]
fn an_owner_may_die_at_step_zero() {
    let expected = undisturbed(12);
    for moment in 0..40u64 {
        for who in 0..4 {
            let mut world = World::new(4);
            world.submit(given(3, 12));
            assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
            world.pass(Duration::from_micros(moment * 2_300));
            let plan = world.plan.clone().unwrap();
            let victim = match who {
                3 => world.leader.unwrap(),
                stage => plan.owner(StageId::new(stage)).unwrap(),
            };
            world.kill(victim);
            let what = format!("moment {moment}, victim {who}");
            assert!(world.run_until(LIMIT, |w| w.finished), "{what}: {:?}", world.trace);
            assert_eq!(world.learnt(), expected, "{what}");
        }
    }
}

/// Goal: from the commit of step 0 on nobody needs the submitter. Method: kill it then, and an owner a while later;
/// whoever hands the job in holds no weights.
#[test]
fn after_step_zero_the_submitter_may_vanish() {
    let expected = undisturbed(12);
    for moment in 0..20u64 {
        let mut world = World::new(5);
        world.submit(given(3, 12));
        assert!(world.run_until(LIMIT, |w| !w.losses.is_empty()));
        world.kill(world.submitter);
        world.holds_weights = false;
        world.pass(Duration::from_micros(moment * 7_900));
        let plan = world.plan.clone().unwrap();
        let stage = StageId::new(u16::try_from(moment % 3).unwrap());
        world.kill(plan.owner(stage).unwrap());
        let alive = |p: &&PeerId| !world.dead.contains(p);
        world.submitter = *world.peers.keys().find(alive).unwrap();
        world.submit(given(3, 12));
        assert!(world.run_until(LIMIT, |w| w.finished), "moment {moment}: {:?}", world.trace);
        for (step, loss) in &world.losses {
            let index = usize::try_from(step.number()).unwrap();
            assert_eq!(loss.to_bits(), expected[index], "moment {moment}, step {step}");
        }
    }
}

/// Goal: a submitter that dies before it has given everything is replaced by whoever hands the job in with the weights.
#[test]
fn weights_that_were_not_given_are_given_by_whoever_claims_the_job() {
    let expected = undisturbed(6);
    for moment in 0..12u64 {
        let mut world = World::new(4);
        world.submit(given(3, 6));
        assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
        world.pass(Duration::from_micros(moment * 700));
        let first = world.submitter;
        world.kill(first);
        world.pass(Duration::from_millis(8_000));
        let idle = |p: &&PeerId| !world.dead.contains(p) && Some(**p) != world.leader;
        world.submitter = *world.peers.keys().find(idle).unwrap();
        world.submit(given(3, 6));
        assert!(world.run_until(LIMIT, |w| w.finished), "moment {moment}: {:?}", world.trace);
        for (step, loss) in &world.losses {
            assert_eq!(loss.to_bits(), expected[usize::try_from(step.number()).unwrap()]);
        }
    }
}

#[test]
fn a_job_that_nobody_gives_its_weights_is_let_go() {
    let mut world = World::new(4);
    world.submit(given(3, 6));
    assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
    world.kill(world.submitter);
    world.pass(Duration::from_millis(900_000));
    let living = world.peers.iter().filter(|(id, _)| !world.dead.contains(id));
    assert_eq!(living.map(|(_, peer)| peer.jobs().count()).sum::<usize>(), 0);
}

#[test]
fn a_wrong_number_of_hashes_is_refused() {
    let mut world = World::new(4);
    let mut wrong = given(2, 3);
    if let crate::job::Start::Given(hashes) = &mut wrong.start {
        hashes.pop();
    }
    world.submit(wrong);
    let reason = world.run_until_failed(LIMIT);
    assert!(reason.contains("hashes of 6 start tensors; the network has 7"), "{reason}");
}
