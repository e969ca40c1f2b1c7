//! Random networks and random cuts from a seed, for tests of everything that takes a Dag.
//!
//! The networks mix what real ones have: skips, fan-outs, broadcasting, attention, tied weights, branches, two inputs,
//! running statistics. All operators are smooth and all values stay near one, so that finite differences work on them.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::grad::Training;
use super::op::{Conv2d, Gelu, Pool2d, Unary};
use super::{Dag, DagBuilder, DagError, Fact, Init, Op};
use crate::ids::{NodeId, StageId, ValueId};

/// Batch, positions and channels of the values that are passed around.
const SHAPE: [usize; 3] = [2, 4, 6];
/// As an image of two channels.
const IMAGE: [usize; 4] = [2, 2, 4, 3];
/// As two heads: batch, positions, heads, head width.
const HEADS: [usize; 4] = [2, 4, 2, 3];
/// Keeps divisors and roots of variances away from zero.
const EPS: f32 = 0.01;

/// Returns a random trainable network of about `nodes` nodes; its loss is the only output.
///
/// Inputs are the f32 tensors `x` of shape `[2, 4, 6]` and `target` of the same shape; draws around zero with unit
/// spread suit both.
pub fn random_dag(seed: u64, nodes: usize) -> Dag {
    let mut sample = Sample::new(seed);
    sample.grow(nodes).expect("every move fits the shapes that it is given")
}

/// Returns a random legal assignment of forward nodes to stages: runs of a random topological order, thus branch by
/// branch as well as across. There are fewer stages where there are too few nodes.
pub fn random_assignment(seed: u64, training: &Training, stages: u16) -> Vec<StageId> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let order = random_order(&mut rng, training);
    let stages = usize::from(stages).clamp(1, order.len());
    let mut starts = std::collections::BTreeSet::from([0]);
    while starts.len() < stages {
        starts.insert(below(&mut rng, order.len()));
    }
    let mut assignment = vec![StageId::new(0); order.len()];
    let mut stage = 0;
    for (place, node) in order.into_iter().enumerate() {
        if place > 0 && starts.contains(&place) {
            stage += 1;
        }
        assignment[node.index()] = StageId::new(stage);
    }
    assignment
}

/// Returns the forward nodes in a random topological order; half of the picks go deeper along the last branch.
fn random_order(rng: &mut ChaCha8Rng, training: &Training) -> Vec<NodeId> {
    let dag = &training.dag;
    let nodes: Vec<NodeId> = dag.node_ids().take(training.forward_nodes).collect();
    let mut users: Vec<Vec<NodeId>> = vec![Vec::new(); nodes.len()];
    let mut missing = vec![0usize; nodes.len()];
    for &id in &nodes {
        for maker in dag.node(id).inputs.iter().filter_map(|value| dag.producer(*value)) {
            users[maker.index()].push(id);
            missing[id.index()] += 1;
        }
    }
    let mut ready: Vec<NodeId> =
        nodes.iter().copied().filter(|id| missing[id.index()] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while !ready.is_empty() {
        let last = ready.len() - 1;
        let pick = if below(rng, 2) == 0 { last } else { below(rng, ready.len()) };
        let id = ready.remove(pick);
        order.push(id);
        for user in &users[id.index()] {
            missing[user.index()] -= 1;
            if missing[user.index()] == 0 {
                ready.push(*user);
            }
        }
    }
    order
}

/// Draws a number below `limit`; the bias of the remainder does not matter to a test.
fn below(rng: &mut ChaCha8Rng, limit: usize) -> usize {
    usize::try_from(rng.next_u64() % limit as u64).expect("below a usize")
}

struct Sample {
    rng: ChaCha8Rng,
    b: DagBuilder,
    /// Values of [`SHAPE`], oldest first.
    pool: Vec<ValueId>,
    /// Which of them nobody uses.
    loose: std::collections::BTreeSet<ValueId>,
    /// A square weight that several nodes may use.
    tied: ValueId,
    target: ValueId,
    /// Makes names unique.
    count: u32,
}

type Made = Result<ValueId, DagError>;

impl Sample {
    fn new(seed: u64) -> Self {
        let mut b = DagBuilder::new(format!("random-{seed}"));
        let x = b.input("x", Fact::f32(&SHAPE));
        let target = b.input("target", Fact::f32(&SHAPE));
        let tied = b.parameter("tied", &[SHAPE[2], SHAPE[2]], Init::Uniform(0.4), true);
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            rng,
            b,
            pool: vec![x],
            loose: std::collections::BTreeSet::new(),
            tied,
            target,
            count: 0,
        }
    }

    fn grow(&mut self, nodes: usize) -> Result<Dag, DagError> {
        /// Nodes that the loss takes.
        const ENDING: usize = 5;
        // The weight is used twice at least, so that every sample has a shared parameter.
        let x = self.pool[0];
        let first = self.node(Op::Linear, &[x, self.tied])?;
        self.keep(first);
        while self.b.dag().nodes().len() + ENDING < nodes {
            let a = self.pick();
            let made = self.extend(a)?;
            self.keep(made);
        }
        let loose: Vec<ValueId> = self.loose.iter().copied().collect();
        let sum = self.node(Op::AddN, &loose)?;
        let last = self.node(Op::Linear, &[sum, self.tied])?;
        let gap = self.node(Op::Sub, &[last, self.target])?;
        let square = self.node(Op::Mul, &[gap, gap])?;
        let axes = vec![0, 1, 2];
        let loss = self.b.op("loss", Op::ReduceMean { axes, keep: false }, &[square])?;
        self.b.output(loss);
        self.b.clone().finish()
    }

    fn keep(&mut self, made: ValueId) {
        self.pool.push(made);
        self.loose.insert(made);
    }

    /// Picks an operand, recent ones more often.
    fn pick(&mut self) -> ValueId {
        let reach = 1 + below(&mut self.rng, self.pool.len());
        let value = self.pool[self.pool.len() - 1 - below(&mut self.rng, reach)];
        self.loose.remove(&value);
        value
    }

    fn name(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}.{}", self.count)
    }

    fn node(&mut self, op: Op, inputs: &[ValueId]) -> Made {
        let name = self.name(op.name());
        self.b.op(name, op, inputs)
    }

    fn parameter(&mut self, shape: &[usize], init: Init) -> ValueId {
        let name = self.name("p");
        let decay = shape.len() > 1;
        self.b.parameter(name, shape, init, decay)
    }

    /// Makes one value from this one, and maybe from another one, by one of the moves.
    fn extend(&mut self, a: ValueId) -> Made {
        match below(&mut self.rng, 20) {
            0 => self.linear(a),
            1 => self.node(Op::Linear, &[a, self.tied]),
            2 => self.node(Op::Unary(Unary::Tanh), &[a]),
            3 => self.node(Op::Gelu(Gelu::Tanh), &[a]),
            4 => self.node(Op::Gelu(Gelu::Erf), &[a]),
            5 => self.layer_norm(a),
            6 => {
                let c = self.pick();
                let sum = self.node(Op::Add, &[a, c])?;
                self.node(Op::Scale { factor: 0.6 }, &[sum])
            }
            7 => {
                let c = self.pick();
                let gate = self.node(Op::Unary(Unary::Sigmoid), &[c])?;
                self.node(Op::Mul, &[a, gate])
            }
            8 => self.stretch(a),
            9 => self.attention(a),
            10 => self.split_and_join(a),
            11 => self.weigh(a),
            12 => self.center(a),
            13 => self.tame_functions(a),
            14 => self.pooled(a),
            15 => {
                let stream = self.count;
                self.node(Op::Dropout { rate: 0.1, stream }, &[a])
            }
            16 => self.wide_attention(a),
            17 => self.lstm(a),
            18 => self.gru(a),
            _ => self.image(a),
        }
    }

    fn linear(&mut self, a: ValueId) -> Made {
        let w = self.parameter(&[SHAPE[2], SHAPE[2]], Init::Uniform(0.5));
        let bias = self.parameter(&[SHAPE[2]], Init::Normal(0.1));
        self.node(Op::Linear, &[a, w, bias])
    }

    fn layer_norm(&mut self, a: ValueId) -> Made {
        let gain = self.parameter(&[SHAPE[2]], Init::Constant(1.0));
        let bias = self.parameter(&[SHAPE[2]], Init::Constant(0.0));
        self.node(Op::LayerNorm { eps: EPS }, &[a, gain, bias])
    }

    /// Broadcasts a small parameter from either side.
    fn stretch(&mut self, a: ValueId) -> Made {
        let shapes: [&[usize]; 4] = [&[4, 1], &[6], &[2, 1, 6], &[]];
        let shape = shapes[below(&mut self.rng, shapes.len())];
        let p = self.parameter(shape, Init::Normal(0.5));
        match below(&mut self.rng, 3) {
            0 => self.node(Op::Add, &[a, p]),
            1 => self.node(Op::Sub, &[p, a]),
            _ => self.node(Op::Mul, &[p, a]),
        }
    }

    fn heads(&mut self, a: ValueId) -> Made {
        let split = self.node(Op::Reshape { shape: HEADS.to_vec() }, &[a])?;
        self.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[split])
    }

    fn attention(&mut self, a: ValueId) -> Made {
        let c = self.pick();
        let (q, k) = (self.heads(a)?, self.heads(c)?);
        let causal = below(&mut self.rng, 2) == 0;
        let mixed = self.node(Op::Attention { causal, scale: 0.5 }, &[q, k, q])?;
        let back = self.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[mixed])?;
        self.node(Op::Reshape { shape: SHAPE.to_vec() }, &[back])
    }

    /// Two heads of queries that share one of keys, fewer keys than queries, a learned mask.
    fn wide_attention(&mut self, a: ValueId) -> Made {
        let c = self.pick();
        let (q, kv) = (self.heads(a)?, self.heads(c)?);
        let one = self.node(Op::Slice { axis: 1, start: 0, end: 1 }, &[kv])?;
        let kv = self.node(Op::Slice { axis: 2, start: 0, end: 3 }, &[one])?;
        let shapes: [&[usize]; 3] = [&[4, 3], &[2, 1, 1, 3], &[2, 4, 1]];
        let mask = shapes[below(&mut self.rng, shapes.len())];
        let mask = self.parameter(mask, Init::Normal(0.5));
        let causal = below(&mut self.rng, 2) == 0;
        let op = Op::Attention { causal, scale: 0.5 };
        let mixed = self.node(op, &[q, kv, kv, mask])?;
        let back = self.node(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[mixed])?;
        self.node(Op::Reshape { shape: SHAPE.to_vec() }, &[back])
    }

    /// What a recurrent layer of so many gates and channels reads at each position: `[T, B, gates H]`.
    fn fed(&mut self, a: ValueId, rows: usize) -> Made {
        let steps = self.node(Op::Transpose { perm: vec![1, 0, 2] }, &[a])?;
        let w = self.parameter(&[SHAPE[2], rows], Init::Uniform(0.5));
        self.node(Op::Linear, &[steps, w])
    }

    fn lstm(&mut self, a: ValueId) -> Made {
        let (batch, width) = (SHAPE[0], HEADS[3]);
        let fed = self.fed(a, 4 * width)?;
        let recurrent = self.parameter(&[4 * width, width], Init::Uniform(0.5));
        let [h, c] = [0; 2].map(|_| self.parameter(&[batch, width], Init::Normal(0.5)));
        let states = self.node(Op::Lstm, &[fed, recurrent, h, c])?;
        let joined = self.node(Op::Transpose { perm: vec![2, 1, 0, 3] }, &[states])?;
        self.node(Op::Reshape { shape: SHAPE.to_vec() }, &[joined])
    }

    fn gru(&mut self, a: ValueId) -> Made {
        let (batch, width) = (SHAPE[0], SHAPE[2]);
        let fed = self.fed(a, 3 * width)?;
        let recurrent = self.parameter(&[3 * width, width], Init::Uniform(0.5));
        let bias = self.parameter(&[width], Init::Normal(0.1));
        let h = self.parameter(&[batch, width], Init::Normal(0.5));
        let y = self.node(Op::Gru, &[fed, recurrent, bias, h])?;
        self.node(Op::Transpose { perm: vec![1, 0, 2] }, &[y])
    }

    /// Attention written out: scores, mask, weights, mixture.
    fn weigh(&mut self, a: ValueId) -> Made {
        let c = self.pick();
        let product = |transpose_b| Op::MatMul { transpose_a: false, transpose_b };
        let scores = self.node(product(true), &[a, c])?;
        let scores = self.node(Op::Scale { factor: 0.3 }, &[scores])?;
        let masked = self.node(Op::CausalMask { fill: f32::NEG_INFINITY }, &[scores])?;
        let weights = self.node(Op::Softmax { axis: 2 }, &[masked])?;
        self.node(product(false), &[weights, c])
    }

    fn split_and_join(&mut self, a: ValueId) -> Made {
        let c = self.pick();
        let axis = below(&mut self.rng, SHAPE.len());
        let middle = 1 + below(&mut self.rng, SHAPE[axis] - 1);
        let low = self.node(Op::Slice { axis, start: 0, end: middle }, &[a])?;
        let high = self.node(Op::Slice { axis, start: middle, end: SHAPE[axis] }, &[c])?;
        self.node(Op::Concat { axis }, &[low, high])
    }

    fn center(&mut self, a: ValueId) -> Made {
        let axes = vec![below(&mut self.rng, SHAPE.len())];
        let mean = self.node(Op::ReduceMean { axes, keep: true }, &[a])?;
        self.node(Op::Sub, &[a, mean])
    }

    /// Quotients, roots, logarithms and exponentials where they are well-conditioned.
    fn tame_functions(&mut self, a: ValueId) -> Made {
        let c = self.pick();
        let bounded = self.node(Op::Unary(Unary::Tanh), &[c])?;
        let positive = self.node(Op::Shift { term: 2.5 }, &[bounded])?;
        let factor = match below(&mut self.rng, 4) {
            0 => return self.node(Op::Div, &[a, positive]),
            1 => self.node(Op::Unary(Unary::Sqrt), &[positive])?,
            2 => self.node(Op::Unary(Unary::Log), &[positive])?,
            _ => {
                let decay = self.node(Op::Scale { factor: -0.5 }, &[positive])?;
                self.node(Op::Unary(Unary::Exp), &[decay])?
            }
        };
        self.node(Op::Mul, &[a, factor])
    }

    fn pooled(&mut self, a: ValueId) -> Made {
        let small = vec![1, SHAPE[1], 1];
        let sum = self.node(Op::SumTo { shape: small }, &[a])?;
        let mean = self.node(Op::Scale { factor: 0.2 }, &[sum])?;
        let wide = self.node(Op::Expand { shape: SHAPE.to_vec() }, &[mean])?;
        let p = self.parameter(&SHAPE[2..], Init::Normal(0.5));
        self.node(Op::Mul, &[wide, p])
    }

    /// Convolution, batch normalisation with running statistics, average pool.
    fn image(&mut self, a: ValueId) -> Made {
        let channels = IMAGE[1];
        let image = self.node(Op::Reshape { shape: IMAGE.to_vec() }, &[a])?;
        let w = self.parameter(&[channels, channels, 3, 3], Init::Uniform(0.3));
        let conv = Conv2d { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };
        let image = self.node(Op::Conv2d(conv), &[image, w])?;
        let gain = self.parameter(&[channels], Init::Constant(1.0));
        let bias = self.parameter(&[channels], Init::Constant(0.0));
        let name = self.name("batch_norm");
        let running = [("mean", 0.0), ("var", 1.0)].map(|(statistic, start)| {
            self.b.buffer(format!("{name}.{statistic}"), &[channels], Init::Constant(start))
        });
        let results = self.b.apply(name, Op::BatchNorm { eps: EPS }, &[image, gain, bias])?;
        for (buffer, from) in running.into_iter().zip(&results[1..]) {
            self.b.update(buffer, *from, 0.1)?;
        }
        let pool = Pool2d { kernel: [3, 3], stride: [1, 1], padding: [1, 1] };
        let image = self.node(Op::AvgPool2d(pool), &[results[0]])?;
        self.node(Op::Reshape { shape: SHAPE.to_vec() }, &[image])
    }
}
