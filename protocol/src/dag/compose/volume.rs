//! Reading volumes between voxels: grid sampling in three axes.

use super::sample::{Beyond, pixels, taps};
use super::{Built, Scope};
use crate::dag::{DagError, Op};
use crate::ids::ValueId;

/// `x [B, C, D, H, W], grid [B, D', H', W', 3] (column, row, depth in [-1, 1]) -> [B, C, D', H', W']`, trilinear, as
/// PyTorch's `grid_sample`. *Errors*: as `DagBuilder::apply`.
pub fn grid_sample(
    s: &mut Scope<'_>,
    x: ValueId,
    grid: ValueId,
    beyond: Beyond,
    aligned: bool,
) -> Built {
    let [batch, channels, depth, height, width] = s.sized(x, "a volume [B, C, D, H, W]")?;
    let [of, d, h, w, axes] = s.sized(grid, "a grid [B, D', H', W', 3]")?;
    if (of, axes) != (batch, 3) {
        return Err(s.refuse("a grid [B, D', H', W', 3] of the volume's batch", s.fact(grid)));
    }
    let places = d * h * w;
    let flat = s.reshape(x, &[batch, channels, depth * height * width])?;
    let at = |s: &mut Scope<'_>, which: usize, length: usize| -> Result<_, DagError> {
        let part = s.slice(grid, 4, which, which + 1)?;
        let part = s.reshape(part, &[batch, places])?;
        let part = pixels(s, part, length, aligned)?;
        taps(s, part, length, beyond)
    };
    let columns = at(s, 0, width)?;
    let rows = at(s, 1, height)?;
    let slices = at(s, 2, depth)?;
    let of_slice = s.int(i32::try_from(height * width).unwrap_or(i32::MAX))?;
    let of_row = s.int(i32::try_from(width).unwrap_or(i32::MAX))?;
    let mut total: Option<ValueId> = None;
    for slice in &slices {
        let first = s.mul(slice.index, of_slice)?;
        for row in &rows {
            let line = s.mul(row.index, of_row)?;
            let line = s.add(first, line)?;
            let share = s.mul(slice.weight, row.weight)?;
            for column in &columns {
                let index = s.add(line, column.index)?;
                let index = s.reshape(index, &[batch, 1, places])?;
                let index = s.expand(index, &[batch, channels, places])?;
                let voxel = s.op(Op::GatherElements { axis: 2 }, &[flat, index])?;
                let weight = s.mul(share, column.weight)?;
                let weight = s.reshape(weight, &[batch, 1, places])?;
                let part = s.mul(voxel, weight)?;
                total = Some(match total {
                    Some(total) => s.add(total, part)?,
                    None => part,
                });
            }
        }
    }
    s.reshape(total.unwrap_or(flat), &[batch, channels, d, h, w])
}
