//! Gradient parts summed over micro-batches: a sum for each group of them, and groups added in order.
//!
//! The order is that of `protocol/src/schedule/groups.rs`, whoever runs which group: a replica adds its groups to the sums
//! of those before and hands the result on, so that the owner finds the bits that one process finds.

use std::collections::BTreeMap;

use wattle_protocol::dag::bundle::{gather_chunks, group_sums_bytes};
use wattle_protocol::ids::{MicroBatch, Step, ValueId};
use wattle_protocol::swarm::io::{TaskError, TensorName};

use super::{Reader, Stage, check_length};
use crate::exec::flight::{Flight, Report};
use crate::exec::reading::Reading;
use crate::exec::store::Store;
use crate::exec::tensor::{Float, HostBackend, Tensor};

/// A gradient part: of which parameter, and which of its parts.
type Place = (ValueId, u16);

/// Sums of a step.
#[derive(Debug)]
pub(super) struct Sums<B: HostBackend> {
    /// By group, not yet added to other groups.
    groups: BTreeMap<u16, BTreeMap<Place, Float<B>>>,
    /// Over all groups.
    whole: BTreeMap<Place, Float<B>>,
}

impl<B: HostBackend> Sums<B> {
    pub(super) fn new() -> Self {
        Self { groups: BTreeMap::new(), whole: BTreeMap::new() }
    }

    pub(super) fn clear(&mut self) {
        self.groups.clear();
        self.whole.clear();
    }

    /// Returns how many times the stage's gradient parts are held.
    pub(super) fn held(&self) -> u64 {
        self.groups.len() as u64 + u64::from(!self.whole.is_empty())
    }

    /// Adds a micro-batch's part to the sum of its group.
    pub(super) fn add(&mut self, group: u16, place: Place, part: Float<B>) {
        let sums = self.groups.entry(group).or_default();
        let sum = match sums.remove(&place) {
            Some(sum) => sum.add(part),
            None => part,
        };
        sums.insert(place, sum);
    }

    /// Takes the sums of one place out of all groups and adds them, in order, to what the groups before have.
    fn fold(&mut self, place: Place, before: Option<Float<B>>) -> Option<Float<B>> {
        let mut sum = before;
        for sums in self.groups.values_mut() {
            let Some(own) = sums.remove(&place) else { continue };
            sum = Some(match sum {
                Some(sum) => sum.add(own),
                None => own,
            });
        }
        self.groups.retain(|_, sums| !sums.is_empty());
        sum
    }

    /// Adds groups up that are not yet, and returns all sums.
    pub(super) fn whole(&mut self) -> &BTreeMap<Place, Float<B>> {
        let places: Vec<Place> = self.groups.values().flat_map(BTreeMap::keys).copied().collect();
        for place in places {
            if let Some(sum) = self.fold(place, None) {
                self.whole.insert(place, sum);
            }
        }
        &self.whole
    }

    /// Multiplies all sums.
    #[cfg(test)]
    pub(super) fn scale(&mut self, factor: f32) {
        let groups = self.groups.values_mut().flat_map(BTreeMap::values_mut);
        for sum in groups.chain(self.whole.values_mut()) {
            *sum = sum.clone().scale(factor);
        }
    }
}

/// Which sums a worker adds its own to.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// Piece of the gradient.
    pub chunk: u16,
    /// This worker's place; the owner's is 0.
    pub worker: u16,
    /// Whose sums are in the store.
    pub source: Option<u16>,
    /// How many groups went into them.
    pub first: u16,
}

impl<B: HostBackend> Stage<B> {
    /// Adds this worker's groups to those before, for one piece of the gradient.
    ///
    /// *Errors*: [`TaskError::Missing`] where sums are not here.
    pub fn gather(
        &mut self,
        step: Step,
        gather: Gather,
        store: &Store,
    ) -> Result<Flight, TaskError> {
        self.check_step(step)?;
        let Gather { chunk, worker, source, first } = gather;
        let work = self.work.clone();
        let graph = &work.graph;
        let missing = |what: String| TaskError::Missing(what);
        let chunks = gather_chunks(graph);
        let run = chunks.get(usize::from(chunk)).cloned();
        let run = run.ok_or_else(|| missing(format!("chunk {chunk} of stage {}", graph.stage)))?;
        let places = graph.gradients[run.clone()].iter().map(|part| (part.parameter, part.part));
        let places: Vec<Place> = places.collect();
        let mut before: BTreeMap<Place, Float<B>> = BTreeMap::new();
        if let Some(source) = source {
            let name = TensorName::GroupSums { stage: graph.stage, worker: source, chunk };
            let key = self.key(name);
            let bytes = store.take(&key).ok_or_else(|| missing(format!("{key:?}")))?;
            let behind: Vec<MicroBatch> = work.groups.before(first).collect();
            let want = group_sums_bytes(graph, &run, behind.len());
            check_length(&bytes, want.count(), "sums of groups")?;
            let mut reader = Reader { rest: &bytes };
            for place in &places {
                before.insert(*place, self.read(&mut reader, place.0));
            }
            for micro_batch in behind.into_iter().filter(|_| run.start == 0) {
                let updates = graph.updates.iter();
                let statistics = updates.map(|u| self.read(&mut reader, u.buffer)).collect();
                self.statistics.insert(micro_batch, statistics);
            }
        }
        let mut readings = Vec::new();
        for place in places {
            let sum = self.sums.fold(place, before.remove(&place));
            let sum = sum.ok_or_else(|| missing(format!("gradient part {place:?}")))?;
            if worker == 0 {
                self.sums.whole.insert(place, sum);
            } else {
                readings.push(Reading::begin(Tensor::Float(sum)));
            }
        }
        let mut flight = Flight::of(self.job, graph.stage, Report::Done);
        if worker > 0 {
            if run.start == 0 {
                let statistics = self.statistics.values().flatten().cloned();
                readings.extend(statistics.map(|s| Reading::begin(Tensor::Float(s))));
            }
            let name = TensorName::GroupSums { stage: graph.stage, worker, chunk };
            flight.carry(self.key(name), readings);
        }
        Ok(flight)
    }
}
