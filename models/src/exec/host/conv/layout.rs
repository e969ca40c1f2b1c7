//! Where an image lies for a convolution: with its padding, each phase of the stride as a plane of its own.

use std::borrow::Cow;
use std::ops::Range;

use crate::exec::host::fresh::fill_rows;
use crate::exec::host::tile::{COLUMNS, LANES};

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
    /// Returns the outputs of a channel of an image.
    pub fn columns(&self) -> usize {
        self.out[0] * self.out[1]
    }

    /// Returns the taps of a channel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Width of a laid row. With a stride of 1, the zeros after a row are those before the next.
    fn width(&self) -> usize {
        let padded = self.size[1] + 2 * self.padding[1];
        match self.stride[1] {
            1 => self.size[1] + self.padding[1],
            stride => padded.div_ceil(stride),
        }
    }

    /// Rows of a laid plane.
    fn height(&self) -> usize {
        (self.size[0] + 2 * self.padding[0]).div_ceil(self.stride[0])
    }

    /// Says whether a laid channel has not many more elements than its input and output: a stranger's network may name a
    /// stride, padding or dilation of any size, and what it names must not be allocated.
    pub fn is_compact(&self) -> bool {
        /// Times the elements of input and output; a row and column of zeros around one of them is 9.
        const MOST: usize = 16;
        let plane = self.height().saturating_mul(self.width()).saturating_add(self.padding[1]);
        let laid = plane.saturating_mul(self.stride[0]).saturating_mul(self.stride[1]);
        laid <= MOST * (self.size[0] * self.size[1] + self.columns())
    }

    /// Says whether the columns of whole vectors that do not count cost more than a matrix of patches: measured, copying
    /// an element into it takes as long as some 30 multiplications.
    pub(super) fn is_worth_gathering(&self) -> bool {
        const GATHER: usize = 30;
        let computed = (self.out[0] - 1) * self.width() + self.out[1];
        let dropped = computed.next_multiple_of(LANES) - self.columns();
        // dropped / columns > GATHER / outer
        dropped * (self.outer / self.groups) > GATHER * self.columns() && self.has_few_patches()
    }

    /// Says whether a matrix of patches has not many more elements than what the convolution reads and writes: a stranger's
    /// network may name a kernel of any size.
    fn has_few_patches(&self) -> bool {
        const MOST: usize = 16;
        let inner = self.inner / self.groups;
        let tensors = self.batch * self.inner * self.size[0] * self.size[1]
            + self.batch * self.outer * self.columns()
            + self.outer * inner * self.taps();
        let patches = (self.batch * self.columns()).saturating_mul(inner * self.taps());
        patches <= MOST * tensors
    }

    /// Returns the convolution of every `stride`-th pixel, where that is all that this one reads.
    pub(super) fn of_picked(&self) -> Option<Self> {
        let picks = self.kernel == [1, 1] && self.padding == [0, 0] && self.stride != [1, 1];
        picks.then_some(Self { size: self.out, stride: [1, 1], ..*self })
    }

    /// Says whether a plane of outputs has fewer elements than a vector.
    pub(super) fn is_small(&self) -> bool {
        self.columns() < LANES
    }

    /// Returns how many taps lie together in a laid image.
    pub(super) fn run(&self) -> usize {
        if self.stride == [1, 1] && self.dilation[1] == 1 { self.kernel[1] } else { 1 }
    }

    /// Returns where in a plane of the input the tap of an output lies, if it does not lie in the padding.
    pub(super) fn place(&self, output: [usize; 2], tap: [usize; 2]) -> Option<usize> {
        let [y, x] = [0, 1].map(|a| {
            let at = output[a] * self.stride[a] + tap[a] * self.dilation[a];
            at.checked_sub(self.padding[a]).filter(|at| *at < self.size[a])
        });
        Some(y? * self.size[1] + x?)
    }
}

/// Images of some channels, laid out: `[image][channel][phase][row][column]`.
#[derive(Debug)]
pub struct Laid<'a> {
    /// All elements, with room for a tile beyond the last plane unless they are the input itself.
    pub values: Cow<'a, [f32]>,
    /// Width of a row.
    pub width: usize,
    plane: usize,
    /// From an image to the next.
    pub(super) stride: usize,
    phases: [usize; 2],
}

impl<'a> Laid<'a> {
    /// Lays the `channels` of x `[N, C, H, W]` out; where nothing has to move, x itself.
    pub fn new(x: &'a [f32], g: &Geometry, channels: Range<usize>) -> Self {
        let (width, phases) = (g.width(), g.stride);
        if g.padding == [0, 0] && phases == [1, 1] && channels == (0..g.inner) {
            let plane = g.size[0] * g.size[1];
            let stride = g.inner * plane;
            return Self { values: Cow::Borrowed(x), width, plane, stride, phases };
        }
        // The last row's end is the next row's start.
        let plane = g.height() * width + g.padding[1];
        let of_channel = phases[0] * phases[1] * plane;
        let stride = channels.len() * of_channel;
        let laid = Self { values: Cow::Borrowed(&[]), width, plane, stride, phases };
        let size = g.size[0] * g.size[1];
        let len = g.batch * stride + COLUMNS;
        let (values, _) = fill_rows(len, of_channel, 1, |first, to| {
            for (at, to) in to.chunks_exact_mut(of_channel).enumerate() {
                let at = first + at;
                let (image, channel) = (at / channels.len(), channels.start + at % channels.len());
                // The room beyond the last image may be longer than a channel.
                if image < g.batch {
                    let from = &x[(image * g.inner + channel) * size..][..size];
                    laid.lay(from, g, to);
                }
            }
        });
        Self { values: Cow::Owned(values), ..laid }
    }

    /// Lays one channel of an image out.
    fn lay(&self, from: &[f32], g: &Geometry, to: &mut [f32]) {
        for (y, row) in from.chunks_exact(g.size[1]).enumerate() {
            let y = y + g.padding[0];
            let (phase, line) = (y % self.phases[0], y / self.phases[0]);
            if self.phases[1] == 1 {
                let start = phase * self.plane + line * self.width + g.padding[1];
                to[start..start + row.len()].copy_from_slice(row);
                continue;
            }
            for across in 0..self.phases[1] {
                let plane = (phase * self.phases[1] + across) * self.plane + line * self.width;
                // The first x with (x + padding) % stride == across.
                let skip =
                    (across + self.phases[1] - g.padding[1] % self.phases[1]) % self.phases[1];
                let start = plane + (skip + g.padding[1]) / self.phases[1];
                for (i, x) in row.iter().skip(skip).step_by(self.phases[1]).enumerate() {
                    to[start + i] = *x;
                }
            }
        }
    }

    /// Returns the elements from an image on.
    pub fn image(&self, image: usize) -> &[f32] {
        &self.values[image * self.stride..]
    }

    /// Returns how many columns an image has, those between rows included.
    pub fn columns(&self, g: &Geometry) -> usize {
        (g.out[0] - 1) * self.width + g.out[1]
    }

    /// Returns where each tap of each channel finds column 0, in the order of the weights.
    pub fn offsets(&self, g: &Geometry) -> Vec<usize> {
        let of_channel = self.phases[0] * self.phases[1] * self.plane;
        let mut offsets = Vec::with_capacity(self.stride / of_channel.max(1) * g.taps());
        for channel in 0..self.stride / of_channel.max(1) {
            for y in (0..g.kernel[0]).map(|y| y * g.dilation[0]) {
                for x in (0..g.kernel[1]).map(|x| x * g.dilation[1]) {
                    let phase = (y % self.phases[0]) * self.phases[1] + x % self.phases[1];
                    let place = y / self.phases[0] * self.width + x / self.phases[1];
                    offsets.push(channel * of_channel + phase * self.plane + place);
                }
            }
        }
        offsets
    }

    /// Returns where each output of each image lies from column 0 of the first.
    pub fn places(&self, g: &Geometry) -> Vec<usize> {
        let mut places = Vec::with_capacity(g.batch * g.columns());
        for image in 0..g.batch {
            for y in 0..g.out[0] {
                let start = image * self.stride + y * self.width;
                places.extend(start..start + g.out[1]);
            }
        }
        places
    }
}
