//! Fingerprints in place of numbers: every result is the hash of everything that it was made from.
//!
//! So a loss equals the undisturbed run's exactly when every forward, backward and update before it saw the same
//! inputs once and in the same order; what floats would hide by rounding, a hash does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use wattle_protocol::dag::bundle::gather_chunks;
use wattle_protocol::ids::{Epoch, JobId, MicroBatch, StageId, Step};
use wattle_protocol::swarm::io::{
    GradientSource, Outcome, StageWork, StateSource, Task, TaskError, TensorKey, TensorName,
};

use super::Device;

type Print = [u8; 32];

#[derive(Debug)]
struct Stage {
    work: Arc<StageWork>,
    epoch: Epoch,
    /// Updates that the state has seen.
    applied: Step,
    state: Print,
    /// What each micro-batch in flight was made from.
    flight: BTreeMap<MicroBatch, Print>,
    /// What each micro-batch added to the gradients.
    gradients: BTreeMap<MicroBatch, Print>,
    /// Sums that were gathered, and how many pieces of them.
    gathered: Option<(Print, usize)>,
    reduced: Option<Print>,
}

/// A device that computes fingerprints.
#[derive(Debug, Default)]
pub struct Symbolic {
    stages: BTreeMap<(JobId, StageId), Stage>,
    store: BTreeMap<TensorKey, Bytes>,
}

fn print(parts: &[&[u8]]) -> Print {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// What a stage starts from.
fn initial(job: JobId, work: &StageWork) -> Print {
    print(&[b"initial", job.bytes(), &work.graph.stage.index().to_le_bytes()])
}

fn missing(what: impl std::fmt::Debug) -> TaskError {
    TaskError::Missing(format!("{what:?}"))
}

/// A number in (0, 1] from a fingerprint.
fn fraction(print: &Print) -> f64 {
    let mut first = [0; 4];
    first.copy_from_slice(&print[..4]);
    (f64::from(u32::from_le_bytes(first)) + 1.0) / 4_294_967_296.0
}

fn read(bytes: &Bytes) -> Result<Print, TaskError> {
    Print::try_from(bytes.as_ref()).map_err(|_| missing("a fingerprint of 32 bytes"))
}

impl Stage {
    /// Adds the sum of each group that there is to what the groups before have, in the order of groups; within a group in
    /// the order of micro-batches, whatever order they came in.
    fn sum_from(&self, before: Option<Print>) -> Option<Print> {
        let mut groups: BTreeMap<u16, Print> = BTreeMap::new();
        for (micro_batch, gradient) in &self.gradients {
            let sum = groups.entry(self.work.groups.group(*micro_batch)).or_insert([0; 32]);
            *sum = print(&[b"sum", sum, gradient]);
        }
        let add = |sum: Option<Print>, group: &Print| match sum {
            Some(sum) => Some(print(&[b"add", &sum, group])),
            None => Some(*group),
        };
        groups.values().fold(before, add)
    }
}

impl Symbolic {
    fn stage(&mut self, job: JobId, stage: StageId) -> Result<&mut Stage, TaskError> {
        self.stages.get_mut(&(job, stage)).ok_or_else(|| missing(stage))
    }

    fn take(&mut self, key: TensorKey) -> Result<Print, TaskError> {
        self.store.remove(&key).ok_or_else(|| missing(key)).and_then(|b| read(&b))
    }

    fn forward(
        &mut self,
        job: JobId,
        id: StageId,
        step: Step,
        m: MicroBatch,
    ) -> Result<Outcome, TaskError> {
        let stage = self.stage(job, id)?;
        let (work, epoch, state) = (stage.work.clone(), stage.epoch, stage.state);
        if stage.applied != step {
            return Err(missing(format!("stage {id} at step {step}, not {}", stage.applied)));
        }
        let key = |name| TensorKey { job, epoch, step, name };
        let mut seen = print(&[b"forward", &state, &m.index().to_le_bytes()]);
        for (edge, _) in &work.graph.receives {
            let got = self.take(key(TensorName::Activation { edge: *edge, micro_batch: m }))?;
            seen = print(&[&seen, &got]);
        }
        for (edge, _) in &work.graph.sends {
            let out = print(&[&seen, &edge.index().to_le_bytes()]);
            let name = TensorName::Activation { edge: *edge, micro_batch: m };
            self.store.insert(key(name), Bytes::copy_from_slice(&out));
        }
        self.stage(job, id)?.flight.insert(m, seen);
        let loss = work.graph.loss.map(|_| 10.0 * fraction(&seen));
        Ok(Outcome::Forward { loss })
    }

    fn backward(
        &mut self,
        job: JobId,
        id: StageId,
        step: Step,
        m: MicroBatch,
    ) -> Result<(), TaskError> {
        let stage = self.stage(job, id)?;
        let (work, epoch) = (stage.work.clone(), stage.epoch);
        let seen = stage.flight.remove(&m).ok_or_else(|| missing(m))?;
        let key = |name| TensorKey { job, epoch, step, name };
        let mut seen = print(&[b"backward", &seen]);
        for (edge, cut) in &work.graph.sends {
            if cut.cotangent.is_some() {
                let got = self.take(key(TensorName::Cotangent { edge: *edge, micro_batch: m }))?;
                seen = print(&[&seen, &got]);
            }
        }
        for (edge, cut) in &work.graph.receives {
            if cut.cotangent.is_some() {
                let out = print(&[&seen, &edge.index().to_le_bytes()]);
                let name = TensorName::Cotangent { edge: *edge, micro_batch: m };
                self.store.insert(key(name), Bytes::copy_from_slice(&out));
            }
        }
        if self.stage(job, id)?.gradients.insert(m, seen).is_some() {
            return Err(TaskError::Panicked(format!("micro-batch {m:?} counted twice")));
        }
        Ok(())
    }

    /// Sums of all groups, in order.
    fn own(&mut self, job: JobId, id: StageId) -> Result<Print, TaskError> {
        let stage = self.stage(job, id)?;
        if let Some((sum, pieces)) = stage.gathered {
            let all = gather_chunks(&stage.work.graph).len();
            return if pieces == all {
                Ok(sum)
            } else {
                Err(missing(format!("{pieces} of {all}")))
            };
        }
        let wanted = stage.work.train.micro_batches;
        if u32::try_from(stage.gradients.len()) != Ok(wanted) {
            return Err(missing(format!("{} of {wanted} gradients", stage.gradients.len())));
        }
        stage.sum_from(None).ok_or_else(|| missing("gradients"))
    }

    /// Adds own groups to those before. Every piece carries the whole sum's fingerprint.
    fn gather(
        &mut self,
        (job, id, step): (JobId, StageId, Step),
        chunk: u16,
        (worker, source): (u16, Option<u16>),
    ) -> Result<(), TaskError> {
        let epoch = self.stage(job, id)?.epoch;
        let key = |worker| {
            let name = TensorName::GroupSums { stage: id, worker, chunk };
            TensorKey { job, epoch, step, name }
        };
        let before = source.map(|source| self.take(key(source))).transpose()?;
        let stage = self.stage(job, id)?;
        let sum = stage.sum_from(before).ok_or_else(|| missing("gradients"))?;
        let pieces = stage.gathered.map_or(0, |(_, pieces)| pieces);
        if usize::from(chunk) != pieces || stage.gathered.is_some_and(|(known, _)| known != sum) {
            return Err(TaskError::Panicked(format!("piece {chunk} is not the next of its sums")));
        }
        stage.gathered = Some((sum, pieces + 1));
        if worker > 0 {
            self.store.insert(key(worker), Bytes::copy_from_slice(&sum));
        }
        Ok(())
    }

    fn reduce(
        &mut self,
        (job, id, step): (JobId, StageId, Step),
        shared_from: &[StageId],
        publish: bool,
    ) -> Result<Outcome, TaskError> {
        let mut sum = self.own(job, id)?;
        let epoch = self.stage(job, id)?.epoch;
        for from in shared_from {
            let name = TensorName::SharedGradient { stage: *from, to: id };
            let got = self.take(TensorKey { job, epoch, step, name })?;
            sum = print(&[&sum, &got]);
        }
        if publish {
            let name = TensorName::StageGradient { stage: id };
            let key = TensorKey { job, epoch, step, name };
            self.store.insert(key, Bytes::copy_from_slice(&sum));
        }
        self.stage(job, id)?.reduced = Some(sum);
        Ok(Outcome::Gradients { sum_of_squares: fraction(&sum) })
    }

    fn update(
        &mut self,
        (job, id, step): (JobId, StageId, Step),
        scale: f64,
        gradient: &GradientSource,
    ) -> Result<(), TaskError> {
        let stored = match gradient {
            GradientSource::Own => None,
            GradientSource::Stored(key) => {
                Some(self.store.get(key).ok_or_else(|| missing(key)).and_then(read)?)
            }
        };
        let stage = self.stage(job, id)?;
        if stage.applied != step {
            return Err(missing(format!("stage {id} at step {step}, not {}", stage.applied)));
        }
        let gradient = match stored {
            Some(gradient) => gradient,
            None => stage.reduced.take().ok_or_else(|| missing("a reduced gradient"))?,
        };
        stage.state = print(&[b"update", &stage.state, &gradient, &scale.to_bits().to_le_bytes()]);
        stage.applied = step.next();
        stage.flight.clear();
        stage.gradients.clear();
        stage.gathered = None;
        Ok(())
    }
}

impl Device for Symbolic {
    fn run(&mut self, task: &Task) -> Result<Outcome, TaskError> {
        match task {
            Task::LoadStage { job, work, source, step } => {
                let id = work.graph.stage;
                let state = match source {
                    StateSource::Initial => initial(*job, work),
                    StateSource::Stored(key) | StateSource::Given(key) => {
                        self.store.get(key).ok_or_else(|| missing(key)).and_then(read)?
                    }
                };
                let (flight, gradients) = (BTreeMap::new(), BTreeMap::new());
                let (work, epoch, applied) = (work.clone(), Epoch::default(), *step);
                let (gathered, reduced) = (None, None);
                let stage =
                    Stage { work, epoch, applied, state, flight, gradients, gathered, reduced };
                self.stages.insert((*job, id), stage);
            }
            Task::ResetStep { job, stage, epoch } => {
                let stage = self.stage(*job, *stage)?;
                stage.epoch = *epoch;
                stage.flight.clear();
                stage.gradients.clear();
                (stage.gathered, stage.reduced) = (None, None);
            }
            Task::Forward { job, stage, step, micro_batch } => {
                return self.forward(*job, *stage, *step, *micro_batch);
            }
            Task::Backward { job, stage, step, micro_batch } => {
                self.backward(*job, *stage, *step, *micro_batch)?;
            }
            Task::GatherGradients { job, stage, step, chunk, worker, source, .. } => {
                self.gather((*job, *stage, *step), *chunk, (*worker, *source))?;
            }
            Task::ShareGradients { job, stage, step } => {
                let own = self.own(*job, *stage)?;
                let (work, epoch) = {
                    let stage = self.stage(*job, *stage)?;
                    (stage.work.clone(), stage.epoch)
                };
                let sharers = work.graph.shared.iter().flat_map(|s| s.stages.iter().copied());
                for to in sharers.filter(|s| s != stage) {
                    let name = TensorName::SharedGradient { stage: *stage, to };
                    let key = TensorKey { job: *job, epoch, step: *step, name };
                    self.store.insert(key, Bytes::copy_from_slice(&print(&[b"shared", &own])));
                }
            }
            Task::ReduceGradients { job, stage, step, shared_from, publish } => {
                return self.reduce((*job, *stage, *step), shared_from, *publish);
            }
            Task::OptimizerStep { job, stage, step, scale, gradient } => {
                self.update((*job, *stage, *step), *scale, gradient)?;
            }
            Task::Snapshot { job, stage, key } => {
                let state = self.stage(*job, *stage)?.state;
                self.store.insert(*key, Bytes::copy_from_slice(&state));
            }
            Task::Unload { job, stage } => drop(self.stages.remove(&(*job, *stage))),
        }
        Ok(Outcome::Done)
    }

    fn start(&self, job: JobId, work: &StageWork) -> Result<Bytes, String> {
        Ok(Bytes::copy_from_slice(&initial(job, work)))
    }

    fn bundle(&self, key: &TensorKey) -> Option<Bytes> {
        self.store.get(key).cloned()
    }

    fn put(&mut self, key: TensorKey, bundle: Bytes) {
        self.store.insert(key, bundle);
    }

    fn forget(&mut self, key: &TensorKey) {
        self.store.remove(key);
    }

    fn forget_before(&mut self, job: JobId, epoch: Epoch, step: Step) {
        self.store.retain(|key, _| key.job != job || (key.epoch >= epoch && key.step >= step));
    }

    fn fingerprint(&mut self, job: JobId, stage: StageId) -> Option<[u8; 32]> {
        self.stages.get(&(job, stage)).map(|s| s.state)
    }
}
