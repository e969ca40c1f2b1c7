//! Llama-style decoder-only transformers: root-mean-square norms, rotary positions, grouped queries, gated units.
//!
//! *Source*: Touvron et al. 2023 (Llama, section 2.2; Llama 2 for grouped queries); names and layouts as in the Hugging
//! Face checkpoint (`nn.Linear` weights are `[out, in]`, rotary pairs are halves).

use wattle_protocol::dag::compose::{Scope, elements};
use wattle_protocol::dag::op::{Op, Rotary, Targets};
use wattle_protocol::dag::{Dag, DagBuilder, DagError, Fact, Init};
use wattle_protocol::ids::ValueId;

/// Sizes of a Llama.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the network.
    pub name: String,
    /// Token ids.
    pub vocabulary: usize,
    /// Length of the training windows.
    pub window: usize,
    /// Channels.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads, a divisor of `width`.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`: each serves several query heads.
    pub kv_heads: usize,
    /// Channels of the gated unit.
    pub hidden: usize,
    /// Base of the rotary wave lengths.
    pub theta: f32,
    /// Added to the mean square in norms.
    pub eps: f32,
    /// Whether the output layer is the embedding table.
    pub tied: bool,
}

impl Config {
    /// Returns the sizes of a named Llama.
    pub fn named(name: &str) -> Option<Self> {
        let bytes = Self {
            name: name.into(),
            vocabulary: 256,
            window: 64,
            width: 64,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            hidden: 176,
            theta: 1e4,
            eps: 1e-5,
            tied: false,
        };
        let words = Self { window: 2048, width: 2048, heads: 32, ..bytes.clone() };
        Some(match name {
            "llama-nano" => bytes,
            "tinyllama-1.1b" => {
                Self { vocabulary: 32_000, layers: 22, kv_heads: 4, hidden: 5632, ..words }
            }
            "llama-3.2-1b" => Self {
                vocabulary: 128_256,
                layers: 16,
                kv_heads: 8,
                hidden: 8192,
                theta: 5e5,
                tied: true,
                ..words
            },
            _ => return None,
        })
    }
}

/// Spread of initial weights.
const SPREAD: f32 = 0.02;

struct Network<'a> {
    b: DagBuilder,
    c: &'a Config,
    batch: usize,
}

/// Builds the network with its loss: inputs `tokens` and `targets`, i32 `[batch, window]`.
///
/// *Errors*: [`DagError`] if the sizes do not fit together.
pub fn build(config: &Config, batch: usize) -> Result<Dag, DagError> {
    let mut net = Network { b: DagBuilder::new(config.name.clone()), c: config, batch };
    let c = config;
    let tokens = net.b.input("tokens", Fact::i32(&[batch, c.window]));
    let targets = net.b.input("targets", Fact::i32(&[batch, c.window]));
    let table = net.weight("model.embed_tokens.weight", &[c.vocabulary, c.width], SPREAD);
    let mut x = net.b.op("model.embed_tokens", Op::Embedding, &[table, tokens])?;
    for layer in 0..c.layers {
        x = net.block(&format!("model.layers.{layer}"), x)?;
    }
    let x = net.norm("model.norm", x)?;
    let head = match c.tied {
        true => table,
        false => net.weight("lm_head.weight", &[c.vocabulary, c.width], SPREAD),
    };
    let product = Op::MatMul { transpose_a: false, transpose_b: true };
    let logits = net.b.op("lm_head", product, &[x, head])?;
    let loss = net.b.op("loss", Op::CrossEntropy(Targets::default()), &[logits, targets])?;
    net.b.output(loss);
    net.b.finish()
}

impl Network<'_> {
    fn weight(&mut self, name: &str, shape: &[usize], spread: f32) -> ValueId {
        self.b.parameter(name, shape, Init::Normal(spread), true)
    }

    fn norm(&mut self, name: &str, x: ValueId) -> Result<ValueId, DagError> {
        let weight = format!("{name}.weight");
        let gain = self.b.parameter(weight, &[self.c.width], Init::Constant(1.0), false);
        self.b.op(name, Op::RmsNorm { eps: self.c.eps }, &[x, gain])
    }

    /// A dense layer without bias; its weight is `[to, from]`.
    fn linear(
        &mut self,
        name: &str,
        x: ValueId,
        to: usize,
        spread: f32,
    ) -> Result<ValueId, DagError> {
        let from = self.b.fact(x).shape.last().copied().unwrap_or(1);
        let weight = self.weight(&format!("{name}.weight"), &[to, from], spread);
        self.b.op(name, Op::MatMul { transpose_a: false, transpose_b: true }, &[x, weight])
    }

    #[expect(clippy::cast_precision_loss, reason = "layer counts are small")]
    fn block(&mut self, name: &str, x: ValueId) -> Result<ValueId, DagError> {
        let (width, hidden) = (self.c.width, self.c.hidden);
        // Branches that add to the residual stream start smaller, as in GPT-2 (section 2.3).
        let small = SPREAD / (2.0 * self.c.layers as f32).sqrt();
        let h = self.norm(&format!("{name}.input_layernorm"), x)?;
        let h = self.attention(&format!("{name}.self_attn"), h)?;
        let h = self.linear(&format!("{name}.self_attn.o_proj"), h, width, small)?;
        let x = self.b.op(format!("{name}.self_attn.add"), Op::Add, &[x, h])?;
        let h = self.norm(&format!("{name}.post_attention_layernorm"), x)?;
        let gate = self.linear(&format!("{name}.mlp.gate_proj"), h, hidden, SPREAD)?;
        let up = self.linear(&format!("{name}.mlp.up_proj"), h, hidden, SPREAD)?;
        let gate = elements::silu(&mut Scope::new(&mut self.b, format!("{name}.mlp.act")), gate)?;
        let h = self.b.op(format!("{name}.mlp.gated"), Op::Mul, &[gate, up])?;
        let h = self.linear(&format!("{name}.mlp.down_proj"), h, width, small)?;
        self.b.op(format!("{name}.mlp.add"), Op::Add, &[x, h])
    }

    /// Projects to heads: `[B, T, C] -> [B, heads, T, D]`.
    fn heads(&mut self, name: &str, x: ValueId, heads: usize) -> Result<ValueId, DagError> {
        let depth = self.c.width / self.c.heads.max(1);
        let y = self.linear(name, x, heads * depth, SPREAD)?;
        let shape = vec![self.batch, self.c.window, heads, depth];
        let y = self.b.op(format!("{name}.split"), Op::Reshape { shape }, &[y])?;
        self.b.op(format!("{name}.heads"), Op::Transpose { perm: vec![0, 2, 1, 3] }, &[y])
    }

    #[expect(clippy::cast_precision_loss, reason = "head widths are small")]
    fn attention(&mut self, name: &str, x: ValueId) -> Result<ValueId, DagError> {
        let (heads, kv) = (self.c.heads, self.c.kv_heads);
        let turn = Op::Rotary(Rotary {
            theta: self.c.theta,
            interleaved: false,
            inverse: false,
            start: 0,
        });
        let q = self.heads(&format!("{name}.q_proj"), x, heads)?;
        let q = self.b.op(format!("{name}.q_rotary"), turn.clone(), &[q])?;
        let k = self.heads(&format!("{name}.k_proj"), x, kv)?;
        let k = self.b.op(format!("{name}.k_rotary"), turn, &[k])?;
        let v = self.heads(&format!("{name}.v_proj"), x, kv)?;
        let scale = 1.0 / ((self.c.width / heads.max(1)) as f32).sqrt();
        let y = self.b.op(name, Op::Attention { causal: true, scale }, &[q, k, v])?;
        let join = Op::Transpose { perm: vec![0, 2, 1, 3] };
        let y = self.b.op(format!("{name}.join"), join, &[y])?;
        let shape = vec![self.batch, self.c.window, self.c.width];
        self.b.op(format!("{name}.merge"), Op::Reshape { shape }, &[y])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_those_of_the_published_checkpoints() {
        let published = [("tinyllama-1.1b", 1_100_048_384), ("llama-3.2-1b", 1_235_814_400)];
        for (name, count) in published {
            let dag = build(&Config::named(name).unwrap(), 1).unwrap();
            assert_eq!(dag.parameter_count(), count, "{name}");
        }
    }

    #[test]
    fn names_are_those_of_the_hugging_face_checkpoint() {
        let dag = build(&Config::named("tinyllama-1.1b").unwrap(), 1).unwrap();
        let find = |name: &str| dag.values().iter().find(|v| v.name == name).unwrap();
        assert_eq!(find("model.layers.21.self_attn.k_proj.weight").fact.shape, [256, 2048]);
        assert_eq!(find("model.layers.0.mlp.down_proj.weight").fact.shape, [2048, 5632]);
        assert_eq!(dag.parameters().count(), 22 * 9 + 3);
    }
}
