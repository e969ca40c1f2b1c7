//! How often operators are started, by kind: what an operator takes however small it is differs by kind as much as what its
//! work takes. A convolution packs its weights and lays its images out, an addition does not.

use std::ops::{Add, Sub};

use super::kinds::{ONE, Starts};
use crate::dag::cost::Unit;

/// Operators started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Launches {
    /// Element-wise operators, and what moves or renames.
    pub light: u64,
    /// Matrix products.
    pub products: u64,
    /// Fused attention.
    pub attention: u64,
    /// Gradients of fused attention.
    pub attention_grads: u64,
    /// Recurrences.
    pub recurrences: u64,
    /// Convolutions.
    pub convolutions: u64,
    /// Gradients of convolutions.
    pub convolution_grads: u64,
    /// Norms along rows, softmax and losses.
    pub norms: u64,
    /// Norms of channels, and pools.
    pub channel_norms: u64,
}

impl Launches {
    /// Returns so many light ones.
    pub fn light(count: u64) -> Self {
        Self { light: count, ..Self::default() }
    }

    /// Returns one of a kind.
    pub fn one(unit: Unit) -> Self {
        let mut one = Self::default();
        *one.of(unit) = 1;
        one
    }

    fn of(&mut self, unit: Unit) -> &mut u64 {
        match unit {
            Unit::Products => &mut self.products,
            Unit::Attention => &mut self.attention,
            Unit::AttentionGrads => &mut self.attention_grads,
            Unit::Recurrence => &mut self.recurrences,
            Unit::Convolutions => &mut self.convolutions,
            Unit::ConvolutionGrads => &mut self.convolution_grads,
            Unit::Norms => &mut self.norms,
            Unit::ChannelNorms => &mut self.channel_norms,
            Unit::Elements | Unit::Moves | Unit::Names => &mut self.light,
        }
    }

    /// Returns all of them, whatever their kind.
    pub fn count(self) -> u64 {
        self.numbers().into_iter().fold(0, u64::saturating_add)
    }

    fn numbers(self) -> [u64; 9] {
        let Self {
            light,
            products,
            attention,
            attention_grads,
            recurrences,
            convolutions,
            convolution_grads,
            norms,
            channel_norms,
        } = self;
        [
            light,
            products,
            attention,
            attention_grads,
            recurrences,
            convolutions,
            convolution_grads,
            norms,
            channel_norms,
        ]
    }

    fn each(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            light: f(self.light, other.light),
            products: f(self.products, other.products),
            attention: f(self.attention, other.attention),
            attention_grads: f(self.attention_grads, other.attention_grads),
            recurrences: f(self.recurrences, other.recurrences),
            convolutions: f(self.convolutions, other.convolutions),
            convolution_grads: f(self.convolution_grads, other.convolution_grads),
            norms: f(self.norms, other.norms),
            channel_norms: f(self.channel_norms, other.channel_norms),
        }
    }

    /// Returns the same so many times.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        self.each(self, |launches, _| launches.saturating_mul(count))
    }

    /// Returns as how many light ones they count on a device, in thousandths.
    pub(super) fn weighed(self, starts: &Starts) -> u64 {
        let factors = [
            ONE,
            starts.products,
            starts.attention,
            starts.attention_grads,
            starts.recurrences,
            starts.convolutions,
            starts.convolution_grads,
            starts.norms,
            starts.channel_norms,
        ];
        let each = self.numbers().into_iter().zip(factors);
        each.fold(0, |sum, (n, factor)| sum.saturating_add(n.saturating_mul(u64::from(factor))))
    }
}

impl Add for Launches {
    type Output = Self;

    fn add(self, rhs: Self) -> Self {
        self.each(rhs, u64::saturating_add)
    }
}

/// The part of a running sum that comes after an earlier part; never below zero.
impl Sub for Launches {
    type Output = Self;

    fn sub(self, rhs: Self) -> Self {
        self.each(rhs, u64::saturating_sub)
    }
}
