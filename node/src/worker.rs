//! The execution thread: owns the executor, takes tasks in order, gives completions back.
//!
//! A panic, a lost device or too little memory is a failed task, never a dead process. On a GPU the thread launches a
//! task while the one before is computed and read, and waits for nothing but orders: a read that has ended is one too.
//! An emulated share of the machine (for demonstrations) stretches each task by sleeping, and is part of what is
//! measured and advertised.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;
use std::time::Duration as StdDuration;

use cpu_time::ThreadTime;
use tokio::sync::mpsc;
use wattle_models::exec::{DeviceChoice, Executor, Flight, Flights, Store};
use wattle_protocol::ids::{Epoch, JobId, Step, TaskId};
use wattle_protocol::schedule::advert::Hardware;
use wattle_protocol::swarm::io::{OpTimes, Outcome, Task, TaskError, TensorKey};
use wattle_protocol::units::{Duration, Instant};

use crate::clock::Clock;
use crate::probe::{Pass, Refiner};

/// Tasks that may wait; a stage never has more than a step's worth under way.
const QUEUE: usize = 4096;

/// What the thread is asked to do.
enum Order {
    Run {
        id: TaskId,
        task: Box<Task>,
    },
    Forget(Forget),
    /// Look whether a task can land.
    Look,
    Stop,
}

/// Asks the thread to look, from whichever thread a read ends on.
struct Nudge(Weak<SyncSender<Order>>);

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        // The thread looks after each order, so that a full queue needs no nudge; a thread that has ended needs none.
        if let Some(orders) = self.0.upgrade()
            && orders.try_send(Order::Look).is_err()
        {
            tracing::trace!("the execution thread has other orders to look after");
        }
    }
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
    Task {
        id: TaskId,
        result: Result<Outcome, TaskError>,
        began: Instant,
        ended: Instant,
        ops: OpTimes,
    },
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
    /// Whether an earlier measurement of this machine will do.
    pub(crate) remember: bool,
}

/// The execution thread's handle.
pub(crate) struct Worker {
    orders: Arc<SyncSender<Order>>,
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
        let orders = Arc::new(orders);
        let waker = Waker::from(Arc::new(Nudge(Arc::downgrade(&orders))));
        let store = Store::default();
        let own = store.clone();
        let thread = std::thread::Builder::new()
            .name("wattle-executor".into())
            .spawn(move || serve(&config, clock, own, &queue, (waker, done)))?;
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
    (waker, done): (Waker, mpsc::Sender<Done>),
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
    let hardware = crate::probe::hardware(&mut executor, config);
    // What is advertised is what is given; the probe's own networks are small, and measure whatever is given.
    executor.store().limit(Some(hardware.memory));
    if done.blocking_send(Done::Measured(hardware.clone())).is_err() {
        return;
    }
    let (flights, ended, share) = (Flights::default(), clock.now(), config.share);
    let refiner = Refiner::new(hardware);
    let mut bench = Bench { executor, flights, clock, share, ended, refiner, done };
    while let Ok(order) = queue.recv() {
        let heard = match order {
            Order::Run { id, task } => bench.launch(id, &task),
            Order::Forget(forget) => {
                bench.flights.push(Item::Forget(forget), Ok(Flight::empty()));
                Ok(())
            }
            Order::Look => Ok(()),
            Order::Stop => return,
        };
        if heard.and_then(|()| bench.land_what_is_here(&waker)).is_err() {
            return;
        }
    }
}

/// What lands, in order.
enum Item {
    Task { id: TaskId, began: Instant, worked: ThreadTime, pass: Option<Pass> },
    Forget(Forget),
}

/// Nobody listens to completions any more.
struct Unheard;

/// The thread's work under way.
struct Bench {
    executor: Executor,
    flights: Flights<Item>,
    clock: Clock,
    share: f64,
    /// When the last task landed.
    ended: Instant,
    refiner: Refiner,
    done: mpsc::Sender<Done>,
}

impl Bench {
    /// Launches a task; waits for older ones where the device has enough to do.
    fn launch(&mut self, id: TaskId, task: &Task) -> Result<(), Unheard> {
        while self.flights.len() >= self.executor.flights_max() {
            self.land_oldest()?;
        }
        self.flights.cut_for(task);
        let (began, worked) = (self.clock.now(), ThreadTime::now());
        self.refiner.hears(task);
        let flight = self.executor.launch(task);
        self.flights.push(Item::Task { id, began, worked, pass: Pass::of(task) }, flight);
        // A share of the machine is emulated one task at a time.
        while self.share < 1.0 && !self.flights.is_empty() {
            self.land_oldest()?;
        }
        Ok(())
    }

    fn land_what_is_here(&mut self, waker: &Waker) -> Result<(), Unheard> {
        while let Some((item, flight)) = self.flights.pop_if_here(waker) {
            self.land(item, flight)?;
        }
        Ok(())
    }

    fn land_oldest(&mut self) -> Result<(), Unheard> {
        let Some((item, flight)) = self.flights.pop() else { return Ok(()) };
        self.land(item, flight)
    }

    fn land(&mut self, item: Item, mut flight: Result<Flight, TaskError>) -> Result<(), Unheard> {
        let (id, began, worked, pass) = match item {
            Item::Task { id, began, worked, pass } => (id, began, worked, pass),
            Item::Forget(forget) => {
                forget.act(&self.executor.store());
                return Ok(());
            }
        };
        let ops = flight.as_mut().map(Flight::take_times).unwrap_or_default();
        let launched = flight.as_ref().ok().and_then(Flight::worked);
        let result = flight.and_then(|flight| self.executor.land(flight));
        // The device computes one task at a time: what was launched earlier has waited for the one before.
        let began = began.max(self.ended);
        let took = self.clock.now().since(began);
        // Of a share, what counts is the processor's time: waiting for others of this machine is not the peer's slowness.
        let worked = launched.map_or(took, |part| {
            (part + Duration::from_seconds(worked.elapsed().as_secs_f64())).min(took)
        });
        std::thread::sleep(pause(took, worked, self.share));
        let alone = if self.share < 1.0 {
            Duration::from_seconds(worked.seconds() / self.share)
        } else {
            took
        };
        let ops = ops.over(self.share * took.seconds().max(1e-6) / worked.seconds().max(1e-6));
        self.ended = self.clock.now();
        if let Some(hardware) = pass.and_then(|pass| self.refiner.ran(pass, alone, &ops)) {
            tracing::info!("tasks say more of this machine than the probe did");
            self.done.blocking_send(Done::Measured(hardware)).map_err(|_| Unheard)?;
        }
        let done = Done::Task { id, result, began, ended: self.ended, ops };
        self.done.blocking_send(done).map_err(|_| Unheard)
    }
}

/// Returns how much longer a task would take that took and worked so long, were its work done at this share of the machine.
fn pause(took: Duration, worked: Duration, share: f64) -> StdDuration {
    let more = if share < 1.0 { worked.seconds() / share - took.seconds() } else { 0.0 };
    StdDuration::from_secs_f64(more.clamp(0.0, 60.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a share of the machine is emulated whatever else runs on it. Method: the same work at a fifth of the machine, with
    /// the machine to itself, with waits of its own length, and with more of them than the share leaves room for.
    #[test]
    fn a_share_takes_as_long_beside_others() {
        let millis = Duration::from_millis;
        let taken = |took: u64| {
            took + u64::try_from(pause(millis(took), millis(10), 0.2).as_millis()).unwrap()
        };
        assert_eq!([taken(10), taken(20), taken(50), taken(70)], [50, 50, 50, 70]);
        assert_eq!(pause(millis(20), millis(10), 1.0), StdDuration::ZERO);
    }
}
