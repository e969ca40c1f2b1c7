//! Tensor bundles by key, as bytes in host memory: what the execution thread and the network hand each other.
//!
//! Clones share one store. Bundles are immutable once put, so that a reader never waits for a writer. The store also
//! keeps the books on memory: its bundles, and the stages that the executor over it says that it holds, may together
//! have a limit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use wattle_protocol::ids::{Epoch, JobId, Step};
use wattle_protocol::swarm::io::{TaskError, TensorKey};
use wattle_protocol::units::Bytes as Size;

/// A shared map of tensor bundles.
#[derive(Clone, Debug, Default)]
pub struct Store {
    shelf: Arc<Mutex<Shelf>>,
}

/// What there is of a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Bundle {
    /// As it crosses links.
    Packed(Bytes),
    /// A tensor that was decoded while it arrived, row-major.
    Unpacked(Vec<f32>),
}

impl Bundle {
    fn size(&self) -> Size {
        match self {
            Self::Packed(bytes) => Size::of_len(bytes.len()),
            Self::Unpacked(floats) => Size::of_len(floats.len() * size_of::<f32>()),
        }
    }

    fn into_packed(self) -> Option<Bytes> {
        match self {
            Self::Packed(bytes) => Some(bytes),
            Self::Unpacked(_) => None,
        }
    }
}

#[derive(Debug, Default)]
struct Shelf {
    bundles: BTreeMap<TensorKey, Bundle>,
    /// Memory of loaded stages with what they keep from pass to pass.
    stages: Size,
    /// Most memory of bundles and stages together; None where there is no limit.
    limit: Option<Size>,
}

impl Shelf {
    fn size(&self) -> Size {
        self.bundles.values().map(Bundle::size).sum()
    }

    fn room_for(&self, adding: Size, what: &str) -> Result<(), TaskError> {
        let held = self.size() + self.stages;
        match self.limit {
            Some(limit) if held + adding > limit => Err(TaskError::OutOfMemory(format!(
                "{what} needs {adding}, and {held} of {limit} are taken; give the peer more with --memory, make \
                 micro-batches smaller, or let more peers take part"
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

impl Store {
    /// Makes an empty store without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        // A map of immutable values is whole after any panic.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the most memory that bundles and stages may take together; None for no limit.
    pub fn limit(&self, memory: Option<Size>) {
        self.lock().limit = memory;
    }

    /// Notes the memory of all loaded stages.
    pub(crate) fn hold(&self, stages: Size) {
        self.lock().stages = stages;
    }

    /// Says whether there is room for something more.
    ///
    /// *Errors*: [`TaskError::OutOfMemory`] with the figures.
    pub fn room_for(&self, adding: Size, what: &str) -> Result<(), TaskError> {
        self.lock().room_for(adding, what)
    }

    /// Returns a bundle without copying it; None too for a tensor that is unpacked.
    pub fn bytes(&self, key: &TensorKey) -> Option<Bytes> {
        match self.lock().bundles.get(key)? {
            Bundle::Packed(bytes) => Some(bytes.clone()),
            Bundle::Unpacked(_) => None,
        }
    }

    /// Puts a bundle in, in place of one of the same name.
    ///
    /// *Errors*: [`TaskError::OutOfMemory`] where it does not fit; the old one stays.
    pub fn put_bytes(&self, key: TensorKey, bytes: Bytes) -> Result<(), TaskError> {
        let mut shelf = self.lock();
        let old = shelf.bundles.get(&key).map_or(Size::ZERO, Bundle::size);
        let adding = Size::of_len(bytes.len()).less(old);
        shelf.room_for(adding, &format!("{:?}", key.name))?;
        let _old = shelf.bundles.insert(key, Bundle::Packed(bytes));
        Ok(())
    }

    /// Puts a bundle in that has come over the network, whatever the limit: it was awaited and admitted by its exact
    /// size, and a pass that waits for what was thrown away would wait forever. The next task of its stage is refused
    /// instead.
    pub fn accept(&self, key: TensorKey, bytes: Bytes) {
        self.accept_any(key, Bundle::Packed(bytes));
    }

    /// Does as [`Store::accept`] with what may have been decoded while it arrived; footprints count what arrives as dense.
    pub fn accept_any(&self, key: TensorKey, bundle: Bundle) {
        let _old = self.lock().bundles.insert(key, bundle);
    }

    /// Takes a bundle out; None too for a tensor that was unpacked.
    pub fn take(&self, key: &TensorKey) -> Option<Bytes> {
        self.take_any(key)?.into_packed()
    }

    /// Takes a bundle out as it is.
    pub fn take_any(&self, key: &TensorKey) -> Option<Bundle> {
        self.lock().bundles.remove(key)
    }

    /// Frees a bundle if it is here.
    pub fn drop_key(&self, key: &TensorKey) {
        let _old = self.take_any(key);
    }

    /// Frees every bundle of a job of an older epoch or an older step.
    pub fn drop_before(&self, job: JobId, epoch: Epoch, step: Step) {
        let kept = |key: &TensorKey| key.job != job || (key.epoch >= epoch && key.step >= step);
        self.lock().bundles.retain(|key, _| kept(key));
    }

    /// Frees every bundle of a job.
    pub fn drop_job(&self, job: JobId) {
        self.lock().bundles.retain(|key, _| key.job != job);
    }

    /// Returns the names of all bundles in order.
    pub fn keys(&self) -> Vec<TensorKey> {
        self.lock().bundles.keys().copied().collect()
    }

    /// Returns the size of all bundles together.
    pub fn size(&self) -> Size {
        self.lock().size()
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
            store.put_bytes(key(job, epoch, step), Bytes::from_static(b"four")).unwrap();
        }
        store.drop_before(JobId::new([1; 16]), Epoch::new(2), Step::new(5));
        assert_eq!(store.keys(), [key(1, 2, 5), key(1, 3, 5), key(2, 1, 1)]);
        assert_eq!(store.size().count(), 12);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_figures() {
        let store = Store::new();
        store.limit(Some(Size::new(10)));
        store.hold(Size::new(3));
        let four = Bytes::from_static(b"four");
        store.put_bytes(key(1, 1, 1), four.clone()).unwrap();
        store.put_bytes(key(1, 1, 1), four.clone()).unwrap();
        let Err(TaskError::OutOfMemory(text)) = store.put_bytes(key(1, 1, 2), four.clone()) else {
            panic!("eleven bytes do not fit into ten");
        };
        assert!(text.contains("needs 4 B, and 7 B of 10 B are taken"), "{text}");
        store.accept(key(1, 1, 2), four.clone());
        store.drop_key(&key(1, 1, 1));
        store.hold(Size::ZERO);
        store.put_bytes(key(1, 1, 3), four).unwrap();
    }

    #[test]
    fn floats_survive_the_way_through_bytes_bit_by_bit() {
        let floats = [0.0, -0.0, 1.5, f32::MIN_POSITIVE, f32::INFINITY, -3.25e-20];
        let back = to_floats(&to_bytes(&floats));
        assert!(floats.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
