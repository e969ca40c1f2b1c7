//! A world of a few peers in one test: constant latency, constant task times, kills. Only for this room's own tests;
//! the simulator is the real one.

mod deeds;
mod failures;
mod given;
mod job;
mod moves;
mod replicas;
mod runs;
mod strangers;
pub(super) mod tasks;
mod why;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::io::{
    Admission, Command, Effect, Event, Input, OpTimes, Outbox, Outcome, Task, TaskError, TensorKey,
    Timer,
};
use super::why::Answer;
use super::{Config, Peer};
use crate::ids::{Epoch, PeerId, StageId, Step, TaskId};
use crate::job::JobSpec;
use crate::schedule::advert::Advert;
use crate::schedule::fence::{Memo, Request};
use crate::schedule::{Plan, PlanError};
use crate::units::{Bytes, Duration, Instant, Rate};
use crate::wire::message::{Message, News};
use job::spec;
use tasks::{hardware, task_job, task_stage};

const LATENCY: Duration = Duration::from_millis(2);
const WORK: Duration = Duration::from_millis(3);
/// Bytes that a shipment is said to have cost although nobody took it.
const WASTED: Bytes = Bytes::new(1 << 40);

thread_local! {
    /// What peers of small worlds have placed: they ask for the same over and over.
    static PLACED: RefCell<Memo> = const { RefCell::new(Memo::new()) };
}

fn placed(request: Request<'_>, adverts: &[&Advert]) -> Result<Plan, PlanError> {
    PLACED.with_borrow_mut(|memo| memo.place(request, adverts))
}

enum Happening {
    Input(Input),
    Offer { from: PeerId, key: TensorKey },
}

struct World {
    now: Instant,
    sequence: u64,
    queue: BTreeMap<(Instant, u64), (PeerId, Happening)>,
    peers: BTreeMap<PeerId, Peer>,
    timers: BTreeMap<(PeerId, Timer), (Instant, u64)>,
    busy: BTreeMap<PeerId, Instant>,
    dead: BTreeSet<PeerId>,
    submitter: PeerId,
    losses: BTreeMap<Step, f64>,
    plan: Option<Plan>,
    leader: Option<PeerId>,
    finished: bool,
    failed: Option<String>,
    epochs: usize,
    trace: Vec<String>,
    pulled: usize,
    /// What members have told of their last steps.
    answers: Vec<Answer>,
    /// Devices on which every task fails, or every one of a stage.
    broken: BTreeMap<PeerId, (Option<StageId>, TaskError)>,
    /// Who has dropped every bundle of a job, and who says no more that it takes part.
    dropped: Vec<PeerId>,
    withdrawn: Vec<PeerId>,
    /// So many of the next shipments are refused, whatever the receiver says.
    refusals: usize,
    /// Who hears nobody and is heard by nobody.
    apart: BTreeSet<PeerId>,
    /// Every message is heard twice.
    doubles: bool,
    /// Every message of this number is lost; 0: none. And how many were sent.
    losing: u64,
    sent: u64,
    /// Passes begun since the last reset: nothing is to be computed twice.
    begun: BTreeSet<(PeerId, StageId, Step, u32, bool)>,
    /// Devices on which tasks take so many percent of the usual time, and by how many percent each task is off at most.
    slow: BTreeMap<PeerId, u64>,
    noise: u64,
    /// Passes that are not done, and the most that a stage had at once.
    open: BTreeMap<(PeerId, TaskId), StageId>,
    open_max: usize,
    /// Whether the submitter's user holds the weights that the job starts from, and who was given some by whom.
    holds_weights: bool,
    given: BTreeSet<(PeerId, PeerId)>,
}

impl World {
    fn new(count: u8) -> Self {
        let mut peers = BTreeMap::new();
        let mut submitter = None;
        for n in 0..=count {
            let config = Config { seed: u64::from(n), ..Config::default() };
            let peer = Peer::new(&[n + 1; 32], config).planned_by(placed);
            if n == count {
                submitter = Some(peer.id());
            }
            peers.insert(peer.id(), peer);
        }
        let mut world = Self {
            now: Instant::from_micros(1),
            sequence: 0,
            queue: BTreeMap::new(),
            timers: BTreeMap::new(),
            busy: BTreeMap::new(),
            dead: BTreeSet::new(),
            submitter: submitter.unwrap(),
            losses: BTreeMap::new(),
            plan: None,
            leader: None,
            finished: false,
            failed: None,
            epochs: 0,
            trace: Vec::new(),
            pulled: 0,
            answers: Vec::new(),
            broken: BTreeMap::new(),
            dropped: Vec::new(),
            withdrawn: Vec::new(),
            refusals: 0,
            apart: BTreeSet::new(),
            doubles: false,
            losing: 0,
            sent: 0,
            begun: BTreeSet::new(),
            slow: BTreeMap::new(),
            noise: 0,
            open: BTreeMap::new(),
            open_max: 0,
            holds_weights: true,
            given: BTreeSet::new(),
            peers,
        };
        let ids: Vec<PeerId> = world.peers.keys().copied().collect();
        for &id in &ids {
            let mut out = Outbox::new();
            world.peers.get_mut(&id).unwrap().start(world.now, &mut out);
            world.perform(id, &mut out);
            if id != world.submitter {
                let measured = Input::Measured(hardware(1));
                world.later(id, Duration::ZERO, Happening::Input(measured));
            }
            for &other in ids.iter().filter(|o| **o != id) {
                world.later(id, Duration::ZERO, Happening::Input(Input::PeerFound(other)));
            }
        }
        world
    }

    fn later(&mut self, to: PeerId, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), (to, happening));
    }

    fn perform(&mut self, me: PeerId, out: &mut Outbox) {
        let effects: Vec<Effect> = out.drain().collect();
        for effect in effects {
            match effect {
                Effect::Send { to, .. } if self.apart.contains(&me) != self.apart.contains(&to) => {
                }
                Effect::Send { to, message } => self.send(me, to, &message),
                Effect::SetTimer { timer, at } => {
                    if let Some(old) = self.timers.remove(&(me, timer)) {
                        self.queue.remove(&old);
                    }
                    let after = at.since(self.now);
                    self.later(me, after, Happening::Input(Input::TimerFired(timer)));
                    self.timers.insert((me, timer), (self.now + after, self.sequence));
                }
                Effect::Run { id, task } => {
                    if let Some(error) = self.fails(me, &task) {
                        let input = Input::TaskFailed { task: id, error };
                        self.later(me, WORK, Happening::Input(input));
                        continue;
                    }
                    self.note(me, &task);
                    self.count(me, id, &task);
                    let outcome = match &task {
                        Task::Forward { step, micro_batch, stage, .. } => {
                            let graph = &self.peers[&me].works(task_job(&task)).to_vec();
                            let last =
                                graph.get(stage.index()).is_some_and(|w| w.graph.loss.is_some());
                            let loss = 1.0 / (step.number() as f64 + 1.0)
                                + f64::from(micro_batch.index()) / 100.0;
                            Outcome::Forward { loss: last.then_some(loss) }
                        }
                        Task::ReduceGradients { step, stage, .. } => Outcome::Gradients {
                            sum_of_squares: 1.0 + step.number() as f64 + stage.index() as f64,
                        },
                        _ => Outcome::Done,
                    };
                    let free = self.busy.get(&me).copied().unwrap_or_default().max(self.now);
                    let ended = free + self.lasts(me);
                    self.busy.insert(me, ended);
                    let (began, ops) = (free, OpTimes::default());
                    let input = Input::TaskDone { task: id, outcome, began, ended, ops };
                    self.later(me, ended.since(self.now), Happening::Input(input));
                }
                Effect::Probe(peer) => self.probe(me, peer),
                Effect::Ship { key, to } => {
                    assert_ne!(to, me);
                    self.later(to, LATENCY, Happening::Offer { from: me, key });
                }
                Effect::Give { key, work, to } => {
                    assert!(work.start.is_some() && me == self.submitter && self.holds_weights);
                    self.give(me, key, to);
                }
                Effect::Notify(event) if me == self.submitter => self.hear(event),
                Effect::DropBefore { epoch, .. } if epoch == Epoch::new(u64::MAX) => {
                    self.dropped.push(me);
                }
                Effect::Notify(_) | Effect::Dial { .. } | Effect::Drop(_) => {}
                Effect::Announce(_) | Effect::DropBefore { .. } => {}
                Effect::Withdraw(_) => self.withdrawn.push(me),
            }
        }
    }

    fn send(&mut self, me: PeerId, to: PeerId, message: &Message) {
        self.sent += 1;
        if self.losing > 0 && self.sent.is_multiple_of(self.losing) {
            return;
        }
        // Every message crosses the wire format.
        let bytes = crate::wire::frame::encode(message).unwrap();
        let message: Box<Message> = Box::new(crate::wire::frame::decode(&bytes).unwrap());
        let input = Input::Received { from: me, message };
        if self.doubles {
            self.later(to, LATENCY * 3, Happening::Input(input.clone()));
        }
        self.later(to, LATENCY, Happening::Input(input));
    }

    /// Returns how long the next task of a device takes.
    fn lasts(&self, peer: PeerId) -> Duration {
        let percent = self.slow.get(&peer).copied().unwrap_or(100);
        let off = 100 - self.noise + (self.sequence * 37) % (2 * self.noise + 1);
        Duration::from_micros(WORK.micros() * percent * off / 10_000)
    }

    fn probe(&mut self, me: PeerId, peer: PeerId) {
        let (rate, round_trip) = (Rate::from_mbit(1000.0), LATENCY * 2);
        let link = Input::LinkMeasured { peer, rate, round_trip, packets: Default::default() };
        self.later(me, round_trip, Happening::Input(link));
    }

    /// The submitter's weights are at hand.
    fn give(&mut self, me: PeerId, key: TensorKey, to: PeerId) {
        self.given.insert((me, to));
        let happening = match to == me {
            true => Happening::Input(Input::TensorArrived { key, from: me, size: WASTED }),
            false => Happening::Offer { from: me, key },
        };
        self.later(to, LATENCY, happening);
    }

    fn fails(&self, me: PeerId, task: &Task) -> Option<TaskError> {
        let (only, error) = self.broken.get(&me)?;
        let stage = task_stage(task);
        only.is_none_or(|only| only == stage).then(|| error.clone())
    }

    /// Delivers a message that no peer of this world wrote, or a member that lies.
    fn forge(&mut self, from: PeerId, to: PeerId, message: Message) {
        let input = Input::Received { from, message: Box::new(message) };
        self.later(to, Duration::ZERO, Happening::Input(input));
    }

    /// Runs for a while, whatever happens.
    fn pass(&mut self, pause: Duration) {
        let until = self.now + pause;
        self.run_until(pause, |w| w.now >= until);
    }

    /// Runs until the submitter is told that its job has failed.
    fn run_until_failed(&mut self, limit: Duration) -> String {
        let end = self.now + limit;
        while self.now < end && self.failed.is_none() && self.step() {}
        self.failed.take().expect("the job fails within the limit")
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Job { news, .. } => match *news {
                News::Step { commit, stages, .. } => {
                    let shipped = stages.iter().flat_map(|(.., stats)| &stats.shipped);
                    assert!(
                        shipped.clone().all(|link| link.bytes < WASTED),
                        "only what arrived counts"
                    );
                    if let Some(before) = self.losses.insert(commit.step, commit.loss) {
                        assert_eq!(before.to_bits(), commit.loss.to_bits());
                    }
                }
                News::Adopted { plan, leader, base, restart } => {
                    self.trace.push(format!("epoch {} base {base} {restart}", plan.epoch.number()));
                    self.epochs += 1;
                    self.plan = Some(*plan);
                    self.leader = Some(leader);
                }
                News::Finished { .. } => self.finished = true,
                News::Failed { reason } => self.failed = Some(reason),
                other => self.trace.push(format!("{other:?}")),
            },
            Event::Pulled { .. } => self.pulled += 1,
            Event::Traces(answer) => self.answers.push(*answer),
            _ => {}
        }
    }

    fn step(&mut self) -> bool {
        let Some(((at, sequence), (to, happening))) = self.queue.pop_first() else {
            return false;
        };
        self.now = at;
        let unheard = matches!(&happening, Happening::Offer { from, .. }
            if self.apart.contains(from) != self.apart.contains(&to));
        if unheard || self.dead.contains(&to) || !self.peers.contains_key(&to) {
            if let Happening::Offer { from, key } = happening {
                let input = Input::Shipped { key, to, size: WASTED, delivered: false };
                self.later(from, LATENCY, Happening::Input(input));
            }
            return true;
        }
        let input = match happening {
            Happening::Input(input) => {
                if let Input::TimerFired(timer) = &input {
                    let due = self.timers.get(&(to, *timer)) == Some(&(at, sequence));
                    assert!(due, "a replaced timer does not fire");
                    self.timers.remove(&(to, *timer));
                }
                input
            }
            Happening::Offer { from, key } => {
                let mut admission = self.peers[&to].admit(from, &key);
                if self.refusals > 0 {
                    self.refusals -= 1;
                    admission = Admission::Refuse;
                }
                let size = match admission {
                    Admission::Take(length) => length.most(),
                    Admission::Refuse => WASTED,
                };
                let delivered = admission != Admission::Refuse;
                let shipped = Input::Shipped { key, to, size, delivered };
                self.later(from, LATENCY, Happening::Input(shipped));
                if !delivered {
                    return true;
                }
                Input::TensorArrived { key, from, size }
            }
        };
        if let Input::TaskDone { task, .. } = &input {
            self.open.remove(&(to, *task));
        }
        let mut out = Outbox::new();
        let now = self.now;
        self.peers.get_mut(&to).unwrap().handle(now, input, &mut out);
        self.perform(to, &mut out);
        true
    }

    fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while self.now < end && !done(self) {
            assert!(self.failed.is_none(), "{:?}", self.failed);
            if !self.step() {
                return false;
            }
        }
        done(self)
    }

    /// Returns all losses as they are compared: to the bit.
    fn learnt(&self) -> Vec<u64> {
        self.losses.values().map(|loss| loss.to_bits()).collect()
    }

    fn submit(&mut self, spec: JobSpec) {
        // Adverts need a round or two of gossip first.
        let to = self.submitter;
        let command = Command::Submit(Box::new(spec));
        self.later(to, Duration::from_millis(2000), Happening::Input(Input::Command(command)));
    }

    fn kill(&mut self, peer: PeerId) {
        self.dead.insert(peer);
    }
}
