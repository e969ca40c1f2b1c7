//! Stages of running jobs that move to faster peers, in the small world.

use super::*;
use crate::swarm::small_world::runs::{LIMIT, undisturbed};

/// Steps of a job that is long enough to be worth moving.
const STEPS: u64 = 900;

/// Decided steps before the owner slows down.
const BEFORE: usize = 60;

/// A job on three of five peers, of which the owner of the middle stage slows down to so many percent of its time; and by
/// how many percent all tasks are off.
fn slowed((percent, noise): (u64, u64), backups: u8) -> (World, PeerId) {
    let mut world = World::new(5);
    world.noise = noise;
    let mut job = spec(3, STEPS);
    job.swarm.backups = backups;
    world.submit(job);
    assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
    assert!(world.run_until(LIMIT, |w| w.losses.len() == BEFORE));
    let owner = world.plan.as_ref().unwrap().stages[1].owner;
    world.slow.insert(owner, percent);
    (world, owner)
}

/// Goal: an owner that has become slow is relieved, no step is lost, no loss changes, and nothing moves back. Method: its
/// tasks take ten times as long after a while; two plans follow, the first of which changes no owner.
#[test]
fn a_stage_moves_away_from_a_peer_that_has_become_slow() {
    let expected = undisturbed(STEPS);
    for backups in [0, 1] {
        let (mut world, slow) = slowed((1000, 0), backups);
        let before = world.plan.clone().unwrap();
        assert!(world.run_until(LIMIT, |w| w.epochs == 2), "{:?}", world.trace);
        let between = world.plan.clone().unwrap();
        let owners = |plan: &Plan| plan.stages.iter().map(|s| s.owner).collect::<Vec<_>>();
        assert_eq!(owners(&between), owners(&before));
        assert!(world.run_until(LIMIT, |w| w.epochs == 3), "{:?}", world.trace);
        let after = world.plan.clone().unwrap();
        assert!(after.stages.iter().all(|s| s.owner != slow), "{after:?}");
        assert!(between.stages[1].backups.contains(&after.stages[1].owner), "{between:?}");
        assert_eq!(after.stages[0].owner, before.stages[0].owner);
        assert_eq!(after.stages[2].owner, before.stages[2].owner);
        assert!(after.stages.iter().all(|s| s.replicas.is_empty()), "{after:?}");
        assert!(after.stages.iter().all(|s| s.backups.len() == usize::from(backups)));
        assert!(world.run_until(LIMIT * 10, |w| w.finished), "{:?}", world.trace);
        assert_eq!((world.learnt(), world.epochs), (expected.clone(), 3), "{:?}", world.trace);
    }
}

/// Goal: nothing moves for noise, nor for a little, and what is more than that does move. Method: every task is off by up to
/// a fifth, the owner in the middle takes 15 percent longer, or three times as long; long enough for several looks.
#[test]
fn nothing_moves_for_little() {
    for (percent, plans) in [(100, 1), (115, 1), (300, 3)] {
        let (mut world, _) = slowed((percent, 20), 1);
        assert!(world.run_until(LIMIT * 10, |w| w.finished), "{:?}", world.trace);
        assert_eq!(world.epochs, plans, "{percent}: {:?}", world.trace);
        assert!(world.now.since(Instant::default()) > Duration::from_millis(45_000));
    }
}

/// Goal: a move that a repair has no room for costs no plan and no step, and is not tried again. Method: the leader wants a
/// stage to move to somebody without an advert.
#[test]
fn a_move_without_room_changes_nothing() {
    let expected = undisturbed(120);
    let mut world = World::new(5);
    world.submit(spec(3, 120));
    assert!(world.run_until(LIMIT, |w| w.losses.len() == 20));
    let (job, leader) = (world.plan.as_ref().unwrap().job, world.leader.unwrap());
    let (stage, nobody) = (StageId::new(1), PeerId::new([7; 32]));
    let lead = world.peers.get_mut(&leader).unwrap().jobs.get_mut(&job).unwrap().lead.as_mut();
    lead.unwrap().want(stage, nobody);
    assert!(world.run_until(LIMIT, |w| w.losses.len() == 30));
    let lead = world.peers[&leader].jobs[&job].lead.as_ref().unwrap();
    assert!(lead.has_refused(stage, nobody, world.now));
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!((world.learnt(), world.epochs), (expected, 1), "{:?}", world.trace);
}

/// Goal: losses in the middle of a move cost no step. Method: the slow owner, or the newcomer, dies at many moments around
/// the two plans.
#[test]
fn a_move_that_is_disturbed_ends_in_a_repair() {
    let expected = undisturbed(STEPS);
    for moment in 0..20u64 {
        let (mut world, slow) = slowed((1000, 0), 1);
        assert!(world.run_until(LIMIT, |w| w.epochs == 2), "{:?}", world.trace);
        let newcomer = *world.plan.as_ref().unwrap().stages[1].backups.last().unwrap();
        world.pass(Duration::from_micros(moment / 2 * 31_000));
        world.kill(if moment % 2 == 0 { slow } else { newcomer });
        assert!(world.run_until(LIMIT * 10, |w| w.finished), "moment {moment}: {:?}", world.trace);
        assert_eq!(world.learnt(), expected, "moment {moment}");
    }
}
