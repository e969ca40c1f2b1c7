//! One loaded stage: its state, and what is in flight within a step.
//!
//! Not here: which task comes when (`protocol/src/swarm`). The invariant that makes a redone or taken-over step exact:
//! gradient parts are added in micro-batch order within groups, then group by group (`sums`), and summed in part order;
//! statistics apply in micro-batch order.

pub mod footprint;
mod recalibrate;
mod reduce;
mod state;
mod sums;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn_backend::tensor::Device;
use wattle_protocol::codec::{Form, decode};
use wattle_protocol::dag::bundle::gradient_bytes;
use wattle_protocol::dag::{Dtype, Source};
use wattle_protocol::ids::{Epoch, JobId, MicroBatch, Step, ValueId};
use wattle_protocol::schedule::footprint::{Footprint, Passes};
use wattle_protocol::swarm::io::{StageWork, TaskError, TensorKey, TensorName};

pub use self::state::State;
pub use self::sums::Gather;
use self::sums::Sums;
use super::flight::{Flight, Report};
use super::kernel::RunContext;
use super::program::{Values, run};
use super::reading::Reading;
use super::store::{Bundle, Store, to_floats};
use super::tensor::{Float, HostBackend, Tensor};
use crate::data::{self, Elements, Place};
use crate::optim::Update;

/// One loaded stage of one job.
#[derive(Debug)]
pub struct Stage<B: HostBackend> {
    job: JobId,
    work: Arc<StageWork>,
    epoch: Epoch,
    step: Step,
    device: Device<B>,
    passes: Passes,
    footprint: Footprint,
    parameters: BTreeMap<ValueId, Float<B>>,
    slots: BTreeMap<ValueId, Vec<Float<B>>>,
    buffers: BTreeMap<ValueId, Float<B>>,
    /// What the backward pass of a micro-batch will read.
    saved: BTreeMap<MicroBatch, Values<B>>,
    /// Sources of buffer updates of a micro-batch, in the order of the updates.
    statistics: BTreeMap<MicroBatch, Vec<Float<B>>>,
    /// Gradient parts summed over micro-batches.
    sums: Sums<B>,
    last_backward: Option<MicroBatch>,
    reduced: Option<BTreeMap<ValueId, Float<B>>>,
}

impl<B: HostBackend> Stage<B> {
    /// Loads a stage with its state.
    ///
    /// *Errors*: [`TaskError::Missing`] if a bundle is not what the stage's state, or what it starts from, has to be.
    pub fn load(
        job: JobId,
        work: Arc<StageWork>,
        state: State<'_>,
        step: Step,
        device: &Device<B>,
    ) -> Result<Self, TaskError> {
        let graph = &work.graph;
        let passes = Passes::of(graph);
        let mut stage = Self {
            job,
            epoch: Epoch::default(),
            step,
            device: device.clone(),
            footprint: Footprint::of(graph, &passes, &work.train, footprint::threads()),
            passes,
            parameters: BTreeMap::new(),
            slots: BTreeMap::new(),
            buffers: BTreeMap::new(),
            saved: BTreeMap::new(),
            statistics: BTreeMap::new(),
            sums: Sums::new(),
            last_backward: None,
            reduced: None,
            work: work.clone(),
        };
        match state {
            State::Drawn => stage.initialise(),
            State::Stored(bytes) => stage.restore(bytes)?,
            State::Given(bytes) => stage.begin_from(bytes)?,
        }
        Ok(stage)
    }

    /// Returns the stage's parameters and buffers by name.
    ///
    /// *Errors*: the device's.
    pub fn named(&self) -> Result<BTreeMap<String, Vec<f32>>, TaskError> {
        let begin = |(id, tensor): (&ValueId, &Float<B>)| {
            let name = self.work.graph.values[id].name.clone();
            (name, Reading::begin(Tensor::Float(tensor.clone())))
        };
        let readings: Vec<_> = self.parameters.iter().chain(&self.buffers).map(begin).collect();
        readings.into_iter().map(|(name, reading)| Ok((name, reading.floats()?))).collect()
    }

    /// Forgets what is in flight; keys carry this epoch from here on.
    pub fn reset(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.clear();
    }

    fn clear(&mut self) {
        self.saved.clear();
        self.statistics.clear();
        self.sums.clear();
        self.last_backward = None;
        self.reduced = None;
    }

    fn key(&self, name: TensorName) -> TensorKey {
        TensorKey { job: self.job, epoch: self.epoch, step: self.step, name }
    }

    fn check_step(&self, step: Step) -> Result<(), TaskError> {
        if step == self.step {
            return Ok(());
        }
        let (stage, at) = (self.work.graph.stage, self.step);
        Err(TaskError::Missing(format!("stage {stage} at step {step}; it is at {at}")))
    }

    fn context(&self, micro_batch: MicroBatch) -> RunContext {
        RunContext {
            seed: self.work.train.seed,
            step: self.step.number(),
            micro_batch: micro_batch.index(),
        }
    }

    /// Takes a bundle of one value off the store.
    fn receive(
        &self,
        name: TensorName,
        (id, form): (ValueId, Form),
        store: &Store,
    ) -> Result<Tensor<B>, TaskError> {
        let key = self.key(name);
        let missing = || TaskError::Missing(format!("{key:?}"));
        let bundle = store.take_any(&key).ok_or_else(missing)?;
        let graph = &self.work.graph;
        // A partial cotangent has a name of its own; its shape is that of the edge's value.
        let fact = &graph.values.get(&id).ok_or_else(missing)?.fact;
        let bytes = match bundle {
            Bundle::Packed(bytes) => bytes,
            Bundle::Unpacked(floats) if floats.len() == fact.elements() => {
                return Ok(Tensor::floats(floats, &fact.shape, &self.device));
            }
            Bundle::Unpacked(floats) => {
                let (got, wanted) = (floats.len(), fact.elements());
                let text = format!("{key:?}: {got} elements have come instead of {wanted}");
                return Err(TaskError::Missing(text));
            }
        };
        if form.is_exact() || fact.dtype == Dtype::I32 {
            check_length(&bytes, fact.bytes().count(), "an edge's tensor")?;
        }
        Ok(match fact.dtype {
            Dtype::I32 => {
                let ints =
                    bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
                Tensor::ints(ints, &fact.shape, &self.device)
            }
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => {
                let floats = match form.is_exact() {
                    true => to_floats(&bytes),
                    false => {
                        let mut floats = vec![0.0; fact.elements()];
                        let unread = |error| TaskError::Missing(format!("{key:?}: {error}"));
                        decode(form, &bytes, &mut floats).map_err(unread)?;
                        floats
                    }
                };
                Tensor::floats(floats, &fact.shape, &self.device)
            }
        })
    }

    fn data(&self, micro_batch: MicroBatch, id: ValueId) -> Result<Tensor<B>, TaskError> {
        let value = &self.work.graph.values[&id];
        let place = Place {
            step: self.step.number(),
            micro_batch: micro_batch.index(),
            micro_batches: self.work.train.micro_batches,
        };
        let elements = data::batch(&self.work.data, place, &value.name, &value.fact)
            .map_err(|e| TaskError::Missing(e.to_string()))?;
        Ok(match elements {
            Elements::Ints(ints) => Tensor::ints(ints, &value.fact.shape, &self.device),
            Elements::Floats(floats) => Tensor::floats(floats, &value.fact.shape, &self.device),
        })
    }

    fn state(&self, id: ValueId) -> Option<Float<B>> {
        self.parameters.get(&id).or_else(|| self.buffers.get(&id)).cloned()
    }

    /// Launches the forward pass of a micro-batch.
    ///
    /// *Errors*: [`TaskError`].
    pub fn forward(
        &mut self,
        step: Step,
        micro_batch: MicroBatch,
        store: &Store,
    ) -> Result<Flight, TaskError> {
        self.check_step(step)?;
        let work = self.work.clone();
        let graph = &work.graph;
        let mut values: Values<B> = BTreeMap::new();
        for (edge, cut) in &graph.receives {
            let name = TensorName::Activation { edge: *edge, micro_batch };
            let form = work.form_there(*edge);
            values.insert(cut.value, self.receive(name, (cut.value, form), store)?);
        }
        for id in &graph.data {
            values.insert(*id, self.data(micro_batch, *id)?);
        }
        let context = self.context(micro_batch);
        let state = |id| self.state(id);
        let (program, lives) = (&graph.forward, &self.passes.forward);
        let times = run(program, lives, &mut values, state, &context, &self.device)?;
        let get = |id: ValueId| {
            values
                .get(&id)
                .cloned()
                .ok_or_else(|| TaskError::Missing(format!("forward value {id:?}")))
        };
        let loss = graph.loss.map(|id| get(id).map(Reading::begin)).transpose()?;
        let mut flight = Flight::of(self.job, graph.stage, Report::Forward(loss)).timed(times);
        for (edge, cut) in &graph.sends {
            let key = self.key(TensorName::Activation { edge: *edge, micro_batch });
            let form = work.form_there(*edge);
            flight.carry_as(form, key, vec![Reading::begin(get(cut.value)?)]);
        }
        let statistics = graph.updates.iter().map(|u| get(u.from)?.into_float());
        let statistics = statistics.collect::<Result<Vec<_>, _>>()?;
        let mut saved = BTreeMap::new();
        for id in &graph.saved {
            saved.insert(*id, get(*id)?);
        }
        self.statistics.insert(micro_batch, statistics);
        self.saved.insert(micro_batch, saved);
        Ok(flight)
    }

    /// Launches the backward pass of a micro-batch and adds its gradients up.
    ///
    /// *Errors*: [`TaskError`]. *Panics* if micro-batches come out of order, since sums would depend on the order.
    pub fn backward(
        &mut self,
        step: Step,
        micro_batch: MicroBatch,
        store: &Store,
    ) -> Result<Flight, TaskError> {
        self.check_step(step)?;
        assert!(
            self.last_backward.is_none_or(|last| last < micro_batch),
            "backward passes of a stage run in micro-batch order"
        );
        let work = self.work.clone();
        let graph = &work.graph;
        let missing = |what: String| TaskError::Missing(what);
        let mut values = self
            .saved
            .remove(&micro_batch)
            .ok_or_else(|| missing(format!("the forward pass of {micro_batch:?}")))?;
        for (edge, cut) in &graph.sends {
            if let Some(id) = cut.cotangent {
                let name = TensorName::Cotangent { edge: *edge, micro_batch };
                let form = work.form_back(*edge);
                values.insert(id, self.receive(name, (id, form), store)?);
            }
        }
        let context = self.context(micro_batch);
        let state = |id| self.state(id);
        let (program, lives) = (&graph.backward, &self.passes.backward);
        let times = run(program, lives, &mut values, state, &context, &self.device)?;
        let mut flight = Flight::of(self.job, graph.stage, Report::Done).timed(times);
        for (edge, cut) in &graph.receives {
            if let Some(id) = cut.cotangent {
                let tensor = values.get(&id).cloned();
                let tensor = tensor.ok_or_else(|| missing(format!("cotangent {id:?}")))?;
                let key = self.key(TensorName::Cotangent { edge: *edge, micro_batch });
                flight.carry_as(work.form_back(*edge), key, vec![Reading::begin(tensor)]);
            }
        }
        let mut parts = Vec::with_capacity(graph.gradients.len());
        for part in &graph.gradients {
            let tensor = values.get(&part.value).cloned();
            let tensor = tensor.ok_or_else(|| missing(format!("gradient {:?}", part.value)))?;
            parts.push(((part.parameter, part.part), tensor.into_float()?));
        }
        drop(values);
        let group = work.groups.group(micro_batch);
        for (place, part) in parts {
            self.sums.add(group, place, part);
        }
        self.last_backward = Some(micro_batch);
        Ok(flight)
    }

    /// Applies the update of one step, from the stage's own gradient or from a `StageGradient` bundle.
    ///
    /// *Errors*: [`TaskError::Missing`] where there is no gradient.
    pub fn update(
        &mut self,
        step: Step,
        scale: f64,
        stored: Option<&[u8]>,
    ) -> Result<(), TaskError> {
        self.check_step(step)?;
        let work = self.work.clone();
        let graph = &work.graph;
        let (mut gradients, statistics) = match stored {
            Some(bytes) => self.read_gradient(bytes)?,
            None => {
                let own = self.reduced.take();
                let own = own.ok_or_else(|| TaskError::Missing("a reduced gradient".into()))?;
                (own, std::mem::take(&mut self.statistics).into_values().collect())
            }
        };
        for id in &graph.parameters {
            let Some(gradient) = gradients.remove(id) else { continue };
            let Source::Parameter { decay, .. } = graph.values[id].source else { continue };
            let update = Update::of(&work.train, step.number(), scale, decay);
            let parameter = self.parameters.remove(id).expect("loaded with the stage");
            let slots = self.slots.remove(id).expect("loaded with the stage");
            let (parameter, slots) = update.apply(parameter, slots, gradient, &self.device);
            self.parameters.insert(*id, parameter);
            self.slots.insert(*id, slots);
        }
        for statistics in statistics {
            for (update, from) in graph.updates.iter().zip(statistics) {
                let buffer = self.buffers.remove(&update.buffer).expect("loaded with the stage");
                let kept = buffer.scale(1.0 - update.momentum);
                self.buffers.insert(update.buffer, kept.add(from.scale(update.momentum)));
            }
        }
        self.clear();
        self.step = self.step.next();
        Ok(())
    }

    fn read_gradient(&self, bytes: &[u8]) -> Result<Gradient<B>, TaskError> {
        let graph = &self.work.graph;
        let micro_batches = self.work.train.micro_batches;
        check_length(bytes, gradient_bytes(graph, micro_batches).count(), "a stage's gradient")?;
        let mut reader = Reader { rest: bytes };
        let mut gradients = BTreeMap::new();
        for id in &graph.parameters {
            let gradient = self.read(&mut reader, *id);
            let depends = graph.gradients.iter().any(|g| g.parameter == *id)
                || graph.shared.iter().any(|s| s.parameter == *id && !s.parts.is_empty());
            if depends {
                gradients.insert(*id, gradient);
            }
        }
        let statistics = (0..micro_batches)
            .map(|_| graph.updates.iter().map(|u| self.read(&mut reader, u.buffer)).collect())
            .collect();
        Ok((gradients, statistics))
    }
}

/// Gradients by parameter, and for each micro-batch the sources of buffer updates.
type Gradient<B> = (BTreeMap<ValueId, Float<B>>, Vec<Vec<Float<B>>>);

fn check_length(bytes: &[u8], want: u64, what: &str) -> Result<(), TaskError> {
    if bytes.len() as u64 == want {
        return Ok(());
    }
    Err(TaskError::Missing(format!("{what} of {want} bytes; there are {}", bytes.len())))
}

/// Reads tensors one after another; the whole length was checked before.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn floats(&mut self, count: usize) -> Vec<f32> {
        let (head, rest) = self.rest.split_at((count * 4).min(self.rest.len()));
        self.rest = rest;
        to_floats(head)
    }
}
