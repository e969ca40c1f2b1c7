//! The world: one virtual clock, one heap of happenings, and peers driven exactly as the node drives them.
//!
//! A killed peer falls silent; what is under way from or to it is lost. One that rejoins has its identity and nothing
//! else. Ties in time break on the order in which things were set going, so a seed means one run.

mod faults;
mod gives;
mod hears;
mod probes;
mod works;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use wattle_protocol::ids::{JobId, PeerId, StageId, Step, TaskId};
use wattle_protocol::job::JobSpec;
use wattle_protocol::schedule::advert::{Advert, Hardware};
use wattle_protocol::schedule::fence::{Memo, Request};
use wattle_protocol::schedule::{Plan, PlanError};
use wattle_protocol::swarm::io::{
    Admission, Command, Effect, Input, Outbox, StageWork, Task, TensorKey, Timer,
};
use wattle_protocol::swarm::{Config, Peer};
use wattle_protocol::units::{Bytes, Duration, Instant};
use wattle_protocol::wire::frame::{decode, encode};
use wattle_protocol::wire::message::Message;

use crate::check::Check;
use crate::device::Device;
use crate::device::numeric::Numeric;
use crate::device::symbolic::Symbolic;
use crate::network::Network;
use crate::outcome::Outcome;
use crate::scenario::{Arithmetic, Scenario};
use crate::trace::Trace;

/// When the job is submitted: links are measured and their figures are told before, as in a swarm that has been there.
const SUBMIT: Duration = Duration::from_millis(15_000);
/// How long a shipment to a dead peer takes to fail.
const SILENCE: Duration = Duration::from_millis(3_000);

thread_local! {
    /// What peers of worlds have placed: every voter, and every run of a job, asks for the same.
    static PLACED: RefCell<Memo> = const { RefCell::new(Memo::new()) };
}

fn placed(request: Request<'_>, adverts: &[&Advert]) -> Result<Plan, PlanError> {
    PLACED.with_borrow_mut(|memo| memo.place(request, adverts))
}

enum Happening {
    Input(Input),
    Offer { from: usize, sender: u32, key: TensorKey },
    Arrive { from: usize, sender: u32, key: TensorKey, bundle: bytes::Bytes, size: Bytes },
    TaskEnds,
    Rejoin,
    Kill(usize),
}

struct Node {
    peer: Peer,
    device: Box<dyn Device>,
    alive: bool,
    /// Grows with each death, so that what was meant for the former life is dropped.
    life: u32,
    hardware: Option<Hardware>,
    /// How many times as long as its hardware says tasks take.
    slowness: f64,
    queue: VecDeque<Order>,
    /// When the task in work began.
    busy: Option<Instant>,
    works: BTreeMap<(JobId, StageId), Arc<StageWork>>,
    timers: BTreeMap<Timer, u64>,
}

/// What a device does in order: tasks, and forgetting what the tasks before have read.
enum Order {
    Task(TaskId, Task),
    Forget(TensorKey),
    ForgetBefore(JobId, wattle_protocol::ids::Epoch, Step),
}

struct World<'a> {
    scenario: &'a Scenario,
    spec: JobSpec,
    seed: u64,
    now: Instant,
    sequence: u64,
    queue: BTreeMap<(Instant, u64), (usize, u32, Happening)>,
    nodes: Vec<Node>,
    places: BTreeMap<PeerId, usize>,
    network: Network,
    rng: ChaCha8Rng,
    check: Check,
    trace: Trace,
    plan: Option<(Plan, PeerId)>,
    started: Option<Instant>,
    waiting: Vec<(Instant, u64)>,
    outcome: Outcome,
}

/// Runs a scenario.
///
/// *Errors*: the network is unknown, or there is no device for real arithmetic.
pub fn run(scenario: &Scenario, seed: u64, keep_trace: bool) -> Result<Outcome, String> {
    let mut world = World::new(scenario, seed, keep_trace)?;
    let end = Instant::default() + SUBMIT + Duration::from_millis(scenario.limit_seconds * 1000);
    while world.now < end && !world.is_over() && world.step() {}
    Ok(world.finish())
}

fn identity(place: usize) -> [u8; 32] {
    *blake3::hash(format!("simulated peer {place}").as_bytes()).as_bytes()
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, seed: u64, keep_trace: bool) -> Result<Self, String> {
        let (default, special) = scenario.links();
        let jitter = ChaCha8Rng::seed_from_u64(seed ^ 0x6a69_7474_6572);
        let mut world = Self {
            scenario,
            spec: scenario.spec()?,
            seed,
            now: Instant::default(),
            sequence: 0,
            queue: BTreeMap::new(),
            nodes: Vec::new(),
            places: BTreeMap::new(),
            network: Network::new(default, special, jitter),
            rng: ChaCha8Rng::seed_from_u64(seed),
            check: Check::default(),
            trace: Trace::new(keep_trace),
            plan: None,
            started: None,
            waiting: Vec::new(),
            outcome: Outcome::default(),
        };
        // The last peer only submits.
        let hardware = scenario.hardware().into_iter().map(Some).chain([None]);
        for (place, hardware) in hardware.enumerate() {
            let node = world.node(place, hardware)?;
            world.places.insert(node.peer.id(), place);
            world.nodes.push(node);
        }
        for place in 0..world.nodes.len() {
            world.arrive(place, |_| true);
        }
        let submit = Input::Command(Command::Submit(Box::new(world.spec.clone())));
        world.later(world.submitter(), SUBMIT, Happening::Input(submit));
        Ok(world)
    }

    fn node(&self, place: usize, hardware: Option<Hardware>) -> Result<Node, String> {
        let config = Config { seed: self.seed.wrapping_add(place as u64), ..Config::default() };
        let device: Box<dyn Device> = match self.scenario.arithmetic {
            Arithmetic::Symbolic => Box::new(Symbolic::default()),
            Arithmetic::Numeric => Box::new(Numeric::new().map_err(|e| e.to_string())?),
        };
        Ok(Node {
            peer: Peer::new(&identity(place), config).planned_by(placed),
            device,
            alive: true,
            life: 0,
            hardware,
            slowness: 1.0,
            queue: VecDeque::new(),
            busy: None,
            works: BTreeMap::new(),
            timers: BTreeMap::new(),
        })
    }

    fn submitter(&self) -> usize {
        self.nodes.len() - 1
    }

    fn is_over(&self) -> bool {
        self.outcome.finished || self.outcome.failed.is_some()
    }

    /// Starts a peer and connects it with those that `others` names.
    fn arrive(&mut self, place: usize, others: impl Fn(usize) -> bool) {
        let mut out = Outbox::new();
        let now = self.now;
        self.nodes[place].peer.start(now, &mut out);
        self.perform(place, &mut out);
        if let Some(hardware) = self.nodes[place].hardware.clone() {
            self.later(place, Duration::ZERO, Happening::Input(Input::Measured(hardware)));
        }
        for other in (0..self.nodes.len()).filter(|o| *o != place && others(*o)) {
            let link = self.network.link(place, other);
            let peer = self.nodes[other].peer.id();
            self.later(place, link.latency, Happening::Input(Input::PeerFound(peer)));
        }
    }

    fn later(&mut self, to: usize, after: Duration, happening: Happening) {
        let life = self.nodes.get(to).map_or(0, |n| n.life);
        self.queue.insert((self.now + after, self.sequence), (to, life, happening));
        self.sequence += 1;
    }

    /// Lets the next thing happen. Returns whether anything is left.
    fn step(&mut self) -> bool {
        let Some(((at, sequence), (to, life, happening))) = self.queue.pop_first() else {
            return false;
        };
        self.now = at;
        self.outcome.events += 1;
        if matches!(happening, Happening::Rejoin) {
            self.rejoin(to);
            return true;
        }
        if let Happening::Kill(fault) = happening {
            self.strike(fault);
            return true;
        }
        let node = &self.nodes[to];
        if !node.alive || node.life != life {
            if let Happening::Offer { from, key, .. } = happening {
                self.refused(from, key, to, SILENCE);
            }
            return true;
        }
        match happening {
            Happening::Input(Input::TimerFired(timer)) => {
                if self.nodes[to].timers.get(&timer) == Some(&sequence) {
                    self.nodes[to].timers.remove(&timer);
                    self.input(to, Input::TimerFired(timer));
                }
            }
            Happening::Input(input) => self.input(to, input),
            Happening::Offer { from, sender, key } => self.offer(to, from, sender, key),
            Happening::Arrive { from, sender, key, bundle, size } => {
                if self.nodes[from].life == sender {
                    let peer = self.nodes[from].peer.id();
                    self.nodes[to].device.put(key, bundle);
                    *self.outcome.bytes.entry((from, to)).or_default() += size.count();
                    let me = self.nodes[to].peer.id();
                    let shipped = Input::Shipped { key, to: me, size, delivered: true };
                    let back = self.network.link(to, from).latency;
                    self.later(from, back, Happening::Input(shipped));
                    self.input(to, Input::TensorArrived { key, from: peer, size });
                }
            }
            Happening::TaskEnds => self.task_ends(to),
            Happening::Rejoin | Happening::Kill(_) => {}
        }
        true
    }

    fn refused(&mut self, from: usize, key: TensorKey, to: usize, after: Duration) {
        let to = self.nodes[to].peer.id();
        let shipped = Input::Shipped { key, to, size: Bytes::ZERO, delivered: false };
        self.later(from, after, Happening::Input(shipped));
    }

    fn offer(&mut self, to: usize, from: usize, sender: u32, key: TensorKey) {
        let peer = self.nodes[from].peer.id();
        let back = self.network.link(to, from).latency;
        let bundle =
            self.nodes[from].device.bundle(&key).filter(|_| self.nodes[from].life == sender);
        match (self.nodes[to].peer.admit(peer, &key), bundle) {
            (Admission::Take(awaited), Some(bundle)) => {
                // Fingerprints stand for tensors of any length.
                let size = match self.scenario.arithmetic {
                    Arithmetic::Symbolic => awaited.most(),
                    Arithmetic::Numeric => Bytes::of_len(bundle.len()),
                };
                if !awaited.is(size) {
                    return self.refused(from, key, to, back);
                }
                let arrives = self.network.book(from, to, size, self.now);
                let happening = Happening::Arrive { from, sender, key, bundle, size };
                self.later(to, arrives.since(self.now), happening);
            }
            (Admission::Take(_) | Admission::Refuse, _) => self.refused(from, key, to, back),
        }
    }

    fn input(&mut self, to: usize, input: Input) {
        let line = match &input {
            Input::Received { from, message } => {
                format!(
                    "peer {to} hears {}: {}",
                    self.places.get(from).copied().unwrap_or(usize::MAX),
                    message.name()
                )
            }
            Input::TensorArrived { key, .. } => format!("peer {to} gets {key:?}"),
            Input::TimerFired(timer) => format!("peer {to} wakes {timer:?}"),
            Input::TaskDone { task, .. } => format!("peer {to} has done {task:?}"),
            Input::TaskFailed { task, error } => {
                format!("peer {to} has failed {task:?}: {error:?}")
            }
            Input::Shipped { key, delivered, .. } => {
                format!("peer {to} shipped {key:?}: {delivered}")
            }
            Input::PeerFound(_)
            | Input::PeerLost(_)
            | Input::Measured(_)
            | Input::Listening(_)
            | Input::LinkMeasured { .. }
            | Input::PathChanged(_)
            | Input::LinkUsed { .. }
            | Input::Command(_) => format!("peer {to}: its surroundings"),
        };
        self.trace.line(self.now, &line);
        let mut out = Outbox::new();
        let now = self.now;
        self.nodes[to].peer.handle(now, input, &mut out);
        self.perform(to, &mut out);
    }

    fn perform(&mut self, me: usize, out: &mut Outbox) {
        let effects: Vec<Effect> = out.drain().collect();
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.send(me, to, &message),
                Effect::SetTimer { timer, at } => {
                    let after = at.since(self.now);
                    self.nodes[me].timers.insert(timer, self.sequence);
                    self.later(me, after, Happening::Input(Input::TimerFired(timer)));
                }
                Effect::Run { id, task } => self.order(me, Order::Task(id, task)),
                Effect::Ship { key, to } => {
                    let sender = self.nodes[me].life;
                    if let Some(&to) = self.places.get(&to) {
                        let latency = self.network.link(me, to).latency;
                        self.later(to, latency, Happening::Offer { from: me, sender, key });
                    }
                }
                Effect::Give { key, work, to } => self.give(me, key, &work, to),
                Effect::Probe(peer) => self.probe(me, peer),
                Effect::Drop(key) => self.order(me, Order::Forget(key)),
                Effect::DropBefore { job, epoch, step } => {
                    self.order(me, Order::ForgetBefore(job, epoch, step));
                }
                Effect::Notify(event) => {
                    if me == self.submitter() {
                        self.hear(event);
                    }
                }
                // Everybody is connected with everybody who lives.
                Effect::Dial { .. } | Effect::Announce(_) | Effect::Withdraw(_) => {}
            }
        }
    }

    fn send(&mut self, me: usize, to: PeerId, message: &Message) {
        let Some(&to) = self.places.get(&to) else {
            return;
        };
        // Every message crosses the wire format, as it does between processes.
        let copy = encode(message).ok().and_then(|bytes| decode::<Message>(&bytes).ok());
        match copy {
            Some(message) => {
                let after = self.network.travel(me, to);
                let from = self.nodes[me].peer.id();
                let input = Input::Received { from, message: Box::new(message) };
                self.later(to, after, Happening::Input(input));
            }
            None => self.trace.line(self.now, &format!("peer {me} wrote an unreadable message")),
        }
    }

    fn finish(mut self) -> Outcome {
        self.outcome.seconds = self.started.map_or(0.0, |s| self.now.since(s).seconds());
        let (hash, _, lines) = self.trace.finish();
        self.outcome.trace = hash;
        self.outcome.lines = lines;
        self.outcome.states = self.check.states();
        self.outcome.violations = self.check.finish();
        self.outcome
    }
}
