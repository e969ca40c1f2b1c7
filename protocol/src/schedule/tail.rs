//! The end of a step, from the last backward pass to the leader's decision: gather replicas' gradients, exchange parts of
//! shared parameters, reduce, store at replicas and backups, report; and what lies between the decision and a worker's next
//! pass: hearing of it, the update. Workers near the leader begin before those that hear of it later.
//!
//! Times in microseconds. Replicas are gathered along a chain in chunks, so that every link carries the gradient once
//! however many there are.

use std::collections::BTreeMap;

use super::course::Station;
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
    /// In how many pieces replicas' sums are gathered.
    pub(super) chunks: u64,
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

    /// Returns how long the gradient takes along the chain of workers to the owner: all of it on the slowest link, a
    /// piece on each other one, and a piece's sum at each worker.
    fn chain(&self, ground: &Ground<'_>, crowd: &Crowd) -> Duration {
        let chunks = self.chunks.max(1);
        let piece = Bytes::new(self.gradient.count() / chunks);
        let (mut slowest, mut each): (Option<Rate>, Duration) = (None, Duration::ZERO);
        // Whoever has no turn has nothing to add, and is left out.
        let (owner, replicas) = (self.workers.iter().take(1), self.workers.iter().skip(1));
        let links: Vec<&(usize, u64)> =
            owner.chain(replicas.filter(|(_, ended)| *ended > 0)).collect();
        for pair in links.windows(2) {
            let (rate, travel) = ground.link(pair[1].0, pair[0].0);
            slowest = Some(slowest.map_or(rate, |slowest| slowest.min(rate)));
            each += piece / rate + travel;
        }
        let Some(slowest) = slowest else {
            return Duration::ZERO;
        };
        let sweep = |(device, _): &(usize, u64)| ground.time(*device, self.sweep, crowd);
        let sums = links.into_iter().map(sweep).fold(Duration::ZERO, |a, b| a + b);
        let rest = Bytes::new(self.gradient.count() - piece.count());
        rest / slowest + each + Duration::from_micros(sums.micros() / chunks)
    }

    /// Returns when the owner has the gradients of all workers.
    fn gathered(&self, ground: &Ground<'_>, crowd: &Crowd) -> u64 {
        let last = self.workers.iter().map(|(_, ended)| *ended).max().unwrap_or(0);
        last.saturating_add(self.chain(ground, crowd).micros())
    }
}

/// Returns how long after the decision a worker can begin its next pass: it hears of it, and applies the update.
pub(super) fn ready(
    ground: &Ground<'_>,
    crowd: &Crowd,
    leader: Option<usize>,
    device: usize,
    sweep: Load,
) -> u64 {
    let heard = leader.map_or(Duration::ZERO, |l| ground.transfer(l, device, Bytes::ZERO).1);
    // One operator a tensor goes over the data so often.
    let update = Load { launches: sweep.launches, ..sweep.times(UPDATE_SWEEPS) };
    (heard + ground.time(device, update, crowd)).micros()
}

/// Lets the stages of one device be updated one after another: its first pass waits for all of them.
pub(super) fn one_after_another(
    ground: &Ground<'_>,
    leader: Option<usize>,
    stations: &mut [Station],
) {
    let heard = |device| leader.map_or(0, |l| ground.transfer(l, device, Bytes::ZERO).1.micros());
    let mut updates: BTreeMap<usize, u64> = BTreeMap::new();
    for worker in stations.iter().flat_map(|station| &station.workers) {
        *updates.entry(worker.device).or_default() += worker.ready - heard(worker.device);
    }
    for worker in stations.iter_mut().flat_map(|station| &mut station.workers) {
        let update = updates.get(&worker.device).copied().unwrap_or_default();
        worker.ready = heard(worker.device) + update;
    }
}

/// Returns how long after the last pass the step is decided.
pub(super) fn commit(
    ground: &Ground<'_>,
    crowd: &Crowd,
    endings: &[Ending],
    leader: Option<usize>,
) -> Duration {
    let gathered: Vec<u64> = endings.iter().map(|e| e.gathered(ground, crowd)).collect();
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
        let stored = |follower: usize| {
            let (busy, travel) = ground.transfer(owner, follower, ending.gradient);
            busy + travel * 2
        };
        let replicas = ending.workers.iter().skip(1).map(|(device, _)| *device);
        let followers = replicas.chain(ending.backups.iter().copied());
        let stored = followers.map(stored).max().unwrap_or_default();
        let report = leader.map_or(Duration::ZERO, |l| ground.transfer(owner, l, Bytes::ZERO).1);
        let reduce = ground.time(owner, ending.sweep, crowd);
        decided = decided.max(whole.saturating_add((reduce + stored + report).micros()));
    }
    Duration::from_micros(decided - drained)
}
