//! VJP rules of operators that read, write, select or accumulate elements along an axis.

use super::{GradError, Reverse, Site};
use crate::dag::Op;
use crate::dag::op::{Comparison, Rotary, Unary};
use crate::ids::ValueId;

impl Reverse {
    pub(super) fn gather(&mut self, site: &Site, axis: usize) -> Result<(), GradError> {
        let len = self.shape(site.inputs[0])[axis];
        self.single(site, Op::GatherGrad { axis, len }, &[site.inputs[1], site.g])
    }

    /// The operator is linear in its second operand, and reading is the transpose of adding.
    pub(super) fn gather_grad(&mut self, site: &Site, axis: usize) -> Result<(), GradError> {
        if self.wants(site, 1) {
            let value = self.emit(site.id, Op::Gather { axis }, &[site.g, site.inputs[0]])?;
            self.give(site, 1, value);
        }
        Ok(())
    }

    fn zeros_like(&mut self, site: &Site, value: ValueId) -> Result<ValueId, GradError> {
        let shape = self.shape(value);
        self.emit(site.id, Op::Fill { shape, value: 0.0 }, &[])
    }

    /// Adds g into zeros of the first operand's shape.
    fn scattered(&mut self, site: &Site, axis: usize, ids: ValueId) -> Result<(), GradError> {
        if self.wants(site, 0) {
            let zeros = self.zeros_like(site, site.inputs[0])?;
            let op = Op::ScatterElements { axis, add: true };
            let value = self.emit(site.id, op, &[zeros, ids, site.g])?;
            self.give(site, 0, value);
        }
        Ok(())
    }

    pub(super) fn gather_elements(&mut self, site: &Site, axis: usize) -> Result<(), GradError> {
        self.scattered(site, axis, site.inputs[1])
    }

    pub(super) fn top_k(&mut self, site: &Site, axis: usize) -> Result<(), GradError> {
        self.scattered(site, axis, site.outputs[1])
    }

    /// Where several updates replace one place, each of them gets its cotangent, as in PyTorch.
    pub(super) fn scatter_elements(
        &mut self,
        site: &Site,
        axis: usize,
        add: bool,
    ) -> Result<(), GradError> {
        let ids = site.inputs[1];
        if self.wants(site, 0) && add {
            self.give(site, 0, site.g);
        } else if self.wants(site, 0) {
            let zeros = self.zeros_like(site, site.inputs[2])?;
            let op = Op::ScatterElements { axis, add: false };
            let value = self.emit(site.id, op, &[site.g, ids, zeros])?;
            self.give(site, 0, value);
        }
        if self.wants(site, 2) {
            let value = self.emit(site.id, Op::GatherElements { axis }, &[site.g, ids])?;
            self.give(site, 2, value);
        }
        Ok(())
    }

    pub(super) fn cum_sum(
        &mut self,
        site: &Site,
        axis: usize,
        exclusive: bool,
        reverse: bool,
    ) -> Result<(), GradError> {
        self.single(site, Op::CumSum { axis, exclusive, reverse: !reverse }, &[site.g])
    }

    /// `dx = g - e^y sum g`.
    pub(super) fn log_softmax(&mut self, site: &Site, axis: usize) -> Result<(), GradError> {
        if !self.wants(site, 0) {
            return Ok(());
        }
        let weights = self.emit(site.id, Op::Unary(Unary::Exp), &[site.result])?;
        let sum = Op::ReduceSum { axes: vec![axis], keep: true };
        let total = self.emit(site.id, sum, &[site.g])?;
        let share = self.emit(site.id, Op::Mul, &[weights, total])?;
        self.single(site, Op::Sub, &[site.g, share])
    }

    /// The cotangent goes to the elements that equal the maximum, in equal shares.
    pub(super) fn reduce_max(&mut self, site: &Site, axes: &[usize]) -> Result<(), GradError> {
        if !self.wants(site, 0) {
            return Ok(());
        }
        let x = site.inputs[0];
        let mut kept = self.shape(x);
        axes.iter().for_each(|axis| kept[*axis] = 1);
        let view = Op::Reshape { shape: kept };
        let y = self.emit(site.id, view.clone(), &[site.result])?;
        let g = self.emit(site.id, view, &[site.g])?;
        let mask = self.emit(site.id, Op::Compare(Comparison::Equal), &[x, y])?;
        let mask = self.emit(site.id, Op::Cast { dtype: crate::dag::Dtype::F32 }, &[mask])?;
        let sum = Op::ReduceSum { axes: axes.to_vec(), keep: true };
        let count = self.emit(site.id, sum, &[mask])?;
        let share = self.emit(site.id, Op::Div, &[g, count])?;
        self.single(site, Op::Mul, &[mask, share])
    }

    pub(super) fn rms_norm(&mut self, site: &Site) -> Result<(), GradError> {
        let inputs = [site.inputs[0], site.inputs[1], site.outputs[1], site.g];
        let values = self.emit_all(site.id, Op::RmsNormGrad, &inputs)?;
        for (operand, value) in values.into_iter().enumerate() {
            self.give(site, operand, value);
        }
        Ok(())
    }

    pub(super) fn rotary(&mut self, site: &Site, rotary: Rotary) -> Result<(), GradError> {
        let back = Rotary { inverse: !rotary.inverse, ..rotary };
        self.single(site, Op::Rotary(back), &[site.g])
    }
}
