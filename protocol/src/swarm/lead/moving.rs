//! Moving stages of a running job to peers that run them faster, in two plans and without losing a step.
//!
//! | state     | meaning                                                   | leaves by                                     |
//! |-----------|-----------------------------------------------------------|-----------------------------------------------|
//! | none      | after each decided step, now and then, a re-plan is made  | one that is worth it -> wanted                |
//! | wanted    | an inquiry; its plan makes the newcomers backups as well  | proposed -> following                         |
//! | following | newcomers pull the state; a step that is decided under    | that step; the next inquiry prefers them ->   |
//! |           | this plan is held by all of them                          | none                                          |
//!
//! Both plans are repairs, which every voter makes again; that the moves are worth it is the leader's own judgement,
//! from adverts and from how much slower owners have become. Whatever comes between, such as a loss, ends in an ordinary repair.
//! Only owners of stages without replicas move, and stages stay what they are. Not here: which moves are worth it (`schedule/fence/replan`).

use std::collections::BTreeMap;

use super::{Lead, SETTLE};
use crate::ids::{Epoch, PeerId, StageId};
use crate::schedule::advert::Advert;
use crate::schedule::deeds::Deeds;
use crate::schedule::fence::{Freedom, replan};
use crate::schedule::gauge::Gauge;
use crate::schedule::{Plan, Standing};
use crate::swarm::Ctx;
use crate::swarm::job::Job;
use crate::units::{Duration, Instant};
use crate::wire::message::{SpanKind, StageStats};

/// Pause between two looks for a better plan: a look costs as much as a placement.
const LOOK: Duration = Duration::from_millis(20_000);
/// A stage's passes are noted once in this time; a gauge keeps few samples.
const NOTE: Duration = Duration::from_millis(500);
/// Samples before a gauge's figure says what is usual.
const SAMPLES_MIN: usize = 4;
/// A factor of one.
const ONE: u64 = 1_000_000;

/// Moves under way.
#[derive(Debug)]
pub(super) struct Moving {
    to: Vec<(StageId, PeerId)>,
    /// The plan under which newcomers follow, once it is proposed.
    following: Option<Epoch>,
}

/// How long the passes of a stage take at its owner.
#[derive(Debug, Default)]
struct Pace {
    gauge: Gauge,
    samples: usize,
    noted: Instant,
    /// The best that was shown.
    best: Option<u64>,
}

impl Pace {
    /// Returns how many millionths of its best time the owner takes.
    fn factor(&self, now: Instant) -> Option<u64> {
        let (figure, best) = (u128::from(self.gauge.figure(now)?), u128::from(self.best?));
        u64::try_from(figure * u128::from(ONE) / best.max(1)).ok()
    }
}

/// What members did, as a leader saw it.
#[derive(Debug, Default)]
pub(super) struct Watched {
    paces: BTreeMap<(StageId, PeerId), Pace>,
    /// When a better plan was last looked for.
    looked: Instant,
}

impl Watched {
    /// Returns how many millionths of its best time a peer takes; of several stages, that which says least.
    fn factor(&self, peer: PeerId, now: Instant) -> Option<u64> {
        let own = self.paces.iter().filter(|((_, owner), _)| *owner == peer);
        own.filter_map(|(_, pace)| pace.factor(now)).min()
    }
}

impl Job {
    /// Notes how long a stage's passes took on the mean.
    ///
    /// Against what they took at best, not against what adverts promise: models are off, by more for small stages.
    pub(super) fn note_pace(
        &mut self,
        stage: StageId,
        owner: PeerId,
        stats: &StageStats,
        ctx: &Ctx<'_>,
    ) {
        let Some(lead) = &mut self.lead else {
            return;
        };
        let pace = lead.watched.paces.entry((stage, owner)).or_default();
        if pace.samples > 0 && ctx.now.since(pace.noted) < NOTE {
            return;
        }
        let is_pass = |kind| matches!(kind, SpanKind::Forward | SpanKind::Backward);
        let passes = stats.spans.iter().filter(|span| is_pass(span.kind));
        let times: Vec<u64> = passes.map(|s| s.ended.since(s.began).micros()).collect();
        let sum = times.iter().copied().fold(0, u64::saturating_add);
        let Some(mean) = sum.checked_div(times.len() as u64) else {
            return;
        };
        pace.gauge.add(mean.max(1), ctx.now);
        (pace.noted, pace.samples) = (ctx.now, pace.samples.saturating_add(1));
        if pace.samples >= SAMPLES_MIN
            && let Some(figure) = pace.gauge.figure(ctx.now)
        {
            pace.best = Some(pace.best.map_or(figure, |best| best.min(figure)));
        }
    }

    /// A step is decided under the plan in force: moves that are under way go on, or a better plan is looked for.
    pub(super) fn consider_moving(&mut self, ctx: &mut Ctx<'_>) {
        let (Some(lead), Some(plan)) = (&mut self.lead, self.plan.clone()) else {
            return;
        };
        if let Some(moving) = &lead.moving {
            // Every backup held the step's gradient before it was decided, so every newcomer has the state.
            if moving.following == Some(plan.epoch) {
                self.inquire(ctx);
            }
            return;
        }
        if plan.stages.iter().any(|stage| !stage.replicas.is_empty()) {
            return;
        }
        let pause = ctx.now.since(lead.settled.max(lead.watched.looked));
        if pause < LOOK.max(SETTLE) {
            return;
        }
        lead.watched.looked = ctx.now;
        if let Some(to) = self.worthwhile(&plan, ctx) {
            if let Some(lead) = &mut self.lead {
                lead.moving = Some(Moving { to, following: None });
            }
            self.inquire(ctx);
        }
    }

    /// Returns moves that save more in the steps that are left than they cost.
    fn worthwhile(&self, plan: &Plan, ctx: &Ctx<'_>) -> Option<Vec<(StageId, PeerId)>> {
        let next = self.last.map(|last| last.step.next()).unwrap_or_default();
        let left = self.steps().number().saturating_sub(next.number());
        let request = self.request(plan.epoch.next(), ctx.me);
        let adverts = self.corrected(plan, ctx);
        let adverts: Vec<&Advert> = adverts.iter().collect();
        let found = replan(request, plan, &adverts, (left, Freedom::Owners));
        let found =
            found.inspect_err(|error| tracing::debug!(%error, "no other plan was looked for"));
        let found = found.ok().flatten()?;
        let (now, step, cost) = (found.now, found.plan.prediction.step, found.cost);
        let pairs = plan.stage_ids().zip(plan.stages.iter().zip(&found.plan.stages));
        let to: Vec<(StageId, PeerId)> = pairs
            .filter(|(_, (old, new))| old.owner != new.owner)
            .map(|(stage, (_, new))| (stage, new.owner))
            .collect();
        tracing::info!(job = %self.id, %now, %step, %cost, moves = to.len(), "moves stages");
        Some(to).filter(|to| !to.is_empty())
    }

    /// Returns the adverts of living peers that have not failed lately, slower by as much as they have become slower: by
    /// more than the owner that has least, since what slows all alike moves nobody.
    fn corrected(&self, plan: &Plan, ctx: &Ctx<'_>) -> Vec<Advert> {
        let Some(lead) = &self.lead else {
            return Vec::new();
        };
        let bars = lead.bars(ctx.now);
        let factor = |peer| lead.watched.factor(peer, ctx.now);
        let common = plan.stages.iter().filter_map(|stage| factor(stage.owner)).min();
        let common = u128::from(common.unwrap_or(ONE).max(1));
        let living = super::offer::living_adverts(ctx).into_iter();
        let able = living.filter(|s| bars.iter().all(|(_, peer)| *peer != s.advert.peer));
        able.map(|signed| match factor(signed.advert.peer) {
            Some(own) => {
                let more = u128::from(own) * u128::from(ONE) / common;
                Deeds::slowed(&signed.advert, u64::try_from(more).unwrap_or(u64::MAX).max(ONE))
            }
            None => signed.advert,
        })
        .collect()
    }
}

impl Lead {
    /// Puts moves that are under way into what a repair starts from: newcomers that are to follow, or, once they do, the
    /// order in which stages are taken over.
    pub(super) fn arrange_moves(&mut self, standing: &mut Standing, in_force: Epoch, next: Epoch) {
        let Some(moving) = self.moving.take() else {
            return;
        };
        match moving.following {
            None => {
                standing.wanted.clone_from(&moving.to);
                self.moving = Some(Moving { following: Some(next), ..moving });
            }
            Some(epoch) if epoch == in_force => {
                for (stage, peer) in moving.to {
                    let Some(holders) = standing.holders.get_mut(stage.index()) else { continue };
                    if let Some(at) = holders.iter().position(|holder| *holder == peer) {
                        holders[..=at].rotate_right(1);
                    }
                }
            }
            // Another plan came between.
            Some(_) => {}
        }
    }
}
