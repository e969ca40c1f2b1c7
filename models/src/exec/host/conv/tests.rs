//! Each case against sums written out, in double precision.

use wattle_protocol::dag::cost::geometry::Geometry;

use super::back::input_grad;
use super::conv2d;
use super::weights::weight_grad;

fn numbers(count: usize, salt: usize) -> Vec<f32> {
    let number = |i: usize| f32::from(u16::try_from((i * 7919 + salt * 31) % 1009).unwrap());
    (0..count).map(|i| (number(i) * 0.37).sin()).collect()
}

fn geometry(
    [batch, inner, outer]: [usize; 3],
    size: [usize; 2],
    kernel: [usize; 2],
    [stride, padding, dilation]: [[usize; 2]; 3],
    groups: usize,
) -> Geometry {
    let out = [0, 1]
        .map(|a| (size[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) / stride[a] + 1);
    Geometry { batch, inner, outer, size, out, kernel, stride, padding, dilation, groups }
}

/// Calls `f` with the places of output, input and weight of every product.
fn each(g: &Geometry, mut f: impl FnMut(usize, usize, usize)) {
    let (inner, outer) = (g.inner / g.groups, g.outer / g.groups);
    for n in 0..g.batch {
        for o in 0..g.outer {
            for (oy, ox) in (0..g.out[0]).flat_map(|y| (0..g.out[1]).map(move |x| (y, x))) {
                let y_at = ((n * g.outer + o) * g.out[0] + oy) * g.out[1] + ox;
                for c in 0..inner {
                    for tap in 0..g.taps() {
                        let (ky, kx) = (tap / g.kernel[1], tap % g.kernel[1]);
                        let y = (oy * g.stride[0] + ky * g.dilation[0]).wrapping_sub(g.padding[0]);
                        let x = (ox * g.stride[1] + kx * g.dilation[1]).wrapping_sub(g.padding[1]);
                        if y < g.size[0] && x < g.size[1] {
                            let channel = o / outer * inner + c;
                            let x_at = ((n * g.inner + channel) * g.size[0] + y) * g.size[1] + x;
                            f(y_at, x_at, (o * inner + c) * g.taps() + tap);
                        }
                    }
                }
            }
        }
    }
}

fn check(got: &[f32], want: &[f64], what: &str, g: &Geometry) {
    assert_eq!(got.len(), want.len(), "{what} {g:?}");
    let scale = want.iter().fold(1.0f64, |a, b| a.max(b.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs() / scale;
        assert!(error < 2e-6, "{what} at {i}: {got}, not {want}; {g:?}");
    }
}

fn check_all(g: &Geometry) {
    let x = numbers(g.batch * g.inner * g.size[0] * g.size[1], 1);
    let w = numbers(g.outer * g.inner / g.groups * g.taps(), 2);
    let bias = numbers(g.outer, 3);
    let dy = numbers(g.batch * g.outer * g.columns(), 4);
    let mut y: Vec<f64> =
        (0..dy.len()).map(|i| f64::from(bias[i / g.columns() % g.outer])).collect();
    let (mut dx, mut dw) = (vec![0.0f64; x.len()], vec![0.0f64; w.len()]);
    each(g, |at_y, at_x, at_w| {
        y[at_y] += f64::from(x[at_x]) * f64::from(w[at_w]);
        dx[at_x] += f64::from(dy[at_y]) * f64::from(w[at_w]);
        dw[at_w] += f64::from(dy[at_y]) * f64::from(x[at_x]);
    });
    check(&conv2d(&x, &w, Some(&bias), g), &y, "y", g);
    check(&input_grad(&w, &dy, g), &dx, "dx", g);
    check(&weight_grad(&x, &dy, g), &dw, "dw", g);
}

#[test]
fn convolutions_and_gradients_are_the_sums_that_define_them() {
    let one = [1, 1];
    for (sizes, size, kernel, steps, groups) in [
        ([2, 3, 8], [9, 11], [3, 3], [one, one, one], 1),
        ([1, 5, 17], [7, 33], [3, 3], [one, one, one], 1),
        ([3, 16, 24], [2, 2], [3, 3], [one, one, one], 1),
        ([2, 4, 9], [60, 61], [3, 3], [one, one, one], 1),
        ([2, 3, 8], [16, 17], [7, 7], [[2, 2], [3, 3], one], 1),
        ([2, 6, 10], [13, 14], [3, 3], [[2, 2], one, one], 1),
        ([2, 6, 10], [13, 14], [1, 1], [[2, 2], [0, 0], one], 1),
        ([2, 7, 9], [10, 12], [1, 1], [one, [0, 0], one], 1),
        ([2, 4, 6], [14, 15], [3, 3], [one, [2, 2], [2, 2]], 1),
        ([2, 4, 6], [14, 15], [2, 3], [[3, 2], [1, 2], [1, 2]], 1),
        ([2, 8, 12], [9, 9], [3, 3], [one, one, one], 4),
        ([1, 3, 4], [5, 6], [3, 2], [one, [0, 0], one], 1),
        ([2, 2, 3], [4, 4], [1, 1], [one, [1, 1], one], 1),
        ([9, 8, 80], [8, 8], [3, 3], [one, one, one], 1),
        ([1, 1, 1], [1, 1], [1, 1], [one, [0, 0], one], 1),
        ([1, 2, 2], [1, 40], [1, 5], [one, [0, 2], one], 1),
    ] {
        check_all(&geometry(sizes, size, kernel, steps, groups));
    }
}

/// Their laid images would have some 10^12 elements, though input and output are small.
#[test]
fn strides_paddings_and_dilations_of_any_size_are_not_laid_out() {
    let (one, none, far) = ([1, 1], [0, 0], [1_000_000, 1_000_000]);
    let wide = geometry([1, 4, 4], [3, 3], [1, 1], [far, none, one], 1);
    let padded = geometry([1, 4, 4], [1, 1], [2, 2], [far, far, one], 1);
    let dilated = geometry([1, 4, 4], [1, 1], [3, 3], [one, far, far], 1);
    for g in [wide, padded, dilated] {
        assert!(!g.is_compact(), "{g:?}");
    }
    // The gradient turns the kernel round, and with it the padding: that is not laid out either.
    let (w, dy) = (numbers(4 * 4 * 9, 1), numbers(4, 2));
    assert_eq!(input_grad(&w, &dy, &dilated).len(), 4);
    // What networks are made of is.
    for g in [
        geometry([8, 64, 64], [56, 56], [3, 3], [one, one, one], 1),
        geometry([8, 3, 64], [64, 64], [7, 7], [[2, 2], [3, 3], one], 1),
        geometry([8, 512, 512], [2, 2], [3, 3], [one, one, one], 1),
        geometry([1, 3, 768], [224, 224], [16, 16], [[16, 16], none, one], 1),
        geometry([1, 64, 64], [33, 33], [3, 3], [one, [12, 12], [12, 12]], 1),
    ] {
        assert!(g.is_compact(), "{g:?}");
    }
}
