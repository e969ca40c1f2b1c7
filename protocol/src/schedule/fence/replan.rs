//! Whether a running job is worth moving: a peer joined, left or changed its speed, and few moves save more than they cost.
//!
//! A search from the running layout for the least of time left and time to move: each move of a stage costs what its state
//! takes on the measured links, counted twice, so moves that gain little are not made. The result must beat the running
//! plan by a margin that noise of measurement does not reach, so that plans do not flap.
//! Our algorithm and margins. Not here: who asks (`swarm/lead`), and losses, which cannot wait (`repair`).

use std::collections::BTreeMap;
use std::rc::Rc;

use super::super::{Plan, PlanError};
use super::Request;
use super::changes::{KINDS, Kind, OWNERS};
use super::desk::Desk;
use super::judge::{Judge, Verdict};
use super::layout::Layout;
use super::refine::{Aim, refine_for};
use super::search::{effort, finalists, scene};
use crate::dag::bundle::optimizer_slots;
use crate::ids::{PeerId, StageId};
use crate::schedule::advert::Advert;
use crate::units::{Bytes, Duration};

/// A plan is left for one that is faster by so many hundredths. Two peers that are equal and measured ten percent off,
/// one up and one down, seem 22 percent apart.
const MARGIN: u64 = 125;
/// What is saved in the steps that are left is so many times what moving costs.
const WORTH: u64 = 2;
/// A plan with fewer moves is as good if it saves less by no more than one in so many.
const NEARLY: u64 = 10;
/// Fresh layouts that are improved beside the running one.
const FRESH: usize = 4;

/// What may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freedom {
    /// Who runs which stage; stages stay what they are.
    Owners,
    /// The cut, the number of stages and the order of passes, too.
    Everything,
}

/// A better plan for a running job, and what moving to it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replan {
    /// The plan.
    pub plan: Plan,
    /// Stages of the plan with workers that hold none of their state, and who these are.
    pub moves: Vec<(StageId, PeerId)>,
    /// What a step of the running plan takes, by the adverts.
    pub now: Duration,
    /// How long moving takes: state on links, and a step that is done anew.
    pub cost: Duration,
}

/// Looks for a plan that is worth moving to in the steps that are left; None where there is none, or where a worker of the
/// running plan is not among the measured peers: that is for a repair.
///
/// *Errors*: [`PlanError`] of a network that cannot be placed. *Cost*: as two placements.
pub fn replan(
    request: Request<'_>,
    running: &Plan,
    adverts: &[&Advert],
    (left, freedom): (u64, Freedom),
) -> Result<Option<Replan>, PlanError> {
    let desk = Desk::of(request, adverts)?;
    let judge = desk.judge(super::SHARES[0], request.codec);
    let Some(start) = layout_of(&desk, &judge, running) else {
        return Ok(None);
    };
    let Some(now) = judge.cost(&start) else {
        return Ok(None);
    };
    let moving = Moving::of(&desk, &judge, &start, running);
    let price = |layout: &Layout, verdict: Verdict| {
        let rest = verdict.step.saturating_mul(left);
        rest.saturating_add(moving.time(layout).micros().saturating_mul(WORTH))
    };
    let kinds: &[Kind] = match freedom {
        Freedom::Owners => &OWNERS,
        Freedom::Everything => &KINDS,
    };
    let able = desk.able.len();
    let scene = scene(&judge, able);
    let mut from = vec![(start.clone(), now)];
    if freedom == Freedom::Everything {
        let fresh = finalists(&judge, able, &desk.plain(adverts)).into_iter();
        let fresh = fresh.filter_map(|layout| judge.cost(&layout).map(|verdict| (layout, verdict)));
        from.extend(fresh.take(FRESH));
    }
    let begun = judge.spent();
    let share = effort(able).saturating_sub(begun).max(effort(able) / 2) / from.len() as u64;
    let aim = Aim { kinds, price: &price };
    let owners = Aim { kinds: &OWNERS, price: &price };
    let mut found = vec![refine_for(&scene, from[0].clone(), begun + share, &owners)];
    for (turn, start) in (1..).zip(from) {
        found.push(refine_for(&scene, start, begun + share * turn, &aim));
    }
    let worth = |before: u64, after: u64, moved: Duration| {
        let is_faster = after.saturating_mul(MARGIN) <= before.saturating_mul(100);
        let cost = (moved + Duration::from_micros(before)).micros();
        is_faster && before.saturating_sub(after).saturating_mul(left) >= cost.saturating_mul(WORTH)
    };
    let saved = |verdict: &Verdict| now.step.saturating_sub(verdict.step).saturating_mul(left);
    found.retain(|(layout, next)| worth(now.step, next.step, moving.time(layout)));
    // First the fewest moves that bring nearly as much as the most.
    let most = found.iter().map(|(_, next)| saved(next)).max().unwrap_or(0);
    found.sort_by_key(|(layout, next)| {
        let is_behind = saved(next) < most - most / NEARLY;
        (is_behind, moving.moves(layout).len(), price(layout, *next), layout.clone())
    });
    found.dedup();
    if found.is_empty() {
        return Ok(None);
    }
    let now = desk.predict(running)?.step;
    for (layout, _) in found {
        let (moves, moved) = (moving.moves(&layout), moving.time(&layout));
        // Counted in earnest on both sides, it must fit and be worth it too.
        let plan = match freedom {
            // The moves are repairs, which keep the forms.
            Freedom::Owners => desk.best_in(&[layout], &running.forms),
            Freedom::Everything => desk.best(&[layout]),
        };
        let is_worth = |plan: &Plan| worth(now.micros(), plan.prediction.step.micros(), moved);
        if let Some(plan) = plan.filter(is_worth) {
            return Ok(Some(Replan { plan, moves, now, cost: moved + now }));
        }
    }
    Ok(None)
}

/// Returns the layout of a running plan; None if it does not lie along the units of this network or its workers are not
/// among the peers that may work.
fn layout_of(desk: &Desk<'_>, judge: &Judge<'_>, plan: &Plan) -> Option<Layout> {
    let mut stage_of = vec![None; desk.grain.units()];
    if plan.assignment.len() != desk.grain.unit_of.len() {
        return None;
    }
    for (stage, unit) in plan.assignment.iter().zip(&desk.grain.unit_of) {
        let stage = u16::try_from(stage.index()).ok()?;
        if stage_of[*unit].replace(stage).is_some_and(|other| other != stage) {
            return None;
        }
    }
    let number = |peer| desk.ground.number(peer).filter(|number| *number < desk.able.len());
    let workers = |stage: &super::super::StagePlan| {
        stage.workers().map(number).collect::<Option<Vec<usize>>>().map(Rc::new)
    };
    let way = (0..).zip(&judge.ways);
    let mut way = way.filter(|(_, w)| (w.order, w.recompute) == (plan.order, plan.recompute));
    Some(Layout {
        stage_of: stage_of.into_iter().collect::<Option<_>>()?,
        stages: plan.stages.iter().map(workers).collect::<Option<_>>()?,
        way: way.next()?.0,
    })
}

/// Where the state of a running job lies.
struct Moving<'d> {
    desk: &'d Desk<'d>,
    /// For each unit: bytes of its state, who gives it, who holds it.
    units: Vec<(Bytes, usize, Vec<usize>)>,
}

impl<'d> Moving<'d> {
    fn of(desk: &'d Desk<'_>, judge: &Judge<'_>, layout: &Layout, running: &Plan) -> Self {
        let copies = 1 + optimizer_slots(&judge.spec.train.optimizer) as u64;
        let mut bytes: Vec<Bytes> =
            desk.grain.parameters.iter().map(|(own, _)| *own * copies).collect();
        for (tied, units) in &desk.grain.ties {
            for unit in units {
                bytes[*unit] += *tied * copies;
            }
        }
        let holders = |stage: usize| {
            let backups = running.stages[stage].backups.iter();
            let backups = backups.filter_map(|peer| desk.ground.number(*peer));
            layout.stages[stage].iter().copied().chain(backups).collect::<Vec<usize>>()
        };
        let stages: Vec<Vec<usize>> = (0..layout.stages.len()).map(holders).collect();
        let unit = |(bytes, stage): (Bytes, &u16)| {
            let holders = &stages[usize::from(*stage)];
            (bytes, holders[0], holders.clone())
        };
        Self { desk, units: bytes.into_iter().zip(&layout.stage_of).map(unit).collect() }
    }

    /// Returns how long state travels to whoever needs it in a layout: links at once, those of one peer one after another.
    fn time(&self, layout: &Layout) -> Duration {
        let mut links: BTreeMap<(usize, usize), Bytes> = BTreeMap::new();
        for ((bytes, giver, holders), stage) in self.units.iter().zip(&layout.stage_of) {
            let workers = &layout.stages[usize::from(*stage)];
            for worker in workers.iter().filter(|worker| !holders.contains(worker)) {
                *links.entry((*giver, *worker)).or_default() += *bytes;
            }
        }
        let mut busy: BTreeMap<(bool, usize), Duration> = BTreeMap::new();
        for ((from, to), bytes) in links {
            let (time, travel) = self.desk.ground.transfer(from, to, bytes);
            for end in [(false, from), (true, to)] {
                *busy.entry(end).or_default() += time + travel;
            }
        }
        busy.into_values().max().unwrap_or_default()
    }

    /// Returns which workers of a layout's stages hold none of their state.
    fn moves(&self, layout: &Layout) -> Vec<(StageId, PeerId)> {
        let mut list = Vec::new();
        for (stage, workers) in (0..).zip(&layout.stages) {
            let own = self.units.iter().zip(&layout.stage_of).filter(|(_, of)| **of == stage);
            let lacks =
                |worker: usize| own.clone().any(|((_, _, holders), _)| !holders.contains(&worker));
            let new = workers.iter().copied().filter(|worker| lacks(*worker));
            list.extend(new.map(|worker| (StageId::new(stage), self.desk.ground.peer(worker))));
        }
        list
    }
}

#[cfg(test)]
mod tests;
