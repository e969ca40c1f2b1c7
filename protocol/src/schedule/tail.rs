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
use crate::units::{Bytes, Duration};

/// What the end of a step needs to know of a stage.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// Device and end of the last pass of each worker, the owner first.
    pub(super) workers: Vec<(usize, u64)>,
    /// Gradients of the stage, summed over micro-batches.
    pub(super) gradient: Bytes,
    /// In which pieces replicas' sums are gathered.
    pub(super) pieces: Pieces,
    /// How many groups of micro-batches each worker sums up by itself.
    pub(super) groups: Vec<u64>,
    /// Adding the sums of one group to those of another.
    pub(super) adding: Load,
    /// One pass over the parameters.
    pub(super) sweep: Load,
    pub(super) backups: Vec<usize>,
    /// Other stages that compute parts of this one's parameters, and how much they send.
    pub(super) shared: Vec<(usize, Bytes)>,
}

/// The pieces of a stage's sums.
#[derive(Clone, Debug)]
pub(super) enum Pieces {
    /// So many of one size.
    Even(u64),
    /// Each with its size.
    Each(Vec<Bytes>),
}

/// What a piece passes on its way to the owner: a worker's additions, or a link.
#[derive(Clone, Copy, Debug)]
struct Leg {
    /// For the whole gradient.
    time: Duration,
    travel: Duration,
}

/// Passes over the parameters that an update makes. Our rule of 2026-11-27, held against whole steps only
/// (docs/reference/measurements.md): AdamW reads four numbers a parameter and writes three.
const UPDATE_SWEEPS: u64 = 6;

impl Ending {
    fn owner(&self) -> (usize, u64) {
        self.workers.first().copied().unwrap_or_default()
    }

    /// Returns how long the gradient takes along the chain of workers to the owner, piece after piece: each worker adds its
    /// groups to what comes, each link carries the result. A single worker adds its groups up.
    fn chain(&self, ground: &Ground<'_>, crowd: &Crowd) -> Duration {
        let legs = self.legs(ground, crowd);
        let travel = legs.iter().fold(Duration::ZERO, |sum, leg| sum + leg.travel);
        let sum = || legs.iter().map(|leg| leg.time.micros()).fold(0, u64::saturating_add);
        let pieces = match &self.pieces {
            // The first piece passes all legs, the others follow as fast as the slowest leg lets them.
            Pieces::Even(count) => {
                let slowest = legs.iter().map(|leg| leg.time.micros()).max().unwrap_or(0);
                let count = (*count).max(1);
                (sum() / count).saturating_add(slowest / count * (count - 1))
            }
            Pieces::Each(sizes) => {
                let whole = sizes.iter().copied().sum::<Bytes>().count().max(1);
                let mut free = vec![0u64; legs.len()];
                for size in sizes {
                    let mut at = 0;
                    for (leg, free) in legs.iter().zip(&mut free) {
                        let own = u128::from(leg.time.micros()) * u128::from(size.count());
                        let own = u64::try_from(own / u128::from(whole)).unwrap_or(u64::MAX);
                        at = at.max(*free).saturating_add(own);
                        *free = at;
                    }
                }
                free.last().copied().unwrap_or(0)
            }
        };
        travel + Duration::from_micros(pieces)
    }

    /// Lists what a piece passes, from the farthest worker to the owner.
    fn legs(&self, ground: &Ground<'_>, crowd: &Crowd) -> Vec<Leg> {
        // Whoever has no turn has nothing to add, and is left out.
        let all = self.workers.iter().zip(&self.groups).enumerate();
        let chain = all.filter(|(place, (_, groups))| *place == 0 || **groups > 0);
        let chain: Vec<(usize, u64)> = chain.map(|(_, ((at, _), groups))| (*at, *groups)).collect();
        let mut legs = Vec::with_capacity(2 * chain.len());
        let mut last: Option<usize> = None;
        for (device, groups) in chain.into_iter().rev() {
            let mut additions = groups.saturating_sub(1);
            if let Some(last) = last {
                let (time, travel) = ground.transfer(last, device, self.gradient);
                legs.push(Leg { time, travel });
                additions = groups;
            }
            if additions > 0 {
                let time = ground.time(device, self.adding, crowd) * additions;
                legs.push(Leg { time, travel: Duration::ZERO });
            }
            last = Some(device);
        }
        legs
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
        let sum = updates.entry(worker.device).or_default();
        *sum = sum.saturating_add(worker.ready.saturating_sub(heard(worker.device)));
    }
    for worker in stations.iter_mut().flat_map(|station| &mut station.workers) {
        let update = updates.get(&worker.device).copied().unwrap_or_default();
        worker.ready = heard(worker.device).saturating_add(update);
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
    // Links carry one gradient after another, those of several stages too.
    let mut links: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    let mut reduced: Vec<(u64, &Ending)> = endings
        .iter()
        .zip(&gathered)
        .map(|(ending, own)| {
            let (owner, _) = ending.owner();
            let mut whole = *own;
            for (other, size) in &ending.shared {
                let (busy, travel) = ground.transfer(endings[*other].owner().0, owner, *size);
                let arrival = gathered[*other].saturating_add((busy + travel).micros());
                whole = whole.max(arrival);
            }
            let reduce = ground.time(owner, ending.sweep, crowd);
            (whole.saturating_add(reduce.micros()), ending)
        })
        .collect();
    reduced.sort_by_key(|(at, _)| *at);
    let mut decided = drained;
    for (at, ending) in reduced {
        let (owner, _) = ending.owner();
        let replicas = ending.workers.iter().skip(1).map(|(device, _)| *device);
        let mut stored = at;
        for follower in replicas.chain(ending.backups.iter().copied()) {
            let (busy, travel) = ground.transfer(owner, follower, ending.gradient);
            let free = links.entry((owner, follower)).or_default();
            *free = at.max(*free).saturating_add(busy.micros());
            stored = stored.max(free.saturating_add((travel * 2).micros()));
        }
        let report = leader.map_or(Duration::ZERO, |l| ground.transfer(owner, l, Bytes::ZERO).1);
        decided = decided.max(stored.saturating_add(report.micros()));
    }
    Duration::from_micros(decided - drained)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PeerId;
    use crate::schedule::advert::{Advert, Hardware, Link};
    use crate::schedule::kinds::Kinds;
    use crate::schedule::links::Links;
    use crate::units::{Rate, Speed};

    const MEGA: u64 = 1_000_000;

    /// Peers that touch a gigabyte a second, on links of a megabyte a second without travel.
    fn adverts(count: u8) -> Vec<Advert> {
        let peer = |n| PeerId::new([n; 32]);
        let speed = Speed::from_flops_per_second(1_000 * MEGA);
        let hardware = Hardware {
            device: "test".into(),
            speed,
            conv_speed: speed,
            vector_speed: speed,
            touch_rate: Rate::from_bytes_per_second(MEGA),
            overhead: Duration::ZERO,
            kinds: Kinds::default(),
            memory: Bytes::new(1 << 30),
            host: 0,
            host_capacity: 0,
            demand: 0,
        };
        let rate = Rate::from_bytes_per_second(MEGA);
        let link = |to| Link { peer: peer(to), rate, round_trip: Duration::ZERO, loss: None };
        let one = |n: u8| Advert {
            hardware: Some(hardware.clone()),
            links: (0..count).filter(|to| *to != n).map(link).collect(),
            ..Advert::new(peer(n))
        };
        (0..count).map(one).collect()
    }

    /// Returns the commit of stages that end together, in milliseconds.
    fn check(endings: &[Ending]) -> u64 {
        let adverts = adverts(4);
        let list: Vec<_> = adverts.iter().map(|a| (a.peer, a.hardware.as_ref())).collect();
        let ground = Ground::new(&list, &Links::of(&adverts.iter().collect::<Vec<_>>()));
        commit(&ground, &ground.crowd([]), endings, None).micros() / 1000
    }

    /// A megabyte of gradients; adding them takes three hundred milliseconds.
    fn ending(workers: &[usize], groups: &[u64], pieces: Pieces) -> Ending {
        Ending {
            workers: workers.iter().map(|device| (*device, 1)).collect(),
            gradient: Bytes::new(MEGA),
            pieces,
            groups: groups.to_vec(),
            adding: Load { bytes: Bytes::new(300_000), ..Load::default() },
            sweep: Load::default(),
            backups: Vec::new(),
            shared: Vec::new(),
        }
    }

    #[test]
    fn one_worker_adds_its_groups_up() {
        assert_eq!(check(&[ending(&[0], &[1], Pieces::Even(4))]), 0);
        assert_eq!(check(&[ending(&[0], &[4], Pieces::Even(4))]), 900);
    }

    /// Goal: additions and links of a chain overlap piece by piece, and pieces need not be even. Method: by hand. The replica
    /// adds its second group (0.3 s), the link takes 1 s, the owner adds two groups to it (0.6 s); then the replica gets the
    /// gradient (1 s).
    #[test]
    fn a_chain_adds_while_it_carries() {
        let with = |pieces| check(&[ending(&[0, 1], &[2, 2], pieces)]);
        assert_eq!(with(Pieces::Even(1)), 300 + 1000 + 600 + 1000);
        assert_eq!(with(Pieces::Even(10)), 190 + 9 * 100 + 1000);
        let sizes = |list: &[u64]| Pieces::Each(list.iter().map(|s| Bytes::new(*s)).collect());
        assert_eq!(with(sizes(&[100_000; 10])), 190 + 9 * 100 + 1000);
        // A large piece and a small one: the small one waits for the link.
        assert_eq!(with(sizes(&[900_000, 100_000])), 270 + 900 + 540 + 60 + 1000);
        assert_eq!(with(sizes(&[100_000, 900_000])), 30 + 270 + 900 + 540 + 1000);
        // Whoever has no group is left out of the chain, and gets the gradient.
        assert_eq!(check(&[ending(&[0, 1], &[4, 0], Pieces::Even(1))]), 900 + 1000);
    }

    #[test]
    fn gradients_of_two_stages_follow_each_other_on_one_link() {
        let stage = |owner, backups: &[usize]| Ending {
            backups: backups.to_vec(),
            ..ending(&[owner], &[1], Pieces::Even(1))
        };
        assert_eq!(check(&[stage(0, &[1, 2])]), 1000);
        assert_eq!(check(&[stage(0, &[2]), stage(1, &[2])]), 1000);
        assert_eq!(check(&[stage(0, &[2]), stage(0, &[2, 3])]), 2000);
    }
}
