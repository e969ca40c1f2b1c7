//! The end of a step, from the last backward pass to the leader's decision: gather replicas' gradients, exchange parts of
//! shared parameters, reduce, store at backups, report; and what lies between the decision and a worker's next pass: hearing
//! of it, the gradient handed out, the update. Workers near the leader begin before those that hear of it later.
//!
//! Times in microseconds. Replicas are gathered along a chain in chunks, so that every link carries the gradient once
//! each way however many there are.

use super::ground::{Crowd, Ground};
use super::load::Load;
use crate::units::{Bytes, Duration, Rate};

/// What the end of a step needs to know of a stage.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// Device and end of the last pass of each worker, the owner first.
    pub(super) workers: Vec<(usize, u64)>,
    /// Gradients of the stage, summed over micro-batches.
    pub(super) gradient: Bytes,
    /// One pass over the parameters.
    pub(super) sweep: Load,
    pub(super) backups: Vec<usize>,
    /// Other stages that compute parts of this one's parameters, and how much they send.
    pub(super) shared: Vec<(usize, Bytes)>,
}

/// Passes over the parameters that an update makes: our measured rule.
const UPDATE_SWEEPS: u64 = 6;

impl Ending {
    fn owner(&self) -> (usize, u64) {
        self.workers.first().copied().unwrap_or_default()
    }

    /// Returns how long the gradient takes along the chain of workers, towards the owner or from it.
    fn chain(&self, ground: &Ground<'_>, towards: bool) -> Duration {
        let mut slowest: Option<Rate> = None;
        let mut travel = Duration::ZERO;
        for pair in self.workers.windows(2) {
            let (near, far) = (pair[0].0, pair[1].0);
            let link = if towards { ground.link(far, near) } else { ground.link(near, far) };
            slowest = Some(slowest.map_or(link.0, |rate| rate.min(link.0)));
            travel += link.1;
        }
        slowest.map_or(Duration::ZERO, |rate| self.gradient / rate + travel)
    }

    /// Returns when the owner has the gradients of all workers.
    fn gathered(&self, ground: &Ground<'_>) -> u64 {
        let last = self.workers.iter().map(|(_, ended)| *ended).max().unwrap_or(0);
        last.saturating_add(self.chain(ground, true).micros())
    }
}

/// Returns how long after the decision each worker of a stage, the owner first, can begin its next pass.
pub(super) fn ready(
    ground: &Ground<'_>,
    crowd: &Crowd,
    leader: Option<usize>,
    workers: &[usize],
    (gradient, sweep): (Bytes, Load),
) -> Vec<u64> {
    let owner = workers.first().copied().unwrap_or_default();
    let workers: Vec<(usize, u64)> = workers.iter().map(|device| (*device, 0)).collect();
    let chain = Ending { workers, gradient, sweep, backups: Vec::new(), shared: Vec::new() };
    let handed = chain.chain(ground, false);
    let heard = leader.map_or(Duration::ZERO, |l| ground.transfer(l, owner, Bytes::ZERO).1);
    let update = |device| ground.time(device, sweep, crowd) * UPDATE_SWEEPS;
    chain.workers.iter().map(|(device, _)| (heard + handed + update(*device)).micros()).collect()
}

/// Returns how long after the last pass the step is decided.
pub(super) fn commit(
    ground: &Ground<'_>,
    crowd: &Crowd,
    endings: &[Ending],
    leader: Option<usize>,
) -> Duration {
    let gathered: Vec<u64> = endings.iter().map(|e| e.gathered(ground)).collect();
    let all = endings.iter().flat_map(|e| &e.workers);
    let drained = all.map(|(_, ended)| *ended).max().unwrap_or(0);
    let mut decided = drained;
    for (ending, own) in endings.iter().zip(&gathered) {
        let (owner, _) = ending.owner();
        let mut whole = *own;
        for (other, size) in &ending.shared {
            let (busy, travel) = ground.transfer(endings[*other].owner().0, owner, *size);
            let arrival = gathered[*other].saturating_add((busy + travel).micros());
            whole = whole.max(arrival);
        }
        let stored = |backup: &usize| {
            let (busy, travel) = ground.transfer(owner, *backup, ending.gradient);
            busy + travel * 2
        };
        let stored = ending.backups.iter().map(stored).max().unwrap_or_default();
        let report = leader.map_or(Duration::ZERO, |l| ground.transfer(owner, l, Bytes::ZERO).1);
        let reduce = ground.time(owner, ending.sweep, crowd);
        decided = decided.max(whole.saturating_add((reduce + stored + report).micros()));
    }
    Duration::from_micros(decided - drained)
}
