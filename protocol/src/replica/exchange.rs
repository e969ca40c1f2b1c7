//! All workers of an exchange in one place: for the simulator, and for what tests hold against each other.
//!
//! Groups whose form is dense f32 go around a ring, all others to everybody.
//! *Source*: papers.md 3.2: the release averages groups of density 1 by an all-reduce and takes the sparse path for the
//! others.

use super::error::ReplicaError;
use super::gather::{Gather, check_workers};
use super::merge::MergeGroups;
use super::ring::all_reduce;
use super::worker::{Worker, check_length};
use crate::codec::Form;
use crate::units::Bytes;

/// The workers of an exchange, with their residuals.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    groups: MergeGroups,
    workers: Vec<Worker>,
}

/// What an exchange has come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchanged {
    /// The mean of what the workers have sent: the same bits at each of them.
    pub mean: Vec<f32>,
    /// The most that one worker has put on its link: for a message to everybody, once for each other worker.
    pub bytes: Bytes,
}

impl Exchange {
    /// Makes so many workers that have left out nothing yet.
    ///
    /// *Errors*: [`ReplicaError::Workers`].
    pub fn new(groups: MergeGroups, workers: usize) -> Result<Self, ReplicaError> {
        check_workers(workers)?;
        let workers = (0..workers).map(|place| Worker::new(place, groups.clone())).collect();
        Ok(Self { groups, workers })
    }

    /// The same with workers that have momentum before they select.
    #[must_use]
    pub fn with_momentum(self, momentum: f32) -> Self {
        let workers = self.workers.into_iter().map(|worker| worker.with_momentum(momentum));
        Self { workers: workers.collect(), ..self }
    }

    /// Returns the workers in the order of their places.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Exchanges one gradient a worker, each merge group in its form.
    ///
    /// *Errors*: [`ReplicaError`]; the exchange is as it was.
    pub fn run(
        &mut self,
        gradients: &[Vec<f32>],
        forms: &[Form],
    ) -> Result<Exchanged, ReplicaError> {
        check_length("the set of gradients", gradients.len(), self.workers.len())?;
        check_length("the list of forms", forms.len(), self.groups.len())?;
        for gradient in gradients {
            check_length("a gradient", gradient.len(), self.groups.total())?;
        }
        // Residuals change only when all of it has worked.
        let mut after = self.workers.clone();
        let mut exchanged = Exchanged { mean: vec![0.0; self.groups.total()], bytes: Bytes::ZERO };
        for (group, (range, form)) in self.groups.elements().iter().zip(forms).enumerate() {
            let sent = after.iter_mut().zip(gradients);
            let sent =
                sent.map(|(worker, gradient)| worker.send(group, *form, &gradient[range.clone()]));
            let messages = sent.collect::<Result<Vec<_>, _>>()?;
            let out = &mut exchanged.mean[range.clone()];
            exchanged.bytes += match form.is_exact() {
                true => around(&messages, out)?,
                false => to_everybody(*form, messages, out)?,
            };
        }
        self.workers = after;
        Ok(exchanged)
    }
}

fn around(messages: &[Vec<u8>], out: &mut [f32]) -> Result<Bytes, ReplicaError> {
    let floats = |bytes: &Vec<u8>| -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
    };
    let gradients: Vec<Vec<f32>> = messages.iter().map(floats).collect();
    let slices: Vec<&[f32]> = gradients.iter().map(Vec::as_slice).collect();
    let (means, bytes) = all_reduce(&slices)?;
    if let Some(mean) = means.first() {
        out.copy_from_slice(mean);
    }
    Ok(bytes)
}

fn to_everybody(
    form: Form,
    messages: Vec<Vec<u8>>,
    out: &mut [f32],
) -> Result<Bytes, ReplicaError> {
    let others = messages.len() as u64 - 1;
    let longest = messages.iter().map(Vec::len).max().unwrap_or(0);
    let mut gather = Gather::new(form, out.len(), messages.len())?;
    for (worker, bytes) in messages.into_iter().enumerate() {
        gather.arrive(worker, bytes)?;
    }
    gather.mean(out)?;
    Ok(Bytes::of_len(longest) * others)
}
