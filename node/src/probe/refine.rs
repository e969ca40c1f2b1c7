//! What real tasks say of this machine: the probe's coefficients set right by the operators of jobs.
//!
//! Sums of a few seconds count, so that a stall does not; a coefficient moves no further from the probe's than
//! [`BOUND`] either way, and only a difference that a placement would feel is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use wattle_protocol::dag::cost::Unit;
use wattle_protocol::ids::{JobId, StageId};
use wattle_protocol::schedule::advert::Hardware;
use wattle_protocol::schedule::fitted::{Sample, fitted};
use wattle_protocol::schedule::load::Load;
use wattle_protocol::swarm::io::{OpTimes, StageWork, Task};

use super::networks::loads;

/// Seconds of operators that are summed up before they count.
const WINDOW: u64 = 3_000_000_000;
/// How far a coefficient may move from the probe's, as a factor.
const BOUND: f64 = 4.0;
/// A predicted time that changes by less is not told.
const NEWS: f64 = 0.15;

type Loads = BTreeMap<&'static str, (Unit, Load)>;

/// Learns from tasks.
#[derive(Debug)]
pub(crate) struct Refiner {
    probed: Hardware,
    told: Hardware,
    stages: BTreeMap<(JobId, StageId), (Loads, Loads)>,
    samples: BTreeMap<&'static str, (Unit, Sample)>,
}

impl Refiner {
    /// Begins with what the probe has found, of the whole machine.
    pub(crate) fn new(probed: Hardware) -> Self {
        Self { told: probed.clone(), probed, stages: BTreeMap::new(), samples: BTreeMap::new() }
    }

    /// Notes which stages there are.
    pub(crate) fn hears(&mut self, task: &Task) {
        match task {
            Task::LoadStage { job, work, .. } => self.loaded(*job, work),
            Task::Unload { job, stage } => {
                self.stages.remove(&(*job, *stage));
            }
            Task::ResetStep { .. }
            | Task::Forward { .. }
            | Task::Backward { .. }
            | Task::GatherGradients { .. }
            | Task::ShareGradients { .. }
            | Task::ReduceGradients { .. }
            | Task::OptimizerStep { .. }
            | Task::Snapshot { .. } => {}
        }
    }

    fn loaded(&mut self, job: JobId, work: &Arc<StageWork>) {
        let graph = &work.graph;
        let both = (loads(graph, &graph.forward), loads(graph, &graph.backward));
        self.stages.insert((job, graph.stage), both);
    }

    /// Takes what a pass's operators took. Returns hardware where that is news.
    pub(crate) fn ran(&mut self, pass: Pass, ops: &OpTimes) -> Option<Hardware> {
        let both = self.stages.get(&(pass.job, pass.stage))?;
        let loads = if pass.is_back { &both.1 } else { &both.0 };
        for (name, nanos) in ops.iter() {
            if let Some((unit, load)) = loads.get(name) {
                let sample = Sample { load: *load, nanos };
                self.samples.entry(name).or_insert((*unit, Sample::default())).1.add(sample);
            }
        }
        let seen: u64 = self.samples.values().map(|(_, s)| s.nanos).sum();
        if seen < WINDOW {
            return None;
        }
        let samples = std::mem::take(&mut self.samples);
        let work: Load = samples.values().map(|(_, s)| s.load).sum();
        let found = self.bounded(fitted(&self.told, &samples), work);
        let change = found.time(work).seconds() / self.told.time(work).seconds().max(1e-9);
        if (1.0 - NEWS..1.0 + NEWS).contains(&change) {
            return None;
        }
        self.told = found.clone();
        Some(found)
    }

    /// Keeps to the probe's figures where tasks seem to say something that no machine does.
    fn bounded(&self, found: Hardware, work: Load) -> Hardware {
        let factor = found.time(work).seconds() / self.probed.time(work).seconds().max(1e-9);
        if (1.0 / BOUND..BOUND).contains(&factor) { found } else { self.told.clone() }
    }
}

/// A pass of a stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    job: JobId,
    stage: StageId,
    is_back: bool,
}

impl Pass {
    /// Returns the pass that a task is; None for other tasks.
    pub(crate) fn of(task: &Task) -> Option<Self> {
        match task {
            Task::Forward { job, stage, .. } => {
                Some(Self { job: *job, stage: *stage, is_back: false })
            }
            Task::Backward { job, stage, .. } => {
                Some(Self { job: *job, stage: *stage, is_back: true })
            }
            Task::LoadStage { .. }
            | Task::ResetStep { .. }
            | Task::GatherGradients { .. }
            | Task::ShareGradients { .. }
            | Task::ReduceGradients { .. }
            | Task::OptimizerStep { .. }
            | Task::Snapshot { .. }
            | Task::Unload { .. } => None,
        }
    }
}
