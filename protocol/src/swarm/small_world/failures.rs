//! Jobs that are refused or given up leave nothing behind, and a device that fails costs one repair.

use super::runs::{LIMIT, undisturbed};
use super::*;
use crate::dag::op::{Op, Targets};
use crate::dag::{DagBuilder, Fact, Init};

fn jobs(world: &World) -> usize {
    world.peers.values().map(|peer| peer.jobs().count()).sum()
}

#[test]
fn a_refused_job_ends_with_the_reason_and_leaves_nothing_behind() {
    let mut world = World::new(4);
    let mut wrong = spec(2, 3);
    wrong.train.micro_batches = 0;
    world.submit(wrong);
    let reason = world.run_until_failed(LIMIT);
    assert!(reason.contains("micro_batches is 0"), "{reason}");
    world.pass(Duration::from_millis(10_000));
    assert_eq!((jobs(&world), world.failed.take()), (0, None), "told once");
}

#[test]
fn a_job_that_fits_nowhere_leaves_nothing_behind() {
    let mut world = World::new(4);
    let mut large = spec(2, 3);
    let mut b = DagBuilder::new("large");
    let x = b.input("x", Fact::f32(&[4, 20_000]));
    let w = b.parameter("w", &[20_000, 20_000], Init::Normal(0.1), true);
    let y = b.op("y", Op::Linear, &[x, w]).unwrap();
    let t = b.input("targets", Fact::i32(&[4]));
    let loss = b.op("loss", Op::CrossEntropy(Targets::default()), &[y, t]).unwrap();
    b.output(loss);
    large.dag = b.finish().unwrap();
    world.submit(large);
    let reason = world.run_until_failed(LIMIT);
    assert!(reason.contains("no placement fits"), "{reason}");
    world.pass(Duration::from_millis(10_000));
    assert_eq!(jobs(&world), 0);
    // There is room for the next one.
    world.submit(spec(3, 3));
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
}

#[test]
fn a_job_that_never_finds_enough_peers_is_given_up() {
    let mut world = World::new(4);
    world.submit(spec(9, 3));
    let reason = world.run_until_failed(LIMIT * 2);
    assert!(reason.contains("gave up"), "{reason}");
}

#[test]
fn a_full_peer_says_so() {
    let mut world = World::new(1);
    for seed in 0..=u64::try_from(super::super::JOBS_MAX).unwrap() {
        let mut waits = spec(9, 3);
        waits.train.seed = seed;
        world.submit(waits);
    }
    let reason = world.run_until_failed(LIMIT);
    assert!(reason.contains("takes part in 16 jobs already"), "{reason}");
}

#[test]
fn a_released_job_leaves_no_bundle_and_no_record() {
    let mut world = World::new(4);
    world.submit(spec(3, 3));
    assert!(world.run_until(LIMIT, |w| w.finished));
    let plan = world.plan.clone().unwrap();
    let release = Input::Command(Command::Release(plan.job));
    world.later(world.submitter, Duration::ZERO, Happening::Input(release));
    world.pass(Duration::from_millis(500));
    assert_eq!(jobs(&world), 0);
    let mut council = plan.council;
    for list in [&mut council, &mut world.dropped, &mut world.withdrawn] {
        list.sort_unstable();
    }
    assert_eq!((&world.dropped, &world.withdrawn), (&council, &council));
}

/// Goal: a device that fails costs one repair and no loss. Method: at many moments every task of an owner fails from then
/// on, or every task of one stage there.
fn check_broken(whole: bool, error: &TaskError) {
    let expected = undisturbed(12);
    for moment in 0..20u64 {
        let mut world = World::new(4);
        world.submit(spec(3, 12));
        assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
        world.pass(Duration::from_micros(moment * 17_300));
        let stage = StageId::new(u16::try_from(moment % 3).unwrap());
        let victim = world.plan.as_ref().unwrap().owner(stage).unwrap();
        world.broken.insert(victim, ((!whole).then_some(stage), error.clone()));
        assert!(world.run_until(LIMIT, |w| w.finished), "moment {moment}: {:?}", world.trace);
        assert_eq!(world.epochs, 2, "moment {moment}: {:?}", world.trace);
        assert_eq!(world.learnt(), expected, "moment {moment}");
        let plan = world.plan.as_ref().unwrap();
        let parts = |of: &crate::schedule::StagePlan| of.holders().any(|p| p == victim);
        assert!(!parts(&plan.stages[stage.index()]), "moment {moment}");
        if whole {
            assert!(!plan.stages.iter().any(parts), "moment {moment}");
            let says =
                |peer: &Peer| peer.gossip.advert(victim).map(|s| s.advert.hardware.is_some());
            assert!(world.peers.values().all(|peer| says(peer) == Some(false)), "still offered");
        }
    }
}

#[test]
fn a_lost_device_costs_one_repair() {
    check_broken(true, &TaskError::DeviceLost("it fell off the bus".into()));
}

#[test]
fn a_stage_that_outgrows_its_device_costs_one_repair() {
    check_broken(false, &TaskError::OutOfMemory("2 GiB wanted".into()));
}

/// Goal: numbers that no peer can hold end the job, with what was wrong, and do not begin it anew for ever. Method: from some
/// moment on every task of a stage fails so, at whichever peer.
#[test]
fn numbers_that_fail_at_two_peers_end_the_job() {
    for moment in 0..6u64 {
        let mut world = World::new(4);
        world.submit(spec(3, 12));
        assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
        world.pass(Duration::from_micros(20_000 + moment * 17_300));
        let error = TaskError::NotFinite("an element is too large for f16".into());
        let peers: Vec<PeerId> = world.peers.keys().copied().collect();
        let stage = Some(StageId::new(1));
        world.broken.extend(peers.into_iter().map(|peer| (peer, (stage, error.clone()))));
        let reason = world.run_until_failed(LIMIT);
        assert!(reason.contains("twice") && reason.contains("too large for f16"), "{reason}");
        // An update may fail at an owner and its backup at once.
        assert!(world.epochs <= 2, "moment {moment}: {:?}", world.trace);
    }
}
