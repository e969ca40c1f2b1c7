//! What comes of a comparison.

use super::timing::StepTime;

/// An exchange's step.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// Its name.
    pub name: String,
    /// Its time.
    pub time: StepTime,
    /// How many times quicker than the first exchange's step it is.
    pub speedup: f64,
}

/// What one run of training has come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Learnt {
    /// The exchange's name.
    pub name: String,
    /// The seed of weights and samples.
    pub seed: u64,
    /// Mean loss over workers of each step, in nats.
    pub losses: Vec<f64>,
    /// Virtual seconds from the start to the end of each step.
    pub seconds: Vec<f64>,
    /// Mean loss of what was held out, in nats.
    pub held_loss: f64,
    /// Share of what was held out that is told right: of images, or of next tokens.
    pub held_accuracy: f64,
    /// Bytes that a worker has put on its link, in all.
    pub bytes: u64,
    /// Whether all workers have ended with the same bits.
    pub is_equal: bool,
}

/// Steps whose mean loss is compared: of one step's few samples a loss says little.
pub const LAST: usize = 20;

impl Learnt {
    /// Returns the mean loss of the last steps.
    pub fn last_loss(&self) -> f64 {
        mean(&self.losses[self.losses.len().saturating_sub(LAST)..])
    }

    /// Returns after how many virtual seconds the mean loss of the last steps was no higher than this.
    pub fn seconds_to(&self, loss: f64) -> Option<f64> {
        let windows = self.losses.windows(LAST.min(self.losses.len()).max(1));
        let found = windows.enumerate().find(|(_, window)| mean(window) <= loss);
        let (place, window) = found?;
        self.seconds.get(place + window.len() - 1).copied()
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are few steps")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_reached_with_the_first_window_that_has_it() {
        let losses: Vec<f64> = (0..60u8).map(|step| 60.0 - f64::from(step)).collect();
        let seconds = (1..=60u8).map(f64::from).collect();
        let learnt = Learnt {
            name: String::new(),
            seed: 1,
            losses,
            seconds,
            held_loss: 0.0,
            held_accuracy: 0.0,
            bytes: 0,
            is_equal: true,
        };
        assert!((learnt.last_loss() - 10.5).abs() < 1e-9);
        assert_eq!(learnt.seconds_to(50.5), Some(20.0));
        assert_eq!(learnt.seconds_to(49.6), Some(21.0));
        assert_eq!(learnt.seconds_to(1.0), None);
    }
}
