//! What the people at a submitter's machine are told of a job: each thing once, and steps in order.
//!
//! Messages may overtake each other, and a leader may die between a decision and its news. So news that comes before
//! its turn waits a while; then what is known of the missing steps from the decisions themselves is told in its place.

use std::collections::BTreeMap;

use super::Ctx;
use super::io::{Effect, Event};
use super::job::Job;
use crate::ids::{Epoch, Step};
use crate::units::{Duration, Instant};
use crate::wire::message::{Commit, News};

/// How long news waits for what should have come before it.
const HOLD: Duration = Duration::from_millis(1_000);
/// Most steps that wait; a member that is further behind is told of the latest only.
const WAITING_MAX: usize = 256;

/// What has been told, and what waits for its turn.
#[derive(Debug, Default)]
pub(super) struct Teller {
    /// All steps before this one are told.
    steps: Step,
    /// The last plan that was told of.
    epoch: Epoch,
    /// The last plan that began the job anew.
    anew: Epoch,
    /// News of steps that came before its turn.
    early: BTreeMap<(Step, Epoch), News>,
    /// Decisions whose news has not come.
    decided: BTreeMap<Step, Commit>,
    /// The job's end, while steps are missing.
    end: Option<News>,
    /// Since when something waits.
    since: Option<Instant>,
}

impl Teller {
    /// A plan begins the job anew: its steps will be told again.
    pub(super) fn restart(&mut self, epoch: Epoch) {
        if epoch <= self.anew {
            return;
        }
        self.anew = epoch;
        self.steps = Step::default();
        self.early.retain(|(_, of), _| *of >= epoch);
        self.decided.clear();
    }

    /// Notes a decision; its news should follow.
    pub(super) fn decided(&mut self, commit: Commit, now: Instant) {
        if commit.step >= self.steps && self.decided.len() < WAITING_MAX {
            self.decided.insert(commit.step, commit);
            self.since = self.since.or(Some(now));
        }
    }

    /// Takes the news of a step; what is known already is dropped.
    fn take(&mut self, step: Step, epoch: Epoch, news: News, now: Instant) {
        if step < self.steps || epoch < self.anew || self.early.len() >= WAITING_MAX {
            return;
        }
        self.early.insert((step, epoch), news);
        self.since = self.since.or(Some(now));
    }

    /// Returns what may be told: what is next in order, or, after a pause, what there is.
    fn next(&mut self, steps: Step, now: Instant) -> Option<News> {
        let late = self.since.is_some_and(|since| now.since(since) >= HOLD);
        let step = self.steps;
        let due = |(of, epoch): &(Step, Epoch)| *of == step && (late || *epoch <= self.epoch);
        if let Some(key) = self.early.keys().find(|key| due(key)).copied() {
            return self.early.remove(&key).inspect(|_| self.told(step));
        }
        if late {
            if let Some(commit) = self.decided.remove(&step) {
                self.told(step);
                let (epoch, stages) = (self.epoch, Vec::new());
                return Some(News::Step { commit, epoch, elapsed: Duration::ZERO, stages });
            }
            let first = |a: Option<Step>, b: Option<Step>| a.into_iter().chain(b).min();
            let early = self.early.keys().next().map(|(step, _)| *step);
            if let Some(step) = first(early, self.decided.keys().next().copied()) {
                self.steps = step;
                return self.next(steps, now);
            }
        }
        if late || self.steps >= steps {
            return self.end.take();
        }
        None
    }

    fn told(&mut self, step: Step) {
        self.steps = step.next();
        self.early.retain(|(of, _), _| *of > step);
        self.decided.retain(|of, _| *of > step);
    }

    fn waits(&self) -> bool {
        !self.early.is_empty() || !self.decided.is_empty() || self.end.is_some()
    }
}

impl Job {
    /// Takes news for the people at this machine.
    pub(super) fn notify(&mut self, news: News, ctx: &mut Ctx<'_>) {
        match &news {
            News::Step { commit, epoch, .. } => {
                let (step, epoch) = (commit.step, *epoch);
                self.teller.take(step, epoch, news, ctx.now);
            }
            News::Adopted { plan, base, restart, .. } => {
                let epoch = plan.epoch;
                if epoch <= self.teller.epoch {
                    return;
                }
                if *restart {
                    self.teller.restart(epoch);
                }
                if self.teller.epoch == Epoch::default() {
                    // A submitter that takes a running job over hears of it from here on; of one that is done, its last step.
                    let last = Step::new(self.steps().number().saturating_sub(1));
                    self.teller.steps = self.teller.steps.max((*base).min(last));
                }
                self.teller.epoch = epoch;
                self.say(news, ctx);
            }
            News::Finished { last, .. } => {
                if !self.over {
                    let steps = self.steps();
                    if let Some(commit) = last.filter(|last| last.step.next() == steps) {
                        self.teller.decided(commit, ctx.now);
                    }
                    self.over = true;
                    self.teller.end = Some(news);
                    self.teller.since = self.teller.since.or(Some(ctx.now));
                }
            }
            News::Failed { .. } => {
                if !self.over {
                    self.over = true;
                    self.say(news, ctx);
                }
            }
            News::Waiting { .. } | News::Lost { .. } => self.say(news, ctx),
        }
        self.tell_tick(ctx);
    }

    /// Tells what has its turn, or has waited long enough.
    pub(super) fn tell_tick(&mut self, ctx: &mut Ctx<'_>) {
        let steps = self.steps();
        let mut told = false;
        while let Some(news) = self.teller.next(steps, ctx.now) {
            told = true;
            self.say(news, ctx);
        }
        let is_last = |last: Commit| last.step.next() >= steps;
        if self.submitter == ctx.me
            && !self.over
            && self.teller.steps >= steps
            && self.last.is_some_and(is_last)
        {
            // Whether or not its leader's word of it comes.
            self.over = true;
            self.say(News::Finished { steps, last: self.last }, ctx);
        }
        if told {
            // What still waits has a pause of its own.
            self.teller.since = Some(ctx.now);
        }
        if !self.teller.waits() {
            self.teller.since = None;
        }
    }

    fn say(&self, news: News, ctx: &mut Ctx<'_>) {
        ctx.out.push(Effect::Notify(Event::Job { job: self.id, news: Box::new(news) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(step: u64) -> Commit {
        Commit { step: Step::new(step), scale: 1.0, loss: 2.0, norm: 1.0 }
    }

    fn news(step: u64) -> News {
        let (epoch, elapsed, stages) = (Epoch::new(1), Duration::from_micros(7), Vec::new());
        News::Step { commit: commit(step), epoch, elapsed, stages }
    }

    /// Steps that are told at a moment; those from decisions alone are marked by +100.
    fn told(teller: &mut Teller, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| teller.next(Step::new(9), now))
            .map(|news| match news {
                News::Step { commit, elapsed, .. } if elapsed == Duration::ZERO => {
                    commit.step.number() + 100
                }
                News::Step { commit, .. } => commit.step.number(),
                _ => 999,
            })
            .collect()
    }

    #[test]
    fn news_is_told_once_and_in_order_and_what_is_missing_from_the_decisions() {
        let now = Instant::from_micros(5);
        let mut teller = Teller { epoch: Epoch::new(1), ..Teller::default() };
        for step in [1, 0, 1, 3] {
            teller.take(Step::new(step), Epoch::new(1), news(step), now);
        }
        assert_eq!(told(&mut teller, now), [0, 1]);
        teller.take(Step::new(1), Epoch::new(1), news(1), now);
        teller.decided(commit(2), now);
        teller.take(Step::new(6), Epoch::new(1), news(6), now);
        assert_eq!(told(&mut teller, now), Vec::<u64>::new());
        assert_eq!(told(&mut teller, now + HOLD), [102, 3, 6]);
        assert!(!teller.waits());
    }

    #[test]
    fn a_restart_tells_steps_again() {
        let now = Instant::from_micros(5);
        let mut teller = Teller { epoch: Epoch::new(1), ..Teller::default() };
        teller.take(Step::new(0), Epoch::new(1), news(0), now);
        assert_eq!(told(&mut teller, now), [0]);
        teller.restart(Epoch::new(2));
        teller.take(Step::new(0), Epoch::new(1), news(0), now);
        teller.take(Step::new(0), Epoch::new(2), news(0), now);
        assert_eq!(told(&mut teller, now), Vec::<u64>::new(), "the plan is not told yet");
        teller.epoch = Epoch::new(2);
        assert_eq!(told(&mut teller, now), [0]);
    }
}
