//! Dense ring all-reduce: each worker's gradient whole, in 2 (P - 1) rounds of one chunk to the next worker.
//!
//! *Source*: the textbook algorithm (Patarasuk and Yuan 2009); its cost is papers.md 3.4. In P - 1 rounds chunks are
//! summed around the ring, chunk c beginning at worker c; in as many they are handed on as they are. Each worker sends
//! 2 (P - 1) / P of the gradient. *Invariant*: a chunk is summed once, so that all workers have the same bits; the order of
//! its sum is c, c + 1, ... around the ring, and so another one than [`Gather`](super::Gather)'s.

use std::ops::Range;

use super::error::ReplicaError;
use super::gather::{check_workers, divide};
use super::worker::check_length;
use crate::codec::{Form, decode, encode};
use crate::units::Bytes;

/// One worker in a ring.
#[derive(Clone, Debug, PartialEq)]
pub struct RingWorker {
    place: usize,
    workers: usize,
    values: Vec<f32>,
    round: usize,
}

impl RingWorker {
    /// Begins with a worker's gradient.
    ///
    /// *Errors*: [`ReplicaError::Workers`] where the place is not in the ring.
    pub fn new(place: usize, workers: usize, gradient: &[f32]) -> Result<Self, ReplicaError> {
        check_workers(workers)?;
        if place >= workers {
            return Err(ReplicaError::Workers { count: place + 1, most: workers });
        }
        // A residual of zero turns -0 into +0, so here it is turned too: leaving nothing out changes no bit.
        let values = gradient.iter().map(|value| value + 0.0).collect();
        Ok(Self { place, workers, values, round: 0 })
    }

    /// Returns how many rounds there are.
    pub fn rounds(&self) -> usize {
        2 * (self.workers - 1)
    }

    /// Returns the elements of a chunk; chunks differ in length by one at most.
    fn chunk(&self, chunk: usize) -> Range<usize> {
        let at = |chunk: usize| chunk * self.values.len() / self.workers;
        at(chunk)..at(chunk + 1)
    }

    /// Returns which chunk goes out in a round, `ahead` of the place of its sender.
    fn sent(&self, place: usize) -> Range<usize> {
        let (half, workers) = (self.workers - 1, self.workers);
        // Summing: worker i sends chunk i first, then what it has just added to. Handing on: first the chunk i + 1,
        // whose sum has ended here.
        let chunk = match self.round < half {
            true => place + workers - self.round,
            false => place + 1 + workers - (self.round - half),
        };
        self.chunk(chunk % workers)
    }

    /// Returns the bytes for the next worker in this round.
    ///
    /// *Errors*: none in practice; dense floats always encode.
    pub fn outgoing(&self) -> Result<Vec<u8>, ReplicaError> {
        let mut bytes = Vec::new();
        let wrong = |source| ReplicaError::Gradient { worker: self.place, group: 0, source };
        encode(Form::DENSE, &self.values[self.sent(self.place)], &mut bytes).map_err(wrong)?;
        Ok(bytes)
    }

    /// Takes in what the worker before has sent in this round, and goes on to the next.
    ///
    /// *Errors*: [`ReplicaError::Message`].
    pub fn incoming(&mut self, bytes: &[u8]) -> Result<(), ReplicaError> {
        let before = (self.place + self.workers - 1) % self.workers;
        let range = self.sent(before);
        let mut arrived = vec![0.0; range.len()];
        decode(Form::DENSE, bytes, &mut arrived)
            .map_err(|source| ReplicaError::Message { worker: before, source })?;
        let is_sum = self.round < self.workers - 1;
        for (own, other) in self.values[range].iter_mut().zip(arrived) {
            *own = if is_sum { other + *own } else { other };
        }
        self.round += 1;
        Ok(())
    }

    /// Writes the mean, once all rounds are over.
    ///
    /// *Errors*: [`ReplicaError::Incomplete`], [`ReplicaError::Length`], [`ReplicaError::Overflow`].
    pub fn mean(&self, out: &mut [f32]) -> Result<(), ReplicaError> {
        check_length("the mean", out.len(), self.values.len())?;
        if self.round < self.rounds() {
            return Err(ReplicaError::Incomplete { missing: 1 });
        }
        out.copy_from_slice(&self.values);
        divide(out, self.workers)
    }
}

/// Runs a ring of all workers to its end; returns the mean at each, and the most that one has sent.
///
/// *Errors*: [`ReplicaError::Workers`], [`ReplicaError::Length`] where gradients differ in length, and
/// [`ReplicaError::Overflow`].
pub fn all_reduce(gradients: &[&[f32]]) -> Result<(Vec<Vec<f32>>, Bytes), ReplicaError> {
    let workers = gradients.len();
    check_workers(workers)?;
    let wanted = gradients[0].len();
    for gradient in gradients {
        check_length("a gradient", gradient.len(), wanted)?;
    }
    let ring = gradients.iter().enumerate();
    let ring = ring.map(|(place, gradient)| RingWorker::new(place, workers, gradient));
    let mut ring = ring.collect::<Result<Vec<_>, _>>()?;
    let mut sent = vec![0u64; workers];
    for _ in 0..2 * (workers - 1) {
        let messages = ring.iter().map(RingWorker::outgoing).collect::<Result<Vec<_>, _>>()?;
        for (place, bytes) in messages.iter().enumerate() {
            sent[place] += bytes.len() as u64;
            ring[(place + 1) % workers].incoming(bytes)?;
        }
    }
    let mean = |worker: &RingWorker| {
        let mut out = vec![0.0; wanted];
        worker.mean(&mut out).map(|()| out)
    };
    let means = ring.iter().map(mean).collect::<Result<_, _>>()?;
    Ok((means, Bytes::new(sent.into_iter().max().unwrap_or(0))))
}
