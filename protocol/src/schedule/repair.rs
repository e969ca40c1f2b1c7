//! The least change of a plan after a loss: the same cut, a new owner only where the old one is gone.
//!
//! Pure: takes the old plan and who can go on with each stage, returns the next plan. Not here: finding out who
//! can (`swarm/lead`), or moving stages for speed.

use std::collections::BTreeMap;

use super::advert::Advert;
use super::estimate::Placement;
use super::fence::{Request, Standby, able_peers, council, stage_graphs};
use super::footprint::Footprints;
use super::links::Links;
use super::{Plan, PlanError, Standing};
use crate::ids::PeerId;

/// Repairs a plan. The first holder of each stage takes it over; whoever is barred from a stage does not back it up.
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
    let standby = Standby { spec, able: &able, links: &links, barred };
    let mut stages = standby.with_backups(&cut, &owners, &mut Footprints::of(spec, &cut));
    for ((stage, old), holding) in stages.iter_mut().zip(&previous.stages).zip(holders) {
        // A peer that already follows the stage needs no transfer of state: it stays a backup.
        let owner = stage.owner;
        let mut kept: Vec<PeerId> = old
            .backups
            .iter()
            .chain(holding)
            .copied()
            .filter(|p| *p != owner && holding.contains(p))
            .collect();
        kept.extend(stage.backups.iter().copied());
        let mut unique = Vec::new();
        for peer in kept {
            if !unique.contains(&peer) {
                unique.push(peer);
            }
        }
        unique.truncate(usize::from(spec.swarm.backups));
        stage.backups = unique;
    }
    let peers: BTreeMap<PeerId, &Advert> = adverts.iter().map(|a| (a.peer, *a)).collect();
    let prediction = Placement {
        spec,
        cut: &cut,
        stages: &stages,
        leader: request.leader,
        peers: &peers,
        links: &links,
    }
    .predict();
    Ok(Plan {
        job: request.job,
        epoch: request.epoch,
        assignment: previous.assignment.clone(),
        council: council(&stages, &able, &request),
        stages,
        submitter: request.submitter,
        order: previous.order,
        recompute: previous.recompute,
        prediction,
    })
}
