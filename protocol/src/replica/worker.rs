//! One worker's side: what it sends of each merge group, and what it keeps for the next step.
//!
//! *Source*: papers.md 3.2, the released code: residuals hold unscaled gradients, one vector a merge group, zero at the
//! start; momentum and weight decay act after aggregation. The textbook scales by the learning rate first, which is the
//! same while that is constant. With a momentum, it acts before selecting instead: what is sent and kept is of velocities
//! (momentum correction, Lin et al. 2018, "Deep Gradient Compression", section 3.2, without its masking, which would drop
//! what the law below keeps; the release of LAGS has neither). *Invariant*: what was sent plus the residual is the
//! gradient, or the velocity, plus the residual before, as rounded sums of floats, exactly.

use super::error::ReplicaError;
use super::merge::MergeGroups;
use crate::codec::{EncodeError, Form, encode_with};

/// A worker with its residuals.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    place: usize,
    groups: MergeGroups,
    residual: Vec<f32>,
    momentum: f32,
    /// Empty without momentum.
    velocity: Vec<f32>,
}

impl Worker {
    /// Makes a worker that has left out nothing yet. Its groups stay: residuals belong to them.
    pub fn new(place: usize, groups: MergeGroups) -> Self {
        let residual = vec![0.0; groups.total()];
        Self { place, groups, residual, momentum: 0.0, velocity: Vec::new() }
    }

    /// The same with momentum before selecting; the optimizer then has none.
    #[must_use]
    pub fn with_momentum(self, momentum: f32) -> Self {
        let velocity = if momentum > 0.0 { vec![0.0; self.residual.len()] } else { Vec::new() };
        Self { momentum, velocity, ..self }
    }

    /// Returns what was left out so far, one element for each of the gradient.
    pub fn residual(&self) -> &[f32] {
        &self.residual
    }

    /// Returns the bytes of one merge group, whose gradient has just been computed, and keeps what they leave out.
    ///
    /// *Errors*: [`ReplicaError::Group`], [`ReplicaError::Length`], and [`ReplicaError::Gradient`] where an element is
    /// NaN, infinite, or with its residual more than the form holds; the residual is as it was.
    pub fn send(
        &mut self,
        group: usize,
        form: Form,
        gradient: &[f32],
    ) -> Result<Vec<u8>, ReplicaError> {
        let range = self.groups.group(group)?;
        check_length("a merge group's gradient", gradient.len(), range.len())?;
        let worker = self.place;
        let wrong = |source| ReplicaError::Gradient { worker, group, source };
        let mut moved = Vec::new();
        let gradient = match self.velocity.get(range.clone()) {
            None => gradient,
            Some(velocity) => {
                // u <- m u + g, as SGD's momentum would on the mean: both are linear.
                let pairs = velocity.iter().zip(gradient);
                moved.extend(pairs.map(|(velocity, value)| self.momentum * velocity + value));
                &moved
            }
        };
        let residual = &mut self.residual[range.clone()];
        // Dense f32 would carry NaN and infinity to everybody, whose sums would never lose them again.
        check_finite(gradient, residual).map_err(wrong)?;
        let mut bytes = Vec::new();
        // 3.2, step 2: buffer += residual; the k largest are sent; residual = buffer with those set to 0.
        encode_with(form, gradient, residual, &mut bytes).map_err(wrong)?;
        if let Some(velocity) = self.velocity.get_mut(range) {
            velocity.copy_from_slice(&moved);
        }
        Ok(bytes)
    }
}

/// Refuses another number of elements.
pub(super) fn check_length(
    what: &'static str,
    found: usize,
    wanted: usize,
) -> Result<(), ReplicaError> {
    if found == wanted { Ok(()) } else { Err(ReplicaError::Length { what, found, wanted }) }
}

fn check_finite(gradient: &[f32], residual: &[f32]) -> Result<(), EncodeError> {
    let sums = gradient.iter().zip(residual).map(|(value, left)| value + left);
    let mut bad = sums.enumerate().filter(|(_, sum)| !sum.is_finite()).map(|(place, _)| place);
    match bad.next() {
        None => Ok(()),
        Some(first) => Err(EncodeError::NotFinite { first, count: 1 + bad.count() }),
    }
}
