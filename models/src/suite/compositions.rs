//! Cases of compositions that stand over several families: masked reductions, meshes, volumes, stereo, windows as columns,
//! sums over named axes.

use wattle_protocol::dag::compose::pool::{self, Kind};
use wattle_protocol::dag::compose::resize::{self, Corners};
use wattle_protocol::dag::compose::sample::Beyond;
use wattle_protocol::dag::compose::{Built, Scope};
use wattle_protocol::dag::compose::{einsum, layout, mesh, reduce, stereo, volume};
use wattle_protocol::dag::op::{Comparison, Conv2d, Unary};
use wattle_protocol::ids::ValueId;

use super::{Case, Operand, built, ids, ints, range, whole, x};

const ROW: [usize; 3] = [2, 3, 4];
const IMAGE: [usize; 4] = [2, 3, 5, 4];
const VOLUME: [usize; 5] = [2, 2, 3, 4, 3];

/// Returns all cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = masked_cases();
    cases.extend(mesh_cases());
    cases.extend(size_cases());
    cases.extend(volume_cases());
    cases.extend(stereo_cases());
    cases.extend(unfold_cases());
    cases.extend(einsum_cases());
    cases
}

fn masked_cases() -> Vec<Case> {
    type Reduction = fn(&mut Scope<'_>, ValueId, ValueId, &[usize], bool) -> Built;
    let sum: Reduction = |s, x, mask, axes, keep| reduce::masked_sum(s, x, mask, axes, keep);
    let mean: Reduction = |s, x, mask, axes, keep| reduce::masked_mean(s, x, mask, axes, keep);
    let max: Reduction = |s, x, mask, axes, _| reduce::masked_max(s, x, mask, axes, -9.0);
    let mut cases = Vec::new();
    let kinds =
        [("reduce::masked_sum", sum), ("reduce::masked_mean", mean), ("reduce::masked_max", max)];
    for (row, reduction) in kinds {
        let of = move |name, mask: Operand, axes: &'static [usize], keep| {
            built(row, name, [x(&ROW), mask], move |s, p| reduction(s, p[0], p[1], axes, keep))
        };
        cases.extend([
            of("rows", ids(2, &ROW), &[2], false),
            of("stretched", ints(&[1, 0, 1], &[3, 1]), &[0, 1], false),
            of("nothing left in one", ints(&[1, 0, 1, 0, 0, 0], &[2, 3, 1]), &[1, 2], false),
            // What is masked is no number: the root of what lies below zero.
            built(row, "no numbers", [x(&ROW), x(&ROW).fixed()], move |s, p| {
                let root = s.unary(Unary::Sqrt, p[1])?;
                let y = s.add(p[0], root)?;
                let zero = s.number(0.0)?;
                let mask = s.compare(Comparison::LessEqual, zero, p[1])?;
                reduction(s, y, mask, &[2], false)
            }),
        ]);
        if row != "reduce::masked_max" {
            cases.push(of("kept", ids(2, &[2, 1, 4]), &[1, 2], true));
        }
    }
    cases
}

fn mesh_cases() -> Vec<Case> {
    let features = || x(&[2, 5, 3]);
    let alone = || ints(&[1, 4, -1, -1, 0, 0, -1, 2, 4, 3], &[5, 2]);
    vec![
        built("mesh::neighbours", "some missing", [features(), whole(-1, 5, &[5, 4])], |s, p| {
            mesh::neighbours(s, p[0], p[1])
        }),
        built("mesh::neighbours", "of other places", [features(), ids(5, &[7, 3])], |s, p| {
            mesh::neighbours(s, p[0], p[1])
        }),
        built(
            "mesh::mean_of_neighbours",
            "some missing",
            [features(), whole(-1, 5, &[5, 4])],
            |s, p| mesh::mean_of_neighbours(s, p[0], p[1]),
        ),
        built("mesh::mean_of_neighbours", "one alone", [features(), alone()], |s, p| {
            mesh::mean_of_neighbours(s, p[0], p[1])
        }),
    ]
}

/// Other sizes of the last axes.
fn size_cases() -> Vec<Case> {
    let linear = |name, of: &[usize], new: &'static [usize], corners| {
        built("resize::linear_all", name, [x(of)], move |s, p| {
            resize::linear_all(s, p[0], new, corners)
        })
    };
    let nearest = |name, of: &[usize], new: &'static [usize]| {
        built("resize::nearest_all", name, [x(of)], move |s, p| resize::nearest_all(s, p[0], new))
    };
    let pooled = |name, of: &[usize], new: &'static [usize], kind| {
        built("pool::adaptive_all", name, [x(of)], move |s, p| {
            pool::adaptive_all(s, p[0], new, kind)
        })
    };
    vec![
        linear("row", &[2, 3, 7], &[12], Corners::HalfPixel),
        linear("image", &IMAGE, &[7, 9], Corners::HalfPixel),
        linear("image, aligned", &IMAGE, &[3, 7], Corners::Aligned),
        linear("volume", &VOLUME, &[5, 2, 6], Corners::HalfPixel),
        linear("volume, aligned", &VOLUME, &[5, 7, 2], Corners::Aligned),
        linear("volume, one size as it was", &VOLUME, &[6, 4, 1], Corners::HalfPixel),
        nearest("row", &[2, 3, 7], &[12]),
        nearest("image", &IMAGE, &[3, 9]),
        nearest("volume", &VOLUME, &[7, 3, 5]),
        pooled("row, mean", &[2, 3, 7], &[3], Kind::Mean),
        pooled("image, mean", &IMAGE, &[3, 3], Kind::Mean),
        pooled("image, max", &IMAGE, &[2, 3], Kind::Max),
        pooled("image to one, mean", &IMAGE, &[1, 1], Kind::Mean),
        pooled("volume, mean", &VOLUME, &[2, 3, 2], Kind::Mean),
        pooled("volume, max", &VOLUME, &[2, 3, 5], Kind::Max),
    ]
}

fn volume_cases() -> Vec<Case> {
    let sampled = |name, of: &[usize], grid: Operand, beyond, aligned| {
        built("volume::grid_sample", name, [x(of), grid], move |s, p| {
            volume::grid_sample(s, p[0], p[1], beyond, aligned)
        })
    };
    // Beyond the volume on all sides; derivatives jump where a place meets a voxel.
    let wide = || range(-1.3, 1.3, &[2, 2, 3, 4, 3]);
    let inside = || range(0.4, 0.9, &[1, 1, 2, 3, 3]);
    vec![
        sampled("zeros", &VOLUME, wide(), Beyond::Zeros, false).rough(),
        sampled("border", &VOLUME, wide(), Beyond::Border, false).rough(),
        sampled("zeros, aligned", &VOLUME, wide(), Beyond::Zeros, true).rough(),
        sampled("border, aligned", &VOLUME, wide(), Beyond::Border, true).rough(),
        sampled("one slice", &[2, 2, 1, 4, 3], wide(), Beyond::Zeros, false).rough(),
        sampled("within a cell", &[1, 2, 4, 4, 4], inside(), Beyond::Zeros, true),
    ]
}

fn stereo_cases() -> Vec<Case> {
    let two = || [x(&IMAGE), x(&IMAGE)];
    let correlation = |name, disparities| {
        built("stereo::correlation", name, two(), move |s, p| {
            stereo::correlation(s, p[0], p[1], disparities)
        })
    };
    let concatenation = |name, disparities| {
        built("stereo::concatenation", name, two(), move |s, p| {
            stereo::concatenation(s, p[0], p[1], disparities)
        })
    };
    vec![
        built("stereo::all_pairs", "rows", two(), |s, p| stereo::all_pairs(s, p[0], p[1])),
        correlation("three disparities", 3),
        correlation("one disparity", 1),
        correlation("more disparities than columns", 6),
        concatenation("three disparities", 3),
        concatenation("one disparity", 1),
        concatenation("as many disparities as columns", 4),
    ]
}

fn unfold_cases() -> Vec<Case> {
    let unfold = |name, kernel, stride, padding, dilation| {
        let window = Conv2d { stride, padding, dilation, groups: 1 };
        built("layout::unfold", name, [x(&IMAGE)], move |s, p| {
            layout::unfold(s, p[0], kernel, &window)
        })
    };
    vec![
        unfold("3x3, padded", [3, 3], [1, 1], [1, 1], [1, 1]),
        unfold("patches", [2, 2], [2, 2], [0, 0], [1, 1]),
        unfold("stride leaves a rest", [2, 2], [3, 3], [0, 0], [1, 1]),
        unfold("uneven", [2, 3], [2, 1], [0, 2], [3, 2]),
    ]
}

fn einsum_cases() -> Vec<Case> {
    let sum = |name, equation: &'static str, shapes: &[&[usize]]| {
        let operands: Vec<Operand> = shapes.iter().map(|shape| x(shape)).collect();
        built("einsum::einsum", name, operands, move |s, p| einsum::einsum(s, equation, p))
    };
    vec![
        sum("product", "ij,jk->ik", &[&[3, 4], &[4, 2]]),
        sum("product, by name", "ij,jk", &[&[3, 4], &[4, 2]]),
        sum("batch", "bij, bkj -> bki", &[&ROW, &[2, 5, 4]]),
        sum("heads", "bqhd,bkhd->bhqk", &[&[2, 3, 2, 4], &[2, 5, 2, 4]]),
        sum("two axes", "bijc,ijco->bo", &[&[2, 3, 2, 2], &[3, 2, 2, 4]]),
        sum("outer", "i,j->ij", &[&[3], &[4]]),
        sum("elements", "bi,bi->bi", &[&[3, 4], &[3, 4]]),
        sum("inner", "bi,bi->", &[&[3, 4], &[3, 4]]),
        sum("sum of an axis", "bij->ib", &[&ROW]),
        sum("axes by name", "cab", &[&ROW]),
        sum("diagonal", "bii->bi", &[&[2, 3, 3]]),
        sum("trace", "ii,j->j", &[&[3, 3], &[2]]),
        sum("three operands", "ab,bc,cd->da", &[&[2, 3], &[3, 4], &[4, 2]]),
        sum("bilinear", "bi,oij,bj->bo", &[&[2, 3], &[4, 3, 2], &[2, 2]]),
        sum("any axes", "...ij,...jk->...ik", &[&[2, 3, 4], &[4, 2]]),
        sum("any axes, stretched", "...ij,...kj", &[&[2, 1, 3, 4], &[3, 2, 4]]),
        sum("axis of one alone", "ij,kl->il", &[&[3, 4], &[2, 5]]),
    ]
}
