//! Word-level language models of stacked LSTM layers, with an embedding and an output layer of their own.
//!
//! *Source*: Zaremba et al. 2014, sections 3.1 and 4.1: the large network for the Penn Treebank has two layers of width
//! 1,500 over 10,000 words, windows of 35, weights uniform within 0.04, and drops 65 % outside the recurrent connections.
//! Names and layouts as PyTorch writes them: two biases a layer, one with each product. Each of them counts: 15,000,000
//! of the embedding, 2 x 18,012,000 of the layers (4 x 1,500 x (1,500 + 1,500 + 2)), 15,010,000 of the output layer with
//! its bias, 66,034,000 in all. Departure: each window begins with states of zero, since micro-batches are drawn by
//! themselves.

use wattle_protocol::dag::compose::Scope;
use wattle_protocol::dag::compose::recurrent::{Weights, lstm};
use wattle_protocol::dag::op::{Op, Targets};
use wattle_protocol::dag::{Dag, DagBuilder, DagError, Fact, Init};
use wattle_protocol::ids::ValueId;

/// Sizes of an LSTM language model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the network.
    pub name: String,
    /// Token ids.
    pub vocabulary: usize,
    /// Length of the training windows.
    pub window: usize,
    /// Channels of the embedding and of each layer.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Share dropped between layers; 0 for none.
    pub dropout: f32,
    /// Initial weights are uniform within this bound of zero.
    pub bound: f32,
}

impl Config {
    /// Returns the sizes of a named LSTM language model.
    pub fn named(name: &str) -> Option<Self> {
        let small = Self {
            name: name.into(),
            vocabulary: 256,
            window: 64,
            width: 128,
            layers: 2,
            dropout: 0.0,
            bound: 0.08,
        };
        Some(match name {
            "lstm-nano" => small,
            "lstm-ptb" => Self {
                vocabulary: 10_000,
                window: 35,
                width: 1500,
                dropout: 0.65,
                bound: 0.04,
                ..small
            },
            _ => return None,
        })
    }
}

struct Network<'a> {
    b: DagBuilder,
    c: &'a Config,
    dropouts: u32,
}

/// Builds the network with its loss: inputs `tokens` and `targets`, i32 `[batch, window]`.
///
/// *Errors*: [`DagError`] if the sizes do not fit together.
pub fn build(config: &Config, batch: usize) -> Result<Dag, DagError> {
    let mut net = Network { b: DagBuilder::new(config.name.clone()), c: config, dropouts: 0 };
    let c = config;
    let tokens = net.b.input("tokens", Fact::i32(&[batch, c.window]));
    let targets = net.b.input("targets", Fact::i32(&[batch, c.window]));
    let table = net.weight("encoder.weight", &[c.vocabulary, c.width]);
    let x = net.b.op("encoder", Op::Embedding, &[table, tokens])?;
    let mut x = net.b.op("steps", Op::Transpose { perm: vec![1, 0, 2] }, &[x])?;
    for layer in 0..c.layers {
        x = net.dropout(x)?;
        x = net.layer(layer, x)?;
    }
    let x = net.dropout(x)?;
    let x = net.b.op("samples", Op::Transpose { perm: vec![1, 0, 2] }, &[x])?;
    let weight = net.weight("decoder.weight", &[c.vocabulary, c.width]);
    let bias = net.vector("decoder.bias", c.vocabulary, Init::Constant(0.0));
    let product = Op::MatMul { transpose_a: false, transpose_b: true };
    let logits = net.b.op("decoder.product", product, &[x, weight])?;
    let logits = net.b.op("decoder", Op::Add, &[logits, bias])?;
    let loss = net.b.op("loss", Op::CrossEntropy(Targets::default()), &[logits, targets])?;
    net.b.output(loss);
    net.b.finish()
}

impl Network<'_> {
    fn weight(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.b.parameter(name, shape, Init::Uniform(self.c.bound), true)
    }

    fn vector(&mut self, name: &str, len: usize, init: Init) -> ValueId {
        self.b.parameter(name, &[len], init, false)
    }

    fn dropout(&mut self, x: ValueId) -> Result<ValueId, DagError> {
        if self.c.dropout <= 0.0 {
            return Ok(x);
        }
        let stream = self.dropouts;
        self.dropouts += 1;
        self.b.op(format!("drop{stream}"), Op::Dropout { rate: self.c.dropout, stream }, &[x])
    }

    fn layer(&mut self, layer: usize, x: ValueId) -> Result<ValueId, DagError> {
        let width = self.c.width;
        let rows = 4 * width;
        let input = self.weight(&format!("rnn.weight_ih_l{layer}"), &[rows, width]);
        let recurrent = self.weight(&format!("rnn.weight_hh_l{layer}"), &[rows, width]);
        let init = Init::Uniform(self.c.bound);
        let biases = ["ih", "hh"]
            .map(|product| self.vector(&format!("rnn.bias_{product}_l{layer}"), rows, init));
        let weights = Weights { input, recurrent, biases: Some(biases) };
        let mut scope = Scope::new(&mut self.b, format!("rnn.{layer}"));
        Ok(lstm(&mut scope, x, weights, None, false)?.hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_large_treebank_network_has_66_034_000_parameters() {
        let dag = build(&Config::named("lstm-ptb").unwrap(), 1).unwrap();
        assert_eq!(dag.parameter_count(), 66_034_000);
        let find = |name: &str| dag.values().iter().find(|v| v.name == name).unwrap();
        assert_eq!(find("rnn.weight_hh_l1").fact.shape, [6000, 1500]);
        assert_eq!(find("decoder.bias").fact.shape, [10_000]);
    }
}
