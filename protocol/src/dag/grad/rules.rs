//! Which VJP rule belongs to which operator: the exhaustive match, and the rules that are a line.

use super::{GradError, Reverse, Site};
use crate::dag::Op;
use crate::ids::ValueId;

impl Reverse {
    /// Adds the nodes that turn the cotangent of a node's result into contributions to its operands' cotangents.
    #[expect(
        clippy::too_many_lines,
        reason = "one line an operator, so that the compiler asks for each"
    )]
    pub(super) fn hand_on(&mut self, site: &Site) -> Result<(), GradError> {
        let (y, g) = (site.result, site.g);
        let x = |operand: usize| site.inputs[operand];
        match &site.op {
            Op::MatMul { transpose_a, transpose_b } => {
                self.matmul(site, *transpose_a, *transpose_b)
            }
            Op::Linear => self.linear(site),
            Op::Embedding => self.embedding(site),
            Op::Attention { causal, scale } => self.attention(site, *causal, *scale),
            Op::Lstm => self.lstm(site),
            Op::Gru => self.gru(site),
            Op::LayerNorm { .. } => self.layer_norm(site),
            Op::BatchNorm { eps } => self.batch_norm(site, *eps),
            Op::BatchNormInference { eps } => self.batch_norm_inference(site, *eps),
            Op::Conv2d(conv) => self.conv2d(site, *conv),
            Op::CausalMask { .. } => self.single(site, Op::CausalMask { fill: 0.0 }, &[g]),
            Op::Softmax { axis } => self.single(site, Op::SoftmaxGrad { axis: *axis }, &[y, g]),
            Op::Relu => self.single(site, Op::ReluGrad, &[y, g]),
            Op::Gelu(form) => self.single(site, Op::GeluGrad(*form), &[x(0), g]),
            Op::Dropout { .. } | Op::Scale { .. } => self.single(site, site.op.clone(), &[g]),
            Op::Shift { .. } => self.pass(site),
            Op::AddN => self.pass(site),
            Op::Add => self.add(site),
            Op::Sub => self.sub(site),
            Op::Mul => self.mul(site),
            Op::Div => self.div(site),
            Op::Unary(function) => self.unary(site, *function),
            Op::Binary(function) => self.binary(site, *function),
            Op::Where => self.choice(site),
            Op::Cast { .. } => self.pass(site),
            Op::Gather { axis } => self.gather(site, *axis),
            Op::GatherGrad { axis, .. } => self.gather_grad(site, *axis),
            Op::GatherElements { axis } => self.gather_elements(site, *axis),
            Op::ScatterElements { axis, add } => self.scatter_elements(site, *axis, *add),
            Op::TopK { axis, .. } => self.top_k(site, *axis),
            Op::CumSum { axis, exclusive, reverse } => {
                self.cum_sum(site, *axis, *exclusive, *reverse)
            }
            Op::LogSoftmax { axis } => self.log_softmax(site, *axis),
            Op::RmsNorm { .. } => self.rms_norm(site),
            Op::Rotary(rotary) => self.rotary(site, *rotary),
            Op::ReduceMax { axes, .. } => self.reduce_max(site, axes),
            Op::Reshape { .. } => {
                let shape = self.shape(x(0));
                self.single(site, Op::Reshape { shape }, &[g])
            }
            Op::Transpose { perm } => self.transpose(site, perm),
            Op::Slice { axis, start, .. } => self.slice(site, *axis, *start),
            Op::Unslice { axis, start, .. } => self.unslice(site, *axis, *start),
            Op::Concat { axis } => self.concat(site, *axis),
            Op::Expand { .. } => {
                let shape = self.shape(x(0));
                self.single(site, Op::SumTo { shape }, &[g])
            }
            Op::SumTo { .. } => {
                let shape = self.shape(x(0));
                self.single(site, Op::Expand { shape }, &[g])
            }
            Op::ReduceSum { axes, .. } => self.reduce(site, axes, false),
            Op::ReduceMean { axes, .. } => self.reduce(site, axes, true),
            Op::MaxPool2d(pool) => self.single(site, Op::MaxPool2dGrad(*pool), &[x(0), g]),
            Op::AvgPool2d(pool) => self.avg_pool2d(site, *pool),
            Op::CrossEntropy(targets) => {
                self.single(site, Op::CrossEntropyGrad(*targets), &[x(0), x(1), g])
            }
            Op::Fill { .. } | Op::Iota { .. } | Op::Literal { .. } | Op::Compare(_) => Ok(()),
            Op::LinearWeightGrad | Op::EmbeddingGrad { .. } | Op::AttentionGrad { .. } => {
                Err(self.without_rule(site))
            }
            Op::SoftmaxGrad { .. } | Op::LayerNormGrad | Op::BatchNormGrad { .. } => {
                Err(self.without_rule(site))
            }
            Op::ReluGrad | Op::GeluGrad(_) | Op::CrossEntropyGrad(_) | Op::RmsNormGrad => {
                Err(self.without_rule(site))
            }
            Op::Conv2dInputGrad { conv, .. } => self.conv2d_input_grad(site, *conv),
            Op::Conv2dWeightGrad { .. } => Err(self.without_rule(site)),
            Op::MaxPool2dGrad(_) | Op::AvgPool2dGrad { .. } => Err(self.without_rule(site)),
            Op::LstmGrad | Op::GruGrad => Err(self.without_rule(site)),
        }
    }

    pub(super) fn without_rule(&self, site: &Site) -> GradError {
        let node = self.builder.dag().node(site.id).name.clone();
        GradError::NotDifferentiable { node, op: site.op.name() }
    }

    /// One operator gives the contribution to the first operand.
    pub(super) fn single(
        &mut self,
        site: &Site,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<(), GradError> {
        if self.wants(site, 0) {
            let value = self.emit(site.id, op, inputs)?;
            self.give(site, 0, value);
        }
        Ok(())
    }

    /// The cotangent goes to every operand as it is.
    fn pass(&mut self, site: &Site) -> Result<(), GradError> {
        for operand in 0..site.inputs.len() {
            self.give(site, operand, site.g);
        }
        Ok(())
    }

    fn add(&mut self, site: &Site) -> Result<(), GradError> {
        for operand in 0..2 {
            if self.wants(site, operand) {
                let value = self.sum_to(site, operand, site.g)?;
                self.give(site, operand, value);
            }
        }
        Ok(())
    }

    fn sub(&mut self, site: &Site) -> Result<(), GradError> {
        if self.wants(site, 0) {
            let value = self.sum_to(site, 0, site.g)?;
            self.give(site, 0, value);
        }
        if self.wants(site, 1) {
            let sum = self.sum_to(site, 1, site.g)?;
            let value = self.emit(site.id, Op::Scale { factor: -1.0 }, &[sum])?;
            self.give(site, 1, value);
        }
        Ok(())
    }

    fn mul(&mut self, site: &Site) -> Result<(), GradError> {
        for operand in 0..2 {
            if self.wants(site, operand) {
                let other = site.inputs[1 - operand];
                let product = self.emit(site.id, Op::Mul, &[site.g, other])?;
                let value = self.sum_to(site, operand, product)?;
                self.give(site, operand, value);
            }
        }
        Ok(())
    }

    /// `y = a / b`: `da = g / b`, `db = -(g y) / b`.
    fn div(&mut self, site: &Site) -> Result<(), GradError> {
        let b = site.inputs[1];
        if self.wants(site, 0) {
            let quotient = self.emit(site.id, Op::Div, &[site.g, b])?;
            let value = self.sum_to(site, 0, quotient)?;
            self.give(site, 0, value);
        }
        if self.wants(site, 1) {
            let product = self.emit(site.id, Op::Mul, &[site.g, site.result])?;
            let quotient = self.emit(site.id, Op::Div, &[product, b])?;
            let sum = self.sum_to(site, 1, quotient)?;
            let value = self.emit(site.id, Op::Scale { factor: -1.0 }, &[sum])?;
            self.give(site, 1, value);
        }
        Ok(())
    }
}
