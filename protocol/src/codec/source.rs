//! What is to be sent: a tensor, plus what earlier ones left unsent if the caller keeps that.

use std::ops::Range;

use super::error::EncodeError;
use super::floats::{INFINITE, magnitude};

/// Elements that are added up at a time where sums are looked at without being stored: 16 KiB, in the first cache.
const BLOCK: usize = 4096;

/// A tensor to be sent. Sums are rounded once, as floats are: they are what is sent, and what the residual is kept of.
#[derive(Debug)]
pub(super) struct Source<'a> {
    tensor: &'a [f32],
    residual: Option<&'a mut [f32]>,
}

impl<'a> Source<'a> {
    /// *Errors*: [`EncodeError::Residual`] if the lengths differ.
    pub(super) fn new(
        tensor: &'a [f32],
        residual: Option<&'a mut [f32]>,
    ) -> Result<Self, EncodeError> {
        match &residual {
            Some(other) if other.len() != tensor.len() => {
                Err(EncodeError::Residual { residual: other.len(), tensor: tensor.len() })
            }
            _ => Ok(Self { tensor, residual }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tensor.len()
    }

    /// Visits everything in order, a block at a time, until the visitor says that it has seen enough.
    pub(super) fn until(&self, mut visit: impl FnMut(usize, &[f32]) -> bool) {
        let mut sums = [0.0; BLOCK];
        for (place, block) in self.tensor.chunks(BLOCK).enumerate() {
            let start = place * BLOCK;
            let is_enough = match &self.residual {
                None => visit(start, block),
                Some(residual) => {
                    let sums = &mut sums[..block.len()];
                    let rest = &residual[start..start + block.len()];
                    for ((sum, value), left) in sums.iter_mut().zip(block).zip(rest) {
                        *sum = value + left;
                    }
                    visit(start, sums)
                }
            };
            if is_enough {
                return;
            }
        }
    }

    /// Visits everything in order, a block at a time.
    pub(super) fn each(&self, mut visit: impl FnMut(&[f32])) {
        self.until(|_, block| {
            visit(block);
            false
        });
    }

    /// Returns a chunk; with a residual, its sums have taken the residual's place.
    pub(super) fn take(&mut self, range: Range<usize>) -> &[f32] {
        let values = &self.tensor[range.clone()];
        let Some(residual) = &mut self.residual else {
            return values;
        };
        let sums = &mut residual[range];
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
        sums
    }

    /// Returns the residual of a chunk.
    pub(super) fn residual(&mut self, range: Range<usize>) -> Option<&mut [f32]> {
        self.residual.as_mut().map(|residual| &mut residual[range])
    }

    /// Refuses what is not finite, and what is as large as `least`.
    pub(super) fn refuse(&self, least: u32) -> Result<(), EncodeError> {
        let mut most = 0;
        self.each(|block| {
            most = block.iter().fold(most, |most: u32, value| most.max(magnitude(*value)));
        });
        if most < least {
            return Ok(());
        }
        let is_finite = most < INFINITE;
        let bound = if is_finite { least } else { INFINITE };
        let (mut first, mut count) = (None, 0);
        self.until(|start, block| {
            for (place, _) in block.iter().enumerate().filter(|(_, v)| magnitude(**v) >= bound) {
                first = first.or(Some(start + place));
                count += 1;
            }
            false
        });
        let first = first.unwrap_or_default();
        Err(if is_finite {
            EncodeError::TooLarge { first, count }
        } else {
            EncodeError::NotFinite { first, count }
        })
    }
}
