//! Peers that claim what they do not do, in the small world.

use super::runs::LIMIT;
use super::*;

/// Goal: who claims a hundred times its speed gets the job once, and after twenty micro-batches not again; all who vote
/// find the same plan. Method: one stage, five steps of four micro-batches, at a peer that takes twenty times as long as the
/// others; then another job.
#[test]
fn a_peer_that_claims_a_hundred_times_its_speed_is_placed_by_what_it_did() {
    for liar in 0..4 {
        let mut world = World::new(4);
        let able = world.peers.keys().copied().filter(|id| *id != world.submitter);
        let liar = able.collect::<Vec<_>>()[liar];
        world.slow.insert(liar, 20);
        let claim = Input::Measured(hardware(100));
        world.later(liar, Duration::from_millis(1), Happening::Input(claim));
        world.submit(spec(1, 5));
        assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
        let owner = |world: &World| world.plan.as_ref().unwrap().stages[0].owner;
        assert_eq!(owner(&world), liar, "words are all there is before there are deeds");
        world.finished = false;
        let mut next = spec(1, 5);
        next.train.seed = 2;
        world.losses.clear();
        world.submit(next);
        assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
        assert_ne!(owner(&world), liar);
        assert_eq!(world.losses.len(), 5);
    }
}
