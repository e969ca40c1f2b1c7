//! Hot loops for tensors in host memory, on plain slices.
//!
//! They exist where burn's CPU kernels are scalar (exponentials), make many passes (normalisation, losses) or take one
//! thread (sums, products and pools of elements). Every loop is written so that the compiler can vectorise it, runs under
//! [`vectorised`], and rounds the same on every machine: sums have a fixed order whatever the vector width, and no
//! multiply-add is fused but in softmax, which like [`tile`] rounds otherwise on machines that cannot fuse.
//! Reading order: [`parallel`], [`fresh`] and [`elements`], which the others stand on; then any.

pub mod activation;
pub mod attend;
pub mod attention;
pub mod conv;
mod curves;
pub mod elements;
pub mod fresh;
pub mod gates;
pub mod norm;
pub mod parallel;
pub mod product;
pub mod rows;
pub mod select;
pub mod tile;
pub mod window;

pub use self::curves::{exp, exp_by, sigmoid, tanh};

/// Runs a loop with the widest vectors that this processor surely has among those we build for. The closure must be
/// `#[inline(always)]`, as must be those that it calls: one that is compiled by itself has no vectors.
#[inline]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new() {
            return simd.vectorize(f);
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(f);
        }
    }
    f()
}

/// Says whether vectors multiply and add at once, as those of [`tile`] then do.
pub fn is_fused() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        pulp::x86::V3::try_new().is_some()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        cfg!(target_arch = "aarch64")
    }
}

/// Lanes of a sum; fixed, so that the order of additions does not depend on the machine.
const LANES: usize = 16;
/// Lanes of a long sum: an addition takes longer than the time until the next can begin. So many that the loop over them
/// stays a loop, which is vectorised as such.
const WIDE: usize = 8 * LANES;

/// Sums `f` of each element in a fixed order.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum_of_three(
        [x; 3],
        #[inline(always)]
        |x, _, _| f(x),
    )
}

/// Sums `f` of each pair of elements in a fixed order.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn sum_of_pairs(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    sum_of_three(
        [x, y, y],
        #[inline(always)]
        |x, y, _| f(x, y),
    )
}

/// Sums `f` of the elements of three rows in a fixed order.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn sum_of_three([x, y, z]: [&[f32]; 3], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let ((wide_x, x), (wide_y, y), (wide_z, z)) =
        (x.as_chunks::<WIDE>(), y.as_chunks::<WIDE>(), z.as_chunks::<WIDE>());
    let mut lanes = [0.0; LANES];
    if !wide_x.is_empty() {
        let mut sums = [0.0; WIDE];
        for ((x, y), z) in wide_x.iter().zip(wide_y).zip(wide_z) {
            for lane in 0..WIDE {
                sums[lane] += f(x[lane], y[lane], z[lane]);
            }
        }
        for sums in sums.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                lanes[lane] += sums[lane];
            }
        }
    }
    let ((xs, x), (ys, y), (zs, z)) =
        (x.as_chunks::<LANES>(), y.as_chunks::<LANES>(), z.as_chunks::<LANES>());
    for ((x, y), z) in xs.iter().zip(ys).zip(zs) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane], y[lane], z[lane]);
        }
    }
    x.iter().zip(y).zip(z).fold(total(lanes), |sum, ((x, y), z)| sum + f(*x, *y, *z))
}

/// Sums two functions of the elements of three rows in a fixed order, in one pass over them.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn two_sums_of_three(
    [x, y, z]: [&[f32]; 3],
    f: impl Fn(f32, f32, f32) -> (f32, f32),
) -> (f32, f32) {
    let ((wide_x, x), (wide_y, y), (wide_z, z)) =
        (x.as_chunks::<WIDE>(), y.as_chunks::<WIDE>(), z.as_chunks::<WIDE>());
    let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
    if !wide_x.is_empty() {
        let (mut sums, mut others) = ([0.0; WIDE], [0.0; WIDE]);
        for ((x, y), z) in wide_x.iter().zip(wide_y).zip(wide_z) {
            for lane in 0..WIDE {
                let (one, other) = f(x[lane], y[lane], z[lane]);
                sums[lane] += one;
                others[lane] += other;
            }
        }
        (a, b) = (folded(&sums), folded(&others));
    }
    let ((xs, x), (ys, y), (zs, z)) =
        (x.as_chunks::<LANES>(), y.as_chunks::<LANES>(), z.as_chunks::<LANES>());
    for ((x, y), z) in xs.iter().zip(ys).zip(zs) {
        for lane in 0..LANES {
            let (one, other) = f(x[lane], y[lane], z[lane]);
            a[lane] += one;
            b[lane] += other;
        }
    }
    x.iter().zip(y).zip(z).fold((total(a), total(b)), |(a, b), ((x, y), z)| {
        let (one, other) = f(*x, *y, *z);
        (a + one, b + other)
    })
}

/// Adds the lanes of a long sum up to those of a short one.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn folded(sums: &[f32; WIDE]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    for sums in sums.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            lanes[lane] += sums[lane];
        }
    }
    lanes
}

/// Mean and mean squared distance from it, of a row, in one pass over it.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn mean_and_variance(x: &[f32], inverse: f32) -> (f32, f32) {
    // Distances from about the mean: the squares lose nothing that a second pass would keep but a few bits, as many as the
    // row is longer than its beginning in powers of two.
    let about = &x[..x.len().min(WIDE)];
    #[expect(clippy::cast_precision_loss, reason = "at most as many as there are lanes")]
    let about = sum_of(about, |x| x) / about.len() as f32;
    let (sum, squares) = two_sums_of_three([x; 3], |x, _, _| {
        let distance = x - about;
        (distance, distance * distance)
    });
    let distance = sum * inverse;
    (about + distance, (squares * inverse - distance * distance).max(0.0))
}

/// Sums squares in double precision, in a fixed order on any number of threads.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let sums = parallel::map(x.len().div_ceil(PIECE), 2 * PIECE, |at| {
        let x = &x[at * PIECE..x.len().min((at + 1) * PIECE)];
        vectorised(
            #[inline(always)]
            || {
                let mut lanes = [0.0f64; LANES];
                let (chunks, rest) = x.as_chunks::<LANES>();
                for x in chunks {
                    for lane in 0..LANES {
                        lanes[lane] += f64::from(x[lane]) * f64::from(x[lane]);
                    }
                }
                let rest = rest.iter().map(|x| f64::from(*x) * f64::from(*x));
                lanes.into_iter().chain(rest).sum::<f64>()
            },
        )
    });
    sums.into_iter().sum()
}

#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Elements that one piece of a loop over rows should have.
const PIECE: usize = 1 << 14;

/// Returns how many rows of a width make a piece; the same on every machine, since sums over rows go by pieces.
pub fn rows_of_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Returns the largest element; NaN is passed over.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn max_of(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; WIDE];
    let (chunks, rest) = row.as_chunks::<WIDE>();
    for chunk in chunks {
        for lane in 0..WIDE {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    let (some, rest) = rest.as_chunks::<LANES>();
    for chunk in some {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    let mut width = if chunks.is_empty() { LANES / 2 } else { WIDE / 2 };
    while width > 0 {
        for lane in 0..width {
            let other = lanes[lane + width];
            lanes[lane] = if other > lanes[lane] { other } else { lanes[lane] };
        }
        width /= 2;
    }
    rest.iter().fold(lanes[0], |a, b| if *b > a { *b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::tensor::memory::HostFloats;

    /// Against two passes in double precision; the mean of a row's beginning may be far from the row's.
    #[test]
    fn variance_in_one_pass_keeps_its_bits() {
        for jump in [0.0, 3.0, 1e4] {
            let number = |i: u16| f32::from(i % 97) * 0.01 + if i < 128 { jump } else { 0.0 };
            let x: Vec<f32> = (0..4099).map(number).collect();
            let count = f64::from(4099u16);
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
            let want = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
            let (got_mean, got) = mean_and_variance(&x, 1.0 / 4099.0);
            assert!((f64::from(got) - want).abs() < 1e-5 * want, "{jump}: {got}, not {want}");
            assert!((f64::from(got_mean) - mean).abs() < 1e-6 * (1.0 + mean.abs()), "{jump}");
        }
    }

    /// Relative error of the polynomial: a few units in the last place of f32.
    const EXP_TOLERANCE: f64 = 4e-7;

    #[test]
    fn exp_is_within_a_few_ulp_over_its_range() {
        for i in -870_000..880_000i32 {
            let x = f64::from(i) / 1e4;
            #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is wanted")]
            let x32 = x as f32;
            let want = f64::from(x32).exp();
            let got = f64::from(exp(x32));
            assert!(((got - want) / want).abs() < EXP_TOLERANCE, "exp({x32}) = {got}, not {want}");
            let fused = f64::from(exp_by(x32, f32::mul_add));
            assert!(((fused - want) / want).abs() < EXP_TOLERANCE, "{x32}: {fused}, not {want}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0.0f32.to_bits());
        assert!(exp(100.0).is_infinite() && exp(f32::INFINITY).is_infinite());
    }

    #[test]
    fn tanh_is_close_everywhere() {
        for i in -2000..2000i16 {
            let x = f32::from(i) / 100.0;
            assert!((tanh(x) - x.tanh()).abs() < 3e-7, "{x}");
        }
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn sums_are_the_same_under_any_vector_width() {
        let x: Vec<f32> = (0..1003u16).map(|i| (f32::from(i) * 0.37).sin()).collect();
        let wide = vectorised(
            #[inline(always)]
            || sum_of(&x, |x| x * x),
        );
        assert_eq!(sum_of(&x, |x| x * x).to_bits(), wide.to_bits());
    }

    /// Goal: no kernel's bits depend on the number of threads, which differs from peer to peer.
    /// Method: tensors of some pieces and a rest, on one thread, on two and on three.
    #[test]
    fn kernels_give_the_same_bits_on_any_number_of_threads() {
        let numbers = |count: u32, salt: u32| -> Vec<f32> {
            let number = |i: u32| f32::from(u16::try_from((i * 7919 + salt) % 1009).unwrap());
            (0..count).map(|i| (number(i) * 0.37).sin()).collect()
        };
        let (x, g, gain) = (numbers(130 * 700, 1), numbers(130 * 700, 2), numbers(700, 3));
        let geometry = |inner, outer, size| wattle_protocol::dag::cost::geometry::Geometry {
            batch: 2,
            inner,
            outer,
            size: [size; 2],
            out: [size; 2],
            kernel: [3; 2],
            stride: [1; 2],
            padding: [1; 2],
            dilation: [1; 2],
            groups: 1,
        };
        let run = || {
            let own = |values: &Vec<f32>| HostFloats::Own(values.clone());
            let (y, means, rstds) = norm::layer_norm(&x, &gain, &gain, 1e-5);
            let (dx, dgain, dbias) = norm::layer_norm_grad(&x, &gain, &means, &rstds, &g);
            let (bn, bn_gain, bn_bias) =
                norm::batch_norm_grad(&x, &gain[..10], own(&g), 1e-5, (13, 700));
            let mut all = vec![y, dx, dgain, dbias, bn, bn_gain, bn_bias];
            all.push(rows::softmax(&x, 700, 1.0));
            all.push(elements::zip(own(&x), own(&g), 1, |x, g| x * g));
            for g in [geometry(24, 40, 30), geometry(48, 64, 4), geometry(64, 72, 2)] {
                let w = numbers(u32::try_from(g.inner * g.outer * 9).unwrap(), 4);
                all.push(conv::conv2d(&x, &w, None, &g));
                all.push(conv::back::input_grad(&w, &x, &g));
                all.push(conv::weights::weight_grad(&x, &x[7..], &g));
            }
            all
        };
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(run)
        };
        let alone = on(1);
        for threads in [2, 3] {
            for (at, (some, one)) in on(threads).iter().zip(&alone).enumerate() {
                let bits =
                    |values: &Vec<f32>| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(some), bits(one), "{at} on {threads} threads");
            }
        }
    }
}
