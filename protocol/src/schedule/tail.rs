//! The end of a step, from the last backward pass to the start of the next step: gather replicas' gradients, exchange
//! parts of shared parameters, reduce, store at backups, report, commit, hand out, update.
//!
//! Times in microseconds. Replicas are gathered along a chain in chunks, so that every link carries the gradient once
//! each way however many there are.

use std::collections::BTreeMap;

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

/// Returns how long the end of a step takes after the last pass.
pub(super) fn commit(
    ground: &Ground<'_>,
    crowd: &Crowd,
    endings: &[Ending],
    leader: Option<usize>,
) -> Duration {
    let gathered: Vec<u64> = endings.iter().map(|e| e.gathered(ground)).collect();
    let all = endings.iter().flat_map(|e| &e.workers);
    let drained = all.map(|(_, ended)| *ended).max().unwrap_or(0);
    let (mut decided, mut after) = (drained, Duration::ZERO);
    // Stages of one device are updated one after another.
    let mut updates: BTreeMap<usize, Duration> = BTreeMap::new();
    for ending in endings {
        for (device, _) in &ending.workers {
            *updates.entry(*device).or_default() += ground.time(*device, ending.sweep, crowd);
        }
    }
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
        let handed = ending.chain(ground, false);
        let update = |(device, _): &(usize, u64)| updates.get(device).copied().unwrap_or_default();
        let update = ending.workers.iter().map(update).max().unwrap_or_default() * UPDATE_SWEEPS;
        after = after.max(report + handed + update);
    }
    Duration::from_micros(decided - drained) + after
}
