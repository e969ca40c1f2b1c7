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
//! from what members did beside what they said. Whatever comes between, such as a loss, ends in an ordinary repair.
//! Only owners of stages without replicas move, and stages stay what they are. Not here: which moves are worth it (`schedule/fence/replan`).

use super::{Lead, SETTLE};
use crate::ids::{Epoch, PeerId, StageId};
use crate::schedule::advert::{Advert, Hardware};
use crate::schedule::codec::Codec;
use crate::schedule::deeds::Deeds;
use crate::schedule::estimate::program_load;
use crate::schedule::fence::{Freedom, Request, replan};
use crate::schedule::load::Load;
use crate::schedule::{Plan, Standing};
use crate::swarm::Ctx;
use crate::swarm::job::Job;
use crate::units::{Duration, Instant};
use crate::wire::message::{SpanKind, StageStats};

/// Pause between two looks for a better plan: a look costs as much as a placement.
const LOOK: Duration = Duration::from_millis(20_000);
/// Deeds of a stage are taken from a report once in this time; a gauge keeps few samples.
const NOTE: Duration = Duration::from_millis(1000);

/// Moves under way.
#[derive(Debug)]
pub(super) struct Moving {
    to: Vec<(StageId, PeerId)>,
    /// The plan under which newcomers follow, once it is proposed.
    following: Option<Epoch>,
}

/// What members did, as a leader saw it.
#[derive(Debug, Default)]
pub(super) struct Watched {
    deeds: Deeds,
    /// When each stage's passes were last noted.
    noted: std::collections::BTreeMap<StageId, Instant>,
    /// When a better plan was last looked for.
    looked: Instant,
}

impl Job {
    /// Notes how long a stage's passes took against what its owner's advert promises.
    ///
    /// Peers that share a machine, and models that are off, make all passes longer than promised: see [`Self::corrected`].
    pub(super) fn note_deeds(
        &mut self,
        stage: StageId,
        owner: PeerId,
        stats: &StageStats,
        ctx: &Ctx<'_>,
    ) {
        let (Some(lead), Some(work)) = (&mut self.lead, self.works.get(stage.index())) else {
            return;
        };
        let last = lead.watched.noted.get(&stage);
        if last.is_some_and(|at| ctx.now.since(*at) < NOTE) {
            return;
        }
        let advert = ctx.gossip.advert(owner).and_then(|signed| signed.advert.hardware.as_ref());
        let Some(hardware) = advert else {
            return;
        };
        lead.watched.noted.insert(stage, ctx.now);
        let graph = &work.graph;
        let promised = |load: Load, hardware: &Hardware| hardware.time(load);
        let forward = promised(program_load(graph, &graph.forward.nodes), hardware);
        let backward = promised(program_load(graph, &graph.backward.nodes), hardware);
        for span in &stats.spans {
            let predicted = match span.kind {
                SpanKind::Forward => forward,
                SpanKind::Backward => backward,
                SpanKind::Reduce | SpanKind::Optimizer => continue,
            };
            lead.watched.deeds.observe(owner, predicted, span.ended.since(span.began), ctx.now);
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
        let request = Request {
            spec: &self.spec,
            job: self.id,
            epoch: plan.epoch.next(),
            submitter: self.submitter,
            leader: ctx.me,
            codec: Codec::Dense,
        };
        let adverts = self.corrected(plan, ctx);
        let adverts: Vec<&Advert> = adverts.iter().collect();
        let found = replan(request, plan, &adverts, (left, Freedom::Owners));
        let found =
            found.inspect_err(|error| tracing::debug!(%error, "no other plan was looked for"));
        let found = found.ok().flatten()?;
        let (now, step, cost) = (found.now, found.plan.prediction.step, found.cost);
        tracing::info!(job = %self.id, %now, %step, %cost, moves = found.moves.len(), "moves stages");
        Some(found.moves)
    }

    /// Returns the adverts of living peers that have not failed lately, with speeds as shown. Whoever has shown nothing is
    /// taken to be off by as much as the middle of those who have: what slows all alike moves nobody.
    fn corrected(&self, plan: &Plan, ctx: &Ctx<'_>) -> Vec<Advert> {
        let Some(lead) = &self.lead else {
            return Vec::new();
        };
        let bars = lead.bars(ctx.now);
        let deeds = &lead.watched.deeds;
        let owners = plan.stages.iter().map(|stage| stage.owner);
        let mut shown: Vec<u64> = owners.filter_map(|peer| deeds.factor(peer, ctx.now)).collect();
        shown.sort_unstable();
        let middle = shown.get(shown.len() / 2).copied();
        let living = super::offer::living_adverts(ctx).into_iter();
        let able = living.filter(|s| bars.iter().all(|(_, peer)| *peer != s.advert.peer));
        able.map(|signed| match (deeds.factor(signed.advert.peer, ctx.now), middle) {
            (None, Some(middle)) => Deeds::slowed(&signed.advert, middle),
            (Some(_), _) | (None, None) => deeds.corrected(&signed.advert, ctx.now),
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
