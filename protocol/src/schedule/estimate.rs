//! Predicts the step time of a placement and its parts: work and edges of the real cut, run by `course` and `tail`.
//!
//! Pure; ties break on places. Not here: which placements there are (`fence`).

use std::collections::{BTreeMap, BTreeSet};

use super::carrying::carry;
use super::course::{Course, Outcome, Station, Wire, Worker};
use super::footprint::Footprints;
use super::forms::{EdgeForms, of_edge};
use super::ground::{Crowd, Ground};
use super::groups::Groups;
use super::launches::Launches;
use super::load::Load;
use super::tail::{Ending, Pieces, commit, one_after_another, ready};
use super::{Prediction, StagePlan};
use crate::dag::bundle::{gather_chunks, gradient_bytes, group_sums_bytes, shared_bytes};
use crate::dag::cut::{Cut, StageGraph};
use crate::dag::{Dag, Node};
use crate::ids::{EdgeId, PeerId};
use crate::job::{JobSpec, PipelineOrder};
use crate::units::{Bytes, Duration, Flops};

/// Everything that the prediction of one placement needs.
#[derive(Debug)]
pub(super) struct Placement<'a> {
    /// The job.
    pub(super) spec: &'a JobSpec,
    /// The network in stages.
    pub(super) cut: &'a Cut,
    /// Order of passes.
    pub(super) order: PipelineOrder,
    /// Owner, replicas and backups of each stage.
    pub(super) stages: &'a [StagePlan],
    /// Who commits the steps.
    pub(super) leader: PeerId,
    /// Everybody who has a part, measured.
    pub(super) ground: &'a Ground<'a>,
    /// How tensors cross links, edge by edge; empty where all are dense.
    pub(super) forms: &'a [EdgeForms],
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

/// Returns the work of adding gradients of so many bytes in so many tensors to the sums of the micro-batches before: two are
/// read and one is written.
pub(super) fn adding_up(bytes: Bytes, tensors: u64) -> Load {
    Load { bytes: bytes * 3, launches: Launches::light(tensors), ..Load::default() }
}

/// Returns the work of adding all gradient parts of a stage to their sums.
fn adding_gradients(stage: &StageGraph) -> Load {
    let gradients: Bytes = stage
        .gradients
        .iter()
        .filter_map(|part| stage.values.get(&part.parameter))
        .map(|value| value.fact.bytes())
        .sum();
    adding_up(gradients, stage.gradients.len() as u64)
}

/// Returns the work of a stage's forward and backward pass on one micro-batch.
pub fn pass_loads(stage: &StageGraph) -> (Load, Load) {
    let forward = program_load(stage, &stage.forward.nodes) + Load::PASS;
    (forward, program_load(stage, &stage.backward.nodes) + adding_gradients(stage) + Load::PASS)
}

/// Returns the bytes of a stage's parameters.
pub fn parameter_bytes(stage: &StageGraph) -> Bytes {
    stage.parameters.iter().filter_map(|p| stage.values.get(p)).map(|v| v.fact.bytes()).sum()
}

/// Returns how long the busiest device computes.
fn busiest(stations: &[Station], outcome: &Outcome) -> Duration {
    let mut devices: BTreeMap<usize, u64> = BTreeMap::new();
    for (station, list) in stations.iter().zip(&outcome.busy) {
        for (worker, busy) in station.workers.iter().zip(list) {
            let sum = devices.entry(worker.device).or_default();
            *sum = sum.saturating_add(*busy);
        }
    }
    Duration::from_micros(devices.into_values().max().unwrap_or(0))
}

/// Returns the work of one pass over parameters of so many bytes in so many tensors.
pub(super) fn sweep(bytes: Bytes, tensors: u64) -> Load {
    let elements = Flops::new(bytes.count() / 4);
    Load { elements, bytes, launches: Launches::light(tensors), ..Load::default() }
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

impl Placement<'_> {
    /// Returns what each owner needs for its stage at most.
    fn memory(&self) -> Vec<Bytes> {
        let mut footprints = Footprints::of(self.spec, self.cut, self.order);
        let of = |(stage, plan): (usize, &StagePlan)| {
            let room = self.ground.room(self.number(plan.owner));
            let parts = (plan.workers().count(), plan.followers().next().is_some());
            footprints.worker(stage, room, parts).peak
        };
        self.stages.iter().enumerate().map(of).collect()
    }

    /// Predicts one step.
    pub(super) fn predict(&self) -> Prediction {
        let crowd = self.crowd();
        let (stations, wires) = self.laid(&crowd);
        let outcome = self.course(false).run(&stations, &wires);
        let endings = self.endings(&stations, &outcome);
        let leader = self.ground.number(self.leader);
        let commit = commit(self.ground, &crowd, &endings, leader);
        let step = Duration::from_micros(outcome.drained) + commit;
        let longest = |list: &Vec<u64>| list.iter().copied().max().unwrap_or(0);
        let stage_compute: Vec<Duration> =
            outcome.busy.iter().map(|list| Duration::from_micros(longest(list))).collect();
        let workers: BTreeSet<usize> =
            stations.iter().flat_map(|s| s.workers.iter().map(|w| w.device)).collect();
        let total = step.micros().saturating_mul(workers.len() as u64).max(1);
        let busy = outcome.busy.iter().flatten().copied().fold(0, u64::saturating_add);
        let bubble = 1000 - (u128::from(busy.min(total)) * 1000 / u128::from(total));
        Prediction {
            step,
            compute: busiest(&stations, &outcome),
            transfer: Duration::from_micros(outcome.link_busy),
            commit,
            bubble_permille: u32::try_from(bubble).unwrap_or(1000),
            memory: self.memory(),
            stage_compute,
        }
    }

    /// Returns what crosses, edge by edge of the cut, and all that happens in the predicted step.
    pub(super) fn recorded(&self) -> (Vec<Wire>, Outcome) {
        let (stations, wires) = self.laid(&self.crowd());
        let outcome = self.course(true).run(&stations, &wires);
        (wires, outcome)
    }

    /// Returns the stages with what carrying tensors adds to them, and what crosses.
    fn laid(&self, crowd: &Crowd) -> (Vec<Station>, Vec<Wire>) {
        let (mut stations, wires) = (self.stations(crowd), self.wires());
        carry(self.ground, crowd, &mut stations, &wires);
        (stations, wires)
    }

    fn course(&self, record: bool) -> Course<'_> {
        Course {
            ground: self.ground,
            order: self.order,
            micro_batches: self.spec.train.micro_batches,
            record,
        }
    }

    /// Returns the number of a peer; only peers on the ground have a part in a placement.
    fn number(&self, peer: PeerId) -> usize {
        self.ground.number(peer).expect("everybody who has a part is on the ground")
    }

    fn crowd(&self) -> Crowd {
        let workers = self.stages.iter().flat_map(StagePlan::workers);
        self.ground.crowd(workers.map(|peer| self.number(peer)))
    }

    fn stations(&self, crowd: &Crowd) -> Vec<Station> {
        let one = |(stage, plan): (&StageGraph, &StagePlan)| {
            let (forward, backward) = pass_loads(stage);
            let sweep = sweep(parameter_bytes(stage), stage.parameters.len() as u64);
            let leader = self.ground.number(self.leader);
            let worker = |peer| {
                let device = self.number(peer);
                let time = |load| self.ground.time(device, load, crowd).micros();
                let ready = ready(self.ground, crowd, leader, device, sweep);
                Worker { device, forward: time(forward), backward: time(backward), ready }
            };
            let workers = plan.workers().map(worker).collect();
            Station { workers, turns: plan.turns.clone() }
        };
        let mut stations: Vec<Station> = self.cut.stages.iter().zip(self.stages).map(one).collect();
        one_after_another(self.ground, self.ground.number(self.leader), &mut stations);
        stations
    }

    fn wires(&self) -> Vec<Wire> {
        let one = |(id, edge): (u32, &crate::dag::cut::CutEdge)| {
            let (forms, elements) = (of_edge(self.forms, EdgeId::new(id)), edge.fact.elements());
            let (from, to) = (edge.from.index(), edge.to.index());
            let back = edge.cotangent.map(|_| forms.back.bytes(elements));
            Wire { from, to, there: forms.there.bytes(elements), back }
        };
        (0..).zip(&self.cut.edges).map(one).collect()
    }

    fn endings(&self, stations: &[Station], outcome: &Outcome) -> Vec<Ending> {
        let (groups, micro_batches) = (Groups::of(self.spec), self.spec.train.micro_batches);
        let one = |(place, stage): (usize, &StageGraph)| {
            let sharers: BTreeSet<_> =
                stage.shared.iter().flat_map(|s| s.stages.iter().copied()).collect();
            let others = sharers.into_iter().filter(|other| *other != stage.stage);
            let devices = stations[place].workers.iter().map(|w| w.device);
            let piece = |chunk| group_sums_bytes(stage, chunk, micro_batches as usize);
            Ending {
                workers: devices.zip(outcome.ended[place].iter().copied()).collect(),
                gradient: gradient_bytes(stage, micro_batches),
                pieces: Pieces::Each(gather_chunks(stage).iter().map(piece).collect()),
                groups: groups.held(&stations[place].turns, stations[place].workers.len()),
                adding: adding_gradients(stage),
                sweep: sweep(parameter_bytes(stage), stage.parameters.len() as u64),
                backups: self.stages[place].backups.iter().map(|b| self.number(*b)).collect(),
                shared: others
                    .map(|other| (other.index(), shared_bytes(stage, other, stage.stage)))
                    .collect(),
            }
        };
        self.cut.stages.iter().enumerate().map(one).collect()
    }

    /// Returns the same stages with micro-batches dealt out to their workers by speed.
    pub(super) fn dealt(&self) -> Vec<StagePlan> {
        let (stations, groups) = (self.stations(&self.crowd()), Groups::of(self.spec));
        let one = |(plan, station): (&StagePlan, Station)| {
            let times: Vec<u64> =
                station.workers.iter().map(|w| w.forward.saturating_add(w.backward)).collect();
            StagePlan { turns: groups.deal(&times), ..plan.clone() }
        };
        self.stages.iter().zip(stations).map(one).collect()
    }
}
