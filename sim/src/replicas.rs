//! Data-parallel replicas in virtual time: what an exchange of gradients costs, and what is learnt with it.
//!
//! Workers with a whole network each, links alike, one exchange after another with the same samples and weights. The
//! exchange is `wattle_protocol::replica`, its bytes and its sums; the times are its cost models' and the passes'. No
//! swarm and no peer takes part: running jobs do not exchange gradients so (docs/decisions/0014-replica-gradients.md).
//!
//! Reading order: [`scenario`] (the file), [`layers`] (when each gradient is ready), [`timing`] (how long a step takes),
//! [`train`] (real numbers), [`held`] (samples that were not trained on), [`outcome`].

pub mod held;
pub mod layers;
pub mod outcome;
pub mod scenario;
pub mod timing;
pub mod train;

pub use outcome::{Learnt, Timed};
pub use scenario::{ExchangePart, ReplicaScenario};

use train::TrainError;

/// Times every exchange of a scenario, in its order.
///
/// *Errors*: a network that cannot be trained, for people.
pub fn times(scenario: &ReplicaScenario) -> Result<Vec<Timed>, String> {
    let clock = timing::Clock::of(scenario)?;
    let base = scenario.exchanges.first().map(|first| clock.step(first, u64::MAX));
    let all = scenario.exchanges.iter().map(|exchange| {
        let time = clock.step(exchange, u64::MAX);
        let speedup = base.map_or(1.0, |base| base.step.seconds() / time.step.seconds());
        Timed { name: exchange.name.clone(), time, speedup }
    });
    Ok(all.collect())
}

/// Trains with one exchange of a scenario from one seed.
///
/// *Errors*: [`TrainError`].
pub fn learn(
    scenario: &ReplicaScenario,
    exchange: &ExchangePart,
    seed: u64,
) -> Result<Learnt, TrainError> {
    let clock = timing::Clock::of(scenario).map_err(TrainError::Network)?;
    train::Training::begin(scenario, exchange, seed, &clock)?.run()
}
