//! Shape rules of convolutions and pools.

use super::{Operands, Shape, ShapeError, Shapes, check_size};
use crate::dag::op::{Conv2d, Pool2d};

/// Largest stride, padding and dilation: far beyond any network's, far below where kernels would overflow.
const WINDOW_MAX: usize = 1 << 16;

impl Operands<'_> {
    pub(super) fn conv2d(&self, conv: &Conv2d) -> Shapes {
        const EXPECTED: &str = "f32 x [B, C, H, W], w [O, C/groups, KH, KW] and maybe bias [O], kernel within the padded image";
        let (x, w, bias) = if self.facts.len() == 2 {
            let [x, w] = self.floats(EXPECTED)?;
            (x, w, None)
        } else {
            let [x, w, bias] = self.floats(EXPECTED)?;
            (x, w, Some(bias))
        };
        let out = self.convolved(conv, x, w, EXPECTED)?;
        self.need(bias.is_none_or(|bias| bias == &out[1..2]), EXPECTED)?;
        Ok(vec![out])
    }

    pub(super) fn conv2d_input_grad(&self, conv: &Conv2d, shape: &[usize; 4]) -> Shapes {
        const EXPECTED: &str =
            "f32 w [O, C/groups, KH, KW] and g of the convolution's result shape";
        let [w, g] = self.floats(EXPECTED)?;
        let out = self.convolved(conv, shape, w, EXPECTED)?;
        self.need(out == g, EXPECTED)?;
        Ok(vec![shape.to_vec()])
    }

    pub(super) fn conv2d_weight_grad(&self, conv: &Conv2d, shape: &[usize; 4]) -> Shapes {
        const EXPECTED: &str = "f32 x [B, C, H, W] and g of the convolution's result shape";
        let [x, g] = self.floats(EXPECTED)?;
        let out = self.convolved(conv, x, shape, EXPECTED)?;
        self.need(out == g, EXPECTED)?;
        Ok(vec![shape.to_vec()])
    }

    fn convolved(
        &self,
        conv: &Conv2d,
        x: &[usize],
        w: &[usize],
        expected: &'static str,
    ) -> Result<Shape, ShapeError> {
        let ([batch, channels, height, width], [out, per_group, kernel @ ..]) = (x, w) else {
            return Err(self.unfit(expected));
        };
        let &[kernel_height, kernel_width] = kernel else {
            return Err(self.unfit(expected));
        };
        let groups = conv.groups;
        if groups == 0 || channels % groups != 0 || out % groups != 0 {
            return Err(self.setting("groups that divide the channels on both sides", groups));
        }
        self.need(channels / groups == *per_group, expected)?;
        let window = |i: usize, length: usize, kernel: usize| {
            let reach = conv.dilation[i].checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
            let valid = conv.dilation[i] > 0;
            windows(length, reach, conv.stride[i], conv.padding[i]).filter(|_| valid)
        };
        let rows = window(0, *height, kernel_height);
        let columns = window(1, *width, kernel_width);
        let modest = conv.dilation.iter().all(|step| *step <= WINDOW_MAX);
        let (Some(rows), Some(columns), true) = (rows, columns, modest) else {
            return Err(self.setting("a stride and dilation of 1 or more that fit the image", conv));
        };
        check_padded(x, conv.padding)?;
        Ok(vec![*batch, *out, rows, columns])
    }

    pub(super) fn pool2d(&self, pool: &Pool2d) -> Shapes {
        let [x] = self.floats("f32 [B, C, H, W]")?;
        Ok(vec![self.pooled(pool, x)?])
    }

    pub(super) fn max_pool2d_grad(&self, pool: &Pool2d) -> Shapes {
        const EXPECTED: &str = "f32 x [B, C, H, W] and g of the pool's result shape";
        let [x, g] = self.floats(EXPECTED)?;
        self.need(self.pooled(pool, x)? == g, EXPECTED)?;
        Ok(vec![x.to_vec()])
    }

    pub(super) fn avg_pool2d_grad(&self, pool: &Pool2d, shape: &[usize; 4]) -> Shapes {
        const EXPECTED: &str = "f32 g of the pool's result shape";
        let [g] = self.floats(EXPECTED)?;
        self.need(self.pooled(pool, shape)? == g, EXPECTED)?;
        Ok(vec![shape.to_vec()])
    }

    fn pooled(&self, pool: &Pool2d, x: &[usize]) -> Result<Shape, ShapeError> {
        let [batch, channels, height, width] = x else {
            return Err(self.unfit("f32 [B, C, H, W]"));
        };
        // More padding than half a window would make windows of padding only, whose maximum is nothing.
        let padded = (0..2).all(|i| pool.padding[i] <= pool.kernel[i] / 2);
        let rows = windows(*height, pool.kernel[0], pool.stride[0], pool.padding[0]);
        let columns = windows(*width, pool.kernel[1], pool.stride[1], pool.padding[1]);
        let (Some(rows), Some(columns), true) = (rows, columns, padded) else {
            let expected = "a window within the padded image, padded by half of it at most";
            return Err(self.setting(expected, pool));
        };
        check_padded(x, pool.padding)?;
        Ok(vec![*batch, *channels, rows, columns])
    }
}

/// Returns how many windows of a reach fit on a padded axis, if any does.
fn windows(length: usize, reach: usize, stride: usize, padding: usize) -> Option<usize> {
    if reach == 0 || stride > WINDOW_MAX || padding > WINDOW_MAX {
        return None;
    }
    let padded = padding.checked_mul(2)?.checked_add(length)?;
    padded.checked_sub(reach)?.checked_div(stride)?.checked_add(1)
}

/// Checks that the padded image, which a kernel may hold, is no larger than any tensor may be.
fn check_padded(x: &[usize], padding: [usize; 2]) -> Result<(), ShapeError> {
    let mut padded = x.to_vec();
    for (length, padding) in padded.iter_mut().skip(2).zip(padding) {
        *length = length.saturating_add(2 * padding);
    }
    check_size(&padded)
}
