//! Running statistics estimated anew, over data that the caller chooses the amount of.
//!
//! Running statistics lag behind the weights of the last steps, and after weights were averaged or changed they belong
//! to none. Each update's values are averaged with equal shares (PyTorch's `momentum=None`), which no order changes but
//! for rounding; a forward pass in training reads the batch's own statistics, so one pass is enough.

use std::collections::BTreeMap;

use wattle_protocol::ids::{MicroBatch, Step, ValueId};
use wattle_protocol::swarm::io::TaskError;

use super::{Float, HostBackend, Stage, Store};

impl<B: HostBackend> Stage<B> {
    /// Replaces each running statistic by its mean over `batches` micro-batches, beginning with those of the stage's
    /// step. What was in flight is forgotten; weights and the step stay.
    ///
    /// *Errors*: [`TaskError`]; the statistics are as before then.
    pub fn recalibrate(&mut self, batches: u32, store: &Store) -> Result<(), TaskError> {
        let start = self.step;
        let sums = self.summed(batches, store);
        self.step = start;
        self.clear();
        for (buffer, (sum, count)) in sums? {
            self.buffers.insert(buffer, sum.scale(1.0 / count));
        }
        Ok(())
    }

    /// Sums what flows into each buffer, and counts how often.
    fn summed(
        &mut self,
        batches: u32,
        store: &Store,
    ) -> Result<BTreeMap<ValueId, (Float<B>, f32)>, TaskError> {
        let work = self.work.clone();
        let a_step = work.train.micro_batches.max(1);
        let first = self.step.number();
        let mut sums: BTreeMap<ValueId, (Float<B>, f32)> = BTreeMap::new();
        for batch in 0..batches {
            self.clear();
            self.step = Step::new(first + u64::from(batch / a_step));
            let micro_batch = MicroBatch::new(batch % a_step);
            store.room_for(self.footprint().forward, "a forward pass")?;
            self.forward(self.step, micro_batch, store)?.land(store)?;
            let statistics = self.statistics.remove(&micro_batch).unwrap_or_default();
            for (update, value) in work.graph.updates.iter().zip(statistics) {
                let sum = match sums.remove(&update.buffer) {
                    Some((sum, count)) => (sum.add(value), count + 1.0),
                    None => (value, 1.0),
                };
                sums.insert(update.buffer, sum);
            }
        }
        Ok(sums)
    }
}
