//! Predicts the step time of a placement and its parts, by running the pipeline in integers.
//!
//! Each device runs its passes in order, each directed link carries one tensor after another. The same model
//! as papers.md 1.7 for identical jobs on a line, but for any edges between stages. Pure; ties break on ids.

use std::collections::{BTreeMap, BTreeSet};

use super::advert::{Advert, Hardware};
use super::footprint::{Footprints, Room};
use super::links::Links;
use super::load::Load;
use super::pipeline::{Pass, passes};
use super::{Prediction, StagePlan};
use crate::dag::bundle::{gradient_bytes, shared_bytes};
use crate::dag::cut::{Cut, StageGraph};
use crate::dag::{Dag, Node};
use crate::ids::PeerId;
use crate::job::JobSpec;
use crate::units::{Bytes, Duration, Flops, Instant};

/// Everything that the prediction of one placement needs.
#[derive(Debug)]
pub struct Placement<'a> {
    /// The job.
    pub spec: &'a JobSpec,
    /// The network in stages.
    pub cut: &'a Cut,
    /// Owner and backups of each stage.
    pub stages: &'a [StagePlan],
    /// Who commits the steps.
    pub leader: PeerId,
    /// Measured peers.
    pub peers: &'a BTreeMap<PeerId, &'a Advert>,
    /// Measured links.
    pub links: &'a Links,
}

/// Returns the work of one program of a stage on one micro-batch.
pub fn program_load(stage: &StageGraph, nodes: &[Node]) -> Load {
    nodes
        .iter()
        .map(|node| {
            let facts = |ids: &[crate::ids::ValueId]| -> Vec<_> {
                ids.iter().filter_map(|id| stage.values.get(id)).map(|v| &v.fact).collect()
            };
            let (inputs, outputs) = (facts(&node.inputs), facts(&node.outputs));
            Load::of_op(&node.op, &inputs, &outputs)
        })
        .sum()
}

/// Returns the bytes of a stage's parameters.
pub fn parameter_bytes(stage: &StageGraph) -> Bytes {
    stage.parameters.iter().filter_map(|p| stage.values.get(p)).map(|v| v.fact.bytes()).sum()
}

/// Returns the work of reducing gradients and of the update: a few passes over the parameters.
fn update_load(stage: &StageGraph, passes_over: u64) -> Load {
    let bytes = parameter_bytes(stage);
    Load {
        elements: Flops::new(bytes.count() / 4 * passes_over),
        bytes: bytes * passes_over,
        launches: passes_over * stage.parameters.len() as u64,
        ..Load::default()
    }
}

/// Returns the forward work of every node and the backward work that belongs to it, for choosing cuts.
pub fn node_loads(training: &crate::dag::grad::Training) -> (Vec<Load>, Vec<Load>) {
    let dag: &Dag = &training.dag;
    let mut forward = Vec::new();
    let mut backward = vec![Load::default(); training.forward_nodes];
    for id in dag.node_ids() {
        let load = Load::of(dag, id);
        match id.index().checked_sub(training.forward_nodes) {
            None => forward.push(load),
            Some(place) => {
                let origin = training.origin[place].index();
                backward[origin] = backward[origin] + load;
            }
        }
    }
    (forward, backward)
}

struct Line {
    passes: Vec<Pass>,
    next: usize,
    device: PeerId,
    forward: Duration,
    backward: Duration,
    busy: Duration,
    ended: Instant,
}

impl Placement<'_> {
    fn hardware(&self, peer: PeerId) -> Option<&Hardware> {
        self.peers.get(&peer).and_then(|a| a.hardware.as_ref())
    }

    fn time(&self, peer: PeerId, load: Load) -> Duration {
        let Some(hardware) = self.hardware(peer) else {
            return Duration::MAX;
        };
        let (demand, capacity) = self.crowd(hardware);
        let alone = hardware.time(load);
        if demand <= capacity {
            return alone;
        }
        Duration::from_micros(alone.micros().saturating_mul(demand) / capacity)
    }

    /// Returns what all owners on a peer's machine ask of it and what it has, in thousandths of threads.
    ///
    /// Our rule: peers of one machine that ask for more than it has share it in proportion, for the whole step. A
    /// pipeline's stages are not all busy all the time, so this is on the careful side.
    fn crowd(&self, hardware: &Hardware) -> (u64, u64) {
        if hardware.host == 0 || hardware.host_capacity == 0 {
            return (0, 1);
        }
        let owners: BTreeSet<PeerId> = self.stages.iter().map(|s| s.owner).collect();
        let demand = owners
            .iter()
            .filter_map(|p| self.hardware(*p))
            .filter(|h| h.host == hardware.host)
            .map(|h| u64::from(h.demand))
            .sum();
        (demand, u64::from(hardware.host_capacity))
    }

    /// Returns what each owner needs for its stage at most.
    fn memory(&self) -> Vec<Bytes> {
        let mut footprints = Footprints::of(self.spec, self.cut);
        let plans = self.stages.iter().enumerate();
        let of = |(stage, plan): (usize, &StagePlan)| {
            let alone = Room { memory: Bytes::ZERO, threads: 1 };
            let room = self.hardware(plan.owner).map_or(alone, Room::of);
            footprints.owner(stage, room, !plan.backups.is_empty()).peak
        };
        plans.map(of).collect()
    }

    /// Predicts one step.
    pub fn predict(&self) -> Prediction {
        let mut lines = self.lines();
        let transfer = self.run(&mut lines);
        let drained = lines.iter().map(|l| l.ended).max().unwrap_or_default();
        let commit = self.commit(&lines);
        let stage_compute: Vec<Duration> = lines.iter().map(|l| l.busy).collect();
        let step = (drained + commit).since(Instant::default());
        let compute = stage_compute.iter().copied().max().unwrap_or_default();
        let total = step.micros().saturating_mul(lines.len() as u64).max(1);
        let busy: u64 = stage_compute.iter().map(|d| d.micros()).sum();
        let bubble = 1000 - (u128::from(busy.min(total)) * 1000 / u128::from(total));
        Prediction {
            step,
            compute,
            transfer,
            commit,
            bubble_permille: u32::try_from(bubble).unwrap_or(1000),
            memory: self.memory(),
            stage_compute,
        }
    }

    fn lines(&self) -> Vec<Line> {
        let stages = self.cut.stages.len();
        let swarm = &self.spec.swarm;
        self.cut
            .stages
            .iter()
            .zip(self.stages)
            .map(|(stage, plan)| {
                let forward = program_load(stage, &stage.forward.nodes);
                let backward = program_load(stage, &stage.backward.nodes);
                let index = stage.stage.index();
                Line {
                    passes: passes(swarm.order, index, stages, self.spec.train.micro_batches),
                    next: 0,
                    device: plan.owner,
                    forward: self.time(plan.owner, forward),
                    backward: self.time(plan.owner, backward),
                    busy: Duration::ZERO,
                    ended: Instant::default(),
                }
            })
            .collect()
    }

    /// Runs all passes; returns how long the busiest link was busy.
    fn run(&self, lines: &mut [Line]) -> Duration {
        // Arrival of (edge, micro-batch, is a cotangent); presence means that it is on its way.
        let mut arrived: BTreeMap<(u32, u32, bool), Instant> = BTreeMap::new();
        let mut device_free: BTreeMap<PeerId, Instant> = BTreeMap::new();
        let mut link_free: BTreeMap<(PeerId, PeerId), Instant> = BTreeMap::new();
        let mut link_busy: BTreeMap<(PeerId, PeerId), Duration> = BTreeMap::new();
        // The pass that can begin first goes first, so that links are used in the order of time.
        while let Some((start, place)) = (0..lines.len())
            .filter_map(|place| self.begin(&lines[place], place, &arrived, &device_free))
            .min()
        {
            let line = &mut lines[place];
            let pass = line.passes[line.next];
            let (span, micro_batch, back) = match pass {
                Pass::Forward(m) => (line.forward, m.index(), false),
                Pass::Backward(m) => (line.backward, m.index(), true),
            };
            let end = start + span;
            line.next += 1;
            line.busy += span;
            line.ended = end;
            device_free.insert(line.device, end);
            let stage = &self.cut.stages[place];
            let edges = if back { &stage.receives } else { &stage.sends };
            for (id, edge) in edges {
                if back && edge.cotangent.is_none() {
                    continue;
                }
                let other = if back { edge.from } else { edge.to };
                let (from, to) = (line.device, self.stages[other.index()].owner);
                let (busy, travel) = self.links.transfer(from, to, edge.fact.bytes());
                let free = link_free.entry((from, to)).or_default();
                *free = (*free).max(end) + busy;
                *link_busy.entry((from, to)).or_default() += busy;
                let edge_index = u32::try_from(id.index()).unwrap_or(u32::MAX);
                arrived.insert((edge_index, micro_batch, back), *free + travel);
            }
        }
        link_busy.values().copied().max().unwrap_or_default()
    }

    fn begin(
        &self,
        line: &Line,
        place: usize,
        arrived: &BTreeMap<(u32, u32, bool), Instant>,
        device_free: &BTreeMap<PeerId, Instant>,
    ) -> Option<(Instant, usize)> {
        let pass = line.passes.get(line.next)?;
        let stage = &self.cut.stages[place];
        let mut start = device_free.get(&line.device).copied().unwrap_or_default();
        let (edges, micro_batch, back) = match pass {
            Pass::Forward(m) => (&stage.receives, m.index(), false),
            Pass::Backward(m) => (&stage.sends, m.index(), true),
        };
        for (id, edge) in edges {
            if back && edge.cotangent.is_none() {
                continue;
            }
            let edge_index = u32::try_from(id.index()).unwrap_or(u32::MAX);
            start = start.max(*arrived.get(&(edge_index, micro_batch, back))?);
        }
        Some((start, place))
    }

    /// Predicts the end of a step: reduce, store at backups, report, commit, update.
    fn commit(&self, lines: &[Line]) -> Duration {
        let drained = lines.iter().map(|l| l.ended).max().unwrap_or_default();
        let mut decided = Instant::default();
        let mut after = Duration::ZERO;
        for ((stage, plan), line) in self.cut.stages.iter().zip(self.stages).zip(lines) {
            let size = gradient_bytes(stage, self.spec.train.micro_batches);
            let stored = plan
                .backups
                .iter()
                .map(|backup| {
                    let (busy, travel) = self.links.transfer(plan.owner, *backup, size);
                    busy + travel * 2
                })
                .max()
                .unwrap_or_default();
            let (_, report) = self.links.transfer(plan.owner, self.leader, Bytes::ZERO);
            let reduce = self.time(plan.owner, update_load(stage, 1));
            let whole = self.shared(stage, plan.owner, lines).max(line.ended);
            decided = decided.max(whole + reduce + stored + report);
            after = after.max(report + self.time(plan.owner, update_load(stage, 6)));
        }
        decided.since(drained) + after
    }

    /// Returns when the other stages' parts of shared parameters are all here.
    fn shared(&self, stage: &StageGraph, owner: PeerId, lines: &[Line]) -> Instant {
        let mut whole = Instant::default();
        let sharers: BTreeSet<_> =
            stage.shared.iter().flat_map(|s| s.stages.iter().copied()).collect();
        for other in sharers.into_iter().filter(|s| *s != stage.stage) {
            let (Some(plan), Some(line)) =
                (self.stages.get(other.index()), lines.get(other.index()))
            else {
                continue;
            };
            let size = shared_bytes(stage, other, stage.stage);
            let (busy, travel) = self.links.transfer(plan.owner, owner, size);
            whole = whole.max(line.ended + busy + travel);
        }
        whole
    }
}
