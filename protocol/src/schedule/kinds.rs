//! How the kinds of operators compare on a device: factors on its headline speeds, and what a pass costs by itself.
//!
//! Two devices of equal matrix products may differ by a factor of five in attention or in the gradients of convolutions.
//! A factor is relative, so that a share of the device, or deeds that correct its speeds, apply to all kinds alike.

use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// A factor of one, in thousandths.
pub const ONE: u32 = 1000;
/// Factors lie between a thousandth and a thousand.
pub const FACTOR_MAX: u32 = ONE * ONE;

/// How much longer than at the headline speed each kind takes, in thousandths, and what comes with each pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds {
    /// Fused attention, over matrix products.
    pub attention: u32,
    /// Recurrences, over matrix products.
    pub recurrences: u32,
    /// Gradients of convolutions, over convolutions.
    pub convolution_grads: u32,
    /// A byte of norms, softmax, losses and sums, over one of element-wise operators.
    pub norms: u32,
    /// A byte that only moves, over one of element-wise operators.
    pub moves: u32,
    /// What a pass takes in which nothing is computed: tensors in and out.
    pub pass: Duration,
}

impl Default for Kinds {
    /// All alike, and passes for nothing.
    fn default() -> Self {
        let (attention, recurrences, convolution_grads, norms, moves) = (ONE, ONE, ONE, ONE, ONE);
        let pass = Duration::ZERO;
        Self { attention, recurrences, convolution_grads, norms, moves, pass }
    }
}

impl Kinds {
    /// Returns the fields in order, for signatures.
    pub(super) fn numbers(&self) -> [u64; 6] {
        [
            self.attention.into(),
            self.recurrences.into(),
            self.convolution_grads.into(),
            self.norms.into(),
            self.moves.into(),
            self.pass.micros(),
        ]
    }
}

/// Returns a duration times a factor in thousandths.
pub(super) fn stretched(time: Duration, factor: u32) -> Duration {
    let micros = u128::from(time.micros()) * u128::from(factor) / u128::from(ONE);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}
