//! What a submitter has heard of its job: plans, steps, losses of peers; from this everything shown is made.
//!
//! Pure bookkeeping over `News`; nothing is printed here.

use std::collections::BTreeMap;

use wattle_protocol::ids::{Epoch, PeerId, StageId, Step};
use wattle_protocol::schedule::Plan;
use wattle_protocol::units::{Bytes, Duration, Instant};
use wattle_protocol::wire::message::{Commit, News, SpanKind, StageStats};

/// A committed step as it was heard of.
#[derive(Clone, Debug)]
pub struct StepLog {
    /// The decision.
    pub commit: Commit,
    /// Version of the plan.
    pub epoch: Epoch,
    /// From the decision before, at the leader.
    pub elapsed: Duration,
    /// When it was heard of here.
    pub heard: Instant,
    /// What it cost each stage.
    pub stages: Vec<(StageId, PeerId, StageStats)>,
}

/// A plan that was adopted.
#[derive(Clone, Debug)]
pub struct PlanLog {
    /// The plan.
    pub plan: Plan,
    /// Who led.
    pub leader: PeerId,
    /// From which step it went on.
    pub base: Step,
    /// Whether all state began anew.
    pub restart: bool,
    /// Decided steps that are done again under it; 0 unless state was lost with all its holders.
    pub undone: u64,
    /// When it was heard of here.
    pub heard: Instant,
}

/// A loss as the leader told it.
#[derive(Clone, Debug)]
pub struct LossLog {
    /// Who.
    pub peer: PeerId,
    /// Stages that it owned.
    pub stages: Vec<StageId>,
    /// The step in work.
    pub step: Step,
    /// When it was heard of here.
    pub heard: Instant,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Finished,
    /// It could not go on.
    Failed(String),
}

/// Everything heard of one job.
#[derive(Clone, Debug, Default)]
pub struct RunLog {
    /// Plans in order.
    pub plans: Vec<PlanLog>,
    /// Steps by number; a step that was redone after a restart stands once, as last committed.
    pub steps: BTreeMap<Step, StepLog>,
    /// Losses of peers in order.
    pub losses: Vec<LossLog>,
    /// How it ended.
    pub end: Option<End>,
    /// What the leader waits for, before there is a plan.
    pub waiting: Option<String>,
    /// Steps whose numbers differed when they were done again: must stay empty.
    pub contradictions: Vec<(Step, f64, f64)>,
    /// Bytes of tensors by (sender, receiver).
    pub shipped: BTreeMap<(PeerId, PeerId), Bytes>,
}

impl RunLog {
    /// Takes news in.
    pub fn hear(&mut self, news: &News, heard: Instant) {
        match news {
            News::Waiting { reason } => self.waiting = Some(reason.clone()),
            News::Adopted { plan, leader, base, restart } => {
                self.waiting = None;
                let decided = self.last().map_or(0, |step| step.commit.step.next().number());
                self.plans.push(PlanLog {
                    plan: (**plan).clone(),
                    leader: *leader,
                    base: *base,
                    restart: *restart,
                    undone: decided.saturating_sub(base.number()),
                    heard,
                });
            }
            News::Step { commit, epoch, elapsed, stages } => {
                if let Some(before) = self.steps.get(&commit.step)
                    && before.commit.loss.to_bits() != commit.loss.to_bits()
                {
                    self.contradictions.push((commit.step, before.commit.loss, commit.loss));
                }
                for (_, owner, stats) in stages {
                    for link in &stats.shipped {
                        *self.shipped.entry((*owner, link.to)).or_default() += link.bytes;
                    }
                }
                let step = StepLog {
                    commit: *commit,
                    epoch: *epoch,
                    elapsed: *elapsed,
                    heard,
                    stages: stages.clone(),
                };
                self.steps.insert(commit.step, step);
            }
            News::Lost { peer, stages, step } => {
                if self.losses.iter().all(|l| l.peer != *peer) {
                    let (peer, stages, step) = (*peer, stages.clone(), *step);
                    self.losses.push(LossLog { peer, stages, step, heard });
                }
            }
            News::Finished { .. } => self.end = Some(End::Finished),
            News::Failed { reason } => self.end = Some(End::Failed(reason.clone())),
        }
    }

    /// Returns the plan in force.
    pub fn plan(&self) -> Option<&PlanLog> {
        self.plans.last()
    }

    /// Returns the last committed step.
    pub fn last(&self) -> Option<&StepLog> {
        self.steps.values().next_back()
    }

    /// Returns losses in step order.
    pub fn loss_curve(&self) -> Vec<f64> {
        self.steps.values().map(|s| s.commit.loss).collect()
    }

    /// Returns how many steps are begun again because of a fault at a moment: the one in work, and those undone.
    ///
    /// None while no plan has answered the fault.
    pub fn steps_redone(&self, fault: Instant) -> Option<u64> {
        let mut answers = self.plans.iter().filter(|plan| plan.heard > fault).peekable();
        answers.peek()?;
        Some(answers.map(|plan| plan.undone + 1).sum())
    }

    /// Returns all bytes of tensors that crossed links.
    pub fn bytes(&self) -> Bytes {
        self.shipped.values().copied().sum()
    }

    /// Returns the median step time, without the first step of each plan (it includes loading and warming up).
    pub fn step_time(&self) -> Option<Duration> {
        let firsts: Vec<Step> = self.plans.iter().map(|p| p.base).collect();
        let regular = self.steps.values().filter(|s| !firsts.contains(&s.commit.step));
        let mut times: Vec<Duration> =
            regular.map(|s| s.elapsed).filter(|d| *d > Duration::ZERO).collect();
        times.sort();
        times.get(times.len() / 2).copied()
    }
}

impl StepLog {
    /// Returns the idle share of the stages' time in this step, in [0, 1].
    pub fn bubble(&self) -> Option<f64> {
        let total = self.elapsed.seconds() * self.stages.len() as f64;
        if total <= 0.0 {
            return None;
        }
        let busy: f64 = self
            .stages
            .iter()
            .flat_map(|(.., stats)| &stats.spans)
            .filter(|s| matches!(s.kind, SpanKind::Forward | SpanKind::Backward))
            .map(|s| s.ended.since(s.began).seconds())
            .sum();
        Some((1.0 - busy / total).clamp(0.0, 1.0))
    }

    /// Returns the bytes of tensors that this step shipped.
    pub fn bytes(&self) -> Bytes {
        self.links().into_values().sum()
    }

    /// Returns the bytes of tensors that this step shipped, by (sender, receiver).
    pub fn links(&self) -> BTreeMap<(PeerId, PeerId), Bytes> {
        let mut links = BTreeMap::new();
        for (_, owner, stats) in &self.stages {
            for link in &stats.shipped {
                *links.entry((*owner, link.to)).or_default() += link.bytes;
            }
        }
        links
    }
}
