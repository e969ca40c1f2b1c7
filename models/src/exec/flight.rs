//! A task under way: its kernels are launched, and what it leaves for others is being read off the device.
//!
//! The device computes the next task meanwhile. Nothing of a task is in the store before it has landed, and tasks land
//! in the order in which they were launched, so that whoever looks at the store sees what it would see if each task had
//! been waited for. Not here: what launches them ([`Executor`](super::Executor)), and how many may be under way (its
//! callers).

use std::collections::VecDeque;
use std::task::Waker;

use wattle_protocol::codec::Form;
use wattle_protocol::ids::{JobId, StageId};
use wattle_protocol::swarm::io::{OpTimes, Outcome, Task, TaskError, TensorKey};
use wattle_protocol::units::{Bytes, Duration};

use super::reading::Reading;
use super::store::Store;

/// A task that was launched.
#[derive(Debug)]
pub struct Flight {
    /// Whose it is; None for one that only keeps a place in the order.
    place: Option<(JobId, StageId)>,
    bundles: Vec<(TensorKey, Form, Vec<Reading>)>,
    report: Report,
    size: Bytes,
    is_cut: bool,
    /// What its operators took, where that is known.
    times: OpTimes,
    /// What it took of the processor, where one thread did all of it.
    worked: Option<Duration>,
}

/// What a task has to say once it has landed.
#[derive(Debug)]
pub(super) enum Report {
    /// That it is done.
    Done,
    /// The loss of a forward pass.
    Forward(Option<Reading>),
    /// A sum of squares: a part that is known, and for each other tensor its largest element's size (all of them first)
    /// and its sum of squares over the square of that.
    Gradients(f64, Option<Reading>),
}

impl Flight {
    /// Makes one that carries nothing.
    pub(super) fn of(job: JobId, stage: StageId, report: Report) -> Self {
        Self { place: Some((job, stage)), ..Self::with(report) }
    }

    /// Makes one that keeps a place in the order, for what must happen after everything before it has landed.
    pub fn empty() -> Self {
        Self::with(Report::Done)
    }

    fn with(report: Report) -> Self {
        Self {
            place: None,
            bundles: Vec::new(),
            report,
            size: Bytes::ZERO,
            is_cut: false,
            times: OpTimes::default(),
            worked: None,
        }
    }

    /// Notes what its operators took.
    pub(super) fn timed(self, times: OpTimes) -> Self {
        Self { times, ..self }
    }

    /// Takes what its operators took; nothing where calls do not wait for the device.
    pub fn take_times(&mut self) -> OpTimes {
        std::mem::take(&mut self.times)
    }

    /// Notes what it took of the processor.
    pub(super) fn has_worked(&mut self, worked: Option<Duration>) {
        self.worked = worked;
    }

    /// Returns what launching it took of the processor; None where it was on several threads or on a device of its own.
    pub fn worked(&self) -> Option<Duration> {
        self.worked
    }

    /// Adds a bundle, to be stored under this key when it lands.
    pub(super) fn carry(&mut self, key: TensorKey, parts: Vec<Reading>) {
        self.carry_as(Form::DENSE, key, parts);
    }

    /// The same of tensors that are to cross a link in some form.
    pub(super) fn carry_as(&mut self, form: Form, key: TensorKey, parts: Vec<Reading>) {
        self.size += parts.iter().map(Reading::size).sum();
        self.bundles.push((key, form, parts));
    }

    fn readings(&mut self) -> impl Iterator<Item = &mut Reading> {
        let report = match &mut self.report {
            Report::Done => None,
            Report::Forward(loss) => loss.as_mut(),
            Report::Gradients(_, sums) => sums.as_mut(),
        };
        self.bundles.iter_mut().flat_map(|(_, _, parts)| parts).chain(report)
    }

    /// Says whether all it carries is in host memory; if not, `waker` is told when to ask again.
    pub fn is_here(&mut self, waker: &Waker) -> bool {
        self.readings().all(|reading| reading.is_here(waker))
    }

    /// Returns the host memory that its readings take until they are in the store.
    pub(super) fn size(&self) -> Bytes {
        self.size
    }

    /// Waits until all is here and puts it into the store. A flight that was cut carries nothing and has nothing to say.
    ///
    /// *Errors*: the device's, [`TaskError::NotFinite`] also where a form of a link does not hold a tensor, or
    /// [`TaskError::OutOfMemory`] where the store has no room.
    pub(super) fn land(self, store: &Store) -> Result<Outcome, TaskError> {
        if self.is_cut {
            return Ok(Outcome::Done);
        }
        let outcome = match self.report {
            Report::Done => Outcome::Done,
            Report::Forward(loss) => Outcome::Forward { loss: loss.map(finite_loss).transpose()? },
            Report::Gradients(known, sums) => {
                let sum_of_squares = known + sums.map(total).transpose()?.unwrap_or(0.0);
                if !sum_of_squares.is_finite() {
                    let stage = self.place.map(|(_, stage)| stage.to_string()).unwrap_or_default();
                    return Err(TaskError::NotFinite(format!("the gradient of stage {stage}")));
                }
                Outcome::Gradients { sum_of_squares }
            }
        };
        for (key, form, parts) in self.bundles {
            let mut bytes = Vec::new();
            for part in parts {
                part.append_as(form, &mut bytes).map_err(|error| named(error, &key))?;
            }
            store.put_bytes(key, bytes.into())?;
        }
        Ok(outcome)
    }
}

/// Says of which tensor an error is, where it is one of numbers.
fn named(error: TaskError, key: &TensorKey) -> TaskError {
    match error {
        TaskError::NotFinite(what) => TaskError::NotFinite(format!("{:?}: {what}", key.name)),
        TaskError::OutOfMemory(_)
        | TaskError::DeviceLost(_)
        | TaskError::Panicked(_)
        | TaskError::Missing(_) => error,
    }
}

fn finite_loss(reading: Reading) -> Result<f64, TaskError> {
    let loss = f64::from(reading.floats()?.first().copied().unwrap_or(f32::NAN));
    if loss.is_finite() {
        return Ok(loss);
    }
    Err(TaskError::NotFinite(format!("the loss is {loss}")))
}

fn total(reading: Reading) -> Result<f64, TaskError> {
    let values = reading.floats()?;
    let (largest, sums) = values.split_at(values.len() / 2);
    Ok(largest.iter().zip(sums).map(|(l, s)| f64::from(*l) * f64::from(*l) * f64::from(*s)).sum())
}

/// Launched tasks and what stands between them, oldest first.
#[derive(Debug)]
pub struct Flights<T> {
    queue: VecDeque<(T, Result<Flight, TaskError>)>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { queue: VecDeque::new() }
    }
}

impl<T> Flights<T> {
    /// Adds what was launched last, under the caller's name for it. One that failed at once waits for its turn too.
    pub fn push(&mut self, name: T, flight: Result<Flight, TaskError>) {
        self.queue.push_back((name, flight));
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes the oldest out, wherever it is.
    pub fn pop(&mut self) -> Option<(T, Result<Flight, TaskError>)> {
        self.queue.pop_front()
    }

    /// Takes the oldest out if it can land without waiting; if not, `waker` is told when to ask again.
    pub fn pop_if_here(&mut self, waker: &Waker) -> Option<(T, Result<Flight, TaskError>)> {
        let (_, flight) = self.queue.front_mut()?;
        let is_here = flight.as_mut().map_or(true, |flight| flight.is_here(waker));
        if is_here { self.pop() } else { None }
    }

    /// Cuts what is under way for the stage of a task that makes it void: nothing of it will reach the store.
    pub fn cut_for(&mut self, task: &Task) {
        let place @ Some(_) = voids(task) else { return };
        for flight in self.queue.iter_mut().filter_map(|(_, flight)| flight.as_mut().ok()) {
            if flight.place == place {
                flight.bundles.clear();
                (flight.report, flight.is_cut) = (Report::Done, true);
            }
        }
    }
}

/// Returns the stage of which a task makes void what is under way.
fn voids(task: &Task) -> Option<(JobId, StageId)> {
    match task {
        Task::LoadStage { job, work, .. } => Some((*job, work.graph.stage)),
        Task::ResetStep { job, stage, .. } | Task::Unload { job, stage } => Some((*job, *stage)),
        Task::Forward { .. }
        | Task::Backward { .. }
        | Task::GatherGradients { .. }
        | Task::ShareGradients { .. }
        | Task::ReduceGradients { .. }
        | Task::OptimizerStep { .. }
        | Task::Snapshot { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};

    use wattle_protocol::ids::{EdgeId, Epoch, MicroBatch, Step};
    use wattle_protocol::swarm::io::TensorName;

    use super::*;
    use crate::exec::reading::tests::promised;

    const JOB: JobId = JobId::new([7; 16]);
    const STAGE: StageId = StageId::new(1);

    /// A promise is kept once.
    const PROMISED: usize = 1;

    type Promise = SyncSender<Result<Vec<f32>, String>>;

    fn key(micro_batch: u32) -> TensorKey {
        let (epoch, step) = (Epoch::new(1), Step::new(0));
        let (edge, micro_batch) = (EdgeId::new(0), MicroBatch::new(micro_batch));
        TensorKey { job: JOB, epoch, step, name: TensorName::Activation { edge, micro_batch } }
    }

    /// A forward pass whose activation arrives when the test says so.
    fn pass(stage: StageId, micro_batch: u32) -> (Flight, Promise) {
        let (promise, read) = sync_channel(PROMISED);
        let mut flight = Flight::of(JOB, stage, Report::Forward(None));
        flight.carry(key(micro_batch), vec![promised(read)]);
        (flight, promise)
    }

    #[test]
    fn tasks_land_in_the_order_in_which_they_were_launched() {
        let store = Store::new();
        let mut flights = Flights::default();
        let (first, of_first) = pass(STAGE, 0);
        let (second, of_second) = pass(STAGE, 1);
        flights.push("first", Ok(first));
        flights.push("second", Ok(second));
        flights.push("third", Err(TaskError::Missing("a tensor".into())));
        of_second.send(Ok(vec![2.0])).unwrap();
        let waker = Waker::noop();
        assert!(flights.pop_if_here(waker).is_none(), "the first is not here");
        of_first.send(Ok(vec![1.0])).unwrap();
        let mut landed = Vec::new();
        while let Some((name, flight)) = flights.pop_if_here(waker) {
            landed.push((name, flight.and_then(|flight| flight.land(&store)).is_ok()));
        }
        assert_eq!(landed, [("first", true), ("second", true), ("third", false)]);
        assert_eq!(store.keys(), [key(0), key(1)]);
        assert_eq!(*store.bytes(&key(1)).unwrap(), 2.0f32.to_le_bytes());
    }

    #[test]
    fn a_failure_is_that_of_its_own_pass() {
        let store = Store::new();
        let (first, of_first) = pass(STAGE, 0);
        let (second, of_second) = pass(STAGE, 1);
        of_first.send(Err("the device was lost".into())).unwrap();
        of_second.send(Ok(vec![2.0])).unwrap();
        assert!(matches!(first.land(&store), Err(TaskError::DeviceLost(_))));
        assert!(second.land(&store).is_ok());
        assert_eq!(store.keys(), [key(1)]);
    }

    #[test]
    fn a_reset_cuts_what_its_stage_has_under_way_and_nothing_else() {
        let store = Store::new();
        let mut flights = Flights::default();
        let (ours, _never) = pass(STAGE, 0);
        let (other, of_other) = pass(StageId::new(2), 1);
        flights.push("ours", Ok(ours));
        flights.push("other", Ok(other));
        flights.cut_for(&Task::Forward {
            job: JOB,
            stage: STAGE,
            step: Step::new(0),
            micro_batch: MicroBatch::new(3),
        });
        assert!(flights.pop_if_here(Waker::noop()).is_none(), "a further pass cuts nothing");
        flights.cut_for(&Task::ResetStep { job: JOB, stage: STAGE, epoch: Epoch::new(2) });
        let (name, flight) = flights.pop_if_here(Waker::noop()).unwrap();
        assert_eq!((name, flight.unwrap().land(&store)), ("ours", Ok(Outcome::Done)));
        assert!(store.keys().is_empty());
        of_other.send(Ok(vec![3.0])).unwrap();
        let (_, flight) = flights.pop().unwrap();
        assert_eq!(flight.unwrap().land(&store), Ok(Outcome::Forward { loss: None }));
        assert_eq!(store.keys(), [key(1)]);
    }

    #[test]
    fn squares_beyond_single_precision_are_summed_in_double() {
        let store = Store::new();
        let (promise, read) = sync_channel(PROMISED);
        promise.send(Ok(vec![1e25, 2.0, 3.0, 1.0])).unwrap();
        let flight = Flight::of(JOB, STAGE, Report::Gradients(1.0, Some(promised(read))));
        let Ok(Outcome::Gradients { sum_of_squares }) = flight.land(&store) else {
            panic!("1e50 is a number");
        };
        assert!((sum_of_squares / 3e50 - 1.0).abs() < 1e-6);
        let (promise, read) = sync_channel(PROMISED);
        promise.send(Ok(vec![f32::INFINITY, f32::NAN])).unwrap();
        let flight = Flight::of(JOB, STAGE, Report::Gradients(0.0, Some(promised(read))));
        assert!(matches!(flight.land(&store), Err(TaskError::NotFinite(_))));
    }
}
