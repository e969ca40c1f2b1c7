//! What operators took within a task, by name: measured by the device's owner, told with the end of the task.

use crate::units::Duration;

/// Nanoseconds by operator; each name once. Empty where the device does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpTimes(Vec<(&'static str, u64)>);

impl OpTimes {
    /// Returns names and nanoseconds.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Returns the times at a share of the device, which stretches them.
    #[must_use]
    pub fn over(mut self, share: f64) -> Self {
        if share < 1.0 {
            for (_, nanos) in &mut self.0 {
                // A million times as long in a millionth of the unit: no cast is needed.
                *nanos = Duration::from_seconds(*nanos as f64 / share.max(1e-6) / 1e6).micros();
            }
        }
        self
    }

    /// Returns the sum of all operators, in nanoseconds.
    pub fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, nanos)| sum.saturating_add(*nanos))
    }
}

impl FromIterator<(&'static str, u64)> for OpTimes {
    fn from_iter<I: IntoIterator<Item = (&'static str, u64)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}
