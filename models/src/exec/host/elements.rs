//! Functions of one and of two numbers, element by element, on all threads; in the memory of an operand where nothing
//! else holds it.

use super::fresh::fill;
use super::{PIECE, parallel, vectorised};
use crate::exec::tensor::memory::HostFloats;

/// `f` of each element.
///
/// `work` is that of an element.
pub fn map(x: HostFloats, work: usize, f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    match x {
        HostFloats::Own(mut x) => {
            change(
                &mut x,
                work,
                #[inline(always)]
                |_, x| x.iter_mut().for_each(|x| *x = f(*x)),
            );
            x
        }
        HostFloats::Shared(x) => {
            let x = &x[..];
            if is_simple(work, x.len()) {
                return x.iter().map(|x| f(*x)).collect();
            }
            fill(
                x.len(),
                work,
                #[inline(always)]
                |at, y| {
                    for (y, x) in y.iter_mut().zip(&x[at..]) {
                        *y = f(*x);
                    }
                },
            )
        }
    }
}

/// `f` of each pair of elements.
///
/// `work` is that of an element.
pub fn zip(
    a: HostFloats,
    b: HostFloats,
    work: usize,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Vec<f32> {
    match (a, b) {
        (HostFloats::Own(mut a), b) => {
            let b = &b[..];
            change(
                &mut a,
                work,
                #[inline(always)]
                |at, a| {
                    for (a, b) in a.iter_mut().zip(&b[at..]) {
                        *a = f(*a, *b);
                    }
                },
            );
            a
        }
        (a, HostFloats::Own(mut b)) => {
            let a = &a[..];
            change(
                &mut b,
                work,
                #[inline(always)]
                |at, b| {
                    for (b, a) in b.iter_mut().zip(&a[at..]) {
                        *b = f(*a, *b);
                    }
                },
            );
            b
        }
        (a, b) => {
            let (a, b) = (&a[..], &b[..]);
            if is_simple(work, a.len()) {
                return a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect();
            }
            fill(
                a.len(),
                work,
                #[inline(always)]
                |at, y| {
                    let (a, b) = (&a[at..][..y.len()], &b[at..][..y.len()]);
                    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                        *y = f(*a, *b);
                    }
                },
            )
        }
    }
}

/// Says whether one thread makes a result that waits for memory rather than for arithmetic: vectors of any width do, and
/// it is written in one go.
fn is_simple(work: usize, len: usize) -> bool {
    work == 1 && !parallel::is_worth(len)
}

/// Changes elements where they are, piece by piece: `f` gets where a piece begins, and the piece.
fn change(x: &mut [f32], work: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    parallel::pieces(x, PIECE, work * PIECE, |at, x| {
        vectorised(
            #[inline(always)]
            || f(at * PIECE, x),
        );
    });
}

/// How a tensor lies along another to which it broadcasts: element i of that one meets element `i / inner % count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    count: usize,
    inner: usize,
}

impl Spread {
    /// Returns how `part` lies along `full`, if its axes longer than 1 are neighbours.
    pub fn of(full: &[usize], part: &[usize]) -> Option<Self> {
        let lead = full.len().checked_sub(part.len())?;
        let at = |axis: usize| if axis < lead { 1 } else { part[axis - lead] };
        let long = |axis: &usize| at(*axis) != 1;
        let Some(first) = (0..full.len()).find(long) else {
            return Some(Self { count: 1, inner: full.iter().product::<usize>().max(1) });
        };
        let last = (first..full.len()).rfind(long).unwrap_or(first);
        let fits = (first..=last).all(|axis| at(axis) == full[axis]);
        let inner: usize = full[last + 1..].iter().product();
        fits.then(|| Self { count: full[first..=last].iter().product(), inner: inner.max(1) })
    }
}

/// Which of two operands is spread over the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// None: they have the same shape.
    Alike,
    /// The first.
    Left(Spread),
    /// The second.
    Right(Spread),
}

impl Pairing {
    /// Returns how operands of these shapes meet, if one of them has the shape of the result and the other's long axes
    /// are neighbours.
    pub fn of(a: &[usize], b: &[usize]) -> Option<Self> {
        if a == b {
            return Some(Self::Alike);
        }
        Spread::of(a, b).map(Self::Right).or_else(|| Spread::of(b, a).map(Self::Left))
    }

    /// Says whether it is the first operand that is spread.
    pub fn is_left_spread(self) -> bool {
        matches!(self, Self::Left(_))
    }
}

/// `f` of each pair of elements that meet.
pub fn combine(
    a: HostFloats,
    b: HostFloats,
    pairing: Pairing,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Vec<f32> {
    match pairing {
        Pairing::Alike => zip(a, b, 1, f),
        Pairing::Right(lies) => spread(a, &b, lies, f),
        Pairing::Left(lies) => spread(
            b,
            &a,
            lies,
            #[inline(always)]
            |b, a| f(a, b),
        ),
    }
}

/// `f` of each element and the one that it meets.
fn spread(
    a: HostFloats,
    b: &[f32],
    spread: Spread,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Vec<f32> {
    rewrite(
        a,
        1,
        #[inline(always)]
        |at, a| meet(a, at, b, spread, &f),
    )
}

/// Elements as `f` leaves them, piece by piece: it gets where a piece begins, and the piece.
///
/// `work` is that of an element.
pub fn rewrite(x: HostFloats, work: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    match x {
        HostFloats::Own(mut x) => {
            change(&mut x, work, f);
            x
        }
        HostFloats::Shared(x) => {
            let x = &x[..];
            fill(
                x.len(),
                work,
                #[inline(always)]
                |at, y| {
                    y.copy_from_slice(&x[at..][..y.len()]);
                    f(at, y);
                },
            )
        }
    }
}

/// Replaces elements from number `at` on by `f` of them and what they meet.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn meet(x: &mut [f32], at: usize, b: &[f32], spread: Spread, f: &impl Fn(f32, f32) -> f32) {
    let Spread { count, inner } = spread;
    let mut rest = x;
    let mut at = at;
    while !rest.is_empty() {
        let place = at / inner % count;
        let len = if inner == 1 { count - place } else { inner - at % inner };
        let (run, others) = rest.split_at_mut(len.min(rest.len()));
        if inner == 1 {
            for (x, b) in run.iter_mut().zip(&b[place..]) {
                *x = f(*x, *b);
            }
        } else {
            let b = b[place];
            run.iter_mut().for_each(|x| *x = f(*x, b));
        }
        at += run.len();
        rest = others;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_lie_along_others_by_their_long_axes() {
        let spread = |count, inner| Some(Spread { count, inner });
        assert_eq!(Spread::of(&[2, 3, 4], &[4]), spread(4, 1));
        assert_eq!(Spread::of(&[2, 3, 4], &[3, 4]), spread(12, 1));
        assert_eq!(Spread::of(&[2, 3, 4], &[1, 3, 1]), spread(3, 4));
        assert_eq!(Spread::of(&[2, 3, 4], &[2, 1, 1]), spread(2, 12));
        assert_eq!(Spread::of(&[2, 3, 4], &[1]), spread(1, 24));
        assert_eq!(Spread::of(&[2, 3, 4], &[]), spread(1, 24));
        assert_eq!(Spread::of(&[2, 1, 4], &[2, 1, 4]), spread(8, 1));
        assert_eq!(Spread::of(&[2, 3, 4], &[2, 1, 4]), None);
        assert_eq!(Spread::of(&[1, 4], &[3, 1]), None);
    }

    #[test]
    fn spreads_meet_the_same_elements_in_pieces_and_in_one() {
        let [outer, count, inner] = [3, 7, 1601];
        let number = |i: usize| f32::from(u16::try_from(i % 977).unwrap());
        let a: Vec<f32> = (0..outer * count * inner).map(number).collect();
        let b: Vec<f32> = (0..count).map(|i| number(i) + 0.5).collect();
        let want: Vec<f32> = (0..a.len()).map(|i| a[i] * b[i / inner % count]).collect();
        let lies = Spread::of(&[outer, count, inner], &[count, 1]).unwrap();
        assert_eq!(spread(HostFloats::Own(a), &b, lies, |a, b| a * b), want);
    }
}
