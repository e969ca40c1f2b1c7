//! Moving stages of a running job to peers that run them faster, in two plans and without losing a step.
//!
//! | state     | meaning                                                   | leaves by                                     |
//! |-----------|-----------------------------------------------------------|-----------------------------------------------|
//! | none      | now and then, on a tick, a re-plan is made where          | one that is worth it -> wanted                |
//! |           | something has changed since the last                      |                                               |
//! | wanted    | the next decided step is followed by an inquiry; its plan | proposed -> following;                        |
//! |           | makes the newcomers backups as well                       | no room for them -> none, and no other plan   |
//! | following | newcomers pull the state; a step that is decided under    | that step; the next inquiry prefers them ->   |
//! |           | this plan is held by all of them                          | none                                          |
//!
//! Both plans are repairs, which every voter makes again; that the moves are worth it is the leader's own judgement,
//! from adverts, deeds, and how much slower owners have become under this plan. Whatever comes between, such as a loss, ends
//! in an ordinary repair, and a job that begins anew has no moves.
//! Only jobs move of which no stage has replicas, and stages stay what they are. Not here: which moves are worth it
//! (`schedule/fence/replan`).

use std::collections::BTreeMap;

use super::offer::living_adverts;
use super::{Lead, Phase, Ready, SETTLE};
use crate::ids::{Epoch, PeerId, StageId};
use crate::schedule::advert::{Advert, Link, SignedAdvert};
use crate::schedule::deeds::{Deed, Deeds};
use crate::schedule::fence::{Freedom, replan};
use crate::schedule::gauge::Gauge;
use crate::schedule::{Plan, Standing};
use crate::swarm::Ctx;
use crate::swarm::io::StageWork;
use crate::swarm::job::Job;
use crate::swarm::learn::learn;
use crate::units::{Duration, Instant};
use crate::wire::message::{Span, SpanKind, StageStats};

/// Pause between two looks for a better plan: a look costs about as much as two placements, and messages wait for it.
const LOOK: Duration = Duration::from_millis(20_000);
/// A stage's passes are noted once in this time; a gauge keeps few samples.
const NOTE: Duration = Duration::from_millis(500);
/// A factor or a rate that differs by no more than this share of it is the same: noise is no reason to look again.
const SAME: u64 = 4;
/// How long a move that a repair had no room for is not tried again, nor one back to an owner that was left: what it shows
/// of itself under another plan is less than what it was left for.
const REFUSED: Duration = Duration::from_millis(600_000);
/// Samples before a gauge's figure says what is usual.
const SAMPLES_MIN: usize = 4;
/// An owner whose deeds are worse than the other owners' by this factor is slow, whatever the models are off by.
const CERTAIN: u64 = 3 * ONE;
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

/// What a look for a better plan rests on: adverts, and by how many millionths their peers are slower than they say.
type Known = Vec<(Advert, u64)>;

/// What members did, as a leader saw it under the plan in force.
#[derive(Debug, Default)]
pub(super) struct Watched {
    paces: BTreeMap<(StageId, PeerId), Pace>,
    /// When a better plan was last looked for, and what was known then.
    looked: Instant,
    known: Option<Known>,
    /// Moves that a repair had no room for, and back to an owner that was left, and when.
    refused: BTreeMap<(StageId, PeerId), Instant>,
}

impl Watched {
    /// Notes how long a stage's passes took on the mean.
    ///
    /// Against what they took at best, not against what adverts promise: models are off, by more for small stages.
    fn note(&mut self, stage: StageId, owner: PeerId, stats: &StageStats, now: Instant) {
        let pace = self.paces.entry((stage, owner)).or_default();
        if pace.samples > 0 && now.since(pace.noted) < NOTE {
            return;
        }
        let is_pass = |kind| matches!(kind, SpanKind::Forward | SpanKind::Backward);
        let passes = stats.spans.iter().filter(|span| is_pass(span.kind));
        let times: Vec<u64> = passes.map(|s| s.ended.since(s.began).micros()).collect();
        let sum = times.iter().copied().fold(0, u64::saturating_add);
        let Some(mean) = sum.checked_div(times.len() as u64) else {
            return;
        };
        pace.gauge.add(mean.max(1), now);
        (pace.noted, pace.samples) = (now, pace.samples.saturating_add(1));
        if pace.samples >= SAMPLES_MIN
            && let Some(figure) = pace.gauge.figure(now)
        {
            pace.best = Some(pace.best.map_or(figure, |best| best.min(figure)));
        }
    }

    /// Another plan is in force: what is slow under it is so from its first steps on.
    pub(super) fn restart(&mut self) {
        *self = Self { refused: std::mem::take(&mut self.refused), ..Self::default() };
    }

    fn is_refused(&self, stage: StageId, peer: PeerId, now: Instant) -> bool {
        self.refused.get(&(stage, peer)).is_some_and(|at| now.since(*at) < REFUSED)
    }

    /// Returns how many millionths of its best time a peer takes; of several stages, that which says least.
    fn factor(&self, peer: PeerId, now: Instant) -> Option<u64> {
        let own = self.paces.iter().filter(|((_, owner), _)| *owner == peer);
        own.filter_map(|(_, pace)| pace.factor(now)).min()
    }
}

impl Job {
    /// Takes in what a step that is to be decided took its workers: as often as a stage may have reported it, once.
    pub(super) fn take_in(
        &mut self,
        ready: &BTreeMap<StageId, Ready>,
        plan: &Plan,
        ctx: &mut Ctx<'_>,
    ) {
        let me = ctx.me;
        let mut done: BTreeMap<PeerId, Vec<(&StageWork, &[Span])>> = BTreeMap::new();
        for (stage, report) in ready {
            let Some(work) = self.works.get(stage.index()) else { continue };
            // Of itself, the leader learns as every member does.
            for (peer, stats) in report.stats.iter().filter(|(peer, _)| *peer != me) {
                done.entry(*peer).or_default().push((work, &stats.spans));
            }
        }
        for (peer, parts) in done {
            learn(peer, &parts, plan, ctx);
        }
        let Some(lead) = &mut self.lead else {
            return;
        };
        for (stage, report) in ready {
            if let Some((owner, stats)) = report.stats.first() {
                lead.watched.note(*stage, *owner, stats, ctx.now);
            }
        }
    }

    /// A step is decided under the plan in force: moves that are under way go on. Every backup held the step's gradient
    /// before, so every newcomer has the state.
    pub(super) fn go_on_moving(&mut self, ctx: &mut Ctx<'_>) {
        let in_force = self.epoch();
        let moving = self.lead.as_ref().and_then(|lead| lead.moving.as_ref());
        if moving.is_some_and(|moving| moving.following.is_none_or(|epoch| epoch == in_force)) {
            self.inquire(ctx);
        }
    }

    /// Looks for a better plan, now and then, where something has changed since the last look. On a tick and not with a
    /// decision, which is under way before.
    ///
    /// *Cost*: two placements; what comes meanwhile waits.
    pub(super) fn look(&mut self, ctx: &mut Ctx<'_>) {
        let (Some(lead), Some(plan)) = (&self.lead, self.plan.clone()) else {
            return;
        };
        let pause = ctx.now.since(lead.settled.max(lead.watched.looked));
        let has_replicas = plan.stages.iter().any(|stage| !stage.replicas.is_empty());
        if lead.moving.is_some() || has_replicas || pause < LOOK.max(SETTLE) {
            return;
        }
        let known = self.known(&plan, ctx);
        let is_news = lead.watched.known.as_ref().is_none_or(|old| is_news(old, &known));
        let to = is_news.then(|| self.worthwhile(&plan, &known, ctx)).flatten();
        let Some(lead) = &mut self.lead else {
            return;
        };
        lead.watched.looked = ctx.now;
        if is_news {
            lead.watched.known = Some(known);
        }
        lead.moving = to.map(|to| Moving { to, following: None });
    }

    /// Returns moves that save more in the steps that are left than they cost.
    fn worthwhile(
        &self,
        plan: &Plan,
        known: &Known,
        ctx: &Ctx<'_>,
    ) -> Option<Vec<(StageId, PeerId)>> {
        let watched = &self.lead.as_ref()?.watched;
        let next = self.last.map(|last| last.step.next()).unwrap_or_default();
        let left = self.steps().number().saturating_sub(next.number());
        let request = self.request(plan.epoch.next(), ctx.me);
        let adverts: Vec<Advert> =
            known.iter().map(|(a, factor)| Deeds::slowed(a, *factor)).collect();
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
        let refused =
            |(stage, peer): &(StageId, PeerId)| watched.is_refused(*stage, *peer, ctx.now);
        let to = Some(to).filter(|to| !to.is_empty() && !to.iter().any(refused))?;
        tracing::info!(job = %self.id, %now, %step, %cost, moves = to.len(), "moves stages");
        Some(to)
    }

    /// Returns the adverts of living peers that have not failed lately, and by how much each is slower than it says: as its
    /// deeds show; an owner as the plan in force took it, and by as much more as it has become slower under that plan, or as
    /// it was from the start, where that is more than the models' fault.
    ///
    /// More than the owner that has least: what slows all alike moves nobody.
    fn known(&self, plan: &Plan, ctx: &Ctx<'_>) -> Known {
        let Some(lead) = &self.lead else {
            return Known::new();
        };
        let bars = lead.bars(ctx.now);
        let pace = |peer| lead.watched.factor(peer, ctx.now);
        let common = plan.stages.iter().filter_map(|stage| pace(stage.owner)).min();
        let common = u128::from(common.unwrap_or(ONE).max(1));
        let works = |peer| plan.stages.iter().any(|stage| stage.owner == peer);
        // Nor newcomers that a repair had no room for, or that are to be taken at their word against what was seen of them.
        let refused = |peer| plan.stage_ids().any(|s| lead.watched.is_refused(s, peer, ctx.now));
        let is_left_out = |peer| lead.disputed.contains(&peer) || refused(peer);
        let fails = |peer| {
            bars.iter().any(|(_, barred)| *barred == peer) || (!works(peer) && is_left_out(peer))
        };
        let able: Vec<SignedAdvert> = living_adverts(ctx);
        let able: Vec<SignedAdvert> =
            able.into_iter().filter(|signed| !fails(signed.advert.peer)).collect();
        let seen = self.deeds_of(&able, ctx);
        let deed = |list: &[Deed], peer| {
            list.iter().find(|deed| deed.peer == peer).map_or(ONE, |deed| deed.factor)
        };
        // By how much more than the plan in force took it for; the models are off for all, by more for some stages.
        let shown = |peer| {
            let over = u128::from(deed(&seen, peer)) * u128::from(ONE);
            let over = over / u128::from(deed(&lead.placed_by, peer).max(1));
            u64::try_from(over).unwrap_or(u64::MAX)
        };
        let usual = plan.stages.iter().map(|stage| shown(stage.owner)).min();
        // An owner that is faster than its word makes nobody else slow.
        let usual = usual.unwrap_or(ONE).max(ONE);
        let factor = |peer| {
            if !works(peer) {
                return deed(&seen, peer);
            }
            let more =
                pace(peer).map_or(ONE.into(), |own| u128::from(own) * u128::from(ONE) / common);
            let shown = u128::from(shown(peer)) * u128::from(ONE) / u128::from(usual);
            let shown = if shown >= u128::from(CERTAIN) { shown } else { 0 };
            let factor = u128::from(deed(&lead.placed_by, peer)) * more.max(shown).max(ONE.into());
            u64::try_from(factor / u128::from(ONE)).unwrap_or(u64::MAX)
        };
        able.into_iter()
            .map(|signed| {
                let own = factor(signed.advert.peer);
                (signed.advert, own)
            })
            .collect()
    }

    /// Lets moves go that a repair had no room for. Returns whether it changes nothing else, so that the plan in force goes on
    /// as it is: another one would cost a step.
    pub(super) fn drop_moves(
        &mut self,
        wanted: &[(StageId, PeerId)],
        next: &Plan,
        ctx: &Ctx<'_>,
    ) -> bool {
        let (Some(lead), Some(plan)) = (&mut self.lead, &self.plan) else {
            return false;
        };
        let lacks = |(stage, peer): &&(StageId, PeerId)| {
            let roles = next.stages.get(stage.index());
            roles.is_none_or(|roles| roles.holders().all(|holder| holder != *peer))
        };
        let lacking: Vec<(StageId, PeerId)> = wanted.iter().filter(lacks).copied().collect();
        if lacking.is_empty() {
            return false;
        }
        tracing::info!(job = %self.id, moves = lacking.len(), "no room for moves");
        lead.watched.refused.extend(lacking.iter().map(|pair| (*pair, ctx.now)));
        if let Some(moving) = &mut lead.moving {
            moving.to.retain(|pair| !lacking.contains(pair));
        }
        lead.moving.take_if(|moving| moving.to.is_empty());
        let is_same = (&next.stages, &next.council, next.submitter)
            == (&plan.stages, &plan.council, plan.submitter);
        let goes_on = lead.moving.is_none() && is_same;
        if goes_on {
            // What stages had reported they report again.
            lead.phase = Phase::Running { ready: BTreeMap::new() };
        }
        goes_on
    }
}

/// Says whether adverts or factors are others than they were, by more than noise.
fn is_news(old: &Known, new: &Known) -> bool {
    let apart = |one: u64, other: u64| one.abs_diff(other) > one.max(other) / SAME;
    let differs = |((old, before), (new, after)): (&(Advert, u64), &(Advert, u64))| {
        let rate = |link: &Link| link.rate.bytes_per_second();
        let link = |(old, new): (&Link, &Link)| old.peer != new.peer || apart(rate(old), rate(new));
        old.peer != new.peer
            || old.hardware != new.hardware
            || apart(*before, *after)
            || old.links.len() != new.links.len()
            || old.links.iter().zip(&new.links).any(link)
    };
    old.len() != new.len() || old.iter().zip(new).any(differs)
}

impl Lead {
    /// Puts moves that are under way into what a repair starts from: newcomers that are to follow, or, once they do, the
    /// order in which stages are taken over.
    pub(super) fn arrange_moves(
        &mut self,
        standing: &mut Standing,
        (in_force, next): (Epoch, Epoch),
        now: Instant,
    ) {
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
                        self.watched.refused.insert((stage, holders[0]), now);
                        holders[..=at].rotate_right(1);
                    }
                }
            }
            // Another plan came between.
            Some(_) => {}
        }
    }
}

#[cfg(test)]
impl Lead {
    /// Wants a move, whatever it is worth.
    pub(in crate::swarm) fn want(&mut self, stage: StageId, to: PeerId) {
        self.moving = Some(Moving { to: vec![(stage, to)], following: None });
    }

    /// Says whether a move was let go for want of room.
    pub(in crate::swarm) fn has_refused(&self, stage: StageId, to: PeerId, now: Instant) -> bool {
        self.moving.is_none() && self.watched.is_refused(stage, to, now)
    }
}
