//! The end of a step at its owner: parts of shared gradients, the reduced gradient, its norm and its bundle.
//!
//! Everything is read off the device at once, behind the kernels that make it. A GPU sums squares in single precision,
//! which 1e19 overflows: each tensor is divided by its largest element first, and the host multiplies in double.

use std::collections::{BTreeMap, BTreeSet};

use wattle_protocol::dag::bundle::shared_parts;
use wattle_protocol::ids::{MicroBatch, StageId, Step, ValueId};
use wattle_protocol::swarm::io::{TaskError, TensorName};

use super::{Reader, Stage, check_length};
use crate::exec::flight::{Flight, Report};
use crate::exec::host;
use crate::exec::reading::Reading;
use crate::exec::store::Store;
use crate::exec::tensor::{Float, HostBackend, Tensor};

/// Squares of gradients: what the host has summed, and for the others their largest elements and scaled sums.
struct Squares<B: HostBackend> {
    total: f64,
    largest: Vec<Float<B>>,
    sums: Vec<Float<B>>,
}

impl<B: HostBackend> Squares<B> {
    fn new() -> Self {
        Self { total: 0.0, largest: Vec::new(), sums: Vec::new() }
    }

    fn add(&mut self, tensor: &Float<B>) {
        if let Some(values) = tensor.host() {
            self.total += host::sum_of_squares(&values);
            return;
        }
        let count = tensor.shape().iter().product();
        let row = tensor.clone().reshape(&[1, count]);
        // Not zero, to be divided by; NaN and infinity show in the sum.
        let largest =
            Float::<B>(B::float_abs(row.0.clone())).max_axis(1).at_least(f32::MIN_POSITIVE);
        let scaled = row.div(largest.clone());
        self.sums.push(scaled.clone().mul(scaled).sum_axes(&[1]));
        self.largest.push(largest);
    }

    fn report(self) -> Report {
        let all: Vec<Float<B>> = self.largest.into_iter().chain(self.sums).collect();
        if all.is_empty() {
            return Report::Gradients(self.total, None);
        }
        let all = Float::concat(all, 1);
        Report::Gradients(self.total, Some(Reading::begin(Tensor::Float(all))))
    }
}

fn begin<B: HostBackend>(tensor: &Float<B>) -> Reading {
    Reading::begin(Tensor::Float(tensor.clone()))
}

impl<B: HostBackend> Stage<B> {
    /// Reads this stage's parts of shared parameters, one bundle for each stage that shares some.
    ///
    /// *Errors*: [`TaskError::Missing`] where a part is not here.
    pub fn share(&mut self, step: Step) -> Result<Flight, TaskError> {
        self.check_step(step)?;
        let work = self.work.clone();
        let graph = &work.graph;
        let sharers: BTreeSet<StageId> =
            graph.shared.iter().flat_map(|s| s.stages.iter().copied()).collect();
        let mut flight = Flight::of(self.job, graph.stage, Report::Done);
        let sums = self.sums.whole().clone();
        for to in sharers.into_iter().filter(|s| *s != graph.stage) {
            let part = |place: (ValueId, u16)| {
                let sum = sums.get(&place).map(begin);
                sum.ok_or_else(|| TaskError::Missing(format!("gradient part {place:?}")))
            };
            let parts = shared_parts(graph, graph.stage, to).map(part);
            let name = TensorName::SharedGradient { stage: graph.stage, to };
            flight.carry(self.key(name), parts.collect::<Result<_, _>>()?);
        }
        Ok(flight)
    }

    /// Sums gradient parts; reports the sum of squares over the parameters whose home is here, which must be finite.
    ///
    /// *Errors*: [`TaskError::Missing`] where a part is not here.
    pub fn reduce(
        &mut self,
        step: Step,
        shared_from: &[StageId],
        publish: bool,
        store: &Store,
    ) -> Result<Flight, TaskError> {
        self.check_step(step)?;
        let work = self.work.clone();
        let graph = &work.graph;
        let mut parts: BTreeMap<(ValueId, u16), Float<B>> = self.sums.whole().clone();
        for from in shared_from {
            self.read_shared(*from, store, &mut parts)?;
        }
        let mut squares = Squares::new();
        let mut reduced = BTreeMap::new();
        for id in &graph.parameters {
            let shared = graph.shared.iter().find(|s| s.parameter == *id);
            let count = match shared {
                Some(shared) => shared.parts.len(),
                None => graph.gradients.iter().filter(|g| g.parameter == *id).count(),
            };
            let mut sum: Option<Float<B>> = None;
            for part in (0..u16::MAX).take(count) {
                let place = (*id, part);
                let found = parts.remove(&place);
                let found = found.ok_or_else(|| TaskError::Missing(format!("part {place:?}")))?;
                sum = Some(match sum {
                    Some(sum) => sum.add(found),
                    None => found,
                });
            }
            // A parameter on which the loss does not depend stays as it is.
            let Some(sum) = sum else { continue };
            if shared.is_none_or(|s| s.home == graph.stage) {
                squares.add(&sum);
            }
            reduced.insert(*id, sum);
        }
        let mut flight = Flight::of(self.job, graph.stage, squares.report());
        if publish {
            let name = TensorName::StageGradient { stage: graph.stage };
            flight.carry(self.key(name), self.gradient_bundle(&reduced)?);
        }
        self.reduced = Some(reduced);
        Ok(flight)
    }

    fn read_shared(
        &self,
        from: StageId,
        store: &Store,
        parts: &mut BTreeMap<(ValueId, u16), Float<B>>,
    ) -> Result<(), TaskError> {
        let graph = &self.work.graph;
        let key = self.key(TensorName::SharedGradient { stage: from, to: graph.stage });
        let bytes = store.bytes(&key).ok_or_else(|| TaskError::Missing(format!("{key:?}")))?;
        let want = wattle_protocol::dag::bundle::shared_bytes(graph, from, graph.stage);
        check_length(&bytes, want.count(), "a shared gradient")?;
        let mut reader = Reader { rest: &bytes };
        for place in shared_parts(graph, from, graph.stage) {
            parts.insert(place, self.read(&mut reader, place.0));
        }
        Ok(())
    }

    fn gradient_bundle(
        &self,
        reduced: &BTreeMap<ValueId, Float<B>>,
    ) -> Result<Vec<Reading>, TaskError> {
        let graph = &self.work.graph;
        let gradient = |id: &ValueId| match reduced.get(id) {
            Some(gradient) => begin(gradient),
            None => Reading::zeros(graph.values[id].fact.elements()),
        };
        let mut parts: Vec<Reading> = graph.parameters.iter().map(gradient).collect();
        for micro_batch in (0..self.work.train.micro_batches).map(MicroBatch::new) {
            let statistics = self.statistics.get(&micro_batch);
            let statistics = statistics.ok_or_else(|| {
                TaskError::Missing(format!("the forward pass of {micro_batch:?}"))
            })?;
            parts.extend(statistics.iter().map(begin));
        }
        Ok(parts)
    }

    /// Multiplies what backward passes have summed, as a loss scaled by this would.
    #[cfg(test)]
    pub(crate) fn scale_gradients(&mut self, factor: f32) {
        self.sums.scale(factor);
    }
}
