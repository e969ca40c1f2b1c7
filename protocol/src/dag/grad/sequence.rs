//! VJP rules of operators over sequences: one node each that returns the gradients of all operands.

use super::{GradError, Reverse, Site};
use crate::dag::Op;
use crate::ids::ValueId;

impl Reverse {
    pub(super) fn attention(
        &mut self,
        site: &Site,
        causal: bool,
        scale: f32,
    ) -> Result<(), GradError> {
        let mask_grad = self.wants(site, 3);
        let inputs = [&site.inputs[..], &[site.g]].concat();
        self.all(site, Op::AttentionGrad { causal, scale, mask_grad }, &inputs)
    }

    pub(super) fn lstm(&mut self, site: &Site) -> Result<(), GradError> {
        let inputs = [&site.inputs[1..], &site.outputs[..], &[site.g]].concat();
        self.all(site, Op::LstmGrad, &inputs)
    }

    pub(super) fn gru(&mut self, site: &Site) -> Result<(), GradError> {
        let (recurrent, h) = (site.inputs[1], site.inputs[3]);
        let inputs = [&[recurrent, h], &site.outputs[..], &[site.g]].concat();
        self.all(site, Op::GruGrad, &inputs)
    }

    /// The results of one operator are the contributions to the operands in order.
    fn all(&mut self, site: &Site, op: Op, inputs: &[ValueId]) -> Result<(), GradError> {
        let values = self.emit_all(site.id, op, inputs)?;
        for (operand, value) in values.into_iter().enumerate() {
            self.give(site, operand, value);
        }
        Ok(())
    }
}
