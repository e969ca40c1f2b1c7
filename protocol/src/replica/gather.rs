//! All-gather: each worker sends its message to every other one, and each adds them up itself.
//!
//! The sum runs over workers in the order of their places, whenever their messages have arrived: so all workers have the
//! same bits, and a message that is late changes nothing.
//!
//! ```text
//! waiting --arrive--> waiting | complete --mean--> the mean
//! ```

use super::error::ReplicaError;
use super::worker::check_length;
use crate::codec::{Form, decode, decode_add};

/// Most workers of one exchange: far more than gather from each other well, since each receives from each.
pub const WORKERS_MAX: usize = 1024;

/// One merge group's messages at one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Gather {
    form: Form,
    elements: usize,
    messages: Vec<Option<Vec<u8>>>,
}

impl Gather {
    /// Awaits a message of each worker, the own one among them.
    ///
    /// *Errors*: [`ReplicaError::Workers`].
    pub fn new(form: Form, elements: usize, workers: usize) -> Result<Self, ReplicaError> {
        check_workers(workers)?;
        Ok(Self { form, elements, messages: vec![None; workers] })
    }

    /// Takes a worker's message in.
    ///
    /// *Errors*: [`ReplicaError::Workers`] for a place that nobody has, [`ReplicaError::Twice`], and
    /// [`ReplicaError::Message`] where the bytes are not of the agreed form; the worker may send again then.
    pub fn arrive(&mut self, worker: usize, bytes: Vec<u8>) -> Result<(), ReplicaError> {
        let most = self.messages.len();
        let slot = self.messages.get_mut(worker);
        let slot = slot.ok_or(ReplicaError::Workers { count: worker + 1, most })?;
        if slot.is_some() {
            return Err(ReplicaError::Twice { worker });
        }
        // A stranger's bytes are looked at before they count.
        let mut scratch = vec![0.0; self.elements];
        decode(self.form, &bytes, &mut scratch)
            .map_err(|source| ReplicaError::Message { worker, source })?;
        *slot = Some(bytes);
        Ok(())
    }

    /// Says whether everybody has sent.
    pub fn is_complete(&self) -> bool {
        self.messages.iter().all(Option::is_some)
    }

    /// Writes the mean of what the workers have sent: their sum in the order of their places, over their number.
    ///
    /// *Source*: papers.md 3.2, step 4: zero a dense buffer, add each worker's elements, divide by P.
    ///
    /// *Errors*: [`ReplicaError::Incomplete`], [`ReplicaError::Length`], [`ReplicaError::Overflow`].
    pub fn mean(&self, out: &mut [f32]) -> Result<(), ReplicaError> {
        check_length("the mean", out.len(), self.elements)?;
        let missing = self.messages.iter().filter(|message| message.is_none()).count();
        if missing > 0 {
            return Err(ReplicaError::Incomplete { missing });
        }
        out.fill(0.0);
        for (worker, message) in self.messages.iter().enumerate() {
            let bytes = message.as_deref().unwrap_or_default();
            decode_add(self.form, bytes, out)
                .map_err(|source| ReplicaError::Message { worker, source })?;
        }
        divide(out, self.messages.len())
    }
}

/// Refuses nobody and too many.
pub(super) fn check_workers(count: usize) -> Result<(), ReplicaError> {
    if (1..=WORKERS_MAX).contains(&count) {
        return Ok(());
    }
    Err(ReplicaError::Workers { count, most: WORKERS_MAX })
}

/// Turns a sum over workers into their mean.
#[expect(clippy::cast_precision_loss, reason = "there are far fewer than 2^24 workers")]
pub(super) fn divide(sum: &mut [f32], workers: usize) -> Result<(), ReplicaError> {
    if let Some(first) = sum.iter().position(|value| !value.is_finite()) {
        return Err(ReplicaError::Overflow { first });
    }
    let count = workers as f32;
    for value in sum {
        *value /= count;
    }
    Ok(())
}
