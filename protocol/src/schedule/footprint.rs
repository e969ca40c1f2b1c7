//! What stages take of a peer's memory: one rule for whoever places them and for the executor that refuses what is too
//! much.
//!
//! A [`Footprint`] says what each task of a stage needs. The executor compares these with the limit of its store before
//! a task runs; a [`Demand`] is the most that they can come to on a peer under a plan, so that what fits by [`Room::fits`]
//! is never refused. Two exceptions are told at [`Demand::of_backup`] and in `docs/reference/performance.md`.
//! Not here: choosing cuts by a bound that is quicker to compute ([`super::outline`]).

use std::collections::{BTreeMap, BTreeSet};

use super::StagePlan;
use super::advert::Hardware;
use super::groups::Groups;
use super::pipeline::in_flight;
use crate::dag::Fact;
use crate::dag::bundle::{
    gradient_bytes, group_sums_bytes, optimizer_slots, shared_bytes, start_bytes, state_bytes,
};
use crate::dag::cut::{Cut, StageGraph};
use crate::dag::lifetimes::{HEADER, Lifetimes, tensor_bytes};
use crate::ids::{PeerId, StageId, ValueId};
use crate::job::{JobSpec, PipelineOrder, TrainSpec};
use crate::units::Bytes;

/// What a node of a stage takes as long as the stage is loaded: when its operands and results can be freed.
const NODE: Bytes = Bytes::new(160);

/// When the values of a stage's passes can be freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// Of the forward sub-DAG.
    pub forward: Lifetimes,
    /// Of the backward sub-DAG.
    pub backward: Lifetimes,
}

impl Passes {
    /// Works them out: what is saved, sent, or taken for statistics and gradients outlives its pass.
    pub fn of(graph: &StageGraph) -> Self {
        let mut kept: BTreeSet<ValueId> = graph.saved.iter().copied().collect();
        kept.extend(graph.sends.iter().map(|(_, e)| e.value));
        kept.extend(graph.updates.iter().map(|u| u.from));
        kept.extend(graph.loss);
        let forward = Lifetimes::of(&graph.forward, &kept);
        let mut kept: BTreeSet<ValueId> = graph.gradients.iter().map(|g| g.value).collect();
        kept.extend(graph.receives.iter().filter_map(|(_, e)| e.cotangent));
        Self { forward, backward: Lifetimes::of(&graph.backward, &kept) }
    }
}

/// What a stage and its tasks take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Parameters, what the optimizer keeps of them, and buffers: as long as the stage is loaded.
    pub state: Bytes,
    /// Kept of a micro-batch from its forward to its backward pass.
    pub saved: Bytes,
    /// Gradient parts of one group of micro-batches, from the first backward pass to the update.
    pub sums: Bytes,
    /// A bundle of sums of groups, with their statistics, as replicas hand them on.
    pub gathered: Bytes,
    /// Gradients that are sums of several parts, from the reduction to the update.
    pub reduced: Bytes,
    /// Added by a forward pass at its peak, with the copies that it sends.
    pub forward: Bytes,
    /// The same of a backward pass, beyond what was saved for it.
    pub backward: Bytes,
    /// Bundles that come for a micro-batch, or lie until they are shipped.
    pub arriving: Bytes,
    /// The gradient's bundle, for backups.
    pub gradient: Bytes,
    /// Bundles of shared parameters' parts, both ways.
    pub shared: Bytes,
    /// The state's bundle, for whoever pulls it.
    pub bundle: Bytes,
    /// The bundle that the stage starts from, where weights are given.
    pub start: Bytes,
    /// A copy of the largest parameter, while a bundle is written.
    pub copy: Bytes,
}

impl Footprint {
    /// Works out what a stage takes where so many threads compute.
    ///
    /// *Cost*: O(operands of the stage), times a logarithm.
    pub fn of(graph: &StageGraph, passes: &Passes, train: &TrainSpec, threads: u64) -> Self {
        let fact = |id: ValueId| graph.values.get(&id).map(|value| &value.fact);
        let size = |id: &ValueId| fact(*id).map_or(Bytes::ZERO, tensor_bytes);
        let copies = 1 + optimizer_slots(&train.optimizer) as u64;
        let tensors = graph.parameters.len() as u64 * copies + graph.buffers.len() as u64;
        let nodes = (graph.forward.nodes.len() + graph.backward.nodes.len()) as u64;
        let bundle = state_bytes(graph, &train.optimizer);
        let statistics: Bytes = graph.updates.iter().map(|u| size(&u.from)).sum();
        let saved = graph.saved.iter().map(size).sum::<Bytes>();
        let part = |g: &crate::dag::grad::GradientPart| size(&g.parameter);
        let all = train.micro_batches as usize;
        let (forward, backward) = working(graph, passes, fact, threads);
        Self {
            state: bundle + HEADER * tensors + NODE * nodes,
            saved: saved + statistics,
            sums: graph.gradients.iter().map(part).sum(),
            gathered: group_sums_bytes(graph, &(0..graph.gradients.len()), all),
            reduced: reduced(graph, size),
            forward,
            backward: backward.less(saved),
            arriving: crossing(graph),
            gradient: gradient_bytes(graph, train.micro_batches),
            shared: shared(graph),
            bundle,
            start: start_bytes(graph),
            copy: graph.parameters.iter().map(size).max().unwrap_or_default(),
        }
    }

    /// Works out what a stage of a job takes where so many threads compute.
    pub fn of_stage(graph: &StageGraph, train: &TrainSpec, threads: u64) -> Self {
        Self::of(graph, &Passes::of(graph), train, threads)
    }

    /// Returns what summing gradients up adds, and their bundle for backups.
    pub fn reducing(&self, publish: bool) -> Bytes {
        self.reduced + if publish { self.gradient + self.copy } else { Bytes::ZERO }
    }
}

/// Peaks of a forward and of a backward pass, what a backward pass begins with included.
fn working<'a>(
    graph: &'a StageGraph,
    passes: &Passes,
    fact: impl Fn(ValueId) -> Option<&'a Fact> + Copy,
    threads: u64,
) -> (Bytes, Bytes) {
    let received = graph.receives.iter().map(|(_, edge)| edge.value);
    let begins = received.chain(graph.data.iter().copied());
    let there = passes.forward.peak(&graph.forward, begins, fact, threads);
    let cotangents = graph.sends.iter().filter_map(|(_, edge)| edge.cotangent);
    let begins = cotangents.chain(graph.saved.iter().copied());
    let back = passes.backward.peak(&graph.backward, begins, fact, threads);
    let sent: Bytes = graph.sends.iter().map(|(_, edge)| tensor_bytes(&edge.fact)).sum();
    let returned = graph.receives.iter().filter(|(_, edge)| edge.cotangent.is_some());
    (there + sent, back + returned.map(|(_, edge)| tensor_bytes(&edge.fact)).sum())
}

fn crossing(graph: &StageGraph) -> Bytes {
    graph.receives.iter().chain(&graph.sends).map(|(_, edge)| tensor_bytes(&edge.fact)).sum()
}

fn shared(graph: &StageGraph) -> Bytes {
    let sharers: BTreeSet<StageId> =
        graph.shared.iter().flat_map(|s| s.stages.iter().copied()).collect();
    let others = sharers.into_iter().filter(|s| *s != graph.stage);
    let both = |s| shared_bytes(graph, graph.stage, s) + shared_bytes(graph, s, graph.stage);
    others.map(both).sum()
}

/// Gradients of parameters that have several parts, here or elsewhere; others share the memory of their one part.
fn reduced(graph: &StageGraph, size: impl Fn(&ValueId) -> Bytes) -> Bytes {
    let several = |id: &&ValueId| {
        let own = graph.gradients.iter().filter(|g| g.parameter == **id).count();
        let all = graph.shared.iter().find(|s| s.parameter == **id).map_or(0, |s| s.parts.len());
        own.max(all) > 1
    };
    graph.parameters.iter().filter(several).map(size).sum()
}

/// The most that a peer's stages take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Held by stages and bundles while other stages' tasks run.
    pub held: Bytes,
    /// The same with the task that adds most.
    pub peak: Bytes,
}

impl Demand {
    /// Returns the demand of a stage that a peer runs alone, with so many micro-batches in flight and so many groups of them
    /// to sum up.
    ///
    /// A stage is loaded; runs passes, while bundles come and go; sums gradients up and hands them to backups; and at the
    /// end, or when a backup is new, its state is pulled. `coming` micro-batches may have bundles here, more than are
    /// kept, as the stage before may be ahead.
    pub fn of_owner(
        footprint: &Footprint,
        (kept, coming): (u64, u64),
        has_backups: bool,
        groups: u64,
    ) -> Self {
        let f = footprint;
        let published = if has_backups { f.gradient } else { Bytes::ZERO };
        let sums = f.sums * groups.max(1);
        let saved = f.saved * kept.saturating_sub(1);
        let others = f.state + saved + f.arriving * coming + sums;
        let running = others + f.saved;
        let reducing = f.state + sums + f.shared + f.reducing(false) + published;
        let pulled = f.state + f.bundle + if has_backups { sums + f.gradient } else { Bytes::ZERO };
        let held = running.max(reducing).max(pulled).max(f.state + f.start);
        // A forward pass makes what is saved of its micro-batch.
        let passing = (others + f.forward).max(running + f.backward);
        let writing = reducing.max(pulled) + f.copy;
        Self { held, peak: held.max(passing).max(writing) }
    }

    /// Returns the demand of a stage that several peers run, for each of them: it counts all groups and all followers, since
    /// the others' part may become its own. Sums that are gathered come in one bundle and go in another, in pieces;
    /// another's may lie there before its own passes are done.
    pub fn of_worker(footprint: &Footprint, (kept, coming): (u64, u64), groups: u64) -> Self {
        let f = footprint;
        let alone = Self::of_owner(f, (kept, coming), true, groups);
        if groups < 2 {
            return alone;
        }
        let sums = f.sums * groups;
        let others = f.state + f.saved * kept.saturating_sub(1) + f.arriving * coming + sums;
        let running = others + f.saved + f.gathered;
        let held = running.max(f.state + sums + f.sums + f.gathered * 2 + f.copy).max(alone.held);
        let passing = (others + f.gathered + f.forward).max(running + f.backward);
        Self { held, peak: held.max(passing).max(alone.peak) }
    }

    /// Returns the demand of a stage that a peer backs up: its state, one gradient, and the same as tensors while it is
    /// applied; or, at first, the state and its bundle. A second gradient may come before the decision on the first; it
    /// is taken in whatever the limit, and so is its update.
    pub fn of_backup(footprint: &Footprint) -> Self {
        let held = footprint.state + footprint.gradient.max(footprint.bundle);
        Self { held, peak: held.max(footprint.state + footprint.gradient * 2) }
    }

    /// Returns what both take on one peer, whose tasks run one at a time.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let peak = (self.peak + other.held).max(other.peak + self.held);
        Self { held: self.held + other.held, peak }
    }
}

/// What a peer has for stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Memory that a job may use.
    pub memory: Bytes,
    /// Threads that compute.
    pub threads: u64,
}

impl Room {
    /// Returns the room that a peer advertises.
    pub fn of(hardware: &Hardware) -> Self {
        let threads = hardware.host_capacity.max(hardware.demand).div_ceil(1000);
        Self { memory: hardware.memory, threads: u64::from(threads).max(1) }
    }

    /// Says whether a demand is never refused here.
    pub fn fits(&self, demand: Demand) -> bool {
        demand.peak <= self.memory
    }
}

/// Footprints of a cut's stages, each worked out once a number of threads.
#[derive(Debug)]
pub struct Footprints<'a> {
    spec: &'a JobSpec,
    cut: &'a Cut,
    order: PipelineOrder,
    passes: Vec<Passes>,
    groups: u16,
    known: BTreeMap<(usize, u64), Footprint>,
}

impl<'a> Footprints<'a> {
    /// Takes the stages of a cut, and the order in which they run passes.
    pub fn of(spec: &'a JobSpec, cut: &'a Cut, order: PipelineOrder) -> Self {
        let passes = cut.stages.iter().map(Passes::of).collect();
        let groups = Groups::of(spec).count();
        Self { spec, cut, order, passes, groups, known: BTreeMap::new() }
    }

    fn footprint(&mut self, stage: usize, threads: u64) -> Footprint {
        let (graph, passes, train) =
            (&self.cut.stages[stage], &self.passes[stage], &self.spec.train);
        *self
            .known
            .entry((stage, threads))
            .or_insert_with(|| Footprint::of(graph, passes, train, threads))
    }

    /// Returns what a worker of a stage needs for it, one of so many.
    pub fn worker(
        &mut self,
        stage: usize,
        room: Room,
        (workers, has_backups): (usize, bool),
    ) -> Demand {
        let kept = |stage| {
            let (stages, micro_batches) = (self.cut.stages.len(), self.spec.train.micro_batches);
            u64::from(in_flight(self.order, stage, stages, micro_batches))
        };
        // The stage before may be ahead by as many as it keeps more than this one.
        let (kept, coming) = (kept(stage), kept(stage.saturating_sub(1)));
        let (footprint, groups) = (self.footprint(stage, room.threads), u64::from(self.groups));
        let flying = (kept, coming.max(kept + 1));
        match workers {
            0 | 1 => Demand::of_owner(&footprint, flying, has_backups, groups),
            _ => Demand::of_worker(&footprint, flying, groups),
        }
    }

    /// Returns what a backup of a stage needs for it.
    pub fn backup(&mut self, stage: usize, room: Room) -> Demand {
        Demand::of_backup(&self.footprint(stage, room.threads))
    }

    /// Returns what each peer needs for its parts in a plan. A peer without room is taken to compute on one thread.
    pub fn of_plan(
        &mut self,
        stages: &[StagePlan],
        room: impl Fn(PeerId) -> Option<Room>,
    ) -> BTreeMap<PeerId, Demand> {
        let mut all: BTreeMap<PeerId, Demand> = BTreeMap::new();
        let nothing = Room { memory: Bytes::ZERO, threads: 1 };
        let mut add = |peer, demand| {
            let sum = all.entry(peer).or_default();
            *sum = sum.and(demand);
        };
        for (stage, plan) in stages.iter().enumerate() {
            // A replica keeps no more micro-batches than an owner without replicas would.
            let parts = (plan.workers().count(), plan.followers().next().is_some());
            for worker in plan.workers() {
                let own = room(worker).unwrap_or(nothing);
                add(worker, self.worker(stage, own, parts));
            }
            for backup in &plan.backups {
                add(*backup, self.backup(stage, room(*backup).unwrap_or(nothing)));
            }
        }
        all
    }
}
