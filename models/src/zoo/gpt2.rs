//! GPT-2: a decoder-only transformer with learned positions, pre-normalisation and tied input and output embeddings.
//!
//! *Source*: Radford et al. 2019; names and layouts as in the Hugging Face checkpoint (`Conv1D` weights are `[in, out]`).

use wattle_protocol::dag::op::{Gelu, Op, Targets};
use wattle_protocol::dag::{Dag, DagBuilder, DagError, Fact, Init};
use wattle_protocol::ids::ValueId;

/// How attention is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// One operator, which saves q, k and v and recomputes the weights in the backward pass.
    Fused,
    /// Matrix products, mask and softmax as operators of their own, which a cut may part.
    Primitive,
}

/// Sizes of a GPT-2.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the network.
    pub name: String,
    /// Token ids.
    pub vocabulary: usize,
    /// Positions that have an embedding.
    pub positions: usize,
    /// Length of the training windows, at most `positions`.
    pub window: usize,
    /// Channels.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads, a divisor of `width`.
    pub heads: usize,
    /// Share dropped after embeddings and branches; 0 for none.
    pub dropout: f32,
    /// How attention is written.
    pub attention: Attention,
}

impl Config {
    /// Returns the sizes of a named GPT-2.
    pub fn named(name: &str) -> Option<Self> {
        let bytes = |window, width, layers, heads| (256, window, window, width, layers, heads);
        let words = |width, layers, heads| (50_257, 1024, 1024, width, layers, heads);
        let (vocabulary, positions, window, width, layers, heads) = match name {
            "gpt2-nano" => bytes(64, 64, 4, 4),
            "gpt2-mini" => bytes(128, 192, 6, 6),
            "gpt2" => words(768, 12, 12),
            "gpt2-medium" => words(1024, 24, 16),
            "gpt2-large" => words(1280, 36, 20),
            "gpt2-xl" => words(1600, 48, 25),
            _ => return None,
        };
        let (dropout, attention) = (0.0, Attention::Fused);
        let name = name.into();
        Some(Self { name, vocabulary, positions, window, width, layers, heads, dropout, attention })
    }
}

/// Spread of initial weights.
const SPREAD: f32 = 0.02;
/// Added to the variance in layer normalisation.
const EPS: f32 = 1e-5;

struct Network<'a> {
    b: DagBuilder,
    c: &'a Config,
    batch: usize,
    dropouts: u32,
}

/// Builds the network with its loss: inputs `tokens` and `targets`, i32 `[batch, window]`.
///
/// *Errors*: [`DagError`] if the sizes do not fit together.
pub fn build(config: &Config, batch: usize) -> Result<Dag, DagError> {
    let b = DagBuilder::new(config.name.clone());
    let mut net = Network { b, c: config, batch, dropouts: 0 };
    let c = config;
    let tokens = net.b.input("tokens", Fact::i32(&[batch, c.window]));
    let targets = net.b.input("targets", Fact::i32(&[batch, c.window]));
    let wte = net.weight("wte.weight", &[c.vocabulary, c.width], SPREAD);
    let wpe = net.weight("wpe.weight", &[c.positions, c.width], SPREAD);
    let embedded = net.b.op("wte", Op::Embedding, &[wte, tokens])?;
    let positions = match c.window == c.positions {
        true => wpe,
        false => net.b.op("wpe", Op::Slice { axis: 0, start: 0, end: c.window }, &[wpe])?,
    };
    let x = net.b.op("embed", Op::Add, &[embedded, positions])?;
    let mut x = net.dropout("drop", x)?;
    for layer in 0..c.layers {
        x = net.block(&format!("h.{layer}"), x)?;
    }
    let x = net.layer_norm("ln_f", x)?;
    let head = Op::MatMul { transpose_a: false, transpose_b: true };
    let logits = net.b.op("lm_head", head, &[x, wte])?;
    let loss = net.b.op("loss", Op::CrossEntropy(Targets::default()), &[logits, targets])?;
    net.b.output(loss);
    net.b.finish()
}

impl Network<'_> {
    fn weight(&mut self, name: &str, shape: &[usize], spread: f32) -> ValueId {
        self.b.parameter(name, shape, Init::Normal(spread), true)
    }

    fn vector(&mut self, name: String, len: usize, value: f32) -> ValueId {
        self.b.parameter(name, &[len], Init::Constant(value), false)
    }

    fn layer_norm(&mut self, name: &str, x: ValueId) -> Result<ValueId, DagError> {
        let gain = self.vector(format!("{name}.weight"), self.c.width, 1.0);
        let bias = self.vector(format!("{name}.bias"), self.c.width, 0.0);
        self.b.op(name, Op::LayerNorm { eps: EPS }, &[x, gain, bias])
    }

    fn linear(
        &mut self,
        name: &str,
        x: ValueId,
        [from, to]: [usize; 2],
        spread: f32,
    ) -> Result<ValueId, DagError> {
        let weight = self.weight(&format!("{name}.weight"), &[from, to], spread);
        let bias = self.vector(format!("{name}.bias"), to, 0.0);
        self.b.op(name, Op::Linear, &[x, weight, bias])
    }

    fn dropout(&mut self, name: &str, x: ValueId) -> Result<ValueId, DagError> {
        if self.c.dropout <= 0.0 {
            return Ok(x);
        }
        let op = Op::Dropout { rate: self.c.dropout, stream: self.dropouts };
        self.dropouts += 1;
        self.b.op(name, op, &[x])
    }

    #[expect(clippy::cast_precision_loss, reason = "layer counts are small")]
    fn block(&mut self, name: &str, x: ValueId) -> Result<ValueId, DagError> {
        let width = self.c.width;
        // Branches that add to the residual stream start smaller, since there are two a layer (section 2.3).
        let small = SPREAD / (2.0 * self.c.layers as f32).sqrt();
        let h = self.layer_norm(&format!("{name}.ln_1"), x)?;
        let h = self.linear(&format!("{name}.attn.c_attn"), h, [width, 3 * width], SPREAD)?;
        let h = self.attention(&format!("{name}.attn"), h)?;
        let h = self.linear(&format!("{name}.attn.c_proj"), h, [width, width], small)?;
        let h = self.dropout(&format!("{name}.attn.drop"), h)?;
        let x = self.b.op(format!("{name}.attn.add"), Op::Add, &[x, h])?;
        let h = self.layer_norm(&format!("{name}.ln_2"), x)?;
        let h = self.linear(&format!("{name}.mlp.c_fc"), h, [width, 4 * width], SPREAD)?;
        let h = self.b.op(format!("{name}.mlp.act"), Op::Gelu(Gelu::Tanh), &[h])?;
        let h = self.linear(&format!("{name}.mlp.c_proj"), h, [4 * width, width], small)?;
        let h = self.dropout(&format!("{name}.mlp.drop"), h)?;
        self.b.op(format!("{name}.mlp.add"), Op::Add, &[x, h])
    }

    /// Multi-head attention from the joined projections `[B, T, 3 C]` to `[B, T, C]`.
    #[expect(clippy::cast_precision_loss, reason = "head widths are small")]
    fn attention(&mut self, name: &str, qkv: ValueId) -> Result<ValueId, DagError> {
        let (width, heads) = (self.c.width, self.c.heads.max(1));
        let (batch, window) = (self.batch, self.c.window);
        let perm = vec![0, 2, 1, 3];
        let mut parts = Vec::with_capacity(3);
        for (at, part) in ["q", "k", "v"].into_iter().enumerate() {
            let name = format!("{name}.{part}");
            let slice = Op::Slice { axis: 2, start: at * width, end: (at + 1) * width };
            let x = self.b.op(&name, slice, &[qkv])?;
            let shape = vec![batch, window, heads, width / heads];
            let x = self.b.op(format!("{name}.split"), Op::Reshape { shape }, &[x])?;
            let transpose = Op::Transpose { perm: perm.clone() };
            parts.push(self.b.op(format!("{name}.heads"), transpose, &[x])?);
        }
        let scale = 1.0 / ((width / heads) as f32).sqrt();
        let x = match self.c.attention {
            Attention::Fused => self.b.op(name, Op::Attention { causal: true, scale }, &parts)?,
            Attention::Primitive => self.primitive_attention(name, &parts, scale)?,
        };
        let x = self.b.op(format!("{name}.join"), Op::Transpose { perm }, &[x])?;
        let shape = vec![batch, window, width];
        self.b.op(format!("{name}.merge"), Op::Reshape { shape }, &[x])
    }

    fn primitive_attention(
        &mut self,
        name: &str,
        parts: &[ValueId],
        scale: f32,
    ) -> Result<ValueId, DagError> {
        let product = Op::MatMul { transpose_a: false, transpose_b: true };
        let x = self.b.op(format!("{name}.scores"), product, &[parts[0], parts[1]])?;
        let x = self.b.op(format!("{name}.scale"), Op::Scale { factor: scale }, &[x])?;
        let mask = Op::CausalMask { fill: f32::NEG_INFINITY };
        let x = self.b.op(format!("{name}.mask"), mask, &[x])?;
        let x = self.b.op(format!("{name}.weights"), Op::Softmax { axis: 3 }, &[x])?;
        let product = Op::MatMul { transpose_a: false, transpose_b: false };
        self.b.op(name, product, &[x, parts[2]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_those_of_the_published_checkpoints() {
        let published = [
            ("gpt2", 124_439_808),
            ("gpt2-medium", 354_823_168),
            ("gpt2-large", 774_030_080),
            ("gpt2-xl", 1_557_611_200),
        ];
        for (name, count) in published {
            let dag = build(&Config::named(name).unwrap(), 1).unwrap();
            assert_eq!(dag.parameter_count(), count, "{name}");
        }
        let nano = build(&Config::named("gpt2-nano").unwrap(), 1).unwrap();
        // 256 * 64 + 64 * 64 + 4 * (12 * 64^2 + 13 * 64) + 128
        assert_eq!(nano.parameter_count(), 220_544);
    }

    #[test]
    fn names_are_those_of_the_hugging_face_checkpoint() {
        let dag = build(&Config::named("gpt2").unwrap(), 1).unwrap();
        let find = |name: &str| dag.values().iter().find(|v| v.name == name).unwrap();
        assert_eq!(find("h.11.attn.c_attn.weight").fact.shape, [768, 2304]);
        assert_eq!(find("h.0.mlp.c_proj.bias").fact.shape, [768]);
        assert_eq!(find("wte.weight").fact.shape, [50_257, 768]);
        assert_eq!(dag.parameters().count(), 148);
    }
}
