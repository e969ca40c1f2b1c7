//! Cases of reading images between their pixels: the compositions of `compose::resize` and `compose::sample`.

use wattle_protocol::dag::compose::resize::{self, Corners};
use wattle_protocol::dag::compose::sample::{self, Beyond, Deformable};
use wattle_protocol::dag::op::Conv2d;

use super::{Case, above, built, range, x};

const IMAGE: [usize; 4] = [2, 3, 5, 4];

/// Returns all cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = resize_cases();
    cases.extend(sample_cases());
    cases.extend(deformable_cases());
    cases
}

fn resize_cases() -> Vec<Case> {
    let image = |row: &str, name, height, width, corners| {
        built(row, name, [x(&IMAGE)], move |s, p| {
            let rows = resize::linear(s, p[0], 2, height, corners)?;
            resize::linear(s, rows, 3, width, corners)
        })
    };
    let nearest = |name, height, width| {
        built("resize::nearest", name, [x(&IMAGE)], move |s, p| {
            let rows = resize::nearest(s, p[0], 2, height)?;
            resize::nearest(s, rows, 3, width)
        })
    };
    let row = "resize::linear";
    vec![
        nearest("larger", 10, 7),
        nearest("smaller", 3, 2),
        image(row, "half pixels, larger", 9, 8, Corners::HalfPixel),
        image(row, "half pixels, smaller", 3, 2, Corners::HalfPixel),
        image(row, "aligned, larger", 9, 8, Corners::Aligned),
        image(row, "aligned, smaller", 3, 2, Corners::Aligned),
        image(row, "aligned, to one", 1, 1, Corners::Aligned),
        image(row, "asymmetric", 7, 6, Corners::Asymmetric),
        built(row, "one axis", [x(&[2, 3, 7])], |s, p| {
            resize::linear(s, p[0], 2, 16, Corners::HalfPixel)
        }),
        built(row, "volume", [x(&[1, 2, 3, 4, 3])], |s, p| {
            let a = resize::linear(s, p[0], 2, 5, Corners::HalfPixel)?;
            let b = resize::linear(s, a, 3, 7, Corners::HalfPixel)?;
            resize::linear(s, b, 4, 4, Corners::HalfPixel)
        })
        .rough(),
    ]
}

fn sample_cases() -> Vec<Case> {
    // Beyond the image on all sides; derivatives jump where a place meets a pixel.
    let grid = || range(-1.3, 1.3, &[2, 4, 5, 2]);
    let sampled = |name, beyond, aligned| {
        built("sample::grid_sample", name, [x(&IMAGE), grid()], move |s, p| {
            sample::grid_sample(s, p[0], p[1], beyond, aligned)
        })
        .rough()
    };
    let warped = |name, beyond| {
        let disparity = range(-2.5, 3.5, &[2, 1, 5, 4]);
        built("sample::warp", name, [x(&IMAGE), disparity], move |s, p| {
            sample::warp(s, p[0], p[1], beyond)
        })
        .rough()
    };
    vec![
        sampled("zeros", Beyond::Zeros, false),
        sampled("border", Beyond::Border, false),
        sampled("zeros, aligned", Beyond::Zeros, true),
        sampled("border, aligned", Beyond::Border, true),
        built(
            "sample::grid_sample",
            "within a cell",
            [x(&[1, 2, 5, 4]), range(0.05, 0.35, &[1, 2, 3, 2])],
            |s, p| sample::grid_sample(s, p[0], p[1], Beyond::Zeros, true),
        ),
        warped("zeros", Beyond::Zeros),
        warped("border", Beyond::Border),
        built(
            "sample::warp",
            "half a pixel",
            [x(&[1, 2, 5, 4]), range(0.2, 0.8, &[1, 1, 5, 4])],
            |s, p| sample::warp(s, p[0], p[1], Beyond::Border),
        ),
        built(
            "sample::bilinear",
            "two groups",
            [x(&[1, 2, 3, 5, 4]), range(-1.0, 5.0, &[1, 2, 7]), range(-1.0, 4.0, &[1, 2, 7])],
            |s, p| sample::bilinear(s, p[0], p[1], p[2], Beyond::Zeros),
        )
        .rough(),
    ]
}

fn deformable_cases() -> Vec<Case> {
    let conv = |stride: usize, padding: usize, dilation: usize, groups: usize| Conv2d {
        stride: [stride; 2],
        padding: [padding; 2],
        dilation: [dilation; 2],
        groups,
    };
    // Operands: x, weight, offset, mask.
    let second = |name, conv: Conv2d, shapes: [[usize; 4]; 4], reach: f32| {
        let [a, w, offset, mask] = shapes;
        let operands = [x(&a), x(&w), range(-reach, reach, &offset), above(&mask)];
        built("sample::deformable", name, operands, move |s, p| {
            let operands = Deformable { x: p[0], weight: p[1], offset: p[2], mask: Some(p[3]) };
            sample::deformable(s, operands, conv)
        })
        .rough()
    };
    let first = |name, conv: Conv2d, shapes: [[usize; 4]; 3], reach: f32| {
        let [a, w, offset] = shapes;
        built("sample::deformable", name, [x(&a), x(&w), range(-reach, reach, &offset)], {
            move |s, p| {
                let operands = Deformable { x: p[0], weight: p[1], offset: p[2], mask: None };
                sample::deformable(s, operands, conv)
            }
        })
        .rough()
    };
    vec![
        first("first version", conv(1, 1, 1, 1), [[1, 2, 5, 4], [3, 2, 3, 3], [1, 18, 5, 4]], 1.7),
        second(
            "second version",
            conv(1, 1, 1, 1),
            [[1, 2, 5, 4], [3, 2, 3, 3], [1, 18, 5, 4], [1, 9, 5, 4]],
            1.7,
        ),
        second(
            "stride, two offset groups",
            conv(2, 1, 1, 1),
            [[2, 4, 6, 5], [3, 4, 3, 3], [2, 36, 3, 3], [2, 18, 3, 3]],
            2.3,
        ),
        second(
            "dilation, groups",
            conv(1, 2, 2, 2),
            [[1, 4, 5, 4], [4, 2, 3, 3], [1, 18, 5, 4], [1, 9, 5, 4]],
            1.2,
        ),
        second(
            "far beyond",
            conv(1, 0, 1, 1),
            [[1, 2, 4, 4], [2, 2, 2, 2], [1, 8, 3, 3], [1, 4, 3, 3]],
            9.0,
        ),
        built(
            "sample::deformable",
            "within cells",
            [
                x(&[1, 2, 5, 4]),
                x(&[3, 2, 2, 2]),
                range(0.3, 0.7, &[1, 8, 4, 3]),
                above(&[1, 4, 4, 3]),
            ],
            move |s, p| {
                let operands = Deformable { x: p[0], weight: p[1], offset: p[2], mask: Some(p[3]) };
                sample::deformable(s, operands, conv(1, 0, 1, 1))
            },
        ),
    ]
}
