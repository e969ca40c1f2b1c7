//! Reading vertices and their neighbours on a mesh or graph.

use super::{Built, Scope, reduce};
use crate::dag::Op;
use crate::dag::op::Comparison;
use crate::ids::ValueId;

/// Features of each vertex's neighbours: `x [B, N, C], ids i32 [N, K] -> [B, N, K, C]`. An id below 0 is no neighbour;
/// its features are 0. *Errors*: as `DagBuilder::apply`, here and below.
pub fn neighbours(s: &mut Scope<'_>, x: ValueId, ids: ValueId) -> Built {
    let (read, mask) = read(s, x, ids)?;
    let zero = s.number(0.0)?;
    s.choose(mask, read, zero)
}

/// Mean over each vertex's neighbours: `x [B, N, C], ids i32 [N, K] -> [B, N, C]`; 0 for a vertex without any.
pub fn mean_of_neighbours(s: &mut Scope<'_>, x: ValueId, ids: ValueId) -> Built {
    let (read, mask) = read(s, x, ids)?;
    reduce::masked_mean(s, read, mask, &[2], false)
}

/// Features at the ids, whatever stands where there is no neighbour, and the mask `[N, K, 1]` of the neighbours.
fn read(
    s: &mut Scope<'_>,
    x: ValueId,
    ids: ValueId,
) -> Result<(ValueId, ValueId), crate::dag::DagError> {
    let [_, _, _] = s.sized(x, "features [B, N, C]")?;
    let [vertices, count] = s.sized(ids, "ids i32 [N, K]")?;
    let zero = s.int(0)?;
    let mask = s.compare(Comparison::LessEqual, zero, ids)?;
    let safe = s.binary(crate::dag::op::Binary::Max, ids, zero)?;
    let read = s.op(Op::Gather { axis: 1 }, &[x, safe])?;
    Ok((read, s.reshape(mask, &[vertices, count, 1])?))
}
