//! VJP rules of normalisation and pooling.

use super::{GradError, Reverse, Site};
use crate::dag::Op;
use crate::dag::op::Pool2d;
use crate::ids::ValueId;

impl Reverse {
    pub(super) fn layer_norm(&mut self, site: &Site) -> Result<(), GradError> {
        let (x, gain) = (site.inputs[0], site.inputs[1]);
        let (mean, rstd) = (site.outputs[1], site.outputs[2]);
        let inputs = [x, gain, mean, rstd, site.g];
        let values = self.emit_all(site.id, Op::LayerNormGrad, &inputs)?;
        self.give_all(site, &values);
        Ok(())
    }

    pub(super) fn batch_norm(&mut self, site: &Site, eps: f32) -> Result<(), GradError> {
        let inputs = [site.inputs[0], site.inputs[1], site.g];
        let values = self.emit_all(site.id, Op::BatchNormGrad { eps }, &inputs)?;
        self.give_all(site, &values);
        Ok(())
    }

    /// The operator is linear in x for given statistics, so it serves as its own VJP: with `g` for x and no mean and
    /// bias it gives dx; with unit gain and no bias it gives the normalised x, from which dgain follows.
    pub(super) fn batch_norm_inference(&mut self, site: &Site, eps: f32) -> Result<(), GradError> {
        let &[x, gain, bias, mean, var] = site.inputs.as_slice() else {
            return Err(self.without_rule(site));
        };
        if self.wants(site, 3) || self.wants(site, 4) {
            return Err(self.without_rule(site));
        }
        let op = Op::BatchNormInference { eps };
        let shape = self.shape(bias);
        let sum = Op::ReduceSum { axes: vec![0, 2, 3], keep: false };
        if self.wants(site, 0) || self.wants(site, 1) {
            let zero = self.emit(site.id, Op::Fill { shape: shape.clone(), value: 0.0 }, &[])?;
            if self.wants(site, 0) {
                let value = self.emit(site.id, op.clone(), &[site.g, gain, zero, zero, var])?;
                self.give(site, 0, value);
            }
            if self.wants(site, 1) {
                let one = self.emit(site.id, Op::Fill { shape, value: 1.0 }, &[])?;
                let normal = self.emit(site.id, op, &[x, one, zero, mean, var])?;
                let product = self.emit(site.id, Op::Mul, &[site.g, normal])?;
                let value = self.emit(site.id, sum.clone(), &[product])?;
                self.give(site, 1, value);
            }
        }
        if self.wants(site, 2) {
            let value = self.emit(site.id, sum, &[site.g])?;
            self.give(site, 2, value);
        }
        Ok(())
    }

    pub(super) fn avg_pool2d(&mut self, site: &Site, pool: Pool2d) -> Result<(), GradError> {
        if self.wants(site, 0) {
            let shape = self.image_shape(site.inputs[0]);
            let value = self.emit(site.id, Op::AvgPool2dGrad { pool, shape }, &[site.g])?;
            self.give(site, 0, value);
        }
        Ok(())
    }

    fn give_all(&mut self, site: &Site, values: &[ValueId]) {
        for (operand, value) in values.iter().enumerate() {
            self.give(site, operand, *value);
        }
    }

    /// Returns the shape of a value of which shape inference has made sure that it has four axes.
    pub(super) fn image_shape(&self, id: ValueId) -> [usize; 4] {
        let shape = &self.builder.fact(id).shape;
        shape.as_slice().try_into().expect("operands of image operators have four axes")
    }
}
