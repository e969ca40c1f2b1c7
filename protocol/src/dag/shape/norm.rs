//! Shape rules of softmax, normalisation, losses and element-wise operators.

use super::{Operands, ShapeError, Shapes, broadcast};
use crate::dag::Dtype;
use crate::dag::op::{Binary, Targets};

impl Operands<'_> {
    pub(super) fn softmax(&self, axis: usize) -> Shapes {
        let [x] = self.floats("one f32 tensor")?;
        self.need_axis(axis, x)?;
        Ok(vec![x.to_vec()])
    }

    pub(super) fn softmax_grad(&self, axis: usize) -> Shapes {
        let shapes = self.alike::<2>()?;
        self.need_axis(axis, &shapes[0])?;
        Ok(shapes)
    }

    pub(super) fn need_axis(&self, axis: usize, x: &[usize]) -> Result<(), ShapeError> {
        if axis < x.len() { Ok(()) } else { Err(self.setting("an axis of the operand", axis)) }
    }

    fn need_eps(&self, eps: f32) -> Result<(), ShapeError> {
        if eps.is_finite() && eps >= 0.0 {
            return Ok(());
        }
        Err(self.setting("a finite eps of at least 0", eps))
    }

    pub(super) fn layer_norm(&self, eps: f32) -> Shapes {
        const EXPECTED: &str = "f32 x [.., C], gain [C] and bias [C]";
        let [x, gain, bias] = self.floats(EXPECTED)?;
        self.need_eps(eps)?;
        let Some((width, lead)) = x.split_last() else {
            return Err(self.unfit(EXPECTED));
        };
        self.need(gain == [*width] && bias == gain, EXPECTED)?;
        Ok(vec![x.to_vec(), lead.to_vec(), lead.to_vec()])
    }

    pub(super) fn layer_norm_grad(&self) -> Shapes {
        const EXPECTED: &str = "f32 x [.., C], gain [C], mean [..], rstd [..] and g [.., C]";
        let [x, gain, mean, rstd, g] = self.floats(EXPECTED)?;
        let Some((width, lead)) = x.split_last() else {
            return Err(self.unfit(EXPECTED));
        };
        self.need(gain == [*width] && mean == lead && rstd == lead && g == x, EXPECTED)?;
        Ok(vec![x.to_vec(), gain.to_vec(), gain.to_vec()])
    }

    pub(super) fn batch_norm(&self, eps: f32) -> Shapes {
        const EXPECTED: &str = "f32 x [B, C, H, W], gain [C] and bias [C]";
        let [x, gain, bias] = self.floats(EXPECTED)?;
        self.need_eps(eps)?;
        self.need(is_per_channel(x, &[gain, bias]), EXPECTED)?;
        Ok(vec![x.to_vec(), gain.to_vec(), gain.to_vec()])
    }

    pub(super) fn batch_norm_grad(&self, eps: f32) -> Shapes {
        const EXPECTED: &str = "f32 x [B, C, H, W], gain [C] and g [B, C, H, W]";
        let [x, gain, g] = self.floats(EXPECTED)?;
        self.need_eps(eps)?;
        self.need(is_per_channel(x, &[gain]) && g == x, EXPECTED)?;
        Ok(vec![x.to_vec(), gain.to_vec(), gain.to_vec()])
    }

    pub(super) fn batch_norm_inference(&self, eps: f32) -> Shapes {
        const EXPECTED: &str = "f32 x [B, C, H, W], gain, bias, mean and var [C]";
        let [x, gain, bias, mean, var] = self.floats(EXPECTED)?;
        self.need_eps(eps)?;
        self.need(is_per_channel(x, &[gain, bias, mean, var]), EXPECTED)?;
        Ok(vec![x.to_vec()])
    }

    pub(super) fn rms_norm(&self, eps: f32) -> Shapes {
        const EXPECTED: &str = "f32 x [.., C] and gain [C]";
        let [x, gain] = self.floats(EXPECTED)?;
        self.need_eps(eps)?;
        let Some((width, lead)) = x.split_last() else {
            return Err(self.unfit(EXPECTED));
        };
        self.need(gain == [*width], EXPECTED)?;
        Ok(vec![x.to_vec(), lead.to_vec()])
    }

    pub(super) fn rms_norm_grad(&self) -> Shapes {
        const EXPECTED: &str = "f32 x [.., C], gain [C], rstd [..] and g [.., C]";
        let [x, gain, rstd, g] = self.floats(EXPECTED)?;
        let Some((width, lead)) = x.split_last() else {
            return Err(self.unfit(EXPECTED));
        };
        self.need(gain == [*width] && rstd == lead && g == x, EXPECTED)?;
        Ok(vec![x.to_vec(), gain.to_vec()])
    }

    fn need_targets(&self, targets: &Targets) -> Result<(), ShapeError> {
        if (0.0..1.0).contains(&targets.smoothing) {
            return Ok(());
        }
        Err(self.setting("a smoothing in [0, 1)", targets.smoothing))
    }

    pub(super) fn cross_entropy(&self, settings: &Targets) -> Shapes {
        self.need_targets(settings)?;
        const EXPECTED: &str = "logits f32 [.., V] and targets i32 [..]";
        let [logits, targets] = self.typed([Dtype::F32, Dtype::I32], EXPECTED)?;
        self.need(is_led_by(logits, targets), EXPECTED)?;
        Ok(vec![vec![]])
    }

    pub(super) fn cross_entropy_grad(&self, settings: &Targets) -> Shapes {
        self.need_targets(settings)?;
        const EXPECTED: &str = "logits f32 [.., V], targets i32 [..] and a scalar f32 g";
        let [logits, targets, g] = self.typed([Dtype::F32, Dtype::I32, Dtype::F32], EXPECTED)?;
        self.need(is_led_by(logits, targets) && g.is_empty(), EXPECTED)?;
        Ok(vec![logits.to_vec()])
    }

    pub(super) fn unary(&self) -> Shapes {
        let [x] = self.floats("one f32 tensor")?;
        Ok(vec![x.to_vec()])
    }

    pub(super) fn with_number(&self, number: f32) -> Shapes {
        self.need_finite(number)?;
        self.unary()
    }

    pub(super) fn dropout(&self, rate: f32) -> Shapes {
        if !(0.0..1.0).contains(&rate) {
            return Err(self.setting("a rate in [0, 1)", rate));
        }
        self.unary()
    }

    /// `N` tensors of one shape, whose shape the result has.
    pub(super) fn alike<const N: usize>(&self) -> Shapes {
        const EXPECTED: &str =
            "f32 tensors of one shape, one for the value and one for the cotangent";
        let shapes: [&[usize]; N] = self.floats(EXPECTED)?;
        self.need(shapes.iter().all(|shape| *shape == shapes[0]), EXPECTED)?;
        Ok(vec![shapes[0].to_vec()])
    }

    /// Two tensors of one dtype.
    pub(super) fn binary_any(&self) -> Shapes {
        const EXPECTED: &str = "two tensors of one dtype whose shapes broadcast";
        let [a, b] = self.any(EXPECTED)?;
        Ok(vec![broadcast(a, b).ok_or_else(|| self.unfit(EXPECTED))?])
    }

    pub(super) fn binary(&self, function: Binary) -> Shapes {
        const EXPECTED: &str = "two f32 tensors whose shapes broadcast";
        match function {
            Binary::Max | Binary::Min | Binary::Remainder => return self.binary_any(),
            Binary::Pow | Binary::Atan2 => {}
        }
        let [a, b] = self.floats(EXPECTED)?;
        Ok(vec![broadcast(a, b).ok_or_else(|| self.unfit(EXPECTED))?])
    }

    pub(super) fn choice(&self) -> Shapes {
        const EXPECTED: &str = "a mask i32 and two tensors of one dtype, shapes that broadcast";
        let [mask, a, b] = self.facts else {
            return Err(self.unfit(EXPECTED));
        };
        let known = matches!(a.dtype, Dtype::F32 | Dtype::I32);
        self.need(known && mask.dtype == Dtype::I32 && a.dtype == b.dtype, EXPECTED)?;
        let shape = broadcast(&a.shape, &b.shape).and_then(|s| broadcast(&mask.shape, &s));
        Ok(vec![shape.ok_or_else(|| self.unfit(EXPECTED))?])
    }

    pub(super) fn cast(&self, to: Dtype) -> Shapes {
        let [x] = self.any("one tensor of f32 or i32")?;
        if !matches!(to, Dtype::F32 | Dtype::I32) {
            return Err(self.setting("f32 or i32", to));
        }
        Ok(vec![x.to_vec()])
    }

    pub(super) fn add_n(&self) -> Shapes {
        const EXPECTED: &str = "one or more f32 tensors of one shape";
        let Some(first) = self.facts.first() else {
            return Err(self.unfit(EXPECTED));
        };
        let alike = self.facts.iter().all(|fact| fact == first) && first.dtype == Dtype::F32;
        self.need(alike, EXPECTED)?;
        Ok(vec![first.shape.clone()])
    }
}

fn is_per_channel(x: &[usize], vectors: &[&[usize]]) -> bool {
    matches!(x, [_, channels, _, _] if vectors.iter().all(|v| **v == [*channels]))
}

fn is_led_by(logits: &[usize], targets: &[usize]) -> bool {
    logits.split_last().is_some_and(|(_, lead)| lead == targets)
}
