//! A stage's state: where it comes from, and how it is written.
//!
//! Drawn from the job's seed, read from a bundle that another holder wrote, or given by the submitter; the last is
//! compared with the hashes that the job's id covers.

use wattle_protocol::dag::bundle::{optimizer_slots, start_bytes, state_bytes};
use wattle_protocol::dag::{Init, Source};
use wattle_protocol::ids::{TensorHash, ValueId};
use wattle_protocol::swarm::io::{TaskError, TensorKey};

use super::{Reader, Stage, check_length};
use crate::exec::flight::{Flight, Report};
use crate::exec::reading::Reading;
use crate::exec::tensor::{Float, HostBackend, Tensor};
use crate::init;

/// Where a stage's state comes from.
#[derive(Clone, Copy, Debug)]
pub enum State<'a> {
    /// From the job's seed.
    Drawn,
    /// From a `StageState` bundle.
    Stored(&'a [u8]),
    /// From a `StageStart` bundle.
    Given(&'a [u8]),
}

impl<B: HostBackend> Stage<B> {
    pub(super) fn initialise(&mut self) {
        let work = self.work.clone();
        for id in work.graph.parameters.iter().chain(&work.graph.buffers) {
            let value = &work.graph.values[id];
            let shape = &value.fact.shape;
            let draw = |init: Init| init::draw(work.train.seed, value, init);
            match value.source {
                Source::Parameter { init, .. } => {
                    self.parameters.insert(*id, Float::new(draw(init), shape, &self.device));
                    let zeros = self.zeros(*id);
                    self.slots.insert(*id, zeros);
                }
                Source::Buffer { init } => {
                    self.buffers.insert(*id, Float::new(draw(init), shape, &self.device));
                }
                Source::Node { .. } | Source::Input => {}
            }
        }
    }

    /// Takes what the submitter gave, if it is what the job names; the optimizer has seen nothing yet.
    pub(super) fn begin_from(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
        let work = self.work.clone();
        let graph = &work.graph;
        check_length(bytes, start_bytes(graph).count(), "what a stage starts from")?;
        let mut hashes = work.start.iter().flatten();
        let mut rest = bytes;
        for id in graph.parameters.iter().chain(&graph.buffers) {
            let value = &graph.values[id];
            let (own, others) = rest.split_at(value.fact.elements() * 4);
            rest = others;
            if hashes.next() != Some(&(*id, TensorHash::of(own))) {
                let name = &value.name;
                let text = format!("the given {name} is not the one that the job was named for");
                return Err(TaskError::Missing(text));
            }
        }
        let mut reader = Reader { rest: bytes };
        for id in &graph.parameters {
            let start = self.read(&mut reader, *id);
            self.parameters.insert(*id, start);
            let zeros = self.zeros(*id);
            self.slots.insert(*id, zeros);
        }
        for id in &graph.buffers {
            let start = self.read(&mut reader, *id);
            self.buffers.insert(*id, start);
        }
        Ok(())
    }

    /// Returns what the optimizer keeps of a parameter before the first update.
    fn zeros(&self, id: ValueId) -> Vec<Float<B>> {
        let fact = &self.work.graph.values[&id].fact;
        let slot = |_| Float::full(0.0, &fact.shape, &self.device);
        (0..optimizer_slots(&self.work.train.optimizer)).map(slot).collect()
    }

    pub(super) fn restore(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
        let work = self.work.clone();
        let graph = &work.graph;
        check_length(bytes, state_bytes(graph, &work.train.optimizer).count(), "a stage's state")?;
        let mut reader = Reader { rest: bytes };
        for id in &graph.parameters {
            self.parameters.insert(*id, self.read(&mut reader, *id));
            self.slots.insert(*id, Vec::new());
        }
        for _ in 0..optimizer_slots(&work.train.optimizer) {
            for id in &graph.parameters {
                let slot = self.read(&mut reader, *id);
                self.slots.entry(*id).or_default().push(slot);
            }
        }
        for id in &graph.buffers {
            self.buffers.insert(*id, self.read(&mut reader, *id));
        }
        Ok(())
    }

    pub(super) fn read(&self, reader: &mut Reader<'_>, id: ValueId) -> Float<B> {
        let fact = &self.work.graph.values[&id].fact;
        Float::new(reader.floats(fact.elements()), &fact.shape, &self.device)
    }

    /// Reads parameters, optimizer state and buffers, to be stored under a key.
    pub fn snapshot(&self, key: TensorKey) -> Flight {
        let graph = &self.work.graph;
        let begin = |tensor: &Float<B>| Reading::begin(Tensor::Float(tensor.clone()));
        let mut parts: Vec<Reading> =
            graph.parameters.iter().map(|id| begin(&self.parameters[id])).collect();
        for slot in 0..optimizer_slots(&self.work.train.optimizer) {
            parts.extend(graph.parameters.iter().map(|id| begin(&self.slots[id][slot])));
        }
        parts.extend(graph.buffers.iter().map(|id| begin(&self.buffers[id])));
        let mut flight = Flight::of(self.job, graph.stage, Report::Done);
        flight.carry(key, parts);
        flight
    }
}
