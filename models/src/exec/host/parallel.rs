//! Loops over the threads of arithmetic. How work is split never changes a result: each piece is computed as a whole,
//! wherever it runs, and sums over pieces are formed in their order.

use rayon::prelude::*;

/// Work below which threads cost more than they save, in floating-point operations or elements touched.
const WORTH: usize = 1 << 15;

/// Says whether some work is worth splitting.
pub fn is_worth(work: usize) -> bool {
    work >= WORTH && rayon::current_num_threads() > 1
}

/// Calls `f` with the number and the elements of each piece of `len` elements; the last may be shorter.
///
/// `work` is that of a piece.
pub fn pieces(out: &mut [f32], len: usize, work: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let len = len.max(1);
    let count = out.len().div_ceil(len);
    if count > 1 && is_worth(work.saturating_mul(count)) {
        out.par_chunks_mut(len).enumerate().for_each(|(at, piece)| f(at, piece));
    } else {
        out.chunks_mut(len).enumerate().for_each(|(at, piece)| f(at, piece));
    }
}

/// Computes something for each of `count` pieces and returns it in their order.
pub fn map<T: Send>(count: usize, work: usize, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    if count > 1 && is_worth(work.saturating_mul(count)) {
        (0..count).into_par_iter().map(f).collect()
    } else {
        (0..count).map(f).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_same_on_any_number_of_threads() {
        let fill = |at: usize, piece: &mut [f32]| {
            for (i, x) in piece.iter_mut().enumerate() {
                *x = f32::from(u16::try_from(at * 100 + i).unwrap()).sqrt();
            }
        };
        let mut alone = vec![0.0; 1050];
        alone.chunks_mut(100).enumerate().for_each(|(at, piece)| fill(at, piece));
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; 1050];
            pool.install(|| pieces(&mut out, 100, WORTH, fill));
            assert_eq!(out, alone);
            let squares = pool.install(|| map(7, WORTH, |i| i * i));
            assert_eq!(squares, [0, 1, 4, 9, 16, 25, 36]);
        }
    }
}
