//! Tensor bundles by key, as bytes in host memory: what the execution thread and the network hand each other.
//!
//! Clones share one store. Bundles are immutable once put, so that a reader never waits for a writer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use wattle_protocol::ids::{Epoch, JobId, Step};
use wattle_protocol::swarm::io::TensorKey;

/// A shared map of tensor bundles.
#[derive(Clone, Debug, Default)]
pub struct Store {
    bundles: Arc<Mutex<BTreeMap<TensorKey, Bytes>>>,
}

impl Store {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TensorKey, Bytes>> {
        // A map of immutable values is whole after any panic.
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a bundle without copying it.
    pub fn bytes(&self, key: &TensorKey) -> Option<Bytes> {
        self.lock().get(key).cloned()
    }

    /// Puts a bundle in, in place of one of the same name.
    pub fn put_bytes(&self, key: TensorKey, bytes: Bytes) {
        let _old = self.lock().insert(key, bytes);
    }

    /// Takes a bundle out.
    pub fn take(&self, key: &TensorKey) -> Option<Bytes> {
        self.lock().remove(key)
    }

    /// Frees a bundle if it is here.
    pub fn drop_key(&self, key: &TensorKey) {
        let _old = self.take(key);
    }

    /// Frees every bundle of a job of an older epoch or an older step.
    pub fn drop_before(&self, job: JobId, epoch: Epoch, step: Step) {
        self.lock().retain(|key, _| key.job != job || (key.epoch >= epoch && key.step >= step));
    }

    /// Frees every bundle of a job.
    pub fn drop_job(&self, job: JobId) {
        self.lock().retain(|key, _| key.job != job);
    }

    /// Returns the names of all bundles in order.
    pub fn keys(&self) -> Vec<TensorKey> {
        self.lock().keys().copied().collect()
    }

    /// Returns the size of all bundles together.
    pub fn size(&self) -> wattle_protocol::units::Bytes {
        wattle_protocol::units::Bytes::of_len(self.lock().values().map(Bytes::len).sum())
    }
}

/// Writes floats as little-endian bytes.
pub fn to_bytes(values: &[f32]) -> Bytes {
    let mut bytes = Vec::with_capacity(values.len() * 4);
    append(&mut bytes, values);
    bytes.into()
}

/// Appends floats as little-endian bytes.
pub fn append(bytes: &mut Vec<u8>, values: &[f32]) {
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
}

/// Reads floats from little-endian bytes; a rest shorter than a float is left out.
pub fn to_floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[cfg(test)]
mod tests {
    use wattle_protocol::ids::{EdgeId, MicroBatch};
    use wattle_protocol::swarm::io::TensorName;

    use super::*;

    fn key(job: u8, epoch: u64, step: u64) -> TensorKey {
        TensorKey {
            job: JobId::new([job; 16]),
            epoch: Epoch::new(epoch),
            step: Step::new(step),
            name: TensorName::Activation { edge: EdgeId::new(0), micro_batch: MicroBatch::new(0) },
        }
    }

    #[test]
    fn drop_before_frees_old_epochs_and_old_steps_of_one_job() {
        let store = Store::new();
        for (job, epoch, step) in [(1, 1, 9), (1, 2, 4), (1, 2, 5), (1, 3, 5), (2, 1, 1)] {
            store.put_bytes(key(job, epoch, step), Bytes::from_static(b"four"));
        }
        store.drop_before(JobId::new([1; 16]), Epoch::new(2), Step::new(5));
        assert_eq!(store.keys(), [key(1, 2, 5), key(1, 3, 5), key(2, 1, 1)]);
        assert_eq!(store.size().count(), 12);
    }

    #[test]
    fn floats_survive_the_way_through_bytes_bit_by_bit() {
        let floats = [0.0, -0.0, 1.5, f32::MIN_POSITIVE, f32::INFINITY, -3.25e-20];
        let back = to_floats(&to_bytes(&floats));
        assert!(floats.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
