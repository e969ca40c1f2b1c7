//! Sizes of a convolution, and how hosts compute it: by register tiles from a laid image, from gathered columns, or not.
//!
//! An image is laid out with its padding once, each phase of a stride as a plane of its own. The kernels in
//! `models/src/exec/host/conv` compute what is decided here; [`super::workspace`] prices the memory that it takes.

use crate::dag::op::Conv2d;

/// Rows and most columns of a register tile.
pub const TILE: [usize; 2] = [8, 48];

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Images.
    pub batch: usize,
    /// Channels of the input.
    pub inner: usize,
    /// Channels of the output.
    pub outer: usize,
    /// Height and width of the input.
    pub size: [usize; 2],
    /// Height and width of the output.
    pub out: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Steps between outputs.
    pub stride: [usize; 2],
    /// Zeros around the input.
    pub padding: [usize; 2],
    /// Steps between taps.
    pub dilation: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
}

impl Geometry {
    /// Returns the sizes of a convolution of x `[N, C, H, W]` with weights `[O, C / groups, KH, KW]` whose result has
    /// this height and width, where tiles pay and memory allows. None for operands of another rank, too.
    pub fn tiled(x: &[usize], w: &[usize], out: [usize; 2], conv: &Conv2d) -> Option<Self> {
        /// Fewest output channels of a group for which register tiles pay: a depthwise convolution would fill one row of
        /// each.
        const TILED: usize = 4;
        let (&[batch, inner, height, width], &[outer, _, kernel_height, kernel_width]) = (x, w)
        else {
            return None;
        };
        let geometry = Self {
            batch,
            inner,
            outer,
            size: [height, width],
            out,
            kernel: [kernel_height, kernel_width],
            stride: conv.stride,
            padding: conv.padding,
            dilation: conv.dilation,
            groups: conv.groups,
        };
        (outer / conv.groups.max(1) >= TILED && geometry.is_compact()).then_some(geometry)
    }

    /// Returns the outputs of a channel of an image.
    pub const fn columns(&self) -> usize {
        self.out[0] * self.out[1]
    }

    /// Returns the taps of a channel.
    pub const fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Returns the width of a laid row. With a stride of 1, the zeros after a row are those before the next.
    pub const fn width(&self) -> usize {
        let padded = self.size[1] + 2 * self.padding[1];
        match self.stride[1] {
            1 => self.size[1] + self.padding[1],
            stride => padded.div_ceil(stride),
        }
    }

    /// Returns the rows of a laid plane.
    pub const fn height(&self) -> usize {
        (self.size[0] + 2 * self.padding[0]).div_ceil(self.stride[0])
    }

    /// Returns the elements of a laid channel. The last row's end is the next row's start.
    pub const fn laid(&self) -> usize {
        let plane = self.height().saturating_mul(self.width()).saturating_add(self.padding[1]);
        plane.saturating_mul(self.stride[0]).saturating_mul(self.stride[1])
    }

    /// Says whether an image of these channels lies as it has to already.
    pub fn lies(&self, channels: usize) -> bool {
        self.padding == [0, 0] && self.stride == [1, 1] && channels == self.inner
    }

    /// Says whether a laid channel has not many more elements than its input and output: a stranger's network may name a
    /// stride, padding or dilation of any size, and what it names must not be allocated.
    pub const fn is_compact(&self) -> bool {
        /// Times the elements of input and output; a row and column of zeros around one of them is 9.
        const MOST: usize = 16;
        self.laid() <= MOST * (self.size[0] * self.size[1] + self.columns())
    }

    /// Says whether the columns between rows cost more than gathering the others: measured, gathering an element takes
    /// as long as some 60 multiplications. A row of outputs that is longer than a laid one, as where a kernel is narrower
    /// than its padding, cannot be read where it lies.
    pub const fn is_worth_gathering(&self) -> bool {
        const GATHER: usize = 60;
        let Some(between) = self.width().checked_sub(self.out[1]) else { return true };
        let dropped = self.out[0] * between;
        // dropped / columns > GATHER / outer
        dropped * (self.outer / self.groups) > GATHER * self.columns()
    }

    /// Returns the convolution of the result's cotangent that is the input's, where there is one that pays.
    pub fn turned(&self) -> Option<Self> {
        let reach = [0, 1].map(|a| (self.kernel[a] - 1) * self.dilation[a]);
        let fits = self.stride == [1, 1] && (0..2).all(|a| reach[a] >= self.padding[a]);
        let turned = Self {
            inner: self.outer,
            outer: self.inner,
            size: self.out,
            out: self.size,
            padding: [0, 1].map(|a| reach[a].saturating_sub(self.padding[a])),
            ..*self
        };
        // Turning writes every weight; it must be little against the product.
        (fits
            && turned.is_compact()
            && !turned.is_worth_gathering()
            && self.batch * self.columns() > 2 * TILE[1])
            .then_some(turned)
    }
}
