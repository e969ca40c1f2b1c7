//! What a layout of units over peers costs: the step time by `course` and `tail`, from the units' sums.
//!
//! The same model as the estimator's, without making the cut: sums of partial cotangents and the parts of parameters
//! that several operators read are left out. A test holds the two together.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::super::carrying::carry;
use super::super::codec::Codec;
use super::super::course::{Course, Station, Wire, Worker};
use super::super::estimate::{adding_up, sweep};
use super::super::footprint::Demand;
use super::super::ground::{Crowd, Ground};
use super::super::groups::Groups;
use super::super::load::Load;
use super::super::pipeline::{Way, in_flight};
use super::super::tail::{Ending, Pieces, commit, one_after_another, ready};
use super::bound::bound;
use super::grain::Grain;
use super::layout::{Layout, Team};
use super::memory::{Holding, Memory, Running};
use crate::dag::bundle::chunks_in;
use crate::job::JobSpec;
use crate::units::Bytes;

/// What a verdict costs beside its passes and units, in the same measure.
const COSTING: u64 = 50;
/// So many stages are copied in the time of a pass.
const COPIED: usize = 16;

/// What a layout costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Step time in microseconds.
    pub(super) step: u64,
}

/// What is known of a layout.
#[derive(Clone, Copy, Debug)]
enum Known {
    /// It is not allowed or does not fit.
    Nothing,
    /// Its step is no shorter; in microseconds.
    AtLeast(u64),
    Exactly(Verdict),
}

/// A layout with times and sizes, before its passes are run.
struct Laid {
    parts: Vec<Part>,
    stations: Vec<Station>,
    wires: Vec<Wire>,
    crowd: Crowd,
}

/// What verdicts rest on beside the job and the peers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Who commits steps, if it is on the ground.
    pub(super) leader: Option<usize>,
    pub(super) codec: Codec,
    /// Thousandths of the peers' memory that layouts may take.
    pub(super) share: u64,
}

/// Costs layouts and counts how much work that was.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) grain: &'a Grain,
    pub(super) spec: &'a JobSpec,
    pub(super) ground: &'a Ground<'a>,
    pub(super) rules: Rules,
    /// Ways in which the job's passes may run.
    pub(super) ways: Vec<Way>,
    pub(super) groups: Groups,
    pub(super) memory: Memory,
    /// For each peer, who could back it up, the fastest link first.
    near: Vec<Vec<usize>>,
    /// What came out so far: changes of near layouts are often the same.
    known: RefCell<BTreeMap<Vec<u16>, Known>>,
    /// Effort so far.
    spent: Cell<u64>,
}

/// Sums over the units of a stage.
#[derive(Clone, Debug, Default)]
struct Part {
    units: usize,
    forward: Load,
    backward: Load,
    holding: Holding,
    tensors: u64,
    ties: Vec<(usize, Bytes)>,
}

impl<'a> Judge<'a> {
    /// Prepares for layouts on the first `able` peers of a ground.
    pub(super) fn new(
        grain: &'a Grain,
        spec: &'a JobSpec,
        (ground, able): (&'a Ground<'a>, usize),
        rules: Rules,
    ) -> Self {
        let near = |from: usize| {
            let mut list: Vec<usize> = (0..able).filter(|to| *to != from).collect();
            list.sort_by_key(|to| (std::cmp::Reverse(ground.link(from, *to).0), ground.peer(*to)));
            list
        };
        let near = match spec.swarm.backups {
            0 => vec![Vec::new(); able],
            _ => (0..able).map(near).collect(),
        };
        let (ways, groups) = (Way::all(&spec.swarm), Groups::of(spec));
        let (memory, known, spent) = (Memory::of(spec), RefCell::default(), Cell::new(0));
        Self { grain, spec, ground, rules, ways, groups, memory, near, known, spent }
    }

    /// Returns the effort of all verdicts so far: a pass or a unit counts one.
    pub(super) fn spent(&self) -> u64 {
        self.spent.get()
    }

    /// Counts the making of so many layouts like one: little for few stages, which are soon copied.
    pub(super) fn made(&self, count: usize, layout: &Layout) {
        self.spent.set(self.spent.get() + (count * layout.stages.len() / COPIED) as u64);
    }

    /// Returns how a layout's passes run.
    pub(super) fn way(&self, layout: &Layout) -> Way {
        self.ways[usize::from(layout.way)]
    }

    /// Costs a layout; None if a stage is empty or does not fit its peers' memory.
    pub(super) fn cost(&self, layout: &Layout) -> Option<Verdict> {
        self.cost_if(layout, |_| true)
    }

    /// The same; None also where a bound of its step, in microseconds, leaves no hope. Then its passes are not run.
    pub(super) fn cost_if(&self, layout: &Layout, hope: impl Fn(u64) -> bool) -> Option<Verdict> {
        let key = layout.key();
        let known = self.known.borrow().get(&key).copied();
        let found = match known {
            None => self.found(layout, hope),
            Some(Known::AtLeast(bound)) if hope(bound) => self.found(layout, hope),
            Some(known) => {
                self.spent.set(self.spent.get() + 1);
                known
            }
        };
        self.known.borrow_mut().insert(key, found);
        match found {
            Known::Exactly(verdict) => Some(verdict),
            Known::Nothing | Known::AtLeast(_) => None,
        }
    }

    /// Returns what a layout's step takes at least, in microseconds.
    #[cfg(test)]
    pub(super) fn bound(&self, layout: &Layout) -> Option<u64> {
        self.lay(layout).map(|laid| self.least(&laid))
    }

    fn least(&self, laid: &Laid) -> u64 {
        bound(self.ground, &laid.stations, &laid.wires, self.spec.train.micro_batches)
    }

    fn found(&self, layout: &Layout, hope: impl Fn(u64) -> bool) -> Known {
        let Some(laid) = self.lay(layout) else { return Known::Nothing };
        let bound = self.least(&laid);
        if hope(bound) { Known::Exactly(self.verdict(layout, laid)) } else { Known::AtLeast(bound) }
    }

    /// The same, without a look at what is known and without remembering it.
    pub(super) fn run(&self, layout: &Layout) -> Option<Verdict> {
        self.lay(layout).map(|laid| self.verdict(layout, laid))
    }

    fn lay(&self, layout: &Layout) -> Option<Laid> {
        if !self.is_allowed(&layout.stages) {
            return None;
        }
        let count = layout.stages.len();
        let micro_batches = self.spec.train.micro_batches;
        let way = self.way(layout);
        self.spent.set(self.spent.get() + self.grain.units() as u64 + COSTING);
        let (parts, wires) = self.parts(layout);
        if parts.iter().any(|part| part.units == 0) {
            return None;
        }
        let crowd = self.ground.crowd(layout.peers());
        let mut stations = Vec::with_capacity(count);
        let mut needs = BTreeMap::new();
        for (index, (part, peers)) in parts.iter().zip(&layout.stages).enumerate() {
            let sweep = sweep(part.holding.parameters, part.tensors);
            let worker = |device: &usize| {
                let time =
                    |load: Load| self.ground.time(*device, load + Load::PASS, &crowd).micros();
                Worker {
                    device: *device,
                    forward: time(part.forward),
                    backward: time(part.backward),
                    ready: ready(self.ground, &crowd, self.rules.leader, *device, sweep),
                }
            };
            let workers: Vec<Worker> = peers.iter().map(worker).collect();
            let times: Vec<u64> =
                workers.iter().map(|w| w.forward.saturating_add(w.backward)).collect();
            let station = Station { turns: self.groups.deal(&times), workers };
            let kept = in_flight(way.order, index, count, micro_batches);
            let (workers, recompute) = (peers.len(), way.recompute);
            let running = Running { workers, kept: u64::from(kept), recompute };
            let demand = self.memory.demand(&part.holding, running);
            for peer in peers.iter() {
                let sum: &mut Demand = needs.entry(*peer).or_default();
                *sum = sum.and(demand);
            }
            stations.push(station);
        }
        if needs.iter().any(|(peer, need)| need.peak > self.room(*peer)) {
            return None;
        }
        one_after_another(self.ground, self.rules.leader, &mut stations);
        let wires = self.rules.codec.compress(self.ground, &stations, wires);
        carry(self.ground, &crowd, &mut stations, &wires);
        Some(Laid { parts, stations, wires, crowd })
    }

    /// Runs the passes of a layout.
    fn verdict(&self, layout: &Layout, laid: Laid) -> Verdict {
        let Laid { parts, stations, wires, crowd } = laid;
        let (count, order) = (stations.len(), self.way(layout).order);
        let micro_batches = self.spec.train.micro_batches;
        self.spent.set(self.spent.get() + 2 * count as u64 * u64::from(micro_batches));
        let course = Course { ground: self.ground, order, micro_batches, record: false };
        let outcome = course.run(&stations, &wires);
        let endings: Vec<Ending> = parts
            .into_iter()
            .zip(&stations)
            .zip(&outcome.ended)
            .map(|((part, station), ended)| Ending {
                workers: station
                    .workers
                    .iter()
                    .map(|w| w.device)
                    .zip(ended.iter().copied())
                    .collect(),
                gradient: part.holding.parameters,
                pieces: Pieces::Even(chunks_in(part.holding.parameters)),
                groups: self.groups.held(&station.turns, station.workers.len()),
                adding: adding_up(part.holding.parameters, part.tensors),
                sweep: sweep(part.holding.parameters, part.tensors),
                backups: self.backups(station, layout),
                shared: part.ties,
            })
            .collect();
        let end = commit(self.ground, &crowd, &endings, self.rules.leader);
        Verdict { step: outcome.drained.saturating_add(end.micros()) }
    }

    /// Returns the sums of each stage and what crosses between stages.
    fn parts(&self, layout: &Layout) -> (Vec<Part>, Vec<Wire>) {
        let grain = self.grain;
        let count = layout.stages.len();
        let stage = |unit: usize| usize::from(layout.stage_of[unit]);
        let mut parts = vec![Part::default(); count];
        for unit in 0..grain.units() {
            let part = &mut parts[stage(unit)];
            part.units += 1;
            part.forward = part.forward + grain.forward[unit];
            part.backward = part.backward + grain.backward[unit];
            part.holding.parameters += grain.parameters[unit].0;
            part.tensors += grain.parameters[unit].1;
            part.holding.saved += grain.saved[unit];
            part.holding.inputs += grain.inputs[unit];
        }
        if self.way(layout).recompute {
            self.repeat(layout, &mut parts);
        }
        for (bytes, units) in &grain.ties {
            let mut sharers: Vec<usize> = units.iter().map(|unit| stage(*unit)).collect();
            sharers.sort_unstable();
            sharers.dedup();
            for one in &sharers {
                parts[*one].holding.parameters += *bytes;
                parts[*one].tensors += 1;
                let others = sharers.iter().filter(|other| *other != one);
                parts[*one].ties.extend(others.map(|other| (*other, *bytes)));
            }
        }
        let mut table = vec![(Bytes::ZERO, Bytes::ZERO); count * count];
        // The last flow that each stage has been given, so that one tensor goes to each stage that reads it.
        let mut given = vec![usize::MAX; count];
        for (place, flow) in grain.flows.iter().enumerate() {
            let from = stage(flow.from);
            given[from] = place;
            for to in flow.to.iter().map(|unit| stage(*unit)) {
                if std::mem::replace(&mut given[to], place) != place {
                    let slot = &mut table[from * count + to];
                    slot.0 += flow.bytes;
                    slot.1 += flow.back;
                    parts[to].holding.outside += flow.bytes;
                }
            }
        }
        let mut wires = Vec::new();
        for from in 0..count {
            for to in from + 1..count {
                let (there, back) = table[from * count + to];
                if there > Bytes::ZERO {
                    wires.push(Wire {
                        from,
                        to,
                        there,
                        back: (back > Bytes::ZERO).then_some(back),
                    });
                }
            }
        }
        (parts, wires)
    }

    /// Adds what stages compute again: what their backward passes read, and what that is made from within the stage.
    fn repeat(&self, layout: &Layout, parts: &mut [Part]) {
        let grain = self.grain;
        let mut again = vec![false; grain.units()];
        for unit in (0..grain.units()).rev() {
            let stage = layout.stage_of[unit];
            let same = |other: &usize| layout.stage_of[*other] == stage;
            again[unit] = grain.saved_for[unit].iter().any(same)
                || grain.after[unit].iter().any(|other| same(other) && again[*other]);
            if again[unit] {
                let part = &mut parts[usize::from(stage)];
                part.backward = part.backward + grain.again[unit];
            }
        }
    }

    /// Returns the memory that layouts may take of a peer's.
    pub(super) fn room(&self, peer: usize) -> Bytes {
        Bytes::new(self.ground.memory(peer).count() / 1000 * self.rules.share)
    }

    /// Says whether no stage has a peer twice and no peer more stages than the job allows.
    fn is_allowed(&self, stages: &[Team]) -> bool {
        let mut parts = vec![(0, usize::MAX); self.ground.len()];
        for (stage, peers) in stages.iter().enumerate() {
            for peer in peers.iter() {
                let (count, last) = &mut parts[*peer];
                *count += 1;
                if std::mem::replace(last, stage) == stage
                    || *count > self.spec.swarm.stages_per_peer
                {
                    return false;
                }
            }
        }
        true
    }

    /// Returns who would back a stage up: peers without a stage first, then those with the fastest links.
    fn backups(&self, station: &Station, layout: &Layout) -> Vec<usize> {
        let wanted = usize::from(self.spec.swarm.backups);
        // Replicas hold the state too.
        let wanted = wanted.saturating_sub(station.workers.len() - 1);
        if wanted == 0 {
            return Vec::new();
        }
        let mut busy = vec![false; self.near.len()];
        for peer in layout.peers() {
            busy[peer] = true;
        }
        let near = &self.near[station.workers[0].device];
        let idle = near.iter().filter(|peer| !busy[**peer]);
        let working = near.iter().filter(|peer| busy[**peer]);
        idle.chain(working).take(wanted).copied().collect()
    }
}
