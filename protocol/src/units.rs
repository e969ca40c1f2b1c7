//! Quantities with units, and the arithmetic between them, once.
//!
//! Time is our own: an `Instant` is microseconds since the peer's own start, handed in from outside,
//! so that the simulator's clock and the machine's are the same thing to every decision.

use std::fmt;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

use serde::{Deserialize, Serialize};

/// A moment, in microseconds since a start that only its owner knows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Instant(u64);

impl Instant {
    /// Makes a moment from microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Returns the microseconds.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Returns the time from `earlier` to this moment, or zero if that lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}

/// A span of time, in microseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Duration(u64);

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// Longer than anything.
    pub const MAX: Self = Self(u64::MAX);

    /// Makes a span from microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Makes a span from milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// Makes a span from seconds; negative or absurd values become zero or the longest span.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float to integer cast saturates, which is what is wanted"
    )]
    pub fn from_seconds(seconds: f64) -> Self {
        Self((seconds * 1e6).round() as u64)
    }

    /// Returns the microseconds.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Returns the seconds.
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a run are far below 2^53")]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Returns the larger of two spans.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Ord::max(self, other)
    }
}

impl Add for Duration {
    type Output = Self;

    fn add(self, rhs: Self) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}

impl AddAssign for Duration {
    fn add_assign(&mut self, rhs: Self) {
        *self = *self + rhs;
    }
}

impl Sub for Duration {
    type Output = Self;

    fn sub(self, rhs: Self) -> Self {
        Self(self.0.saturating_sub(rhs.0))
    }
}

impl Mul<u64> for Duration {
    type Output = Self;

    fn mul(self, rhs: u64) -> Self {
        Self(self.0.saturating_mul(rhs))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..1_000 => write!(f, "{} us", self.0),
            1_000..1_000_000 => write!(f, "{:.1} ms", self.seconds() * 1e3),
            _ => write!(f, "{:.2} s", self.seconds()),
        }
    }
}

/// An amount of data.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Bytes(u64);

impl Bytes {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Makes an amount from a count of bytes.
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// Makes an amount from a length in memory.
    pub const fn of_len(len: usize) -> Self {
        Self(len as u64)
    }

    /// Returns the count of bytes.
    pub const fn count(self) -> u64 {
        self.0
    }

    /// Returns what is left of it without another amount; nothing where that is more.
    pub const fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Bytes {
    type Output = Self;

    fn add(self, rhs: Self) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, rhs: Self) {
        *self = *self + rhs;
    }
}

impl Mul<u64> for Bytes {
    type Output = Self;

    fn mul(self, rhs: u64) -> Self {
        Self(self.0.saturating_mul(rhs))
    }
}

impl Div<Rate> for Bytes {
    type Output = Duration;

    /// Returns how long the data take at this rate; forever at rate zero.
    fn div(self, rate: Rate) -> Duration {
        if rate.0 == 0 {
            return Duration::MAX;
        }
        let micros = u128::from(self.0) * 1_000_000 / u128::from(rate.0);
        Duration(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Bytes {
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} B", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", n / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", n / 1e6),
            _ => write!(f, "{:.2} GB", n / 1e9),
        }
    }
}

/// A rate of data, in bytes per second.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Rate(u64);

impl Rate {
    /// Makes a rate from bytes per second.
    pub const fn from_bytes_per_second(rate: u64) -> Self {
        Self(rate)
    }

    /// Makes a rate from megabits per second.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float to integer cast saturates, which is what is wanted"
    )]
    pub fn from_mbit(mbit: f64) -> Self {
        Self((mbit * 125_000.0).round() as u64)
    }

    /// Returns bytes per second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0
    }

    /// Returns megabits per second.
    #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
    pub fn mbit(self) -> f64 {
        self.0 as f64 / 125_000.0
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mbit = self.mbit();
        if mbit >= 1000.0 {
            return write!(f, "{:.2} Gbit/s", mbit / 1e3);
        }
        write!(f, "{mbit:.1} Mbit/s")
    }
}

/// An amount of arithmetic, in floating-point operations (a multiply-add counts two).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Flops(u64);

impl Flops {
    /// None.
    pub const ZERO: Self = Self(0);

    /// Makes an amount from a count of operations.
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// Returns the count of operations.
    pub const fn count(self) -> u64 {
        self.0
    }
}

impl Add for Flops {
    type Output = Self;

    fn add(self, rhs: Self) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}

impl AddAssign for Flops {
    fn add_assign(&mut self, rhs: Self) {
        *self = *self + rhs;
    }
}

impl Mul<u64> for Flops {
    type Output = Self;

    fn mul(self, rhs: u64) -> Self {
        Self(self.0.saturating_mul(rhs))
    }
}

impl Div<Speed> for Flops {
    type Output = Duration;

    /// Returns how long the arithmetic takes at this speed; forever at speed zero.
    fn div(self, speed: Speed) -> Duration {
        if speed.0 == 0 {
            return Duration::MAX;
        }
        let micros = u128::from(self.0) * 1_000_000 / u128::from(speed.0);
        Duration(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl std::iter::Sum for Flops {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Flops {
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0 as f64;
        match self.0 {
            0..1_000_000 => write!(f, "{:.1} kFLOP", n / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MFLOP", n / 1e6),
            1_000_000_000..1_000_000_000_000 => write!(f, "{:.2} GFLOP", n / 1e9),
            _ => write!(f, "{:.2} TFLOP", n / 1e12),
        }
    }
}

/// A speed of arithmetic, in floating-point operations per second.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Speed(u64);

impl Speed {
    /// Makes a speed from operations per second.
    pub const fn from_flops_per_second(speed: u64) -> Self {
        Self(speed)
    }

    /// Returns operations per second.
    pub const fn flops_per_second(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Speed {
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} GFLOP/s", self.0 as f64 / 1e9)
    }
}
