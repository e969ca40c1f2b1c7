//! Runs of scenarios that have to end well, and what is compared of them.

use std::collections::BTreeMap;

use wattle_sim::{Outcome, Scenario, run};

/// Runs a scenario that has to end with nothing violated.
pub(crate) fn sound(scenario: &Scenario, seed: u64) -> Outcome {
    let outcome = run(scenario, seed, false).unwrap();
    assert!(
        outcome.finished && outcome.violations.is_empty(),
        "seed {seed} of {:?}: {:?}, {} of {} steps in {:.1} s, {} plans, violations {:?}",
        scenario.faults,
        outcome.failed,
        outcome.losses.len(),
        scenario.job.steps,
        outcome.seconds,
        outcome.plans,
        outcome.violations
    );
    outcome
}

/// Returns losses as they are compared: to the bit.
pub(crate) fn bits(losses: &BTreeMap<u64, f64>) -> Vec<u64> {
    losses.values().map(|l| l.to_bits()).collect()
}
