//! A world of a few peers in one test: constant latency, constant task times, kills. Only for this room's own tests;
//! the simulator is the real one.

use std::collections::{BTreeMap, BTreeSet};

use super::io::{
    Admission, Command, Effect, Event, Input, Outbox, Outcome, Task, TensorKey, Timer,
};
use super::{Config, Peer};
use crate::dag::op::Op;
use crate::dag::{Dag, DagBuilder, Fact, Init};
use crate::ids::{PeerId, StageId, Step};
use crate::job::{DataSpec, JobSpec, LearningRate, Optimizer, PipelineOrder, SwarmSpec, TrainSpec};
use crate::schedule::Plan;
use crate::schedule::advert::Hardware;
use crate::units::{Bytes, Duration, Instant, Rate, Speed};
use crate::wire::message::{Message, News};

const LATENCY: Duration = Duration::from_millis(2);
const WORK: Duration = Duration::from_millis(3);

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
    /// Every message is heard twice.
    doubles: bool,
    /// Passes begun since the last reset: nothing is to be computed twice.
    begun: BTreeSet<(PeerId, StageId, Step, u32, bool)>,
}

fn chain(layers: usize) -> Dag {
    let mut b = DagBuilder::new("chain");
    let mut x = b.input("tokens", Fact::f32(&[4, 8]));
    let shared = b.parameter("shared", &[8, 8], Init::Normal(0.1), true);
    x = b.op("first", Op::Linear, &[x, shared]).unwrap();
    for layer in 0..layers {
        let w = b.parameter(&format!("w{layer}"), &[8, 8], Init::Normal(0.1), true);
        x = b.op(&format!("l{layer}"), Op::Linear, &[x, w]).unwrap();
        x = b.op(&format!("r{layer}"), Op::Relu, &[x]).unwrap();
    }
    x = b.op("last", Op::Linear, &[x, shared]).unwrap();
    let targets = b.input("targets", Fact::i32(&[4]));
    let loss = b.op("loss", Op::CrossEntropy, &[x, targets]).unwrap();
    b.output(loss);
    b.finish().unwrap()
}

fn spec(stages: u16, steps: u64) -> JobSpec {
    JobSpec {
        name: "chain".into(),
        dag: chain(6),
        data: DataSpec { source: "none".into(), seed: 1 },
        train: TrainSpec {
            steps,
            micro_batches: 4,
            optimizer: Optimizer::Sgd { momentum: 0.9, weight_decay: 0.0 },
            learning_rate: LearningRate { peak: 0.1, floor: 0.1, warmup: 0 },
            clip_norm: Some(1.0),
            seed: 1,
        },
        swarm: SwarmSpec {
            stages: Some(stages),
            order: PipelineOrder::OneFOneB,
            recompute: false,
            backups: 1,
        },
    }
}

impl World {
    fn new(count: u8) -> Self {
        let mut peers = BTreeMap::new();
        let mut submitter = None;
        for n in 0..=count {
            let config = Config { seed: u64::from(n), ..Config::default() };
            let peer = Peer::new(&[n + 1; 32], config);
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
            doubles: false,
            begun: BTreeSet::new(),
            peers,
        };
        let ids: Vec<PeerId> = world.peers.keys().copied().collect();
        for &id in &ids {
            let mut out = Outbox::new();
            world.peers.get_mut(&id).unwrap().start(world.now, &mut out);
            world.perform(id, &mut out);
            if id != world.submitter {
                let hardware = Hardware {
                    device: "test".into(),
                    speed: Speed::from_flops_per_second(1_000_000_000),
                    conv_speed: Speed::from_flops_per_second(1_000_000_000),
                    vector_speed: Speed::from_flops_per_second(1_000_000_000),
                    touch_rate: Rate::from_mbit(8000.0),
                    overhead: Duration::from_micros(3),
                    memory: Bytes::new(1 << 30),
                    host: 0,
                    host_capacity: 0,
                    demand: 0,
                };
                world.later(id, Duration::ZERO, Happening::Input(Input::Measured(hardware)));
            }
            for &other in ids.iter().filter(|o| **o != id) {
                world.later(id, Duration::ZERO, Happening::Input(Input::PeerFound(other)));
                let link = Input::LinkMeasured {
                    peer: other,
                    rate: Rate::from_mbit(1000.0),
                    round_trip: LATENCY * 2,
                };
                world.later(id, Duration::ZERO, Happening::Input(link));
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
                Effect::Send { to, message } => {
                    // Every message crosses the wire format.
                    let bytes = crate::wire::frame::encode(&*message).unwrap();
                    let message: Box<Message> =
                        Box::new(crate::wire::frame::decode(&bytes).unwrap());
                    let input = Input::Received { from: me, message };
                    if self.doubles {
                        self.later(to, LATENCY * 3, Happening::Input(input.clone()));
                    }
                    self.later(to, LATENCY, Happening::Input(input));
                }
                Effect::SetTimer { timer, at } => {
                    if let Some(old) = self.timers.remove(&(me, timer)) {
                        self.queue.remove(&old);
                    }
                    let after = at.since(self.now);
                    self.later(me, after, Happening::Input(Input::TimerFired(timer)));
                    self.timers.insert((me, timer), (self.now + after, self.sequence));
                }
                Effect::Run { id, task } => {
                    self.note(me, &task);
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
                    let ended = free + WORK;
                    self.busy.insert(me, ended);
                    let input = Input::TaskDone { task: id, outcome, began: free, ended };
                    self.later(me, ended.since(self.now), Happening::Input(input));
                }
                Effect::Ship { key, to } => {
                    assert_ne!(to, me);
                    self.later(to, LATENCY, Happening::Offer { from: me, key });
                }
                Effect::Notify(event) if me == self.submitter => self.hear(event),
                Effect::Notify(_)
                | Effect::Dial { .. }
                | Effect::Drop(_)
                | Effect::DropBefore { .. }
                | Effect::Announce(_)
                | Effect::Withdraw(_) => {}
            }
        }
    }

    fn note(&mut self, me: PeerId, task: &Task) {
        let (stage, step, micro_batch, back) = match task {
            Task::Forward { stage, step, micro_batch, .. } => (*stage, *step, *micro_batch, false),
            Task::Backward { stage, step, micro_batch, .. } => (*stage, *step, *micro_batch, true),
            Task::ResetStep { stage, .. } => {
                return self.begun.retain(|(peer, of, ..)| (*peer, *of) != (me, *stage));
            }
            _ => return,
        };
        let fresh = self.begun.insert((me, stage, step, micro_batch.index(), back));
        assert!(fresh, "stage {stage} computes micro-batch {micro_batch:?} of step {step} twice");
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Job { news, .. } => match *news {
                News::Step { commit, .. } => {
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
            _ => {}
        }
    }

    fn step(&mut self) -> bool {
        let Some(((at, sequence), (to, happening))) = self.queue.pop_first() else {
            return false;
        };
        self.now = at;
        if self.dead.contains(&to) {
            if let Happening::Offer { from, key } = happening {
                let input = Input::Shipped { key, to, size: Bytes::new(9), delivered: false };
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
                let admission = self.peers[&to].admit(from, &key);
                let size = match admission {
                    Admission::Take(size) => size,
                    Admission::Refuse => Bytes::ZERO,
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

fn task_job(task: &Task) -> crate::ids::JobId {
    match task {
        Task::LoadStage { job, .. }
        | Task::ResetStep { job, .. }
        | Task::Forward { job, .. }
        | Task::Backward { job, .. }
        | Task::ShareGradients { job, .. }
        | Task::ReduceGradients { job, .. }
        | Task::OptimizerStep { job, .. }
        | Task::Snapshot { job, .. }
        | Task::Unload { job, .. } => *job,
    }
}

const LIMIT: Duration = Duration::from_millis(120_000);

fn undisturbed(steps: u64) -> Vec<u64> {
    let mut world = World::new(4);
    world.submit(spec(3, steps));
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!(world.epochs, 1);
    world.losses.values().map(|l| l.to_bits()).collect()
}

#[test]
fn a_job_runs_to_its_end_and_its_state_can_be_pulled() {
    let mut world = World::new(4);
    world.submit(spec(3, 8));
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!(world.losses.len(), 8);
    let job = world.plan.as_ref().unwrap().job;
    let to = world.submitter;
    world.later(to, Duration::ZERO, Happening::Input(Input::Command(Command::Pull(job))));
    assert!(world.run_until(LIMIT, |w| w.pulled == 3));
}

#[test]
fn messages_that_are_heard_twice_change_nothing() {
    let expected = undisturbed(12);
    let mut world = World::new(4);
    world.doubles = true;
    world.submit(spec(3, 12));
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!(world.epochs, 1);
    let losses: Vec<u64> = world.losses.values().map(|l| l.to_bits()).collect();
    assert_eq!(losses, expected);
}

/// Goal: a job outlives its submitter, and whoever hands it in again gets what it learnt. Method: kill the submitter at
/// many moments, hand the same job in at another peer, pull.
#[test]
fn a_job_without_a_submitter_goes_on_and_can_be_claimed() {
    let expected = undisturbed(12);
    for moment in 0..30u64 {
        let mut world = World::new(4);
        world.submit(spec(3, 12));
        assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
        let pause = Duration::from_micros(moment * 17_300);
        let until = world.now + pause;
        world.run_until(pause, |w| w.now >= until);
        let plan = world.plan.clone().unwrap();
        world.kill(world.submitter);
        let claimer = *world.peers.keys().nth(usize::try_from(moment % 5).unwrap()).unwrap();
        if claimer == world.submitter {
            continue;
        }
        world.submitter = claimer;
        world.finished = false;
        world.submit(spec(3, 12));
        assert!(world.run_until(LIMIT, |w| w.finished), "moment {moment}: {:?}", world.trace);
        let pull = Input::Command(Command::Pull(plan.job));
        world.later(claimer, Duration::ZERO, Happening::Input(pull));
        assert!(world.run_until(LIMIT, |w| w.pulled == 3), "moment {moment}: {:?}", world.trace);
        for (step, loss) in &world.losses {
            let index = usize::try_from(step.number()).unwrap();
            assert_eq!(loss.to_bits(), expected[index], "moment {moment}, step {step}");
        }
    }
}

/// Goal: no kill loses a step or changes a loss. Method: kill owners, leader or submitter at many moments.
#[test]
fn killing_any_member_at_any_moment_changes_no_loss() {
    let expected = undisturbed(12);
    for moment in 0..40u64 {
        for who in 0..4 {
            let mut world = World::new(4);
            world.submit(spec(3, 12));
            assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
            let pause = Duration::from_micros(moment * 9_700);
            let until = world.now + pause;
            world.run_until(pause, |w| w.now >= until);
            let plan = world.plan.clone().unwrap();
            let victim = match who {
                3 => world.leader.unwrap(),
                stage => plan.owner(StageId::new(stage)).unwrap(),
            };
            world.kill(victim);
            assert!(
                world.run_until(LIMIT, |w| w.finished),
                "moment {moment}, victim {who}: {:?} {:?}",
                world.trace,
                world.losses.len()
            );
            assert_eq!(world.epochs, 2, "one repair: {:?}", world.trace);
            let losses: Vec<u64> = world.losses.values().map(|l| l.to_bits()).collect();
            assert_eq!(losses, expected, "moment {moment}, victim {who}");
        }
    }
}
