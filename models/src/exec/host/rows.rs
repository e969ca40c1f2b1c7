//! Loops over rows: softmax with and without a causal mask, cross-entropy, rows of an embedding table.

use wattle_protocol::dag::op::Targets;

use super::{exp, max_of, sum_of, vectorised};

/// Softmax of rows of `width`, each times `scale` first. With `causal`, row t of each square sees columns up to t,
/// and the others become 0.
pub fn softmax(x: &[f32], width: usize, scale: f32, causal: bool) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    vectorised(|| {
        for (row, (x, y)) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).enumerate() {
            let seen = if causal { row % width + 1 } else { width };
            let (x, y) = (&x[..seen], &mut y[..seen]);
            let max = if scale < 0.0 { -max_of_negated(x) } else { max_of(x) };
            for i in 0..seen {
                y[i] = exp((x[i] - max) * scale);
            }
            let inverse = 1.0 / sum_of(seen, |i| y[i]);
            for y in y.iter_mut() {
                *y *= inverse;
            }
        }
    });
    y
}

fn max_of_negated(row: &[f32]) -> f32 {
    row.iter().fold(f32::NEG_INFINITY, |a, b| if -*b > a { -*b } else { a })
}

/// Gradient of [`softmax`] from its output y: `scale * y * (g - sum(y g))` a row.
pub fn softmax_grad(y: &[f32], g: &[f32], width: usize, scale: f32, causal: bool) -> Vec<f32> {
    let mut dx = vec![0.0; y.len()];
    vectorised(|| {
        let rows = y.chunks_exact(width).zip(g.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (row, ((y, g), dx)) in rows.enumerate() {
            let seen = if causal { row % width + 1 } else { width };
            let (y, g, dx) = (&y[..seen], &g[..seen], &mut dx[..seen]);
            let dot = sum_of(seen, |i| y[i] * g[i]);
            for i in 0..seen {
                dx[i] = y[i] * (g[i] - dot) * scale;
            }
        }
    });
    dx
}

/// Returns the class of a row, or none if it is out of range.
fn class(target: i32, width: usize) -> Option<usize> {
    usize::try_from(target).ok().filter(|t| *t < width)
}

/// Returns how many targets count.
fn counted(targets: &[i32], settings: &Targets) -> usize {
    targets.iter().filter(|t| settings.ignore != Some(**t)).count()
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
    let mut total = 0.0f64;
    let smoothing = settings.smoothing;
    let inverse = 1.0 / width as f32;
    vectorised(|| {
        for (row, target) in logits.chunks_exact(width).zip(targets) {
            if settings.ignore == Some(*target) {
                continue;
            }
            let max = max_of(row);
            let sum = sum_of(width, |i| exp(row[i] - max));
            let mut loss = sum.ln() + max - row[class(*target, width)?];
            if smoothing > 0.0 {
                let even = sum.ln() + max - sum_of(width, |i| row[i]) * inverse;
                loss = loss * (1.0 - smoothing) + even * smoothing;
            }
            total += f64::from(loss);
        }
        Some((total / counted(targets, settings).max(1) as f64) as f32)
    })
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
    let mut out = vec![0.0; logits.len()];
    let factor = g / counted(targets, settings).max(1) as f32;
    let even = factor * settings.smoothing / width as f32;
    vectorised(|| {
        let rows = logits.chunks_exact(width).zip(out.chunks_exact_mut(width));
        for ((row, out), target) in rows.zip(targets) {
            if settings.ignore == Some(*target) {
                continue;
            }
            let max = max_of(row);
            for i in 0..width {
                out[i] = exp(row[i] - max);
            }
            let share = factor / sum_of(width, |i| out[i]);
            for out in out.iter_mut() {
                *out = *out * share - even;
            }
            out[class(*target, width)?] -= factor * (1.0 - settings.smoothing);
        }
        Some(())
    })?;
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
    fn a_causal_softmax_is_the_softmax_of_what_is_seen() {
        let x: Vec<f32> = (0..25u8).map(|i| f32::from(i % 7) - 3.0).collect();
        let y = softmax(&x, 5, 0.5, true);
        for row in 0..5 {
            let alone = softmax(&x[row * 5..=row * 5 + row], row + 1, 0.5, false);
            assert_eq!(&y[row * 5..=row * 5 + row], &alone[..]);
            assert!(y[row * 5 + row + 1..(row + 1) * 5].iter().all(|v| *v == 0.0));
        }
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
