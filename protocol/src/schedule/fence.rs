//! OP-Fence: where the operators of a job run, from what peers and links were measured to do.
//!
//! Reading order: `desk` (a job and its peers), `grain` (the network in units), `lines` (orders of peers along fast links,
//! in groups that run a stage together), `memory` (what stages take), `stretch` (lays the network along a line so that no
//! station is slower than another needs to be), `judge` (what a `layout` costs) with its `bound`, `refine` (small `changes`
//! that help), `search` (all of it in order), `replan` (whether a running job is worth moving). The best layouts are cut in
//! earnest and predicted by the estimator. See docs/concepts/op-fence.md.
//!
//! Pure and deterministic: any peer makes a proposed plan again and compares.
//! Source: the goal (devices of similar bandwidth work together, little crosses slow links) is FusionLLM's; its algorithm is
//! not established (papers.md 1.8), so this one is ours.

mod baseline;
mod bound;
mod changes;
mod desk;
mod grain;
mod judge;
mod layout;
mod lines;
mod memo;
mod memory;
mod optimum;
mod refine;
mod replan;
mod rings;
mod search;
mod stretch;

use super::advert::Advert;
use super::codec::Codec;
use super::roles::able_peers;
use super::{Plan, PlanError};
use crate::dag::cut::{Cut, cut};
use crate::dag::grad::{Training, differentiate};
use crate::dag::rewrite::recompute;
use crate::ids::{Epoch, JobId, PeerId, StageId};
use crate::job::JobSpec;
pub use baseline::Baseline;
use desk::Desk;
pub use memo::{Memo, Planner};
pub use replan::{Freedom, Replan, replan};

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
    /// How tensors cross links; jobs name theirs.
    pub codec: Codec,
}

/// Places a job on the measured peers; the same inputs give the same plan on every machine.
///
/// *Errors*: [`PlanError`]. *Cost*: docs/concepts/op-fence.md has times by peers and operators.
pub fn place(request: Request<'_>, adverts: &[&Advert]) -> Result<Plan, PlanError> {
    let spec = request.spec;
    let able = able_peers(adverts);
    let wanted = spec.swarm.stages.unwrap_or(1);
    let parts = able.len() * usize::from(spec.swarm.stages_per_peer);
    if able.is_empty() || parts < usize::from(wanted) {
        return Err(PlanError::NotEnoughPeers { wanted, known: able.len() });
    }
    let nodes = spec.dag.nodes().len();
    if nodes < usize::from(wanted) {
        return Err(PlanError::NotEnoughNodes { wanted, nodes });
    }
    let desk = Desk::of(request, adverts)?;
    let plain = desk.plain(adverts);
    for share in SHARES {
        if let Some(plan) = desk.best(&desk.finalists(share, &plain)) {
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
    Ok(desk.best(&desk.layouts(baseline, adverts)))
}

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
    let (judge, able) = (desk.judge(SHARES[0], request.codec), desk.able.len());
    let first = desk.finalists(SHARES[0], &desk.plain(adverts)).into_iter().next();
    let step = first.and_then(|layout| judge.cost(&layout)).map(|verdict| verdict.step);
    let known = step.unwrap_or(u64::MAX);
    let optimum = optimum::optimum(&judge, able, known, branches);
    let (best, settled) = (optimum.step, optimum.settled);
    Ok((best < u64::MAX).then_some(Quality { found: known, best, settled }))
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
