//! Left-hand sides of tiles: rows that lie one after the other, packed, or transposed.

use super::ROWS;
use crate::exec::host::fresh::fill_rows;

/// The left-hand side of a tile.
pub trait Rows: Copy {
    /// Cuts every row to `len` elements, so that the loop over them needs no checks.
    fn cut(self, len: usize) -> Self;
    /// Returns the k-th element of each row.
    fn at(self, k: usize) -> [f32; ROWS];
}

/// Rows of a row-major matrix.
#[derive(Clone, Copy, Debug)]
pub struct Across<'a>([&'a [f32]; ROWS]);

impl<'a> Across<'a> {
    /// Takes rows from `first` on of a matrix `[rows, width]`; beyond its end, the last row again.
    #[inline(always)]
    // Always: the slices must stay in registers within the caller's loop.
    pub fn new(matrix: &'a [f32], width: usize, first: usize) -> Self {
        let last = (matrix.len() / width.max(1)).saturating_sub(1);
        let mut rows = [matrix; ROWS];
        for (i, row) in rows.iter_mut().enumerate() {
            let at = (first + i).min(last);
            *row = &matrix[at * width..(at + 1) * width];
        }
        Self(rows)
    }
}

impl Rows for Across<'_> {
    #[inline(always)]
    // Always: what it knows of lengths is for the caller's loop.
    fn cut(self, len: usize) -> Self {
        let [a, b, c, d, e, f, g, h] = self.0;
        let (a, b, c, d) = (&a[..len], &b[..len], &c[..len], &d[..len]);
        Self([a, b, c, d, &e[..len], &f[..len], &g[..len], &h[..len]])
    }

    #[inline(always)]
    // Always: it is the body of the innermost loop.
    fn at(self, k: usize) -> [f32; ROWS] {
        let [a, b, c, d, e, f, g, h] = self.0;
        [a[k], b[k], c[k], d[k], e[k], f[k], g[k], h[k]]
    }
}

/// Rows of which the k-th elements lie together: one pointer, which pays from a few tiles on.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a>(pub &'a [[f32; ROWS]]);

impl Rows for Packed<'_> {
    #[inline(always)]
    // Always: what it knows of lengths is for the caller's loop.
    fn cut(self, len: usize) -> Self {
        Self(&self.0[..len])
    }

    #[inline(always)]
    // Always: it is the body of the innermost loop.
    fn at(self, k: usize) -> [f32; ROWS] {
        self.0[k]
    }
}

/// Packs all rows of a matrix `[rows, width]`, a tile after the other; beyond its end, the last row again.
pub fn pack_all(matrix: &[f32], width: usize) -> Vec<f32> {
    let tiles = (matrix.len() / width.max(1)).div_ceil(ROWS);
    let (packed, _) = fill_rows(tiles * width * ROWS, width * ROWS, 1, |first, packed| {
        for (tile, packed) in packed.chunks_exact_mut(width * ROWS).enumerate() {
            let rows = Across::new(matrix, width, (first + tile) * ROWS).0;
            for (i, row) in rows.into_iter().enumerate() {
                for (to, x) in packed.as_chunks_mut::<ROWS>().0.iter_mut().zip(row) {
                    to[i] = *x;
                }
            }
        }
    });
    packed
}

/// Rows of a matrix that lies transposed: the k-th elements are neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Down<'a> {
    /// From the first row's first element on.
    pub values: &'a [f32],
    /// From the k-th elements to the next.
    pub stride: usize,
}

impl Rows for Down<'_> {
    #[inline(always)]
    // Always: what it knows of lengths is for the caller's loop.
    fn cut(self, _: usize) -> Self {
        self
    }

    #[inline(always)]
    // Always: it is the body of the innermost loop.
    fn at(self, k: usize) -> [f32; ROWS] {
        let rest = &self.values[k * self.stride..];
        match rest.first_chunk::<ROWS>() {
            Some(rows) => *rows,
            None => {
                let mut rows = [0.0; ROWS];
                rows[..rest.len()].copy_from_slice(rest);
                rows
            }
        }
    }
}
