//! Where an image lies for a convolution: with its padding, each phase of the stride as a plane of its own.

use std::borrow::Cow;
use std::ops::Range;

use wattle_protocol::dag::cost::geometry::Geometry;

use crate::exec::host::parallel::pieces;
use crate::exec::host::tile::COLUMNS;

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
        if g.lies(channels.len()) {
            let plane = g.size[0] * g.size[1];
            let stride = g.inner * plane;
            return Self { values: Cow::Borrowed(x), width, plane, stride, phases };
        }
        let of_channel = g.laid();
        let plane = of_channel / (phases[0] * phases[1]);
        let stride = channels.len() * of_channel;
        let mut values = vec![0.0; g.batch * stride + COLUMNS];
        let laid = Self { values: Cow::Borrowed(&[]), width, plane, stride, phases };
        let size = g.size[0] * g.size[1];
        pieces(&mut values[..g.batch * stride], of_channel, size, |at, to| {
            let (image, channel) = (at / channels.len(), channels.start + at % channels.len());
            let from = &x[(image * g.inner + channel) * size..][..size];
            laid.lay(from, g, to);
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
