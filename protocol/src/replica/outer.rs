//! The outer loop: workers take steps of their own, and only now and then the change that they have made is exchanged.
//!
//! *Source*: Douillard et al. 2023, "DiLoCo" (arXiv 2311.08105), algorithm 1: each worker takes H inner steps from the
//! shared parameters; the outer gradient is the mean over workers of what they were minus what they are; an outer optimizer
//! (there Nesterov momentum of 0.9 at a rate of 0.7) applies it. The inner optimizer's state stays its worker's. That
//! changes may go through an [`Exchange`](super::Exchange) with residuals is our combination. A rate of 1 without momentum is
//! the average of the workers' parameters (local SGD).

use super::error::ReplicaError;
use super::worker::check_length;

/// How the mean change is applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OuterRule {
    /// Learning rate of the outer step; 1 goes where the workers went on average.
    pub rate: f32,
    /// Momentum of the outer step, 0 for none.
    pub momentum: f32,
    /// Whether momentum looks ahead (Nesterov).
    pub nesterov: bool,
}

impl OuterRule {
    /// What the paper's abstract algorithm is run with: Nesterov momentum of 0.9 at a rate of 0.7.
    pub const DILOCO: Self = Self { rate: 0.7, momentum: 0.9, nesterov: true };
}

/// Shared parameters and the state of the outer optimizer, the same at each worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Outer {
    rule: OuterRule,
    parameters: Vec<f32>,
    velocity: Vec<f32>,
}

impl Outer {
    /// Begins from parameters that all workers have.
    pub fn new(rule: OuterRule, parameters: Vec<f32>) -> Self {
        let velocity = vec![0.0; parameters.len()];
        Self { rule, parameters, velocity }
    }

    /// Returns the parameters from which every worker takes its next steps.
    pub fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// Returns what a worker has to exchange: by how much its parameters have gone down.
    ///
    /// *Errors*: [`ReplicaError::Length`].
    pub fn change(&self, now: &[f32]) -> Result<Vec<f32>, ReplicaError> {
        check_length("a worker's parameters", now.len(), self.parameters.len())?;
        Ok(self.parameters.iter().zip(now).map(|(before, now)| before - now).collect())
    }

    /// Applies the mean change of all workers.
    ///
    /// *Source*: algorithm 1, line 14; momentum as in `PyTorch`: v = m v + g, then g + m v (Nesterov) or v.
    ///
    /// *Errors*: [`ReplicaError::Length`]; [`ReplicaError::Overflow`] with everything as it was.
    pub fn apply(&mut self, mean: &[f32]) -> Result<(), ReplicaError> {
        check_length("the mean change", mean.len(), self.parameters.len())?;
        let OuterRule { rate, momentum, nesterov } = self.rule;
        let velocity = self.velocity.iter().zip(mean).map(|(v, g)| momentum * v + g);
        let velocity: Vec<f32> = velocity.collect();
        let parameters = self.parameters.iter().zip(velocity.iter().zip(mean));
        let parameters: Vec<f32> = parameters
            .map(|(p, (v, g))| p - rate * if nesterov { g + momentum * v } else { *v })
            .collect();
        if let Some(first) = parameters.iter().position(|value| !value.is_finite()) {
            return Err(ReplicaError::Overflow { first });
        }
        (self.parameters, self.velocity) = (parameters, velocity);
        Ok(())
    }
}
