//! Correlation of two images along their rows: the cost volumes of stereo networks.
//!
//! A volume over a range of D disparities is a band of the products of all pairs in a row. All pairs as one matrix
//! product for each row are (W + D) / D times the arithmetic of the band, but a product and a sum for each disparity
//! read every channel from memory D times: a step forward and back at C = 32, H = 68, W = 120 takes 17 to 32 ms by
//! [`correlation`], and disparity by disparity 32 to 43 ms at D = 24 and 83 to 85 ms at D = 48 (CPU, 1 and 2 threads of
//! a busy cloud machine, AMD EPYC, 2026-11-25).

use super::{Built, Scope, layout};
use crate::dag::{DagError, Op};
use crate::ids::ValueId;

const IMAGES: &str = "two images [B, C, H, W] of one shape";

/// Rows of features, positions before channels: `[B, C, H, W] -> [B, H, W, C]`.
fn rows(s: &mut Scope<'_>, x: ValueId) -> Built {
    s.transpose(x, &[0, 2, 3, 1])
}

fn pair(s: &Scope<'_>, left: ValueId, right: ValueId) -> Result<[usize; 4], DagError> {
    let shape = s.sized(left, IMAGES)?;
    if s.fact(right).shape == shape { Ok(shape) } else { Err(s.refuse(IMAGES, s.fact(right))) }
}

/// Sums over channels of all pairs in a row: `left, right [B, C, H, W] -> [B, H, W, W]`, left positions first.
///
/// *Source*: Lipson et al. 2021 (RAFT-Stereo), section 3.2, equation 1. *Errors*: as `DagBuilder::apply`, here and below.
pub fn all_pairs(s: &mut Scope<'_>, left: ValueId, right: ValueId) -> Built {
    pair(s, left, right)?;
    let left = rows(s, left)?;
    let right = s.transpose(right, &[0, 2, 1, 3])?;
    s.op(Op::MatMul { transpose_a: false, transpose_b: false }, &[left, right])
}

/// Correlation volume: `left, right [B, C, H, W] -> [B, D, H, W]`, at disparity d the mean over channels of
/// `left[w] right[w - d]`; 0 where `w - d` lies beyond the image.
///
/// *Source*: Mayer et al. 2016 (`DispNetC`), section 4.2: the correlation of Dosovitskiy et al. 2015 along one axis.
#[expect(clippy::cast_precision_loss, reason = "channel counts are small")]
pub fn correlation(s: &mut Scope<'_>, left: ValueId, right: ValueId, disparities: usize) -> Built {
    let [batch, channels, height, width] = pair(s, left, right)?;
    if disparities == 0 {
        return Err(s.refuse("one disparity at least", disparities));
    }
    let reach = disparities - 1;
    let left = rows(s, left)?;
    let right = s.transpose(right, &[0, 2, 1, 3])?;
    let zeros = layout::Padding::Constant(0.0);
    let right = layout::pad(s, right, 3, (reach, 0), zeros)?;
    let plain = Op::MatMul { transpose_a: false, transpose_b: false };
    // Row w holds the products with places `j - reach`; disparity d is at `j = w - d + reach`.
    let products = s.op(plain, &[left, right])?;
    // One zero more at the end of each row's square shifts row w by w: what is wanted stands in the first columns.
    let long = width + reach;
    let flat = s.reshape(products, &[batch, height, width * long])?;
    let flat = layout::pad(s, flat, 2, (0, width), zeros)?;
    let band = s.reshape(flat, &[batch, height, width, long + 1])?;
    let band = s.slice(band, 3, 0, disparities)?;
    let volume = layout::flip(s, band, 3)?;
    let volume = s.transpose(volume, &[0, 3, 1, 2])?;
    s.scale(volume, 1.0 / channels as f32)
}

/// Concatenation volume: `left, right [B, C, H, W] -> [B, 2 C, D, H, W]`, features of both images side by side at each
/// disparity; 0 where `w - d` lies beyond the image.
///
/// *Source*: Kendall et al. 2017 (GC-Net), section 3.2.
pub fn concatenation(
    s: &mut Scope<'_>,
    left: ValueId,
    right: ValueId,
    disparities: usize,
) -> Built {
    let [batch, channels, height, width] = pair(s, left, right)?;
    if disparities > width {
        return Err(s.refuse("at most as many disparities as columns", disparities));
    }
    let zeros = layout::Padding::Constant(0.0);
    let mut planes = Vec::with_capacity(disparities);
    for disparity in 0..disparities {
        let seen = s.slice(left, 3, disparity, width)?;
        let moved = s.slice(right, 3, 0, width - disparity)?;
        let both = s.concat(&[seen, moved], 1)?;
        let both = layout::pad(s, both, 3, (disparity, 0), zeros)?;
        planes.push(s.reshape(both, &[batch, 2 * channels, 1, height, width])?);
    }
    s.concat(&planes, 2)
}
