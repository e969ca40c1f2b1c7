//! Loops over rows: softmax, cross-entropy, rows of an embedding table.

use wattle_protocol::dag::op::Targets;

use super::fresh::{fill_rows, write_rows};
use super::parallel::map;
use super::{exp, exp_by, is_fused, max_of, rows_of_piece, sum_of, sum_of_pairs, vectorised};

/// Work of an element of a softmax, in operations.
const SOFTMAX: usize = 16;

/// Softmax of rows of `width`, each times `scale` first.
pub fn softmax(x: &[f32], width: usize, scale: f32) -> Vec<f32> {
    let (y, _) = write_rows(
        [x.len(), width],
        SOFTMAX,
        #[inline(always)]
        |rows, mut y| {
            let mut powers = vec![0.0; width];
            for x in x[rows.start * width..rows.end * width].chunks_exact(width) {
                let inverse = 1.0 / exps(x, &mut powers, max_of_scaled(x, scale), scale);
                y.write(width, powers.iter().map(|power| power * inverse));
            }
        },
    );
    y
}

/// Softmax of one row times `scale`.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn softmax_row(x: &[f32], y: &mut [f32], scale: f32) {
    let inverse = 1.0 / exps(x, y, max_of_scaled(x, scale), scale);
    for y in y.iter_mut() {
        *y *= inverse;
    }
}

/// Writes `e^((x - max) * scale)` of a row, and returns their sum in a fixed order.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn exps(x: &[f32], y: &mut [f32], max: f32, scale: f32) -> f32 {
    if is_fused() {
        for (y, x) in y.iter_mut().zip(x) {
            *y = exp_by((x - max) * scale, f32::mul_add);
        }
    } else {
        for (y, x) in y.iter_mut().zip(x) {
            *y = exp((x - max) * scale);
        }
    }
    sum_of(y, |y| y)
}

/// Returns the element whose product with `scale` is the largest.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn max_of_scaled(row: &[f32], scale: f32) -> f32 {
    if scale < 0.0 {
        row.iter().fold(f32::INFINITY, |a, b| if *b < a { *b } else { a })
    } else {
        max_of(row)
    }
}

/// Gradient of [`softmax`] from its output y: `scale * y * (g - sum(y g))` a row.
pub fn softmax_grad(y: &[f32], g: &[f32], width: usize, scale: f32) -> Vec<f32> {
    let (dx, _) = write_rows(
        [y.len(), width],
        4,
        #[inline(always)]
        |rows, mut dx| {
            let range = rows.start * width..rows.end * width;
            let rows = y[range.clone()].chunks_exact(width).zip(g[range].chunks_exact(width));
            for (y, g) in rows {
                dx.write(width, softmax_grad_row(y, g, scale));
            }
        },
    );
    dx
}

/// Gradient of one row.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
pub fn softmax_grad_row(y: &[f32], g: &[f32], scale: f32) -> impl Iterator<Item = f32> {
    let dot = sum_of_pairs(y, g, |y, g| y * g);
    y.iter().zip(g).map(move |(y, g)| y * (g - dot) * scale)
}

/// Logarithm of softmax of rows of `width`.
pub fn log_softmax(x: &[f32], width: usize) -> Vec<f32> {
    fill_rows(
        x.len(),
        width,
        SOFTMAX,
        #[inline(always)]
        |first, y| {
            let x = &x[first * width..][..y.len()];
            for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                let max = max_of(x);
                let log = sum_of(
                    x,
                    #[inline(always)]
                    |x| exp(x - max),
                )
                .ln();
                for (y, x) in y.iter_mut().zip(x) {
                    *y = (x - max) - log;
                }
            }
        },
    )
    .0
}

/// Returns the class of a row, or none if it is out of range.
fn class(target: i32, width: usize) -> Option<usize> {
    usize::try_from(target).ok().filter(|t| *t < width)
}

/// Returns how many targets count.
fn counted(targets: &[i32], settings: &Targets) -> usize {
    targets.iter().filter(|t| settings.ignore != Some(**t)).count()
}

/// Negative log-likelihood of one target, 0 if it does not count.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
#[expect(clippy::cast_precision_loss, reason = "class counts are far below 2^24")]
fn row_loss(row: &[f32], target: i32, settings: &Targets) -> Option<f64> {
    if settings.ignore == Some(target) {
        return Some(0.0);
    }
    let max = max_of(row);
    let log = sum_of(
        row,
        #[inline(always)]
        |x| exp(x - max),
    )
    .ln();
    // Distances from the maximum first: they lose nothing where logits are large.
    let mut loss = log + (max - row[class(target, row.len())?]);
    if settings.smoothing > 0.0 {
        let even = log + sum_of(row, |x| max - x) / row.len() as f32;
        loss = loss * (1.0 - settings.smoothing) + even * settings.smoothing;
    }
    Some(f64::from(loss))
}

/// Mean negative log-likelihood of the targets that count, 0 if none does; or none if a target is no class.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "row counts are small, and the loss is an f32 tensor"
)]
pub fn cross_entropy(
    logits: &[f32],
    targets: &[i32],
    width: usize,
    settings: &Targets,
) -> Option<f32> {
    let rows = rows_of_piece(width);
    let sums = map(targets.len().div_ceil(rows), SOFTMAX * rows * width, |at| {
        let end = ((at + 1) * rows).min(targets.len());
        let targets = &targets[at * rows..end];
        let logits = logits[at * rows * width..end * width].chunks_exact(width);
        vectorised(
            #[inline(always)]
            || {
                let mut total = 0.0;
                for (row, target) in logits.zip(targets) {
                    total += row_loss(row, *target, settings)?;
                }
                Some(total)
            },
        )
    });
    let total = sums.into_iter().sum::<Option<f64>>()?;
    Some((total / counted(targets, settings).max(1) as f64) as f32)
}

/// Gradient of [`cross_entropy`] times g.
#[expect(clippy::cast_precision_loss, reason = "row counts are far below 2^24")]
pub fn cross_entropy_grad(
    logits: &[f32],
    targets: &[i32],
    g: f32,
    width: usize,
    settings: &Targets,
) -> Option<Vec<f32>> {
    let is_class = |t: &i32| settings.ignore == Some(*t) || class(*t, width).is_some();
    if !targets.iter().all(is_class) {
        return None;
    }
    let factor = g / counted(targets, settings).max(1) as f32;
    let even = factor * settings.smoothing / width as f32;
    let (out, _) = fill_rows(
        logits.len(),
        width,
        SOFTMAX,
        #[inline(always)]
        |first, out| {
            let logits = logits[first * width..][..out.len()].chunks_exact(width);
            let rows = logits.zip(out.chunks_exact_mut(width)).zip(&targets[first..]);
            for ((row, out), target) in rows {
                if settings.ignore == Some(*target) {
                    continue;
                }
                let max = max_of(row);
                let share = factor / exps(row, out, max, 1.0);
                for out in out.iter_mut() {
                    *out = *out * share - even;
                }
                if let Some(class) = class(*target, width) {
                    out[class] -= factor * (1.0 - settings.smoothing);
                }
            }
        },
    );
    Some(out)
}

/// Copies rows of a table, or none if an id is no row.
pub fn embedding(table: &[f32], ids: &[i32], width: usize) -> Option<Vec<f32>> {
    let mut out = Vec::with_capacity(ids.len() * width);
    let rows = table.len() / width.max(1);
    for id in ids {
        let start = class(*id, rows)? * width;
        out.extend_from_slice(&table[start..start + width]);
    }
    Some(out)
}

/// Adds rows of g into a table of zeros in the order of `ids`, or none if an id is no row.
pub fn embedding_grad(ids: &[i32], g: &[f32], rows: usize, width: usize) -> Option<Vec<f32>> {
    let mut table = vec![0.0; rows * width];
    for (id, g) in ids.iter().zip(g.chunks_exact(width)) {
        let start = class(*id, rows)? * width;
        for (sum, g) in table[start..start + width].iter_mut().zip(g) {
            *sum += g;
        }
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_softmax_add_up_to_one_and_keep_their_order() {
        let x: Vec<f32> = (0..66u8).map(|i| f32::from(i % 7) - 3.0).collect();
        let y = softmax(&x, 33, 0.5);
        for (x, y) in x.chunks(33).zip(y.chunks(33)) {
            assert!((y.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!((y[1] / y[0] - ((x[1] - x[0]) * 0.5).exp()).abs() < 1e-6);
        }
        let logs = log_softmax(&x, 33);
        let plain = softmax(&x, 33, 1.0);
        assert!(logs.iter().zip(&plain).all(|(log, y)| (log.exp() - y).abs() < 1e-6));
    }

    #[test]
    fn a_target_outside_the_vocabulary_is_refused() {
        let plain = Targets::default();
        assert_eq!(cross_entropy(&[0.0; 6], &[0, 3], 3, &plain), None);
        assert_eq!(cross_entropy(&[0.0; 6], &[-1, 0], 3, &plain), None);
        assert!(cross_entropy_grad(&[0.0; 6], &[0, 3], 1.0, 3, &plain).is_none());
        assert!(embedding(&[0.0; 6], &[2], 3).is_none());
        assert!(embedding_grad(&[2], &[0.0; 3], 2, 3).is_none());
    }
}
