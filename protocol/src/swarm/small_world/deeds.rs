//! Peers that claim what they do not do, in the small world.

use super::runs::LIMIT;
use super::*;

/// Steps of a job that is long enough for several looks for a better plan.
const LONG: u64 = 2000;

/// Goal: who claims a hundred times its speed gets the job once, and after twenty micro-batches not again, neither when the
/// next one is placed nor when it runs; all who vote find the same plan. Method: one stage, five steps of four micro-batches,
/// at a peer that takes twenty times as long as the others; then another job, long enough for re-plans.
#[test]
fn a_peer_that_claims_a_hundred_times_its_speed_is_placed_by_what_it_did() {
    for liar in 0..4 {
        let mut world = World::new(4);
        let able = world.peers.keys().copied().filter(|id| *id != world.submitter);
        let liar = able.collect::<Vec<_>>()[liar];
        world.slow.insert(liar, 2000);
        let claim = Input::Measured(hardware(100));
        world.later(liar, Duration::from_millis(1), Happening::Input(claim));
        world.submit(spec(1, 5));
        assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
        let owner = |world: &World| world.plan.as_ref().unwrap().stages[0].owner;
        assert_eq!(owner(&world), liar, "words are all there is before there are deeds");
        world.finished = false;
        let mut next = spec(1, LONG);
        next.train.seed = 2;
        world.losses.clear();
        let before = world.now;
        world.submit(next);
        assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
        assert!(world.now.since(before) > Duration::from_millis(50_000));
        assert_ne!(owner(&world), liar);
        assert_eq!((world.losses.len() as u64, world.epochs), (LONG, 2), "{:?}", world.trace);
    }
}

/// Goal: an honest difference of clocks bars nobody and begins nothing anew. Method: the only holder of a stage is a hundred
/// times as slow as it says in its leader's eyes alone; a bystander dies, so that a repair is offered.
#[test]
fn a_member_that_disputes_its_deeds_keeps_its_stage() {
    let mut world = World::new(5);
    let mut spec = spec(3, 400);
    spec.swarm.backups = 0;
    world.submit(spec);
    assert!(world.run_until(LIMIT, |w| w.losses.len() == 20), "{:?}", world.trace);
    let (plan, leader) = (world.plan.clone().unwrap(), world.leader.unwrap());
    let owns = |p: &PeerId| plan.stages.iter().any(|s| s.owner == *p);
    let owner = plan.stages.iter().map(|s| s.owner).find(|p| *p != leader).unwrap();
    let idle = |p: &&PeerId| !owns(p) && **p != leader && **p != world.submitter;
    let bystander = *plan.council.iter().find(idle).unwrap();
    world.kill(bystander);
    let millis = Duration::from_millis;
    while world.epochs == 1 && !world.finished {
        world.pass(millis(10));
        for _ in 0..8 {
            let seen = (millis(1), millis(100));
            let now = world.now;
            world.peers.get_mut(&leader).unwrap().deeds.observe(owner, &hardware(1), seen, now);
        }
    }
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert!(!world.trace.iter().any(|line| line.ends_with("true")), "{:?}", world.trace);
    let after = world.plan.clone().unwrap();
    assert_eq!(after.stages, plan.stages, "{:?}", world.trace);
    assert_eq!((world.losses.len(), world.epochs), (400, 2), "{:?}", world.trace);
    // One offer was disputed, and no more.
    assert_eq!(after.epoch.number(), plan.epoch.number() + 2);
}
