//! OP-Fence: where the operators of a job run, from what peers and links were measured to do.
//!
//! Reading order: `grain` (the network in units), `lines` (orders of peers along fast links, in groups that run
//! a stage together), `stretch` (lays the network along a line so that no station is slower than another needs to be),
//! `judge` (what a layout costs), `refine` (small changes that help). The best layouts are cut in earnest and predicted
//! by the estimator. See docs/concepts/op-fence.md.
//!
//! Pure and deterministic: any peer makes a proposed plan again and compares.
//! Source: the goal (devices of similar bandwidth work together, little crosses slow links) is FusionLLM's; its algorithm is
//! not established (papers.md 1.8), so this one is ours.

mod baseline;
mod grain;
mod judge;
mod lines;
mod optimum;
mod refine;
mod stretch;

use std::collections::BTreeSet;

use super::advert::Advert;
use super::codec::Codec;
use super::estimate::Placement;
use super::footprint::Footprints;
use super::ground::Ground;
use super::links::Links;
use super::roles::{Standby, able_peers, council, ground_of};
use super::shortage::{Shortage, even};
use super::{Plan, PlanError, Prediction, StagePlan};
use crate::dag::cut::{Cut, cut};
use crate::dag::grad::{Training, differentiate};
use crate::dag::rewrite::recompute;
use crate::ids::{Epoch, JobId, PeerId, StageId};
use crate::job::{JobSpec, STAGES_MAX};
pub use baseline::Baseline;
use grain::Grain;
use judge::{Judge, Layout, Rules, Verdict};
use refine::{Scene, refine};
use stretch::Stretch;

/// Effort of a search in all (passes run and units summed): a fraction of a second, and less for few peers, whose few
/// layouts are soon tried. Every voter searches anew, while messages are handled.
const EFFORT_MAX: u64 = 600_000;
const EFFORT_PER_PEER: u64 = 60_000;
/// Layouts along lines that are improved.
const IMPROVED: usize = 16;
/// Layouts that are cut and predicted in earnest.
const FINALS: usize = 4;

/// Shares of peers' memory, in thousandths, within which the search stays, until a layout fits in full: it counts less
/// than stages take.
const SHARES: [u64; 4] = [1000, 800, 600, 400];

/// What the first placement starts from.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The job.
    pub spec: &'a JobSpec,
    /// Its id.
    pub job: JobId,
    /// Version of the plan.
    pub epoch: Epoch,
    /// Who asked for it.
    pub submitter: PeerId,
    /// Who leads it.
    pub leader: PeerId,
    /// How tensors cross links; the swarm sends dense ones.
    pub codec: Codec,
}

/// Places a job on the measured peers; the same inputs give the same plan on every machine.
///
/// *Errors*: [`PlanError`]. *Cost*: docs/concepts/op-fence.md has times by peers and operators.
pub fn place(request: Request<'_>, adverts: &[&Advert]) -> Result<Plan, PlanError> {
    let spec = request.spec;
    let able = able_peers(adverts);
    let wanted = spec.swarm.stages.unwrap_or(1);
    if able.is_empty() || able.len() < usize::from(wanted) {
        return Err(PlanError::NotEnoughPeers { wanted, known: able.len() });
    }
    let nodes = spec.dag.nodes().len();
    if nodes < usize::from(wanted) {
        return Err(PlanError::NotEnoughNodes { wanted, nodes });
    }
    let desk = Desk::of(request, adverts)?;
    let plain = desk.plain(adverts);
    for share in SHARES {
        let judge = desk.judge(share);
        if let Some(plan) = desk.best(&finalists(&judge, desk.able.len(), &plain)) {
            return Ok(plan);
        }
    }
    desk.even()
}

/// Places a job as a baseline does.
///
/// None where a stage does not fit its peer. *Errors*: [`PlanError`], but never out of memory.
pub fn place_as(
    baseline: Baseline,
    request: Request<'_>,
    adverts: &[&Advert],
) -> Result<Option<Plan>, PlanError> {
    let desk = Desk::of(request, adverts)?;
    let parts = (&desk.ground, desk.able.as_slice());
    let layouts = baseline::layouts(baseline, &desk.grain, parts, adverts);
    Ok(desk.best(&layouts))
}

/// A job and the peers that it may be placed on, measured.
#[derive(Debug)]
struct Desk<'a> {
    request: Request<'a>,
    able: Vec<&'a Advert>,
    grain: Grain,
    ground: Ground<'a>,
}

impl<'a> Desk<'a> {
    fn of(request: Request<'a>, adverts: &[&'a Advert]) -> Result<Self, PlanError> {
        let able = able_peers(adverts);
        if able.is_empty() {
            return Err(PlanError::NotEnoughPeers { wanted: 1, known: 0 });
        }
        let grain = Grain::of(request.spec)?;
        let links = Links::of(adverts);
        let ground = ground_of(&able, [request.leader], adverts, &links);
        Ok(Self { request, able, grain, ground })
    }

    /// Returns a judge that lets layouts take so many thousandths of the peers' memory.
    fn judge(&self, share: u64) -> Judge<'_> {
        let leader = self.ground.number(self.request.leader);
        let ground = (&self.ground, self.able.len());
        let rules = Rules { leader, codec: self.request.codec, share };
        Judge::new(&self.grain, self.request.spec, ground, rules)
    }

    /// Returns the layouts of baselines: the search begins with them too, so that it is behind none that it sees to fit.
    fn plain(&self, adverts: &[&Advert]) -> Vec<Layout> {
        let all = [
            Baseline::EqualNumber,
            Baseline::EqualCompute,
            Baseline::EvenLayers,
            Baseline::BestSingle,
        ];
        let parts = (&self.ground, self.able.as_slice());
        all.into_iter()
            .flat_map(|one| baseline::layouts(one, &self.grain, parts, adverts))
            .collect()
    }

    /// Returns an even cut's plan, or what does not fit.
    ///
    /// *Errors*: [`PlanError::OutOfMemory`].
    fn even(&self) -> Result<Plan, PlanError> {
        let (spec, training) = (self.request.spec, &self.grain.training);
        let most = self.able.len().min(training.forward_nodes).min(usize::from(STAGES_MAX));
        let counts: Vec<usize> = match spec.swarm.stages {
            Some(count) => vec![usize::from(count)],
            None => (1..=most).collect(),
        };
        let mut short: Option<Shortage> = None;
        for count in counts {
            match even(spec, training, &self.able, count)? {
                Ok((assignment, owners)) => {
                    let alone = |owner: &PeerId| StagePlan::alone(*owner, Vec::new());
                    let workers: Vec<StagePlan> = owners.iter().map(alone).collect();
                    if let Some(found) = self.planned(assignment, &workers) {
                        return Ok(self.plan(found));
                    }
                }
                Err(more) => {
                    short = Some(match short {
                        Some(short) => short.nearer(more),
                        None => more,
                    });
                }
            }
        }
        let none = PlanError::Network("no cut of it is legal".into());
        Err(short.map_or(none, |short| PlanError::OutOfMemory(Box::new(short))))
    }

    /// Cuts and predicts layouts in earnest; returns the plan of the fastest that fits.
    fn best(&self, layouts: &[Layout]) -> Option<Plan> {
        let one = |layout: &Layout| {
            let workers = stage_plans(layout, &self.ground);
            self.planned(self.grain.spread(&layout.stage_of), &workers)
        };
        let found = layouts.iter().filter_map(one);
        // The first of equals: the search has put them in order.
        let best = found.reduce(|best, next| if next.0.step < best.0.step { next } else { best });
        best.map(|found| self.plan(found))
    }

    /// Cuts the network, chooses backups, and predicts; None where the cut is refused (such as a buffer in two stages)
    /// or a peer has no room.
    fn planned(&self, assignment: Vec<StageId>, workers: &[StagePlan]) -> Option<Found> {
        let (spec, leader, codec) = (self.request.spec, self.request.leader, self.request.codec);
        let ground = &self.ground;
        let cut = cut_as(&self.grain.training, &assignment, spec.swarm.recompute).ok()?;
        let standby = Standby { spec, able: &self.able, ground, barred: &[] };
        let mut footprints = Footprints::of(spec, &cut);
        let stages = standby.with_backups(&cut, workers, &mut footprints);
        if !standby.fits(&stages, &mut footprints) {
            return None;
        }
        let placement = Placement { spec, cut: &cut, stages: &stages, leader, ground, codec };
        let stages = placement.dealt();
        let prediction = Placement { stages: &stages, ..placement }.predict();
        Some((prediction, assignment, stages))
    }

    fn plan(&self, (prediction, assignment, stages): Found) -> Plan {
        let (request, swarm) = (&self.request, &self.request.spec.swarm);
        Plan {
            job: request.job,
            epoch: request.epoch,
            assignment,
            council: council(&stages, &self.able, request),
            stages,
            submitter: request.submitter,
            order: swarm.order,
            recompute: swarm.recompute,
            prediction,
        }
    }
}

/// What is expected of a placement, the stage of each node, and who has a part in each stage.
type Found = (Prediction, Vec<StageId>, Vec<StagePlan>);

/// How a search compares with the best of all layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// Step time of the search's layout, in the model of the search, in microseconds.
    pub found: u64,
    /// The least step time of any layout.
    pub best: u64,
    /// Whether every layout was considered; else there may be better ones.
    pub settled: bool,
}

/// Compares what the search finds with all cuts, workers and orders, visiting at most so many branches. None where
/// nothing fits.
///
/// *Errors*: [`PlanError::Network`]. *Panics* beyond 16 operators or 32 peers. *Cost*: exponential.
pub fn quality(
    request: Request<'_>,
    adverts: &[&Advert],
    branches: u64,
) -> Result<Option<Quality>, PlanError> {
    let desk = Desk::of(request, adverts)?;
    let (judge, able) = (desk.judge(SHARES[0]), desk.able.len());
    let plain = desk.plain(adverts);
    let first = finalists(&judge, able, &plain).into_iter().next();
    let step = first.and_then(|layout| judge.cost(&layout)).map(|verdict| verdict.step);
    let known = step.unwrap_or(u64::MAX);
    let optimum = optimum::optimum(&judge, able, known, branches);
    let (best, settled) = (optimum.step, optimum.settled);
    Ok((best < u64::MAX).then_some(Quality { found: known, best, settled }))
}

/// Returns layouts that may be the best plan, the best first.
fn finalists(judge: &Judge<'_>, able: usize, plain: &[Layout]) -> Vec<Layout> {
    let orders = judge.grain.orders().into_iter();
    let stretches = orders.map(|order| Stretch::new(judge, able, order)).collect();
    let scene = Scene { judge, stretches, able };
    let mut found = starts(&scene);
    let wanted = judge.spec.swarm.stages.map(usize::from);
    let plain = plain.iter().filter(|l| wanted.is_none_or(|count| count == l.stages.len()));
    found.extend(plain.filter_map(|layout| Some((layout.clone(), judge.cost(layout)?))));
    found.sort_by_key(|(layout, verdict)| (verdict.step, layout.clone()));
    found.dedup();
    let kept = varied(found);
    let mut improved: Vec<(Layout, Verdict)> = Vec::new();
    let begun = judge.spent();
    let share = effort(able).saturating_sub(begun) / kept.len().max(1) as u64;
    for (number, start) in (1..).zip(kept) {
        improved.push(refine(&scene, start, begun + share * number));
    }
    improved.sort_by_key(|(layout, verdict)| (verdict.step, layout.clone()));
    improved.dedup();
    improved.truncate(FINALS);
    improved.into_iter().map(|(layout, _)| layout).collect()
}

fn effort(able: usize) -> u64 {
    EFFORT_MAX.min(EFFORT_PER_PEER * able as u64)
}

/// Lays the network along all lines, in all orders of its units.
fn starts(scene: &Scene<'_, '_>) -> Vec<(Layout, Verdict)> {
    let judge = scene.judge;
    let lines = lines::lines(judge.ground, scene.able, usize::from(judge.spec.swarm.replicas));
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    'lines: for stretch in &scene.stretches {
        for line in &lines {
            for layout in stretch.layouts(line) {
                if seen.insert(layout.clone())
                    && let Some(verdict) = judge.cost(&layout)
                {
                    found.push((layout, verdict));
                }
                if judge.spent() > effort(scene.able) / 2 && !found.is_empty() {
                    break 'lines;
                }
            }
        }
    }
    match judge.spec.swarm.stages.map(usize::from) {
        Some(wanted) => with_all_stages(scene, found, wanted),
        None => found,
    }
}

/// Splits stages, at the best place each time, until there are as many as the job fixes. Of layouts that have fewer, those
/// that lack least are split, the fastest of them first.
fn with_all_stages(
    scene: &Scene<'_, '_>,
    found: Vec<(Layout, Verdict)>,
    wanted: usize,
) -> Vec<(Layout, Verdict)> {
    let (mut whole, mut short): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(layout, _)| layout.stages.len() == wanted);
    short.sort_by_key(|(layout, verdict)| {
        (wanted.abs_diff(layout.stages.len()), verdict.step, layout.clone())
    });
    for (mut layout, mut verdict) in short.into_iter().take(IMPROVED / 4) {
        while layout.stages.len() < wanted {
            let choices = refine::splits(scene, &layout).into_iter();
            let costed = choices.filter_map(|split| Some((scene.judge.cost(&split)?, split)));
            let Some(best) = costed.min_by_key(|(v, split)| (v.step, split.clone())) else { break };
            (verdict, layout) = best;
        }
        if layout.stages.len() == wanted {
            whole.push((layout, verdict));
        }
    }
    whole
}

/// Keeps the best layouts, of each number of stages and workers at most a quarter.
fn varied(found: Vec<(Layout, Verdict)>) -> Vec<(Layout, Verdict)> {
    let mut taken = std::collections::BTreeMap::new();
    let mut kept = Vec::new();
    for (layout, verdict) in found {
        let workers: usize = layout.stages.iter().map(Vec::len).sum();
        let count: &mut usize = taken.entry((layout.stages.len(), workers)).or_default();
        if *count < IMPROVED / 4 && kept.len() < IMPROVED {
            *count += 1;
            kept.push((layout, verdict));
        }
    }
    kept
}

/// Returns the workers of each stage, without backups and with no turns yet.
fn stage_plans(layout: &Layout, ground: &Ground<'_>) -> Vec<StagePlan> {
    let one = |peers: &Vec<usize>| {
        let mut peers = peers.iter().map(|number| ground.peer(*number));
        let owner = peers.next().expect("a stage has an owner");
        StagePlan { replicas: peers.collect(), ..StagePlan::alone(owner, Vec::new()) }
    };
    layout.stages.iter().map(one).collect()
}

/// Differentiates and cuts a job's network as a plan says.
///
/// *Errors*: [`PlanError::Network`] if the assignment does not fit the network.
pub fn stage_graphs(
    spec: &JobSpec,
    assignment: &[StageId],
    recompute: bool,
) -> Result<Cut, PlanError> {
    let training = differentiate(spec.dag.clone(), spec.train.micro_batches)
        .map_err(|error| PlanError::Network(error.to_string()))?;
    cut_as(&training, assignment, recompute)
}

/// Cuts a network; with recomputation its stages keep only what comes from outside.
pub(super) fn cut_as(
    training: &Training,
    assignment: &[StageId],
    recomputes: bool,
) -> Result<Cut, PlanError> {
    let mut cut =
        cut(training, assignment).map_err(|error| PlanError::Network(error.to_string()))?;
    if recomputes {
        cut.stages = cut.stages.into_iter().map(recompute).collect();
    }
    Ok(cut)
}

#[cfg(test)]
mod tests;
