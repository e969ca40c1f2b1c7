//! The execution thread: owns the executor, takes tasks in order, gives completions back.
//!
//! A panic, a lost device or too little memory is a failed task, never a dead process. An emulated share of the
//! machine (for demonstrations) stretches each task by sleeping, and is part of what is measured and advertised.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration as StdDuration;

use tokio::sync::mpsc;
use wattle_models::exec::{DeviceChoice, Executor, Store};
use wattle_protocol::ids::{Epoch, JobId, Step, TaskId};
use wattle_protocol::schedule::advert::Hardware;
use wattle_protocol::swarm::io::{Outcome, Task, TaskError, TensorKey};
use wattle_protocol::units::{Duration, Instant};

use crate::clock::Clock;

/// Tasks that may wait; a stage never has more than a step's worth under way.
const QUEUE: usize = 4096;

/// What the thread is asked to do.
enum Order {
    Run { id: TaskId, task: Box<Task> },
    Forget(Forget),
    Stop,
}

/// Which tensors are to be freed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forget {
    /// One bundle.
    One(TensorKey),
    /// All bundles of a job below an epoch or a step.
    Before(JobId, Epoch, Step),
}

impl Forget {
    /// Frees them.
    pub(crate) fn act(self, store: &Store) {
        match self {
            Self::One(key) => store.drop_key(&key),
            Self::Before(job, epoch, step) => store.drop_before(job, epoch, step),
        }
    }
}

/// What the thread says.
#[derive(Debug)]
pub(crate) enum Done {
    /// The device works and has been measured.
    Measured(Hardware),
    /// A task is done, or has failed.
    Task { id: TaskId, result: Result<Outcome, TaskError>, began: Instant, ended: Instant },
    /// There is no such device; nothing will run.
    NoDevice(String),
}

/// How the thread computes.
#[derive(Clone, Debug)]
pub(crate) struct WorkerConfig {
    /// Which device.
    pub(crate) device: DeviceChoice,
    /// Share of the machine's speed that this peer is made to have, in (0, 1]; 1 for all of it.
    pub(crate) share: f64,
    /// Memory that jobs may use; None: most of what is free.
    pub(crate) memory: Option<u64>,
}

/// The execution thread's handle.
pub(crate) struct Worker {
    orders: SyncSender<Order>,
    thread: Option<JoinHandle<()>>,
    store: Store,
}

impl Worker {
    /// Starts the thread: it opens the device, measures it, then takes tasks.
    pub(crate) fn start(
        config: WorkerConfig,
        clock: Clock,
        done: mpsc::Sender<Done>,
    ) -> std::io::Result<Self> {
        let (orders, queue) = sync_channel(QUEUE);
        let store = Store::default();
        let own = store.clone();
        let thread = std::thread::Builder::new()
            .name("wattle-executor".into())
            .spawn(move || serve(&config, clock, own, &queue, &done))?;
        Ok(Self { orders, thread: Some(thread), store })
    }

    /// Hands over a task. A full queue means a task that never ends; the task is refused.
    pub(crate) fn run(&self, id: TaskId, task: Task) -> Result<(), TaskError> {
        let order = Order::Run { id, task: Box::new(task) };
        self.orders.try_send(order).map_err(|error| {
            TaskError::DeviceLost(format!("the execution thread is stuck: {error}"))
        })
    }

    /// Frees tensors once the tasks that were handed over before have read them.
    pub(crate) fn forget(&self, forget: Forget) {
        if self.orders.try_send(Order::Forget(forget)).is_err() {
            tracing::debug!("the execution thread is stuck; tensors are kept");
        }
    }

    /// Returns the tensor store that the thread and the network share.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Ends the thread after the task in work.
    pub(crate) fn stop(mut self) {
        // The queue may be full of tasks that nobody awaits: a thread that does not end goes with the process.
        if self.orders.try_send(Order::Stop).is_ok()
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the execution thread had panicked");
        }
    }
}

fn serve(
    config: &WorkerConfig,
    clock: Clock,
    store: Store,
    queue: &Receiver<Order>,
    done: &mpsc::Sender<Done>,
) {
    let mut executor = match Executor::with_store(config.device, store) {
        Ok(executor) => executor,
        Err(error) => {
            if done.blocking_send(Done::NoDevice(format!("{error:?}"))).is_err() {
                tracing::debug!("nobody listens to the execution thread");
            }
            return;
        }
    };
    let store = executor.store().clone();
    let hardware = crate::probe::hardware(&mut executor, config);
    // What is advertised is what is given; the probe's own networks are small, and measure whatever is given.
    store.limit(Some(hardware.memory));
    if done.blocking_send(Done::Measured(hardware)).is_err() {
        return;
    }
    while let Ok(order) = queue.recv() {
        let (id, task) = match order {
            Order::Run { id, task } => (id, task),
            Order::Forget(forget) => {
                forget.act(&store);
                continue;
            }
            Order::Stop => return,
        };
        let began = clock.now();
        let result = executor.run(&task);
        stretch(clock.now().since(began), config.share);
        let ended = clock.now();
        if done.blocking_send(Done::Task { id, result, began, ended }).is_err() {
            return;
        }
    }
}

/// Sleeps until the work has taken as long as it would at this share of the machine.
fn stretch(worked: Duration, share: f64) {
    if share < 1.0 {
        let more = worked.seconds() * (1.0 / share - 1.0);
        std::thread::sleep(StdDuration::from_secs_f64(more.clamp(0.0, 60.0)));
    }
}
