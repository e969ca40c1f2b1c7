//! Matrix products in host memory: faer's kernels, on blocks of the result.
//!
//! How a result is cut into blocks depends on its shape alone, and a block is computed by one thread, so that the number of
//! threads never changes a bit. Not for convolutions and attention, whose operands are no plain matrices: see
//! [`tile`](super::tile).

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::fresh::{fill_rows, zeros};
use super::parallel::is_worth;

/// Most rows and columns of a block: so few that all threads have some, so many that copying what a block reads costs
/// little (a block of 100 x 256 runs about as fast as a whole product of 1024 x 1024).
const BLOCK: usize = 128;

/// A matrix, as it lies or turned: then `values` are the rows of its transpose.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Elements, row by row.
    pub values: &'a [f32],
    /// Rows and columns of the matrix that is meant.
    pub size: [usize; 2],
    /// Says whether its transpose is stored.
    pub turned: bool,
}

impl<'a> Matrix<'a> {
    /// As it lies.
    pub fn new(values: &'a [f32], size: [usize; 2]) -> Self {
        Self { values, size, turned: false }
    }

    /// `size` is that of the matrix that is meant, the transpose of what is stored if `turned`.
    pub fn maybe_turned(values: &'a [f32], size: [usize; 2], turned: bool) -> Self {
        Self { values, size, turned }
    }

    fn view(self) -> MatRef<'a, f32> {
        let [rows, columns] = self.size;
        if self.turned {
            MatRef::from_column_major_slice(self.values, rows, columns)
        } else {
            MatRef::from_row_major_slice(self.values, rows, columns)
        }
    }
}

/// `a b`, and `bias` added to each row.
pub fn product(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let size = [a.size[0], b.size[1]];
    let len = size[0] * size[1];
    let (mut y, add) = match bias {
        None => (zeros(len), Accum::Replace),
        Some(bias) => {
            let repeat = |_, rows: &mut [f32]| {
                rows.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
            };
            (fill_rows(len, size[1], 1, repeat).0, Accum::Add)
        }
    };
    write(&mut y, size, (a, b), add);
    y
}

/// `count` products, `[count, ..] x [count, ..]`, whose matrices are like `a` and `b`.
pub fn products(count: usize, a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let size = [a.size[0], b.size[1]];
    let plane = size[0] * size[1];
    let of = |all: Matrix<'_>| all.size[0] * all.size[1];
    let (step_a, step_b) = (of(a), of(b));
    let one = |at: usize, y: &mut [f32]| {
        let a = Matrix { values: &a.values[at * step_a..][..step_a], ..a };
        let b = Matrix { values: &b.values[at * step_b..][..step_b], ..b };
        write(y, size, (a, b), Accum::Replace);
    };
    let work = 2 * a.size[1];
    super::fresh::fill_pieces(count * plane, plane, work, one).0
}

fn write(y: &mut [f32], [rows, columns]: [usize; 2], (a, b): (Matrix<'_>, Matrix<'_>), add: Accum) {
    let y = MatMut::from_row_major_slice_mut(y, rows, columns);
    blocks(y, a.view(), b.view(), add);
}

/// Halves the result until it is a block.
fn blocks(y: MatMut<'_, f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>, add: Accum) {
    let (rows, columns) = (y.nrows(), y.ncols());
    if rows <= BLOCK && columns <= BLOCK {
        return matmul(y, add, a, b, 1.0, Par::Seq);
    }
    let half = |len: usize| len.div_ceil(BLOCK).div_ceil(2) * BLOCK;
    if rows >= columns {
        let at = half(rows);
        let ((y, below), (a, a_below)) = (y.split_at_row_mut(at), a.split_at_row(at));
        both(
            rows * columns * a.ncols(),
            || blocks(y, a, b, add),
            || blocks(below, a_below, b, add),
        );
    } else {
        let at = half(columns);
        let ((y, beside), (b, b_beside)) = (y.split_at_col_mut(at), b.split_at_col(at));
        both(
            rows * columns * a.ncols(),
            || blocks(y, a, b, add),
            || blocks(beside, a, b_beside, add),
        );
    }
}

fn both(work: usize, one: impl FnOnce() + Send, other: impl FnOnce() + Send) {
    if is_worth(work) {
        rayon::join(one, other);
    } else {
        one();
        other();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        let number = |i: usize| f32::from(u16::try_from((i * 7919 + salt) % 1009).unwrap());
        (0..count).map(|i| (number(i) * 0.37).sin()).collect()
    }

    fn check(y: &[f32], (a, b): (Matrix<'_>, Matrix<'_>), bias: &[f32]) {
        let at = |m: Matrix<'_>, row: usize, column: usize| {
            f64::from(match m.turned {
                true => m.values[column * m.size[0] + row],
                false => m.values[row * m.size[1] + column],
            })
        };
        let [rows, inner] = a.size;
        let columns = b.size[1];
        assert_eq!(y.len(), rows * columns);
        for row in 0..rows {
            for column in 0..columns {
                let products = (0..inner).map(|k| at(a, row, k) * at(b, k, column));
                let want = products.sum::<f64>() + bias.get(column).map_or(0.0, |b| f64::from(*b));
                let got = f64::from(y[row * columns + column]);
                assert!((got - want).abs() < 2e-5, "{rows} {inner} {columns}: {got} {want}");
            }
        }
    }

    #[test]
    fn a_product_is_its_sums() {
        for [rows, inner, outer] in [[1, 1, 1], [7, 5, 3], [65, 33, 49], [300, 4, 513], [2, 0, 3]] {
            let (a, b) = (numbers(rows * inner, 1), numbers(inner * outer, 2));
            for (turned_a, turned_b) in [(false, false), (true, false), (false, true), (true, true)]
            {
                let a = Matrix::maybe_turned(&a, [rows, inner], turned_a);
                let b = Matrix::maybe_turned(&b, [inner, outer], turned_b);
                check(&product(a, b, None), (a, b), &[]);
                let bias = numbers(outer, 3);
                check(&product(a, b, Some(&bias)), (a, b), &bias);
            }
        }
    }

    #[test]
    fn products_of_a_batch_are_those_of_its_matrices() {
        let [count, rows, inner, outer] = [3, 40, 17, 30];
        let (a, b) = (numbers(count * rows * inner, 1), numbers(count * inner * outer, 2));
        let of = |a| Matrix::new(a, [rows, inner]);
        let turned = |b| Matrix::maybe_turned(b, [inner, outer], true);
        let all = products(count, of(&a), turned(&b));
        for (at, y) in all.chunks_exact(rows * outer).enumerate() {
            let a = of(&a[at * rows * inner..][..rows * inner]);
            let b = turned(&b[at * inner * outer..][..inner * outer]);
            check(y, (a, b), &[]);
        }
    }

    /// Rows are cut by shape, so that neither threads nor the machine's load show.
    #[test]
    fn products_are_the_same_on_any_number_of_threads() {
        for [rows, inner, outer] in [[700, 300, 40], [30, 2000, 900], [513, 700, 513]] {
            let (a, b) = (numbers(rows * inner, 1), numbers(inner * outer, 2));
            let bias = numbers(outer, 3);
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let a = Matrix::maybe_turned(&a, [rows, inner], true);
                pool.install(|| product(a, Matrix::new(&b, [inner, outer]), Some(&bias)))
            };
            let one = run(1);
            assert_eq!(run(2), one);
            assert_eq!(run(5), one);
        }
    }
}
