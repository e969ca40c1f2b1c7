//! One job at one member: the plan in force, the stages it gives this peer, and their messages.
//!
//! A plan comes in two steps: a proposal is checked, answered and kept; its adoption puts it in force. On adoption
//! in-flight work of older epochs is forgotten, state stays, and the step is done anew: redone, never patched.
//! Not here: leading a job (`lead`), elections (`elect`), a stage's life (`stage`, `backup`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Ctx;
use super::backup::Backup;
use super::elect::Election;
use super::io::{Effect, Event, Length, StageWork, StateSource, Task, TensorKey, TensorName};
use super::lead::Lead;
use super::stage::{Phase, Stage};
use super::tasks::Purpose;
use super::tell::Teller;
use crate::dag::bundle::state_bytes;
use crate::ids::{Epoch, JobId, PeerId, StageId, Step, Term};
use crate::job::JobSpec;
use crate::schedule::Plan;
use crate::wire::message::{Commit, Holding, JobMessage};

/// A plan that this peer has accepted and that is not in force.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) term: Term,
    pub(super) plan: Arc<Plan>,
    pub(super) works: Vec<Arc<StageWork>>,
    pub(super) base: Step,
    pub(super) last: Option<Commit>,
    pub(super) restart: bool,
}

/// Why a job is let go here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was released, refused, given up, or never came to a plan.
    Over,
    /// The others went on without this member.
    LeftBehind,
}

/// A job that this peer takes part in.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) spec: Arc<JobSpec>,
    pub(super) submitter: PeerId,
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) works: Vec<Arc<StageWork>>,
    pub(super) proposal: Option<Proposal>,
    pub(super) stages: BTreeMap<StageId, Stage>,
    pub(super) backups: BTreeMap<StageId, Backup>,
    /// Stages that failed here, under which plan, and why; told until the next plan is in force.
    failed: BTreeMap<StageId, (Epoch, String, bool)>,
    /// The highest version of a plan that this peer has accepted.
    pub(super) accepted: Epoch,
    /// The last decided step that this peer knows.
    pub(super) last: Option<Commit>,
    pub(super) election: Election,
    pub(super) lead: Option<Lead>,
    /// Stages whose state is awaited here, with how often it was asked for (submitter only).
    pub(super) pulling: BTreeMap<StageId, usize>,
    /// What the people here have been told.
    pub(super) teller: Teller,
    pub(super) over: bool,
    /// Set once the job is to be let go here.
    pub(super) ending: Option<Ending>,
}

impl Job {
    pub(super) fn new(
        id: JobId,
        spec: Arc<JobSpec>,
        submitter: PeerId,
        election: Election,
    ) -> Self {
        Self {
            id,
            spec,
            submitter,
            plan: None,
            works: Vec::new(),
            proposal: None,
            stages: BTreeMap::new(),
            backups: BTreeMap::new(),
            failed: BTreeMap::new(),
            accepted: Epoch::default(),
            last: None,
            election,
            lead: None,
            pulling: BTreeMap::new(),
            teller: Teller::default(),
            over: false,
            ending: None,
        }
    }

    /// Returns the version of the plan in force here; 0 before the first.
    pub(super) fn epoch(&self) -> Epoch {
        self.plan.as_ref().map(|p| p.epoch).unwrap_or_default()
    }

    /// Returns how many steps the job has.
    pub(super) fn steps(&self) -> Step {
        Step::new(self.spec.train.steps)
    }

    /// Returns what this peer holds of the job.
    pub(super) fn holdings(&self) -> Vec<Holding> {
        let owned = self.stages.values().filter(|s| s.has_state).map(|s| Holding {
            stage: s.id,
            applied: s.applied(),
            next_gradient: s.reduced,
        });
        let followed = self.backups.values().filter_map(|b| {
            let applied = b.applied?;
            Some(Holding { stage: b.id, applied, next_gradient: b.holds_next() })
        });
        owned.chain(followed).collect()
    }

    /// Returns the highest version of a plan that this peer has adopted or accepted: the next one must be higher.
    pub(super) fn epoch_seen(&self) -> Epoch {
        self.accepted.max(self.epoch())
    }

    /// Puts the accepted proposal of this reign and epoch in force; one of an earlier reign may be another plan.
    pub(super) fn adopt(&mut self, term: Term, epoch: Epoch, ctx: &mut Ctx<'_>) {
        if self.proposal.as_ref().is_none_or(|p| p.plan.epoch != epoch || p.term != term) {
            return;
        }
        let Some(proposal) = self.proposal.take() else {
            return;
        };
        if proposal.restart {
            self.unload(|_| true, ctx);
            self.last = None;
            self.teller.restart(epoch);
        } else if let Some(last) = proposal.last {
            self.commit(last, ctx);
        }
        let plan = proposal.plan;
        self.failed.clear();
        self.submitter = plan.submitter;
        self.works = proposal.works;
        self.plan = Some(plan.clone());
        let mine = |stage: StageId| {
            plan.stages.get(stage.index()).is_some_and(|s| s.holders().any(|p| p == ctx.me))
        };
        let foreign: Vec<StageId> =
            self.stages.keys().chain(self.backups.keys()).copied().filter(|s| !mine(*s)).collect();
        self.unload(|stage| foreign.contains(&stage), ctx);
        ctx.out.push(Effect::DropBefore { job: self.id, epoch: plan.epoch, step: proposal.base });
        for stage in plan.stage_ids() {
            let roles = &plan.stages[stage.index()];
            if roles.owner == ctx.me {
                self.own(stage, &plan, proposal.base, ctx);
            } else if roles.followers().any(|p| p == ctx.me) {
                self.follow(stage, &plan, proposal.base, ctx);
            }
        }
        ctx.out.push(Effect::Announce(self.id));
        for peer in
            plan.members().iter().filter(|p| **p != ctx.me && !ctx.membership.is_connected(**p))
        {
            // Who works together has to meet, however many others there are.
            let addresses = ctx.gossip.advert(*peer).map(|s| s.advert.addresses.clone());
            if let Some(addresses) = addresses.filter(|list| !list.is_empty()) {
                ctx.out.push(Effect::Dial { peer: *peer, addresses });
            }
        }
        if proposal.base < self.steps() {
            for stage in self.stages.values_mut() {
                stage.begin(ctx);
            }
            for backup in self.backups.values_mut() {
                backup.begin(ctx);
            }
        }
    }

    /// Becomes, or stays, the owner of a stage.
    fn own(&mut self, id: StageId, plan: &Arc<Plan>, base: Step, ctx: &mut Ctx<'_>) {
        let work = self.works[id.index()].clone();
        let held = self.backups.remove(&id).and_then(|b| b.applied);
        if let Some(applied) = held {
            self.stages.insert(id, Stage::new(id, work.clone(), plan.clone(), applied));
        } else if !self.stages.contains_key(&id) {
            let mut stage = Stage::new(id, work.clone(), plan.clone(), base);
            stage.has_state = work.start.is_none();
            if stage.has_state {
                self.load_initial(&work, id, ctx);
            }
            self.stages.insert(id, stage);
        }
        if let Some(stage) = self.stages.get_mut(&id) {
            stage.adopt(plan.clone(), work, ctx);
        }
    }

    /// Becomes, or stays, a replica or a backup of a stage.
    fn follow(&mut self, id: StageId, plan: &Arc<Plan>, base: Step, ctx: &mut Ctx<'_>) {
        let work = self.works[id.index()].clone();
        if let Some(stage) = self.stages.remove(&id) {
            let applied = stage.has_state.then_some(stage.applied());
            let backup = Backup::new(id, work.clone(), plan.clone(), applied);
            self.backups.insert(id, backup);
        } else if !self.backups.contains_key(&id) {
            // Weights that were given come from the owner, as any later state does.
            let drawn = base == Step::default() && work.start.is_none();
            let applied = drawn.then_some(base);
            if drawn {
                self.load_initial(&work, id, ctx);
            }
            self.backups.insert(id, Backup::new(id, work.clone(), plan.clone(), applied));
        }
        if let Some(backup) = self.backups.get_mut(&id) {
            backup.adopt(plan.clone(), work, base, ctx);
            backup.tick(ctx);
        }
    }

    fn load_initial(&self, work: &Arc<StageWork>, stage: StageId, ctx: &mut Ctx<'_>) {
        let task = Task::LoadStage {
            job: self.id,
            work: work.clone(),
            source: StateSource::Initial,
            step: Step::default(),
        };
        ctx.run((self.id, stage), Purpose::Load, task);
    }

    /// Frees stages and everything that belongs to them.
    pub(super) fn unload(&mut self, which: impl Fn(StageId) -> bool, ctx: &mut Ctx<'_>) {
        let held: Vec<StageId> =
            self.stages.keys().chain(self.backups.keys()).copied().filter(|s| which(*s)).collect();
        for stage in held {
            self.stages.remove(&stage);
            self.backups.remove(&stage);
            let task = Task::Unload { job: self.id, stage };
            ctx.run((self.id, stage), Purpose::Unload, task);
        }
    }

    /// Gives stages up that fail here, and a plan that was accepted in the belief that they are held.
    pub(super) fn fail_stages(
        &mut self,
        which: impl Fn(StageId) -> bool,
        (reason, of_numbers): (&str, bool),
        ctx: &mut Ctx<'_>,
    ) {
        let held = self.stages.keys().chain(self.backups.keys()).copied();
        let lost: Vec<StageId> = held.filter(|s| which(*s)).collect();
        if lost.is_empty() {
            return;
        }
        self.unload(|s| lost.contains(&s), ctx);
        let counts_on = |p: &Proposal| {
            let part = |s: &StageId| {
                let roles = p.plan.stages.get(s.index());
                roles.is_some_and(|r| r.holders().any(|p| p == ctx.me))
            };
            lost.iter().any(part)
        };
        let epoch = match self.proposal.take_if(|p| counts_on(p)) {
            Some(proposal) => proposal.plan.epoch,
            None => self.epoch(),
        };
        let why = |stage| (stage, (epoch, reason.to_owned(), of_numbers));
        self.failed.extend(lost.into_iter().map(why));
        self.tell_failed(ctx);
    }

    /// Tells the leader what failed here; it may be another one by now, or not have heard.
    pub(super) fn tell_failed(&self, ctx: &mut Ctx<'_>) {
        let Some(leader) = ctx.leader else {
            return;
        };
        for (&stage, (epoch, reason, of_numbers)) in &self.failed {
            let (epoch, reason, of_numbers) = (*epoch, reason.clone(), *of_numbers);
            ctx.send(leader, self.id, JobMessage::StageFailed { epoch, stage, reason, of_numbers });
        }
    }

    /// Applies a decided step to everything held here.
    pub(super) fn commit(&mut self, commit: Commit, ctx: &mut Ctx<'_>) {
        if self.last.is_none_or(|l| l.step < commit.step) {
            self.last = Some(commit);
            if self.submitter == ctx.me {
                self.teller.decided(commit, ctx.now);
            }
        }
        for stage in self.stages.values_mut() {
            stage.commit(commit, ctx);
        }
        for backup in self.backups.values_mut() {
            backup.commit(commit, ctx);
        }
    }

    /// A step is decided while the plan is in force: apply it and begin the next.
    pub(super) fn on_step_commit(&mut self, commit: Commit, ctx: &mut Ctx<'_>) {
        if self.last.is_none_or(|last| last.step < commit.step) {
            self.learn_own(commit.step, ctx);
        }
        self.commit(commit, ctx);
        ctx.out.push(Effect::DropBefore {
            job: self.id,
            epoch: self.epoch(),
            step: commit.step.next(),
        });
        let steps = self.steps();
        for stage in self.stages.values_mut() {
            // A decision may be heard twice: a step in work must not begin again.
            let due = stage.applied() == commit.step.next() && stage.applied() < steps;
            if due && stage.phase == Phase::Idle {
                stage.begin(ctx);
            }
        }
        for backup in self.backups.values_mut() {
            backup.begin(ctx);
        }
    }

    /// Says whether a bundle is awaited here, and how many bytes it has.
    pub(super) fn awaits(&self, from: PeerId, key: &TensorKey) -> Option<Length> {
        let plan = self.plan.as_ref()?;
        if key.epoch != plan.epoch {
            return None;
        }
        if let TensorName::StageState { stage } = key.name
            && self.pulling.contains_key(&stage)
            && key.step == self.steps()
        {
            let roles = plan.stages.get(stage.index())?;
            let work = self.works.get(stage.index())?;
            let holds = roles.holders().any(|p| p == from);
            let length = || state_bytes(&work.graph, &work.train.optimizer);
            return holds.then(|| Length::Exactly(length()));
        }
        let owned = self.stages.values().find_map(|s| s.awaits(from, key));
        owned.or_else(|| self.backups.values().find_map(|b| b.awaits(from, key)))
    }

    /// A bundle is in the store.
    pub(super) fn on_arrived(&mut self, key: TensorKey, ctx: &mut Ctx<'_>) {
        if let TensorName::StageState { stage } = key.name
            && key.step == self.steps()
            && self.pulling.remove(&stage).is_some()
        {
            let missing = u16::try_from(self.pulling.len()).unwrap_or(u16::MAX);
            ctx.out.push(Effect::Notify(Event::Pulled { key, missing }));
            return;
        }
        let receiver = self.receiver(key.name);
        for (id, stage) in &mut self.stages {
            if receiver.is_none_or(|r| r == *id) {
                stage.on_arrived(key, ctx);
            }
        }
        for (id, backup) in &mut self.backups {
            if receiver.is_none_or(|r| r == *id) {
                backup.on_arrived(key, ctx);
            }
        }
    }

    /// Which stage a tensor is for; None: any.
    fn receiver(&self, name: TensorName) -> Option<StageId> {
        let edges = |id: crate::ids::EdgeId| {
            let mut sends = self.works.iter().flat_map(|w| w.graph.sends.iter());
            sends.find(|(e, _)| *e == id).map(|(_, edge)| (edge.from, edge.to))
        };
        match name {
            TensorName::Activation { edge, .. } => edges(edge).map(|(_, to)| to),
            TensorName::Cotangent { edge, .. } => edges(edge).map(|(from, _)| from),
            TensorName::SharedGradient { to, .. } => Some(to),
            TensorName::StageStart { stage } | TensorName::GroupSums { stage, .. } => Some(stage),
            TensorName::StageGradient { .. } | TensorName::StageState { .. } => None,
        }
    }
}
