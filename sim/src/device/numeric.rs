//! Real arithmetic in the simulated world: the product's executor on the CPU.

use std::collections::BTreeMap;

use bytes::Bytes;
use wattle_models::weights::given::Given;
use wattle_models::{DeviceChoice, DeviceError, Executor, Store};
use wattle_protocol::ids::{Epoch, JobId, StageId, Step};
use wattle_protocol::swarm::io::{Outcome, StageWork, Task, TaskError, TensorKey};

use super::Device;

/// An executor as a device.
#[derive(Debug)]
pub struct Numeric {
    executor: Executor,
    store: Store,
}

impl Numeric {
    /// Opens the CPU.
    ///
    /// *Errors*: there is none to open.
    pub fn new() -> Result<Self, DeviceError> {
        let executor = Executor::new(DeviceChoice::Cpu)?;
        let store = executor.store();
        Ok(Self { executor, store })
    }
}

impl Device for Numeric {
    fn run(&mut self, task: &Task) -> Result<Outcome, TaskError> {
        self.executor.run(task)
    }

    fn start(&self, _: JobId, work: &StageWork) -> Result<Bytes, String> {
        let given = Given::drawn(work.graph.values.values(), work.train.seed);
        given.bundle(&work.graph).map_err(|error| error.to_string())
    }

    fn bundle(&self, key: &TensorKey) -> Option<Bytes> {
        self.store.bytes(key)
    }

    fn put(&mut self, key: TensorKey, bundle: Bytes) {
        self.store.accept(key, bundle);
    }

    fn forget(&mut self, key: &TensorKey) {
        self.store.drop_key(key);
    }

    fn forget_before(&mut self, job: JobId, epoch: Epoch, step: Step) {
        self.store.drop_before(job, epoch, step);
    }

    fn fingerprint(&mut self, job: JobId, stage: StageId) -> Option<[u8; 32]> {
        Some(fingerprint(&self.executor.parameters(job, stage).ok()?))
    }
}

/// Returns a fingerprint of tensors by name.
pub fn fingerprint(named: &BTreeMap<String, Vec<f32>>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (name, values) in named {
        hasher.update(name.as_bytes());
        for value in values {
            hasher.update(&value.to_bits().to_le_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}
