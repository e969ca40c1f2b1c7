//! Memory for results, and results that are made piece by piece on all threads.
//!
//! Without `unsafe`, memory has to hold something before a piece of it can be handed out, and zeros cost a tenth to a
//! fourth of a pass over memory. All threads write them. One thread by itself does without: it extends a vector, and rows
//! go to a [`Place`], which is the end of one or a piece of the other.

use std::ops::Range;

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

/// Where the next row of a result goes.
#[derive(Debug)]
pub enum Place<'a> {
    /// To the end of what there is.
    End(&'a mut Vec<f32>),
    /// Over what is there.
    Over(&'a mut [f32]),
}

impl Place<'_> {
    /// Writes a row of `width`.
    #[inline(always)]
    // Always: it must vectorise within the caller's loop.
    pub fn write(&mut self, width: usize, row: impl Iterator<Item = f32>) {
        match self {
            Self::End(values) => values.extend(row),
            Self::Over(values) => {
                let (to, rest) = std::mem::take(values).split_at_mut(width);
                for (to, x) in to.iter_mut().zip(row) {
                    *to = x;
                }
                *values = rest;
            }
        }
    }
}

/// Makes a tensor's elements row by row: `f` gets the numbers of some rows, and the place where it has to write each of
/// them in turn. What it returns for each of these pieces comes in their order.
///
/// `work` is that of an element.
pub fn write_rows<T: Send>(
    [len, width]: [usize; 2],
    work: usize,
    f: impl Fn(Range<usize>, Place<'_>) -> T + Sync + Send,
) -> (Vec<f32>, Vec<T>) {
    let rows = rows_of_piece(width);
    if is_worth(work.saturating_mul(len)) {
        return fill_rows(
            len,
            width,
            work,
            #[inline(always)]
            |first, out| f(first..first + out.len() / width, Place::Over(out)),
        );
    }
    let (mut out, all) = (Vec::with_capacity(len), len / width.max(1));
    let ends = (0..all).step_by(rows).map(|first| {
        vectorised(
            #[inline(always)]
            || f(first..all.min(first + rows), Place::End(&mut out)),
        )
    });
    let ends = ends.collect();
    (out, ends)
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
