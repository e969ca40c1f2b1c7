//! VJP rules of operators that move, repeat or sum elements.

use super::{GradError, Reverse, Site};
use crate::dag::Op;

impl Reverse {
    pub(super) fn transpose(&mut self, site: &Site, perm: &[usize]) -> Result<(), GradError> {
        if self.wants(site, 0) {
            let mut inverse = vec![0; perm.len()];
            perm.iter().enumerate().for_each(|(i, axis)| inverse[*axis] = i);
            let value = self.emit(site.id, Op::Transpose { perm: inverse }, &[site.g])?;
            self.give(site, 0, value);
        }
        Ok(())
    }

    pub(super) fn slice(
        &mut self,
        site: &Site,
        axis: usize,
        start: usize,
    ) -> Result<(), GradError> {
        if self.wants(site, 0) {
            let len = self.shape(site.inputs[0])[axis];
            let value = self.emit(site.id, Op::Unslice { axis, start, len }, &[site.g])?;
            self.give(site, 0, value);
        }
        Ok(())
    }

    pub(super) fn unslice(
        &mut self,
        site: &Site,
        axis: usize,
        start: usize,
    ) -> Result<(), GradError> {
        if self.wants(site, 0) {
            let end = start + self.shape(site.inputs[0])[axis];
            let value = self.emit(site.id, Op::Slice { axis, start, end }, &[site.g])?;
            self.give(site, 0, value);
        }
        Ok(())
    }

    pub(super) fn concat(&mut self, site: &Site, axis: usize) -> Result<(), GradError> {
        let mut start = 0;
        for operand in 0..site.inputs.len() {
            let end = start + self.shape(site.inputs[operand])[axis];
            if self.wants(site, operand) {
                let value = self.emit(site.id, Op::Slice { axis, start, end }, &[site.g])?;
                self.give(site, operand, value);
            }
            start = end;
        }
        Ok(())
    }

    /// A sum's cotangent is repeated over the summed axes; a mean's is divided by their size first, while it is small.
    pub(super) fn reduce(
        &mut self,
        site: &Site,
        axes: &[usize],
        is_mean: bool,
    ) -> Result<(), GradError> {
        if !self.wants(site, 0) {
            return Ok(());
        }
        let shape = self.shape(site.inputs[0]);
        let mut value = site.g;
        if is_mean {
            let count: usize = axes.iter().map(|axis| shape[*axis]).product();
            #[expect(clippy::cast_precision_loss, reason = "the factor is an f32")]
            let factor = 1.0 / count as f32;
            value = self.emit(site.id, Op::Scale { factor }, &[value])?;
        }
        let mut kept = shape.clone();
        axes.iter().for_each(|axis| kept[*axis] = 1);
        if self.builder.fact(value).shape != kept {
            value = self.emit(site.id, Op::Reshape { shape: kept }, &[value])?;
        }
        let value = self.emit(site.id, Op::Expand { shape }, &[value])?;
        self.give(site, 0, value);
        Ok(())
    }
}
