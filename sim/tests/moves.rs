//! Peers that become slow without saying so, in simulated swarms: their stages move, and nothing that is learnt changes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "outcomes/sound.rs"]
mod outcomes;

use outcomes::{bits, sound};
use wattle_sim::{Arithmetic, Outcome, Scenario};

/// Seeds of each kind of peer that slows down.
const SEEDS: u64 = 12;

fn scenario(steps: u64, faults: &str) -> Scenario {
    let text = format!(
        "limit_seconds = 2000\n[[peers]]\ncount = 4\ngflops = 4.0\n[link]\nmbit = 1000.0\nlatency_ms = 1.0\njitter_ms = 0.5\n\
         [job]\nmodel = \"resnet-tiny\"\nsteps = {steps}\nstages = 2\n{faults}"
    );
    Scenario::parse(&text).unwrap()
}

/// Goal: a stage leaves an owner that has become slow, without a loss changed or a step lost; and nothing moves where nobody
/// has. Method: fingerprints; the owner of either stage takes twenty times as long from some step on, from the first one too; a
/// seed is another order of messages.
#[test]
fn a_stage_leaves_an_owner_that_slows_down() {
    let steps = 400;
    let calm = sound(&scenario(steps, ""), 0);
    assert_eq!(calm.plans, 1, "nobody moves without a reason");
    for stage in [0, 1] {
        for seed in 0..SEEDS {
            let after = seed;
            let fault = format!(
                "[[faults]]\nafter_step = {after}\nslow = \"stage {stage}\"\ntimes = 20.0\n"
            );
            let outcome = sound(&scenario(steps, &fault), seed);
            let [(slow, _)] = outcome.slowed[..] else {
                panic!("{:?} slowed down", outcome.slowed)
            };
            let moved = format!("seed {seed}, stage {stage}: peer {slow} of {:?}", outcome.owners);
            // One plan to follow, one to take over, and none back.
            assert!(!outcome.owners.contains(&slow) && outcome.plans == 3, "{moved}");
            assert_eq!(outcome.restarts, 0, "{moved}");
            assert_eq!(bits(&outcome.losses), bits(&calm.losses), "{moved}");
        }
    }
}

/// Goal: a stage does not go back to the owner that it has left, whatever that says of itself. Method: the only spare is slower
/// by its word than the owner was by its own, and faster than what became of it.
#[test]
fn a_stage_does_not_move_back() {
    for seed in 0..SEEDS / 3 {
        let text = format!(
            "limit_seconds = 2000\n[[peers]]\ncount = 2\ngflops = 4.0\n[[peers]]\ngflops = 3.5\n\
             [link]\nmbit = 1000.0\nlatency_ms = 1.0\njitter_ms = 0.5\n\
             [job]\nmodel = \"resnet-tiny\"\nsteps = 2400\nstages = 2\n\
             [[faults]]\nafter_step = {}\nslow = \"stage 0\"\ntimes = 1.9\n",
            300 + seed
        );
        let outcome = sound(&Scenario::parse(&text).unwrap(), seed);
        let [(slow, _)] = outcome.slowed[..] else { panic!("{:?} slowed down", outcome.slowed) };
        let moved =
            format!("seed {seed}: peer {slow} of {:?}, {} plans", outcome.owners, outcome.plans);
        assert!(outcome.owners[0] != slow && outcome.plans == 3, "{moved}");
    }
}

/// Goal: real numbers move with their stage. Method: the same with real arithmetic, beside an undisturbed run.
#[test]
fn numbers_stay_the_same_when_a_stage_moves() {
    let numeric =
        |faults: &str| Scenario { arithmetic: Arithmetic::Numeric, ..scenario(120, faults) };
    let calm = sound(&numeric(""), 3);
    let outcome =
        sound(&numeric("[[faults]]\nafter_step = 4\nslow = \"stage 0\"\ntimes = 50.0\n"), 3);
    assert!(outcome.plans > 1 && !outcome.owners.contains(&outcome.slowed[0].0));
    assert_eq!(bits(&outcome.losses), bits(&calm.losses));
    // States of the last update are not all heard of: the one before it is.
    let late = |outcome: &Outcome| -> Vec<_> {
        outcome.states.iter().filter(|((_, step), _)| *step == 119).map(|s| *s.1).collect()
    };
    assert_eq!(late(&outcome), late(&calm));
    assert_eq!(late(&calm).len(), 2);
}
