//! The least change of a plan after a loss: the same cut, a new owner only where the old one is gone, and a lost
//! replica's micro-batches dealt out to the workers that are left.
//!
//! Pure: takes the old plan and who can go on with each stage, returns the next plan. Not here: finding out who
//! can (`swarm/lead`), or moving stages for speed.

use super::advert::Advert;
use super::estimate::Placement;
use super::fence::{Request, stage_graphs};
use super::footprint::Footprints;
use super::forms::may_be;
use super::links::Links;
use super::roles::{Standby, able_peers, council, ground_of};
use super::{Plan, PlanError, StagePlan, Standing};
use crate::ids::PeerId;

/// Repairs a plan. The first holder of each stage takes it over; whoever is barred from a stage does not back it up; who is
/// wanted there backs it up beside the others, if all have room.
///
/// *Errors*: [`PlanError::NotEnoughPeers`] if nobody holds some stage, [`PlanError::Network`] for a foreign plan.
pub fn repair(
    request: Request<'_>,
    previous: &Plan,
    standing: &Standing,
    adverts: &[&Advert],
) -> Result<Plan, PlanError> {
    let spec = request.spec;
    let holders = &standing.holders;
    let cut = stage_graphs(spec, &previous.assignment, previous.recompute)?;
    if holders.len() != cut.stages.len() || previous.stages.len() != cut.stages.len() {
        return Err(PlanError::Network("the old plan has another number of stages".into()));
    }
    let able = able_peers(adverts);
    let owners: Vec<PeerId> = holders.iter().filter_map(|h| h.first().copied()).collect();
    if owners.len() != cut.stages.len() {
        let wanted = u16::try_from(cut.stages.len()).unwrap_or(u16::MAX);
        return Err(PlanError::NotEnoughPeers { wanted, known: owners.len() });
    }
    let links = Links::of(adverts);
    let barred = &standing.barred;
    let wanted = standing.wanted.iter().map(|(_, peer)| *peer);
    let parts = holders.iter().flatten().chain(owners.iter()).copied().chain(wanted);
    let backups = previous.stages.iter().flat_map(|stage| stage.backups.iter().copied());
    let ground = ground_of(&able, parts.chain(backups).chain([request.leader]), adverts, &links);
    let standby = Standby { spec, able: &able, ground: &ground, barred };
    let workers: Vec<StagePlan> =
        previous.stages.iter().zip(&owners).zip(holders).map(workers_left).collect();
    let order = previous.order;
    let mut stages = standby.with_backups(&cut, &workers, &mut Footprints::of(spec, &cut, order));
    keep_followers(&mut stages, previous, holders, usize::from(spec.swarm.backups));
    let plain = stages.clone();
    for (stage, peer) in &standing.wanted {
        if let Some(plan) = stages.get_mut(stage.index())
            && plan.workers().all(|worker| worker != *peer)
            && !plan.backups.contains(peer)
        {
            plan.backups.push(*peer);
        }
    }
    if !standby.fits(&stages, &mut Footprints::of(spec, &cut, order)) {
        stages = plain;
    }
    // As before, wherever the links lead now: nothing that is learnt depends on who has failed.
    let forms = previous.forms.as_slice();
    if !may_be(forms, spec.swarm.codec, &cut.edges) {
        return Err(PlanError::Network("the old plan's forms are not those of its edges".into()));
    }
    let (leader, ground) = (request.leader, &ground);
    let placement = Placement { spec, cut: &cut, order, stages: &stages, leader, ground, forms };
    let stages = placement.dealt();
    let prediction = Placement { stages: &stages, ..placement }.predict();
    Ok(Plan {
        job: request.job,
        epoch: request.epoch,
        assignment: previous.assignment.clone(),
        council: council(&stages, &able, &request),
        stages,
        submitter: request.submitter,
        order,
        recompute: previous.recompute,
        forms: previous.forms.clone(),
        prediction,
    })
}

/// Lets peers that already follow a stage stay its backups: they need no transfer of state.
fn keep_followers(stages: &mut [StagePlan], previous: &Plan, holders: &[Vec<PeerId>], most: usize) {
    for ((stage, old), holding) in stages.iter_mut().zip(&previous.stages).zip(holders) {
        let owner = stage.owner;
        let mut kept: Vec<PeerId> = old
            .backups
            .iter()
            .chain(holding)
            .copied()
            .filter(|p| *p != owner && !stage.replicas.contains(p) && holding.contains(p))
            .collect();
        kept.extend(stage.backups.iter().copied());
        let mut unique = Vec::new();
        for peer in kept {
            if !unique.contains(&peer) {
                unique.push(peer);
            }
        }
        unique.truncate(most.saturating_sub(stage.replicas.len()));
        stage.backups = unique;
    }
}

/// Returns the workers of a stage that can go on with it: its first holder owns it, no one else begins to run it.
fn workers_left(((old, owner), holding): ((&StagePlan, &PeerId), &Vec<PeerId>)) -> StagePlan {
    // An owner that is relieved by somebody who did not run the stage hands its place over.
    let relieved = old.place(*owner).is_none().then_some(old.owner);
    let left = old.workers().filter(|p| p != owner && Some(*p) != relieved && holding.contains(p));
    StagePlan { replicas: left.collect(), ..StagePlan::alone(*owner, Vec::new()) }
}
