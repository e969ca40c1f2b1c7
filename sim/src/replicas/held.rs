//! How well a network does on samples that it was not trained on.
//!
//! Batch normalisation takes each batch's own statistics, as in training: running ones are every worker's own.

use std::collections::BTreeMap;

use wattle_models::DeviceChoice;
use wattle_models::data::{self, Elements, Place};
use wattle_models::exec::evaluate::{HostValues, evaluate};
use wattle_protocol::dag::{Dag, DagBuilder, Op, Source};
use wattle_protocol::ids::ValueId;
use wattle_protocol::job::DataSpec;

/// Held-out samples and the network without its loss.
#[derive(Debug)]
pub struct Held {
    dag: Dag,
    labels: (String, wattle_protocol::dag::Fact),
    data: DataSpec,
    batches: u64,
}

impl Held {
    /// Takes a network apart: what its loss is of, and which input that is compared with.
    ///
    /// *Errors*: its loss is not that of classes, for people.
    pub fn of(dag: &Dag, data: DataSpec, batches: u64) -> Result<Self, String> {
        let loss = dag.nodes().iter().find(|node| matches!(node.op, Op::CrossEntropy(_)));
        let none = || format!("model: {} does not tell classes apart", dag.name());
        let [logits, labels] = loss.ok_or_else(none)?.inputs[..] else {
            return Err(none());
        };
        let without = ending_at(dag, logits).map_err(|error| error.to_string())?;
        let value = dag.value(labels);
        let labels = (value.name.clone(), value.fact.clone());
        Ok(Self { dag: without, labels, data, batches })
    }

    /// Returns the mean loss in nats and the share that is told right, with these parameters and buffers.
    ///
    /// *Errors*: the network does not run, for people.
    #[expect(clippy::cast_precision_loss, reason = "there are few samples")]
    pub fn measure(&self, state: &BTreeMap<String, Vec<f32>>) -> Result<(f64, f64), String> {
        let (mut loss, mut right, mut count) = (0.0, 0usize, 0usize);
        for step in 0..self.batches {
            let place = Place { step, micro_batch: 0, micro_batches: 1 };
            let draw = |name: &str, fact| {
                data::batch(&self.data, place, name, fact).map_err(|error| error.to_string())
            };
            let mut inputs = BTreeMap::new();
            for id in self.dag.inputs() {
                let value = self.dag.value(id);
                inputs.insert(id, host(draw(&value.name, &value.fact)?));
            }
            let HostValues::Ints(labels) = host(draw(&self.labels.0, &self.labels.1)?) else {
                return Err("labels are integers".into());
            };
            let outputs = evaluate(&self.dag, &inputs, state, DeviceChoice::Cpu);
            let outputs = outputs.map_err(|error| error.to_string())?;
            let Some(HostValues::Floats(logits)) = outputs.first() else {
                return Err("logits are floats".into());
            };
            let classes = logits.len() / labels.len().max(1);
            for (row, label) in logits.chunks(classes.max(1)).zip(&labels) {
                let label = usize::try_from(*label).unwrap_or(usize::MAX);
                let (nats, is_right) = judge(row, label);
                loss += nats;
                right += usize::from(is_right);
                count += 1;
            }
        }
        Ok((loss / count.max(1) as f64, right as f64 / count.max(1) as f64))
    }
}

/// Returns the loss of one row in nats, and whether its largest logit is the label's.
fn judge(row: &[f32], label: usize) -> (f64, bool) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    let own = row.get(label).copied().unwrap_or(f32::NEG_INFINITY);
    (sum.ln() - f64::from(own - largest), own >= largest)
}

fn host(elements: Elements) -> HostValues {
    match elements {
        Elements::Ints(ints) => HostValues::Ints(ints),
        Elements::Floats(floats) => HostValues::Floats(floats),
    }
}

/// Returns the part of a network that a value needs, with it as the only output.
fn ending_at(dag: &Dag, end: ValueId) -> Result<Dag, wattle_protocol::dag::DagError> {
    let mut builder = DagBuilder::new(dag.name());
    let mut placed: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let last = dag.producer(end).map_or(0, |node| node.index() + 1);
    let nodes = &dag.nodes()[..last];
    for id in dag.value_ids() {
        let value = dag.value(id);
        let shape = &value.fact.shape;
        let is_read = nodes.iter().any(|node| node.inputs.contains(&id));
        let new = match value.source {
            Source::Input if is_read => builder.input(value.name.clone(), value.fact.clone()),
            Source::Parameter { init, decay } if is_read => {
                builder.parameter(value.name.clone(), shape, init, decay)
            }
            Source::Buffer { init } if is_read => builder.buffer(value.name.clone(), shape, init),
            _ => continue,
        };
        placed.insert(id, new);
    }
    for node in nodes {
        let inputs: Vec<ValueId> =
            node.inputs.iter().filter_map(|id| placed.get(id).copied()).collect();
        let outputs = builder.apply(node.name.clone(), node.op.clone(), &inputs)?;
        placed.extend(node.outputs.iter().copied().zip(outputs));
    }
    if let Some(end) = placed.get(&end) {
        builder.output(*end);
    }
    builder.finish()
}
