//! One peer's whole behaviour: [`Peer::handle`] routes inputs to small machines and composes nothing else.
//!
//! Reading order: [`io`] (the border), `membership` (who lives), `gossip` (adverts), `meet` (dials), `measure` (links), `fencing` (who is near whom), `job` (one job at one member)
//! with `stage`, `shift` (a worker's passes), `start`, `backup`, `elect` and `lead`, `join` (checking a proposal),
//! `pull` (state to whoever may have it), `tell` (news for people), `trace`, `ask` and [`why`] (where a step's time goes), `submit` (handing a job in), `tasks`.

mod ask;
mod backup;
mod command;
mod elect;
mod fencing;
mod gossip;
pub mod io;
mod job;
mod join;
mod lead;
mod learn;
mod measure;
mod meet;
mod membership;
mod pull;
mod shift;
#[cfg(test)]
mod small_world;
mod stage;
mod start;
mod submit;
mod tasks;
mod tell;
mod trace;
pub mod why;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

pub use membership::Life;

use crate::ids::{Epoch, JobId, PeerId, Step, TaskId};
use crate::job::JobSpec;
use crate::schedule::Plan;
use crate::schedule::advert::Advert;
use crate::schedule::deeds::Deeds;
use crate::schedule::fence::{Planner, place};
use crate::units::{Duration, Instant};
use crate::wire::message::{JobBrief, JobMessage, Message};
use ask::Questions;
use fencing::Fencing;
use gossip::Gossip;
use io::{Admission, Effect, Event, Input, Outbox, StageWork, Task, TensorKey, TensorName, Timer};
use job::{Ending, Job};
use measure::Meter;
use meet::{Dials, send_all};
use membership::Membership;
use submit::Submission;
use tasks::{Purpose, Tasks};

/// Most jobs that a peer takes part in at once.
const JOBS_MAX: usize = 16;

/// Times and limits of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Time between heartbeats, and between looks at the clock. Default 200 ms.
    pub heartbeat: Duration,
    /// Silence that makes a peer suspect. Default 700 ms.
    pub suspect_after: Duration,
    /// Silence of a connected peer that makes it lost. Default 2 s; raise it where machines stall.
    pub lost_after: Duration,
    /// Silence of a disconnected peer that makes it lost. Default 600 ms.
    pub gone_after: Duration,
    /// Time between gossip rounds. Default 500 ms.
    pub gossip: Duration,
    /// How long a granted lease lasts. Default 2 s.
    pub lease: Duration,
    /// Addresses that other machines reach this one at.
    pub addresses: Vec<String>,
    /// Seed of this peer's draws (gossip partners).
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            suspect_after: Duration::from_millis(700),
            lost_after: Duration::from_millis(2000),
            gone_after: Duration::from_millis(600),
            gossip: Duration::from_millis(500),
            lease: Duration::from_millis(2000),
            addresses: Vec::new(),
            seed: 0,
        }
    }
}

/// What the machines of a job need of the rest of the peer.
struct Ctx<'a> {
    me: PeerId,
    now: Instant,
    config: &'a Config,
    planner: Planner,
    membership: &'a Membership,
    gossip: &'a Gossip,
    tasks: &'a mut Tasks,
    out: &'a mut Outbox,
    /// The leader of the job in hand.
    leader: Option<PeerId>,
    /// Messages to this peer itself.
    local: &'a mut VecDeque<(JobId, JobMessage)>,
    /// Tensors that pass from one stage of this peer to another.
    arrivals: &'a mut VecDeque<TensorKey>,
    /// What peers did, as this one has seen.
    deeds: &'a mut Deeds,
    /// Who waits for which snapshot.
    snapshots: &'a mut BTreeMap<TensorKey, BTreeSet<PeerId>>,
}

impl Ctx<'_> {
    fn send(&mut self, to: PeerId, job: JobId, body: JobMessage) {
        if to == self.me {
            self.local.push_back((job, body));
            return;
        }
        let message = Box::new(Message::Job { job, body: Box::new(body) });
        self.out.push(Effect::Send { to, message });
    }

    fn run(&mut self, at: (JobId, crate::ids::StageId), purpose: Purpose, task: Task) -> TaskId {
        self.tasks.run(self.out, at, purpose, task)
    }

    /// Whether a stage's state is on its way to a peer.
    fn is_shipping(&self, job: JobId, name: TensorName, to: PeerId) -> bool {
        let is = |key: &TensorKey| key.job == job && key.name == name;
        self.snapshots.iter().any(|(key, waiting)| is(key) && waiting.contains(&to))
    }
}

/// One peer. Deterministic: same state, time and input give the same outbox.
#[derive(Debug)]
pub struct Peer {
    me: PeerId,
    config: Config,
    planner: Planner,
    rng: ChaCha8Rng,
    membership: Membership,
    gossip: Gossip,
    meter: Meter,
    fencing: Fencing,
    jobs: BTreeMap<JobId, Job>,
    submissions: BTreeMap<JobId, Submission>,
    tasks: Tasks,
    deeds: Deeds,
    snapshots: BTreeMap<TensorKey, BTreeSet<PeerId>>,
    local: VecDeque<(JobId, JobMessage)>,
    arrivals: VecDeque<TensorKey>,
    dials: Dials,
    questions: Questions,
}

impl Peer {
    /// Makes a peer with this identity (an ed25519 seed).
    pub fn new(identity: &[u8; 32], config: Config) -> Self {
        let key = SigningKey::from_bytes(identity);
        let me = PeerId::new(key.verifying_key().to_bytes());
        Self {
            me,
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            membership: Membership::default(),
            gossip: Gossip::new(key, config.addresses.clone()),
            meter: Meter::new(me),
            fencing: Fencing::default(),
            jobs: BTreeMap::new(),
            submissions: BTreeMap::new(),
            tasks: Tasks::default(),
            deeds: Deeds::default(),
            snapshots: BTreeMap::new(),
            local: VecDeque::new(),
            arrivals: VecDeque::new(),
            dials: Dials::default(),
            questions: Questions::default(),
            planner: place,
            config,
        }
    }

    /// Lets another function place jobs, which gives the same as [`place`].
    pub fn planned_by(self, planner: Planner) -> Self {
        Self { planner, ..self }
    }

    /// Returns this peer's id.
    pub fn id(&self) -> PeerId {
        self.me
    }

    /// Sets the first timers; call once before the first input.
    pub fn start(&mut self, now: Instant, out: &mut Outbox) {
        out.push(Effect::SetTimer { timer: Timer::Membership, at: now + self.config.heartbeat });
        out.push(Effect::SetTimer { timer: Timer::Gossip, at: now + self.config.heartbeat });
    }

    /// Takes one input and says what is to be done.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Outbox) {
        match input {
            Input::PeerFound(peer) => self.on_found(peer, now, out),
            Input::PeerLost(peer) => self.membership.closed(peer),
            Input::Measured(hardware) => self.gossip.measured(hardware),
            Input::Listening(addresses) => self.gossip.listens(addresses),
            Input::LinkMeasured { peer, rate, round_trip, packets } => {
                self.on_link_measured(peer, (rate, round_trip, packets), now);
            }
            Input::PathChanged(peer) => self.on_path_changed(peer, now, out),
            Input::LinkUsed { peer, size, took } => self.on_link_used(peer, size, took, now),
            Input::Received { from, message } => self.on_message(from, *message, now, out),
            Input::TimerFired(timer) => self.on_timer(timer, now, out),
            Input::TaskDone { task, outcome, began, ended, ops } => {
                self.on_task(task, &outcome, (began, ended, ops), now, out);
            }
            Input::TaskFailed { task, error } => self.on_task_failed(task, &error, now, out),
            Input::TensorArrived { key, .. } => {
                if !self.jobs.contains_key(&key.job) {
                    // The job was let go while this was under way.
                    out.push(Effect::Drop(key));
                }
                self.with_job(key.job, now, out, |job, ctx| job.on_arrived(key, ctx));
            }
            Input::Shipped { key, to, size, delivered } => {
                self.on_shipped(key, to, (size, delivered), now, out);
            }
            Input::Command(command) => self.on_command(command, now, out),
        }
        self.settle(now, out);
    }

    /// Answers the header of an arriving bundle before any of it is read.
    pub fn admit(&self, from: PeerId, key: &TensorKey) -> Admission {
        let awaited = self.jobs.get(&key.job).and_then(|job| job.awaits(from, key));
        awaited.map_or(Admission::Refuse, Admission::Take)
    }

    /// Returns every peer that has been met, with what it says of itself.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, Life, Option<&Advert>)> {
        self.membership
            .all()
            .map(|(id, life)| (id, life, self.gossip.advert(id).map(|s| &s.advert)))
    }

    /// Returns this peer's own advert as last signed.
    pub fn advert(&self) -> Option<&Advert> {
        self.gossip.advert(self.me).map(|s| &s.advert)
    }

    /// Returns a job's specification, plan in force and next step, where this peer takes part in it.
    pub fn job(&self, id: JobId) -> Option<(&JobSpec, Option<&Plan>, Step)> {
        let job = self.jobs.get(&id)?;
        let next = job.last.map(|l| l.step.next()).unwrap_or_default();
        Some((&job.spec, job.plan.as_deref(), next))
    }

    /// Returns the jobs that this peer takes part in, and who leads each.
    pub fn jobs(&self) -> impl Iterator<Item = (JobId, Option<PeerId>)> {
        self.jobs.iter().map(|(id, job)| (*id, job.election.leader))
    }

    /// Returns the jobs that this peer takes part in, in a few words.
    pub fn briefs(&self) -> Vec<JobBrief> {
        let brief = |(id, job): (&JobId, &Job)| JobBrief {
            job: *id,
            name: job.spec.name.clone(),
            leader: job.election.leader,
            epoch: job.epoch(),
            owners: job.plan.iter().flat_map(|p| p.stages.iter().map(|s| s.owner)).collect(),
            done: job.last.map(|l| l.step.next()).unwrap_or_default(),
            steps: job.steps(),
            loss: job.last.map(|l| l.loss),
        };
        self.jobs.iter().map(brief).collect()
    }

    /// Returns what each stage of a job runs, as the plan in force cuts it.
    pub fn works(&self, id: JobId) -> &[Arc<StageWork>] {
        self.jobs.get(&id).map_or(&[], |job| &job.works)
    }

    /// Delivers what this peer says and hands to itself, until nothing is left.
    fn settle(&mut self, now: Instant, out: &mut Outbox) {
        loop {
            if let Some(key) = self.arrivals.pop_front() {
                self.with_job(key.job, now, out, |job, ctx| job.on_arrived(key, ctx));
            } else if let Some((job, body)) = self.local.pop_front() {
                self.on_job_message(self.me, job, body, now, out);
            } else {
                return;
            }
        }
    }

    fn with_job(
        &mut self,
        id: JobId,
        now: Instant,
        out: &mut Outbox,
        act: impl FnOnce(&mut Job, &mut Ctx<'_>),
    ) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let mut ctx = Ctx {
            me: self.me,
            now,
            config: &self.config,
            planner: self.planner,
            membership: &self.membership,
            gossip: &self.gossip,
            tasks: &mut self.tasks,
            out,
            leader: job.election.leader,
            local: &mut self.local,
            arrivals: &mut self.arrivals,
            deeds: &mut self.deeds,
            snapshots: &mut self.snapshots,
        };
        act(job, &mut ctx);
        if let Some(ending) = job.ending {
            self.let_go(id, ending, out);
        }
    }

    /// Lets a job go: no bundle of it stays here, and nobody is told any more that it is here.
    fn let_go(&mut self, id: JobId, ending: Ending, out: &mut Outbox) {
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        self.snapshots.retain(|key, _| key.job != id);
        let (epoch, step) = (Epoch::new(u64::MAX), Step::default());
        out.push(Effect::DropBefore { job: id, epoch, step });
        if job.plan.is_some() {
            out.push(Effect::Withdraw(id));
        }
        if ending == Ending::LeftBehind && job.submitter == self.me && !job.over {
            // Its people still wait for it: whoever leads it takes it from here as from anybody.
            let spec = Box::new((*job.spec).clone());
            self.submissions.insert(id, Submission::new(spec));
        }
    }

    fn on_message(&mut self, from: PeerId, message: Message, now: Instant, out: &mut Outbox) {
        if from == self.me {
            return;
        }
        if self.membership.heard(from, now) {
            out.push(Effect::Notify(Event::PeerAlive(from)));
        }
        match message {
            Message::Heartbeat => {}
            Message::Goodbye => {
                if self.membership.left(from) {
                    out.push(Effect::Notify(Event::PeerLost(from)));
                }
            }
            Message::Adverts(adverts) => {
                let (fresh, letters) =
                    self.gossip.on_adverts(from, adverts, (&self.membership, now), &mut self.rng);
                send_all(letters, out);
                for peer in fresh {
                    self.dial(peer, out);
                }
            }
            Message::Digest { span, known, answer } => {
                send_all(self.gossip.on_digest(from, span, &known, answer), out);
            }
            Message::WhatRuns => {
                let message = Box::new(Message::Runs(self.briefs()));
                out.push(Effect::Send { to: from, message });
            }
            Message::Runs(briefs) => {
                for brief in &briefs {
                    if let Some(submission) = self.submissions.get_mut(&brief.job) {
                        submission.hear(from, brief.leader);
                    }
                }
                out.push(Effect::Notify(Event::Runs { from, briefs }));
            }
            Message::AskTraces { job, sent } => self.on_ask_traces(from, job, sent, now, out),
            Message::Traces(traces) => self.on_traces(from, *traces, now, out),
            Message::Submit { spec, term } => self.on_submit(from, *spec, term, now, out),
            Message::Job { job, body } => self.on_job_message(from, job, *body, now, out),
        }
    }

    fn on_timer(&mut self, timer: Timer, now: Instant, out: &mut Outbox) {
        match timer {
            Timer::Membership => {
                let at = now + self.config.heartbeat;
                out.push(Effect::SetTimer { timer, at });
                for to in self.membership.connected() {
                    out.push(Effect::Send { to, message: Box::new(Message::Heartbeat) });
                }
                for peer in self.membership.tick(now, &self.config) {
                    out.push(Effect::Notify(Event::PeerLost(peer)));
                }
                self.submit(now, out);
            }
            Timer::Gossip => {
                out.push(Effect::SetTimer { timer, at: now + self.config.gossip });
                self.gossip_round(now, out);
            }
            Timer::Job(id) => {
                if self.jobs.contains_key(&id) {
                    out.push(Effect::SetTimer { timer, at: now + self.config.heartbeat });
                }
                self.with_job(id, now, out, |job, ctx| {
                    for stage in job.stages.values_mut() {
                        stage.tick(ctx);
                    }
                    for backup in job.backups.values_mut() {
                        backup.tick(ctx);
                    }
                    job.tell_failed(ctx);
                    job.ask(ctx);
                    job.elect_tick(ctx);
                    job.lead_tick(ctx);
                    job.tell_tick(ctx);
                    if job.is_stillborn(ctx) {
                        job.ending = Some(Ending::Over);
                    }
                });
            }
        }
    }
}
