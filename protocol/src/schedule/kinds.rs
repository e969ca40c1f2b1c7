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
    /// Gradients of fused attention, over matrix products.
    pub attention_grads: u32,
    /// Recurrences, over matrix products.
    pub recurrences: u32,
    /// Gradients of convolutions, over convolutions.
    pub convolution_grads: u32,
    /// A byte of norms along rows, softmax and losses, over one of element-wise operators.
    pub norms: u32,
    /// A byte of norms of channels and of pools, over one of element-wise operators.
    pub channel_norms: u32,
    /// A byte that only moves, over one of element-wise operators.
    pub moves: u32,
    /// What a pass takes in which nothing is computed: tensors in and out.
    pub pass: Duration,
    /// What operators take however small they are.
    pub starts: Starts,
}

/// What an operator of a kind takes however small it is, in thousandths of what a light one takes, such as an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starts {
    /// Matrix products.
    pub products: u32,
    /// Fused attention.
    pub attention: u32,
    /// Gradients of fused attention.
    pub attention_grads: u32,
    /// Recurrences.
    pub recurrences: u32,
    /// Convolutions.
    pub convolutions: u32,
    /// Gradients of convolutions.
    pub convolution_grads: u32,
    /// Norms along rows, softmax and losses.
    pub norms: u32,
    /// Norms of channels, and pools.
    pub channel_norms: u32,
}

impl Starts {
    /// Returns the same starts in multiples of something that is smaller by `over / of`.
    #[must_use]
    pub fn over(self, over: u64, of: u64) -> Self {
        let each = |start: u32| {
            let scaled = u128::from(start) * u128::from(over) / u128::from(of.max(1));
            u32::try_from(scaled).unwrap_or(FACTOR_MAX).clamp(1, FACTOR_MAX)
        };
        Self {
            products: each(self.products),
            attention: each(self.attention),
            attention_grads: each(self.attention_grads),
            recurrences: each(self.recurrences),
            convolutions: each(self.convolutions),
            convolution_grads: each(self.convolution_grads),
            norms: each(self.norms),
            channel_norms: each(self.channel_norms),
        }
    }
}

impl Default for Starts {
    /// All alike.
    fn default() -> Self {
        Self {
            products: ONE,
            attention: ONE,
            attention_grads: ONE,
            recurrences: ONE,
            convolutions: ONE,
            convolution_grads: ONE,
            norms: ONE,
            channel_norms: ONE,
        }
    }
}

impl Default for Kinds {
    /// All alike, and passes for nothing.
    fn default() -> Self {
        Self {
            attention: ONE,
            attention_grads: ONE,
            recurrences: ONE,
            convolution_grads: ONE,
            norms: ONE,
            channel_norms: ONE,
            moves: ONE,
            pass: Duration::ZERO,
            starts: Starts::default(),
        }
    }
}

impl Kinds {
    /// Returns the fields in order, for signatures.
    pub(super) fn numbers(&self) -> [u64; 16] {
        let starts = self.starts;
        [
            self.attention.into(),
            self.attention_grads.into(),
            self.recurrences.into(),
            self.convolution_grads.into(),
            self.norms.into(),
            self.channel_norms.into(),
            self.moves.into(),
            self.pass.micros(),
            starts.products.into(),
            starts.attention.into(),
            starts.attention_grads.into(),
            starts.recurrences.into(),
            starts.convolutions.into(),
            starts.convolution_grads.into(),
            starts.norms.into(),
            starts.channel_norms.into(),
        ]
    }
}

/// Returns a duration times a factor in thousandths.
pub(super) fn stretched(time: Duration, factor: u32) -> Duration {
    stretched_by(time, u64::from(factor))
}

/// The same for larger factors.
pub(super) fn stretched_by(time: Duration, factor: u64) -> Duration {
    let micros = u128::from(time.micros()) * u128::from(factor) / u128::from(ONE);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}
