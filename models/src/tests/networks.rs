//! Small networks of the shapes that cuts must get right, each under the name of what is particular about it.
//!
//! They read noise, hold few numbers, and have at least eight operators, so that they can be cut into eight stages.

use wattle_protocol::dag::op::{Conv2d, Gelu, Op, Unary};
use wattle_protocol::dag::{Dag, DagBuilder, Fact, Init};
use wattle_protocol::ids::ValueId;
use wattle_protocol::job::JobSpec;

use super::job;
use crate::{data, zoo};

/// Rows of a batch.
const ROWS: usize = 3;
/// Channels of a row.
const CHANNELS: usize = 6;
/// Layers of the deep ones.
const LAYERS: usize = 6;

/// Returns the smallest: one of each shape.
pub(super) fn small() -> Vec<JobSpec> {
    let networks = [chain(), residual(), u_shape(), two_inputs(), tied()];
    networks.into_iter().map(|dag| job(dag, data::NOISE)).collect()
}

/// Returns real ones: a transformer with tied embeddings, a residual network with running statistics, a recurrent one.
pub(super) fn zoo() -> Vec<JobSpec> {
    let build = |name| zoo::by_name(name, Some(2)).unwrap().unwrap();
    let transformer = job(build("gpt2-nano"), data::text::KJV);
    let mut recurrent = zoo::lstm::Config::named("lstm-nano").unwrap();
    (recurrent.window, recurrent.width) = (6, 8);
    let recurrent = job(zoo::lstm::build(&recurrent, 2).unwrap(), data::text::KJV);
    vec![transformer, job(build("resnet-tiny"), data::images::DIGITS), recurrent]
}

/// A network in the making.
struct Network(DagBuilder);

impl Network {
    fn new(name: &str) -> Self {
        Self(DagBuilder::new(name))
    }

    fn op(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
        self.0.op(name, op, inputs).unwrap()
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.0.parameter(name, shape, Init::Uniform(0.5), true)
    }

    fn linear(&mut self, name: &str, x: ValueId) -> ValueId {
        let weight = self.weight(&format!("{name}.weight"), &[CHANNELS, CHANNELS]);
        let bias = self.weight(&format!("{name}.bias"), &[CHANNELS]);
        self.op(name, Op::Linear, &[x, weight, bias])
    }

    fn rows(&mut self, name: &str) -> ValueId {
        self.0.input(name, Fact::f32(&[ROWS, CHANNELS]))
    }

    /// Ends with the mean of squares.
    fn finish(mut self, y: ValueId) -> Dag {
        let square = self.op("square", Op::Mul, &[y, y]);
        let axes = (0..self.0.fact(square).rank()).collect();
        let loss = self.op("loss", Op::ReduceMean { axes, keep: false }, &[square]);
        self.0.output(loss);
        self.0.finish().unwrap()
    }
}

/// One operator after another.
fn chain() -> Dag {
    let mut n = Network::new("chain");
    let mut x = n.rows("x");
    for layer in 0..LAYERS {
        x = n.linear(&format!("linear{layer}"), x);
        x = n.op(&format!("tanh{layer}"), Op::Unary(Unary::Tanh), &[x]);
    }
    n.finish(x)
}

/// Blocks around which their input goes too.
fn residual() -> Dag {
    let mut n = Network::new("residual");
    let mut x = n.rows("x");
    for layer in 0..LAYERS {
        let y = n.linear(&format!("linear{layer}"), x);
        let y = n.op(&format!("gelu{layer}"), Op::Gelu(Gelu::Erf), &[y]);
        x = n.op(&format!("add{layer}"), Op::Add, &[x, y]);
    }
    n.finish(x)
}

/// Down and up again, with skips from each height to the other side, which jump all stages between.
fn u_shape() -> Dag {
    const DEPTH: usize = 3;
    let mut n = Network::new("u-shape");
    let mut x = n.0.input("x", Fact::f32(&[2, 2, 8, 8]));
    let conv = |padding| {
        Op::Conv2d(Conv2d { stride: [1; 2], padding: [padding; 2], dilation: [1; 2], groups: 1 })
    };
    let mut skips = Vec::new();
    for level in 0..DEPTH {
        let w = n.weight(&format!("down{level}.weight"), &[2, 2, 3, 3]);
        let y = n.op(&format!("down{level}"), conv(1), &[x, w]);
        x = n.op(&format!("down_tanh{level}"), Op::Unary(Unary::Tanh), &[y]);
        skips.push(x);
    }
    for level in (0..DEPTH).rev() {
        let both = n.op(&format!("join{level}"), Op::Concat { axis: 1 }, &[x, skips[level]]);
        let w = n.weight(&format!("up{level}.weight"), &[2, 4, 3, 3]);
        let y = n.op(&format!("up{level}"), conv(1), &[both, w]);
        x = n.op(&format!("up_tanh{level}"), Op::Unary(Unary::Tanh), &[y]);
    }
    n.finish(x)
}

/// Two branches, each with data of its own, that meet in the middle.
fn two_inputs() -> Dag {
    let mut n = Network::new("two-inputs");
    let branch = |n: &mut Network, side: &str| {
        let x = n.rows(side);
        let x = n.linear(&format!("{side}0"), x);
        let x = n.op(&format!("{side}_tanh"), Op::Unary(Unary::Tanh), &[x]);
        n.linear(&format!("{side}1"), x)
    };
    let (left, right) = (branch(&mut n, "left"), branch(&mut n, "right"));
    let mut x = n.op("meet", Op::Mul, &[left, right]);
    for layer in 0..3 {
        x = n.linear(&format!("after{layer}"), x);
        x = n.op(&format!("after_tanh{layer}"), Op::Unary(Unary::Tanh), &[x]);
    }
    n.finish(x)
}

/// Every layer with the same weight.
fn tied() -> Dag {
    let mut n = Network::new("tied");
    let weight = n.weight("weight", &[CHANNELS, CHANNELS]);
    let mut x = n.rows("x");
    for layer in 0..LAYERS {
        x = n.op(&format!("linear{layer}"), Op::Linear, &[x, weight]);
        x = n.op(&format!("tanh{layer}"), Op::Unary(Unary::Tanh), &[x]);
    }
    n.finish(x)
}
