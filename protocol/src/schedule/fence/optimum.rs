//! The best layout of all, by branch and bound over every legal cut, every choice of workers, every order: for small
//! problems, to know how far from it the search is.
//!
//! A stage's units together with those of earlier stages are closed under what they read, so the search goes from one
//! closed set to a larger one. A branch is left where a bound that holds for everything below it is no better than the
//! best layout known.

use std::rc::Rc;

use super::judge::Judge;
use super::layout::Layout;
use crate::job::STAGES_MAX;
use crate::units::Bytes;

/// Most units of a problem that can be searched.
pub(super) const UNITS_MAX: usize = 16;

/// Layouts that are better by less than one in so many are not looked for.
const TOLERANCE: u64 = 200;

/// What the exhaustive search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The least step time in microseconds.
    pub(super) step: u64,
    /// Whether all was searched; else there may be better.
    pub(super) settled: bool,
}

/// Searches all layouts on the peers below `able`, in all ways that the job allows, for one faster than `known`, visiting
/// at most so many branches.
pub(super) fn optimum(judge: &Judge<'_>, able: usize, known: u64, branches: u64) -> Found {
    let (mut best, mut left) = (known, branches);
    for way in 0..u8::try_from(judge.ways.len()).unwrap_or(u8::MAX) {
        let mut search = Search::new(judge, able, way, (best, left));
        search.descend(0, Used::default());
        (best, left) = (search.best, search.left);
    }
    Found { step: best, settled: left > 0 }
}

impl<'j, 'a> Search<'j, 'a> {
    /// Prepares for layouts in one way that are faster than `best`.
    fn new(judge: &'j Judge<'a>, able: usize, way: u8, (best, left): (u64, u64)) -> Self {
        let grain = judge.grain;
        let units = grain.units();
        assert!(units <= UNITS_MAX && able <= 32, "exhaustive search is for small problems");
        let crowd = judge.ground.crowd([]);
        let time = |load, peer| judge.ground.time(peer, load, &crowd).micros();
        let recompute = judge.ways[usize::from(way)].recompute;
        let table = |of: &dyn Fn(usize, usize) -> u64| -> Vec<Vec<u64>> {
            (0..units).map(|unit| (0..able).map(|peer| of(unit, peer)).collect()).collect()
        };
        let ahead = table(&|unit, peer| time(grain.forward[unit], peer));
        let each = table(&|unit, peer| ahead[unit][peer] + time(grain.backward[unit], peer));
        let again = match recompute {
            true => table(&|unit, peer| time(grain.again[unit], peer)),
            false => table(&|_, _| 0),
        };
        let before = grain.before.iter().map(set_of).collect();
        // A unit is computed again where its stage's backward passes read it, or what is made from it there.
        let read = (0..units).map(|unit| set_of(&grain.saved_for[unit])).collect();
        let after = grain.after.iter().map(set_of).collect();
        let reach = |is_back: bool| {
            let mut sets = vec![0u32; units];
            // Makers come before readers, so that their sets are whole when they are read.
            for unit in 0..units {
                for flow in grain.flows.iter().filter(|flow| flow.to.contains(&unit)) {
                    if !is_back || flow.back > Bytes::ZERO {
                        sets[unit] |= sets[flow.from] | (1 << flow.from);
                    }
                }
            }
            sets
        };
        Self {
            judge,
            way,
            able,
            each,
            ahead,
            again,
            before,
            read,
            after,
            above: reach(false),
            below: reach(true),
            fixed: Vec::new(),
            best,
            left,
        }
    }
}

/// A stage of the branch, and what is certain of it, in microseconds.
#[derive(Clone, Debug)]
struct Fixed {
    set: u32,
    workers: Vec<usize>,
    /// No worker is faster.
    forward: u64,
    backward: u64,
    /// Its first input does not come before.
    arrive: u64,
    /// The step does not end sooner after its last backward pass.
    depart: u64,
}

/// How many stages each peer has, four bits each.
#[derive(Clone, Copy, Debug, Default)]
struct Used(u128);

impl Used {
    fn count(self, peer: usize) -> u16 {
        ((self.0 >> (4 * peer)) & 15) as u16
    }

    const fn with(self, peer: usize) -> Self {
        Self(self.0 + (1 << (4 * peer)))
    }
}

#[derive(Debug)]
struct Search<'j, 'a> {
    judge: &'j Judge<'a>,
    way: u8,
    able: usize,
    /// Microseconds of a micro-batch, by unit and peer, each rounded down: both passes, and the forward pass.
    each: Vec<Vec<u64>>,
    ahead: Vec<Vec<u64>>,
    /// The same of what is computed again, wherever something is.
    again: Vec<Vec<u64>>,
    /// Units that each unit reads, as a set; whose backward passes read its results, and that read them.
    before: Vec<u32>,
    read: Vec<u32>,
    after: Vec<u32>,
    /// Units that each unit depends on, and those of them to which a cotangent comes back.
    above: Vec<u32>,
    below: Vec<u32>,
    fixed: Vec<Fixed>,
    best: u64,
    left: u64,
}

impl Search<'_, '_> {
    /// Goes on from a closed set of units that stages hold, on peers that have been used.
    fn descend(&mut self, held: u32, used: Used) {
        let units = self.before.len();
        let count = self.fixed.len();
        if held == (1u32 << units) - 1 {
            let wanted = self.judge.spec.swarm.stages;
            if wanted.is_none_or(|wanted| usize::from(wanted) == count) {
                let mut layout = self.layout();
                self.leaf(&mut layout, 0);
            }
            return;
        }
        if count == usize::from(STAGES_MAX) {
            return;
        }
        let mut sets = Vec::new();
        self.closed(held, 0, 0, &mut sets);
        for set in sets {
            let free = |peer: &usize| self.is_free(used, *peer);
            for owner in (0..self.able).filter(free).collect::<Vec<_>>() {
                self.workers(vec![owner], (held | set, set), used.with(owner));
            }
        }
    }

    /// Runs a layout with the replicas of each stage from one on in every order: bounds are the same for all.
    fn leaf(&mut self, layout: &mut Layout, stage: usize) {
        let Some(workers) = layout.stages.get(stage).map(|team| team.len()) else {
            if let Some(verdict) = self.judge.run(layout) {
                self.best = self.best.min(verdict.step);
            }
            return;
        };
        self.orders(layout, stage, (1, workers));
    }

    /// Goes on with every order of a stage's workers from one place on.
    fn orders(&mut self, layout: &mut Layout, stage: usize, (place, workers): (usize, usize)) {
        if place + 1 >= workers {
            return self.leaf(layout, stage + 1);
        }
        for other in place..workers {
            if other > place {
                if self.left == 0 {
                    return;
                }
                self.left -= 1;
            }
            Rc::make_mut(&mut layout.stages[stage]).swap(place, other);
            self.orders(layout, stage, (place + 1, workers));
            Rc::make_mut(&mut layout.stages[stage]).swap(place, other);
        }
    }

    fn is_free(&self, used: Used, peer: usize) -> bool {
        used.count(peer) < self.judge.spec.swarm.stages_per_peer
    }

    fn layout(&self) -> Layout {
        let (stage_of, way) = (vec![0; self.before.len()], self.way);
        let mut layout = Layout { stage_of, stages: Vec::new(), way };
        for (stage, fixed) in (0..).zip(&self.fixed) {
            for unit in members(fixed.set) {
                layout.stage_of[unit] = stage;
            }
            layout.stages.push(Rc::new(fixed.workers.clone()));
        }
        layout
    }

    /// Lists the sets of units that may be the next stage: nonempty, and closed together with what is held.
    fn closed(&self, held: u32, set: u32, from: usize, sets: &mut Vec<u32>) {
        for unit in from..self.before.len() {
            let bit = 1u32 << unit;
            // Units are in topological order: whatever a unit reads has been decided before it.
            if held & bit == 0 && self.before[unit] & !(held | set) == 0 {
                sets.push(set | bit);
                self.closed(held, set | bit, unit + 1, sets);
            }
        }
    }

    /// Goes on with these workers for a stage, and with more of them.
    fn workers(&mut self, workers: Vec<usize>, (held, set): (u32, u32), used: Used) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let enough = self.best - self.best / TOLERANCE;
        let (stage, bound) = self.station(workers.clone(), set);
        if bound < enough {
            self.fixed.push(stage);
            if self.rest(held, used) < enough {
                self.descend(held, used);
            }
            self.fixed.pop();
        }
        if workers.len() < usize::from(self.judge.spec.swarm.replicas) {
            let next = if workers.len() == 1 { 0 } else { workers[workers.len() - 1] + 1 };
            let free = |peer: &usize| self.is_free(used, *peer) && !workers.contains(peer);
            for replica in (next..self.able).filter(free).collect::<Vec<_>>() {
                let more = [workers.as_slice(), &[replica]].concat();
                self.workers(more, (held, set), used.with(replica));
            }
        }
    }

    /// Returns a stage after those of the branch, and how long a step with it takes at least: its busiest worker runs
    /// its passes, and its busiest link carries its tensors, after the first input has come and before the last
    /// cotangent has gone all the way back.
    fn station(&self, workers: Vec<usize>, set: u32) -> (Fixed, u64) {
        let micro_batches = self.judge.spec.train.micro_batches;
        let sum = |table: &[Vec<u64>], peer: usize, set: u32| -> u64 {
            members(set).map(|u| table[u][peer]).sum()
        };
        let again = self.repeated(set);
        let both = |peer: &usize| sum(&self.each, *peer, set) + sum(&self.again, *peer, again);
        let both: Vec<u64> = workers.iter().map(both).collect();
        let ahead: Vec<u64> = workers.iter().map(|peer| sum(&self.ahead, *peer, set)).collect();
        // Each group has as many micro-batches at least, and no way to deal groups out ends sooner.
        let (shares, groups) = (self.judge.groups.shares(&both), self.judge.groups.count());
        let each = u64::from(micro_batches / u32::from(groups));
        let busy = both.iter().zip(&shares).map(|(both, share)| both * share * each);
        let busiest = match workers.len() {
            1 => both[0] * u64::from(micro_batches),
            _ => busy.max().unwrap_or(0),
        };
        let forward = ahead.iter().copied().min().unwrap_or(0);
        let backs = both.iter().zip(&ahead).map(|(both, ahead)| both - ahead);
        let backward = backs.min().unwrap_or(0);
        let (mut arrive, mut depart, mut wires) = (0, 0, Vec::new());
        for from in &self.fixed {
            let (there, back) = self.crossing(from.set, set);
            if there == Bytes::ZERO {
                continue;
            }
            let (busy, late) = self.least(&from.workers, &workers, there);
            arrive = arrive.max(from.arrive + from.forward + busy + late);
            wires.push((from.arrive + from.forward, busy, late, 0));
            if back > Bytes::ZERO {
                let (busy, late) = self.least(&workers, &from.workers, back);
                let after = busy + late + from.backward + from.depart;
                depart = depart.max(after);
                wires.push((0, busy, late, from.backward + from.depart));
            }
        }
        let mut bound = arrive + busiest + depart;
        for (begin, busy, late, end) in wires {
            // Sets of workers have several links; only between two peers do all tensors queue.
            let alone = workers.len() == 1 && self.fixed.iter().all(|f| f.workers.len() == 1);
            if alone {
                let queue = busy * u64::from(micro_batches) + late;
                let rest = if end == 0 {
                    begin + forward + backward + depart
                } else {
                    arrive + forward + backward + end
                };
                bound = bound.max(queue + rest);
            }
        }
        (Fixed { set, workers, forward, backward, arrive, depart }, bound)
    }

    /// Returns the units of a stage that its backward passes compute again.
    fn repeated(&self, set: u32) -> u32 {
        let mut again = 0u32;
        for unit in (0..self.before.len()).rev().filter(|unit| set & (1 << unit) != 0) {
            if self.read[unit] & set != 0 || self.after[unit] & again != 0 {
                again |= 1 << unit;
            }
        }
        again
    }

    /// Returns what crosses from one set of units to another for each micro-batch, and how much of it comes back.
    fn crossing(&self, from: u32, to: u32) -> (Bytes, Bytes) {
        let flows = self.judge.grain.flows.iter();
        let crosses = flows.filter(|flow| {
            from & (1 << flow.from) != 0 && flow.to.iter().any(|unit| to & (1 << unit) != 0)
        });
        crosses.fold((Bytes::ZERO, Bytes::ZERO), |(there, back), flow| {
            (there + flow.bytes, back + flow.back)
        })
    }

    /// Returns the least time on a link between two sets of workers, and the least travel.
    fn least(&self, from: &[usize], to: &[usize], size: Bytes) -> (u64, u64) {
        let pairs = from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b)));
        let times = pairs.map(|(a, b)| self.judge.ground.transfer(a, b, size));
        times.fold((u64::MAX, u64::MAX), |(busy, late), (one, other)| {
            (busy.min(one.micros()), late.min(other.micros()))
        })
    }

    /// What is not held takes the peers that are left so long at least, however it is split.
    ///
    /// For any weights of the peers that sum to one, the busiest peer takes at least the sum over units of the least
    /// weighted time (linear programming duality); weights in proportion to speed come near the optimum.
    fn rest(&self, held: u32, used: Used) -> u64 {
        let units: Vec<usize> =
            (0..self.before.len()).filter(|unit| held & (1 << unit) == 0).collect();
        if units.is_empty() {
            return 0;
        }
        let peers: Vec<usize> = (0..self.able).filter(|peer| self.is_free(used, *peer)).collect();
        let whole = |peer: &usize| -> u64 {
            units.iter().map(|unit| self.each[*unit][*peer]).sum::<u64>().max(1)
        };
        let speeds: Vec<u64> = peers.iter().map(|peer| (1u64 << 40) / whole(peer)).collect();
        let total: u64 = speeds.iter().sum();
        if total == 0 {
            return u64::MAX;
        }
        let least = |unit: &usize| -> u128 {
            let weighted = peers.iter().zip(&speeds).map(|(peer, speed)| {
                u128::from(self.each[*unit][*peer]) * u128::from(*speed) / u128::from(total)
            });
            weighted.min().unwrap_or(0)
        };
        let sum: u128 = units.iter().map(least).sum();
        let micro_batches = u128::from(self.judge.spec.train.micro_batches);
        let busiest = u64::try_from(sum * micro_batches).unwrap_or(u64::MAX);
        // Whichever unit that peer has first, everything above it has gone forward once, and goes back once.
        let over = |sets: &[u32], unit: usize, part: fn(&Fixed) -> u64| {
            let stages = self.fixed.iter().filter(|f| sets[unit] & f.set != 0);
            stages.map(part).max().unwrap_or(0)
        };
        let entry = |unit: &usize| over(&self.above, *unit, |f| f.arrive + f.forward);
        let exit = |unit: &usize| over(&self.below, *unit, |f| f.backward + f.depart);
        let entry = units.iter().map(entry).min().unwrap_or(0);
        let exit = units.iter().map(exit).min().unwrap_or(0);
        busiest.saturating_add(entry + exit)
    }
}

fn set_of(units: impl IntoIterator<Item = impl std::borrow::Borrow<usize>>) -> u32 {
    units.into_iter().fold(0, |set, unit| set | (1 << unit.borrow()))
}

fn members(set: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |unit| set & (1 << unit) != 0)
}
