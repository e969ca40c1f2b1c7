//! A network's gradients in the order in which the backward pass makes them, with the time that each takes.

use std::collections::BTreeMap;

use wattle_protocol::codec::lags::Layer;
use wattle_protocol::dag::Dag;
use wattle_protocol::dag::grad::{Training, differentiate};
use wattle_protocol::ids::ValueId;
use wattle_protocol::schedule::load::Load;
use wattle_protocol::units::Duration;

use super::scenario::ComputePart;

/// The passes of one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Passes {
    /// A forward pass.
    pub forward: Duration,
    /// Parameters in the order in which their gradients are ready.
    pub parameters: Vec<ValueId>,
    /// Their sizes, and the time of the backward pass since the one before was ready.
    pub layers: Vec<Layer>,
}

impl Passes {
    /// Follows a network's passes: operators one after another, each as long as its arithmetic is of all of it.
    ///
    /// A gradient of several parts is ready with the last of them; what comes after the last gradient counts to it.
    ///
    /// *Errors*: the network has no backward pass, for people.
    pub fn of(dag: Dag, compute: &ComputePart) -> Result<Self, String> {
        let training = differentiate(dag, 1).map_err(|error| format!("model: {error}"))?;
        let flops = |node| Load::of(&training.dag, node).flops().count();
        let nodes: Vec<u64> = training.dag.node_ids().map(flops).collect();
        let (forward, backward) = nodes.split_at(training.forward_nodes);
        let total = |part: &[u64]| seconds(part.iter().sum::<u64>());
        let (ahead, back) = (total(forward), total(backward));
        let (forward_time, backward_time) = match (compute.forward_ms, compute.backward_ms) {
            (Some(forward), Some(backward)) => (forward / 1e3, backward / 1e3),
            _ => {
                let speed = compute.gflops.unwrap_or(1.0) * 1e9;
                (ahead / speed, back / speed)
            }
        };
        let (parameters, counts) = ready(&training, backward);
        let mut done = 0.0;
        let mut before = Duration::ZERO;
        let last = counts.len().saturating_sub(1);
        let layers = parameters.iter().zip(&counts).enumerate().map(|(place, (id, count))| {
            done += seconds(*count);
            let share = if place == last { 1.0 } else { done / back.max(1.0) };
            let at = Duration::from_seconds(backward_time * share);
            let backward = at - before;
            before = at;
            Layer { elements: training.dag.fact(*id).elements(), backward }
        });
        let layers = layers.collect();
        Ok(Self { forward: Duration::from_seconds(forward_time), parameters, layers })
    }

    /// Returns the time of the backward pass.
    pub fn backward(&self) -> Duration {
        self.layers.iter().fold(Duration::ZERO, |sum, layer| sum + layer.backward)
    }

    /// Returns how many elements the gradient has.
    pub fn elements(&self) -> usize {
        self.layers.iter().map(|layer| layer.elements).sum()
    }
}

/// A count of operations as a number.
#[expect(clippy::cast_precision_loss, reason = "ratios of counts are wanted")]
fn seconds(count: u64) -> f64 {
    count as f64
}

/// Returns parameters in the order in which their gradients are ready, each with the arithmetic since the one before.
fn ready(training: &Training, backward: &[u64]) -> (Vec<ValueId>, Vec<u64>) {
    let mut awaited: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
    let mut parts: BTreeMap<ValueId, usize> = BTreeMap::new();
    for part in &training.gradients {
        awaited.entry(part.value).or_default().push(part.parameter);
        *parts.entry(part.parameter).or_default() += 1;
    }
    let (mut order, mut counts, mut since) = (Vec::new(), Vec::new(), 0);
    for (node, count) in training.dag.nodes()[training.forward_nodes..].iter().zip(backward) {
        since += count;
        for parameter in node.outputs.iter().filter_map(|value| awaited.get(value)).flatten() {
            let left = parts.entry(*parameter).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 {
                order.push(*parameter);
                counts.push(std::mem::take(&mut since));
            }
        }
    }
    (order, counts)
}

#[cfg(test)]
mod tests {
    use wattle_models::zoo;

    use super::*;

    const RECORDED: ComputePart = ComputePart {
        gflops: None,
        forward_ms: Some(90.0),
        backward_ms: Some(120.0),
        select_ps: 218.9,
    };

    /// The last layer's gradients come first, all are there, and their times are the pass's.
    #[test]
    fn gradients_come_from_the_last_layer_to_the_first() {
        for (model, last, first, elements) in [
            ("resnet50", "fc.", "conv1.weight", 25_557_032),
            ("lstm-ptb", "decoder", "encoder.weight", 66_034_000),
            ("gpt2-nano", "ln_f", "wpe", 0),
        ] {
            let dag = zoo::by_name(model, Some(1)).unwrap().unwrap();
            let passes = Passes::of(dag.clone(), &RECORDED).unwrap();
            let name = |place: usize| dag.value(passes.parameters[place]).name.clone();
            assert!(name(0).contains(last), "{model}: {}", name(0));
            let end = passes.parameters.len() - 1;
            // The table of a network with tied weights is ready as late as its first layer.
            assert!(
                [end, end - 1].iter().any(|n| name(*n).contains(first)),
                "{model}: {}",
                name(end)
            );
            assert_eq!(passes.parameters.len(), dag.parameters().count());
            assert_eq!(passes.backward(), Duration::from_millis(120));
            assert!(elements == 0 || passes.elements() == elements);
        }
    }

    #[test]
    fn arithmetic_over_speed_is_the_time() {
        let dag = zoo::by_name("resnet8", Some(2)).unwrap().unwrap();
        let speed = |gflops| ComputePart {
            gflops: Some(gflops),
            forward_ms: None,
            backward_ms: None,
            select_ps: 0.0,
        };
        let [slow, fast] = [1.0, 10.0].map(|g| Passes::of(dag.clone(), &speed(g)).unwrap());
        assert!((slow.forward.seconds() / fast.forward.seconds() - 10.0).abs() < 0.01);
        let ratio = slow.backward().seconds() / slow.forward.seconds();
        assert!((1.7..2.3).contains(&ratio), "{ratio}");
    }
}
