//! Telling the people at a machine what their job does: each thing once and in order, though messages overtake each
//! other and a leader may die between a decision and its news.

use std::collections::BTreeMap;

use super::Ctx;
use super::io::{Effect, Event};
use super::job::Job;
use crate::ids::{Epoch, Step};
use crate::units::Duration;
use crate::wire::message::News;

/// Most news that wait for those before them.
const WAITING_MAX: usize = 4096;

/// What has been told, and what waits for what was before it.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The next step to tell of.
    next: Step,
    /// The last plan.
    epoch: Epoch,
    /// Steps that have been heard of too early, with their epoch.
    waiting: BTreeMap<Step, (Epoch, News)>,
    /// The end, which waits for the last step.
    end: Option<News>,
    over: bool,
}

impl Told {
    /// Says whether the end has been told.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}

impl Job {
    /// Tells the people at this machine, as soon as everything before has been told.
    pub(super) fn notify(&mut self, news: News, ctx: &mut Ctx<'_>) {
        match &news {
            News::Step { commit, epoch, .. } => {
                let told = &mut self.told;
                if commit.step >= told.next && told.waiting.len() < WAITING_MAX {
                    told.waiting.insert(commit.step, (*epoch, news));
                }
            }
            News::Adopted { plan, base, restart, .. } => {
                if plan.epoch <= self.told.epoch {
                    return;
                }
                self.told.epoch = plan.epoch;
                let (base, restart) = (*base, *restart);
                self.catch_up(base, restart, ctx);
                self.say(news, ctx);
            }
            News::Finished { .. } => self.told.end = Some(news),
            News::Failed { .. } => self.end(news, ctx),
            News::Waiting { .. } | News::Lost { .. } => self.say(news, ctx),
        }
        self.flush(ctx);
    }

    /// Tells of the steps before a plan's first one; news that died with a leader are told without their details.
    fn catch_up(&mut self, base: Step, restart: bool, ctx: &mut Ctx<'_>) {
        if restart {
            self.told.next = Step::default();
            self.told.waiting.clear();
            return;
        }
        while self.told.next < base {
            let step = self.told.next;
            let heard = self.told.waiting.remove(&step).map(|(_, news)| news);
            let decided = self.last.filter(|last| last.step == step).map(|commit| News::Step {
                commit,
                epoch: self.epoch(),
                elapsed: Duration::ZERO,
                stages: Vec::new(),
            });
            match heard.or(decided) {
                Some(news) => self.say(news, ctx),
                // Decided before this peer had to do with the job.
                None => self.told.next = base.min(self.last.map_or(base, |l| l.step.max(step.next()))),
            }
            self.told.next = self.told.next.max(step.next());
        }
    }

    fn flush(&mut self, ctx: &mut Ctx<'_>) {
        while let Some((epoch, _)) = self.told.waiting.get(&self.told.next) {
            if *epoch > self.told.epoch {
                return;
            }
            let next = self.told.next;
            if let Some((_, news)) = self.told.waiting.remove(&next) {
                self.told.next = next.next();
                self.say(news, ctx);
            }
        }
        if self.told.next >= self.steps()
            && let Some(end) = self.told.end.take()
        {
            self.end(end, ctx);
        }
    }

    fn end(&mut self, news: News, ctx: &mut Ctx<'_>) {
        if !self.told.over {
            self.told.over = true;
            self.say(news, ctx);
        }
    }

    fn say(&self, news: News, ctx: &mut Ctx<'_>) {
        ctx.out.push(Effect::Notify(Event::Job { job: self.id, news: Box::new(news) }));
    }
}
