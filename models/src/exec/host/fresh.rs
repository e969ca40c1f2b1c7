//! Memory for results, and results that are made piece by piece on all threads.
//!
//! Without `unsafe`, memory has to hold something before a piece of it can be handed out. Zeros cost a tenth to a fifth of
//! a pass over memory, all threads write them, and what can be made in one go by one thread does without them.

use rayon::prelude::*;

use super::parallel::is_worth;
use super::{PIECE, rows_of_piece, vectorised};

/// Makes zeros.
pub fn zeros(len: usize) -> Vec<f32> {
    /// Elements that are copied at a time.
    const BLOCK: usize = 1024;
    /// Fewest elements for which waking threads pays.
    const WORTH: usize = 1 << 18;
    if len < WORTH || !is_worth(len) {
        return vec![0.0; len];
    }
    let mut out = Vec::with_capacity(len.div_ceil(BLOCK));
    let blocks = rayon::iter::repeat_n([0.0; BLOCK], len.div_ceil(BLOCK));
    blocks.with_min_len(WORTH / BLOCK / 4).collect_into_vec(&mut out);
    let mut values = out.into_flattened();
    values.truncate(len);
    values
}

/// Makes a tensor's elements: `f` gets where a part begins, and the part, which is zero.
///
/// `work` is that of an element.
pub fn fill(len: usize, work: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let vectors = |piece: usize, part: &mut [f32]| {
        vectorised(
            #[inline(always)]
            || f(piece * PIECE, part),
        );
    };
    fill_pieces(len, PIECE, work, vectors).0
}

/// Makes a tensor's elements some whole rows at a time: `f` gets the first row's number, and the rows, which are zero. What
/// it returns for each of these pieces comes in their order.
///
/// `work` is that of an element.
pub fn fill_rows<T: Send>(
    len: usize,
    width: usize,
    work: usize,
    f: impl Fn(usize, &mut [f32]) -> T + Sync + Send,
) -> (Vec<f32>, Vec<T>) {
    let rows = rows_of_piece(width);
    let vectors = |piece: usize, out: &mut [f32]| {
        vectorised(
            #[inline(always)]
            || f(piece * rows, out),
        )
    };
    fill_pieces(len, rows * width, work, vectors)
}

/// The same with pieces of `size` elements: `f` gets a piece's number.
pub fn fill_pieces<T: Send>(
    len: usize,
    size: usize,
    work: usize,
    f: impl Fn(usize, &mut [f32]) -> T + Sync + Send,
) -> (Vec<f32>, Vec<T>) {
    let mut out = zeros(len);
    let size = size.max(1);
    let ends = if len > size && is_worth(work.saturating_mul(len)) {
        let pieces = out.par_chunks_mut(size).enumerate();
        pieces.map(|(piece, out)| f(piece, out)).collect()
    } else {
        let pieces = out.chunks_mut(size).enumerate();
        pieces.map(|(piece, out)| f(piece, out)).collect()
    };
    (out, ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(i: usize) -> f32 {
        f32::from(u16::try_from(i % 60_013).unwrap())
    }

    #[test]
    fn pieces_come_in_their_order_on_any_number_of_threads() {
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for (len, size) in
                [(0, 5000), (100, 10), (70_001, 1024), (70_000, 1500), (99_999, 33_333)]
            {
                let make = |piece: usize, out: &mut [f32]| {
                    for (i, x) in out.iter_mut().enumerate() {
                        *x = number(piece * size + i);
                    }
                    piece
                };
                let (values, ends) = pool.install(|| fill_pieces(len, size, 64, make));
                assert_eq!(values, (0..len).map(number).collect::<Vec<_>>());
                assert_eq!(ends, (0..len.div_ceil(size)).collect::<Vec<_>>());
            }
            let plain = |at: usize, out: &mut [f32]| {
                for (i, x) in out.iter_mut().enumerate() {
                    *x = number(at + i);
                }
            };
            for len in [0, 1, 1024, 99_999] {
                let values = pool.install(|| fill(len, 64, plain));
                assert_eq!(values, (0..len).map(number).collect::<Vec<_>>());
            }
            assert_eq!(pool.install(|| zeros(999_999)), vec![0.0; 999_999]);
        }
    }
}
