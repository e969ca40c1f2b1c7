//! VJP rules of products, embeddings and convolutions.

use super::{GradError, Reverse, Site};
use crate::dag::Op;
use crate::dag::op::Conv2d;

impl Reverse {
    /// With `A`, `B` the operands as they enter the product: `dA = G B^T`, `dB = A^T G`; a swapped operand gets the
    /// transpose of that, written with flags instead of nodes.
    pub(super) fn matmul(
        &mut self,
        site: &Site,
        transpose_a: bool,
        transpose_b: bool,
    ) -> Result<(), GradError> {
        let (a, b, g) = (site.inputs[0], site.inputs[1], site.g);
        let product = |transpose_a, transpose_b| Op::MatMul { transpose_a, transpose_b };
        if self.wants(site, 0) {
            let full = if transpose_a {
                self.emit(site.id, product(transpose_b, true), &[b, g])?
            } else {
                self.emit(site.id, product(false, !transpose_b), &[g, b])?
            };
            let value = self.sum_to(site, 0, full)?;
            self.give(site, 0, value);
        }
        if self.wants(site, 1) {
            // A matrix that many rows share: one product over all rows instead of one for each batch and a sum.
            let is_shared = self.shape(b).len() == 2 && self.shape(a).len() > 2 && !transpose_a;
            let full = match (is_shared, transpose_b) {
                (true, false) => self.emit(site.id, Op::LinearWeightGrad, &[a, g])?,
                (true, true) => self.emit(site.id, Op::LinearWeightGrad, &[g, a])?,
                (false, false) => self.emit(site.id, product(!transpose_a, false), &[a, g])?,
                (false, true) => self.emit(site.id, product(true, transpose_a), &[g, a])?,
            };
            let value = self.sum_to(site, 1, full)?;
            self.give(site, 1, value);
        }
        Ok(())
    }

    pub(super) fn linear(&mut self, site: &Site) -> Result<(), GradError> {
        let (x, w, g) = (site.inputs[0], site.inputs[1], site.g);
        if self.wants(site, 0) {
            let shape = self.shape(x);
            let product = Op::MatMul { transpose_a: false, transpose_b: true };
            let value = if shape.len() == 1 {
                let row = Op::Reshape { shape: [vec![1], self.shape(g)].concat() };
                let row = self.emit(site.id, row, &[g])?;
                let value = self.emit(site.id, product, &[row, w])?;
                self.emit(site.id, Op::Reshape { shape }, &[value])?
            } else {
                self.emit(site.id, product, &[g, w])?
            };
            self.give(site, 0, value);
        }
        if self.wants(site, 1) {
            let value = self.emit(site.id, Op::LinearWeightGrad, &[x, g])?;
            self.give(site, 1, value);
        }
        if self.wants(site, 2) {
            let value = self.sum_to(site, 2, g)?;
            self.give(site, 2, value);
        }
        Ok(())
    }

    pub(super) fn embedding(&mut self, site: &Site) -> Result<(), GradError> {
        if self.wants(site, 0) {
            let rows = self.shape(site.inputs[0])[0];
            let op = Op::EmbeddingGrad { rows };
            let value = self.emit(site.id, op, &[site.inputs[1], site.g])?;
            self.give(site, 0, value);
        }
        Ok(())
    }

    pub(super) fn conv2d(&mut self, site: &Site, conv: Conv2d) -> Result<(), GradError> {
        let (x, w, g) = (site.inputs[0], site.inputs[1], site.g);
        if self.wants(site, 0) {
            let shape = self.image_shape(x);
            let value = self.emit(site.id, Op::Conv2dInputGrad { conv, shape }, &[w, g])?;
            self.give(site, 0, value);
        }
        if self.wants(site, 1) {
            let shape = self.image_shape(w);
            let value = self.emit(site.id, Op::Conv2dWeightGrad { conv, shape }, &[x, g])?;
            self.give(site, 1, value);
        }
        if self.wants(site, 2) {
            let sum = Op::ReduceSum { axes: vec![0, 2, 3], keep: false };
            let value = self.emit(site.id, sum, &[g])?;
            self.give(site, 2, value);
        }
        Ok(())
    }

    /// The transposed convolution: linear in both operands. Its cotangent is what the convolution reads.
    pub(super) fn conv2d_input_grad(&mut self, site: &Site, conv: Conv2d) -> Result<(), GradError> {
        let (w, x, g) = (site.inputs[0], site.inputs[1], site.g);
        if self.wants(site, 0) {
            let shape = self.image_shape(w);
            let value = self.emit(site.id, Op::Conv2dWeightGrad { conv, shape }, &[g, x])?;
            self.give(site, 0, value);
        }
        if self.wants(site, 1) {
            let value = self.emit(site.id, Op::Conv2d(conv), &[g, w])?;
            self.give(site, 1, value);
        }
        Ok(())
    }
}
