//! Who has which part beside running stages: who may work at all, who stands by, who votes.

use std::collections::BTreeMap;

use super::StagePlan;
use super::advert::Advert;
use super::estimate::parameter_bytes;
use super::fence::Request;
use super::footprint::{Demand, Footprints, Room};
use super::ground::Ground;
use super::links::Links;
use crate::dag::cut::{Cut, StageGraph};
use crate::ids::{PeerId, StageId};
use crate::job::JobSpec;
use crate::units::{Bytes, Duration};

/// Most peers that a placement considers, the fastest first.
pub(super) const PEERS_MAX: usize = 160;
/// Most voters of a job's council, beside the leader and the submitter.
const COUNCIL_MAX: usize = 9;

/// Returns the voters of a job: owners, replicas, backups, others by speed, then the leader and the submitter; each once.
pub(super) fn council(
    stages: &[StagePlan],
    able: &[&Advert],
    request: &Request<'_>,
) -> Vec<PeerId> {
    let submitter = request.submitter;
    let owners = stages.iter().map(|s| s.owner);
    let replicas = stages.iter().flat_map(|s| s.replicas.iter().copied());
    let backups = stages.iter().flat_map(|s| s.backups.iter().copied());
    let others = able.iter().map(|a| a.peer);
    let mut list: Vec<PeerId> = Vec::new();
    for peer in owners.chain(replicas).chain(backups).chain(others) {
        if list.len() == COUNCIL_MAX {
            break;
        }
        if peer != submitter && !list.contains(&peer) {
            list.push(peer);
        }
    }
    if request.leader != submitter && !list.contains(&request.leader) {
        list.push(request.leader);
    }
    list.push(submitter);
    list
}

/// Returns peers with hardware, fastest first, ties by id; at most [`PEERS_MAX`].
pub(super) fn able_peers<'a>(adverts: &[&'a Advert]) -> Vec<&'a Advert> {
    let mut able: Vec<&Advert> = adverts.iter().copied().filter(|a| a.hardware.is_some()).collect();
    able.sort_by_key(|a| {
        let speed = a.hardware.as_ref().map(|h| h.speed).unwrap_or_default();
        (std::cmp::Reverse(speed), a.peer)
    });
    able.truncate(PEERS_MAX);
    able
}

/// Lays out these peers and whoever else has a part, each once.
pub(super) fn ground_of<'a>(
    able: &[&'a Advert],
    others: impl IntoIterator<Item = PeerId>,
    adverts: &[&'a Advert],
    links: &Links,
) -> Ground<'a> {
    let mut list: Vec<_> = able.iter().map(|a| (a.peer, a.hardware.as_ref())).collect();
    for peer in others {
        if list.iter().all(|(known, _)| *known != peer) {
            let advert = adverts.iter().find(|a| a.peer == peer);
            list.push((peer, advert.and_then(|a| a.hardware.as_ref())));
        }
    }
    Ground::new(&list, links)
}

/// What backups are chosen from.
#[derive(Debug)]
pub(super) struct Standby<'a> {
    pub(super) spec: &'a JobSpec,
    pub(super) able: &'a [&'a Advert],
    pub(super) ground: &'a Ground<'a>,
    /// Who backs which stage not.
    pub(super) barred: &'a [(StageId, PeerId)],
}

impl Standby<'_> {
    /// Chooses backups of each stage among those who have room: peers without a stage first, then those to whom the
    /// gradient travels fastest.
    pub(super) fn with_backups(
        &self,
        cut: &Cut,
        workers: &[StagePlan],
        footprints: &mut Footprints<'_>,
    ) -> Vec<StagePlan> {
        let backups = usize::from(self.spec.swarm.backups);
        // Replicas hold the state too.
        let wanted = |plan: &StagePlan| backups.saturating_sub(plan.replicas.len());
        let mut plans = workers.to_vec();
        let mut demands: BTreeMap<PeerId, Demand> = BTreeMap::new();
        for (at, plan) in plans.iter_mut().enumerate() {
            plan.backups.clear();
            let parts = (plan.workers().count(), backups > 0 || !plan.replicas.is_empty());
            for peer in plan.workers() {
                let own = footprints.worker(at, self.room(peer), parts);
                let sum = demands.entry(peer).or_default();
                *sum = sum.and(own);
            }
        }
        for (at, (stage, plan)) in cut.stages.iter().zip(&mut plans).enumerate() {
            for peer in self.nearest(stage, plan, workers) {
                if plan.backups.len() == wanted(plan) {
                    break;
                }
                let (room, had) = (self.room(peer), demands.get(&peer).copied());
                let sum = had.unwrap_or_default().and(footprints.backup(at, room));
                if room.fits(sum) {
                    demands.insert(peer, sum);
                    plan.backups.push(peer);
                }
            }
        }
        plans
    }

    /// Lists who could back a stage up, the best first.
    fn nearest(&self, stage: &StageGraph, plan: &StagePlan, workers: &[StagePlan]) -> Vec<PeerId> {
        let works = |peer: PeerId| workers.iter().any(|plan| plan.workers().any(|w| w == peer));
        let size = parameter_bytes(stage);
        let owner = self.ground.number(plan.owner);
        let able = self.able.iter().map(|a| a.peer);
        let able = able.filter(|peer| plan.workers().all(|worker| worker != *peer));
        let able = able.filter(|peer| !self.barred.contains(&(stage.stage, *peer)));
        let mut list: Vec<_> = able
            .map(|peer| {
                let near = match (owner, self.ground.number(peer)) {
                    (Some(from), Some(to)) => self.ground.transfer(from, to, size).0,
                    _ => Duration::MAX,
                };
                (works(peer), near, peer)
            })
            .collect();
        list.sort_unstable();
        list.into_iter().map(|(.., peer)| peer).collect()
    }

    fn room(&self, peer: PeerId) -> Room {
        let nothing = Room { memory: Bytes::ZERO, threads: 1 };
        self.ground.number(peer).map_or(nothing, |number| self.ground.room(number))
    }

    /// Says whether every peer has room for its parts in a plan.
    pub(super) fn fits(&self, plans: &[StagePlan], footprints: &mut Footprints<'_>) -> bool {
        let demands = footprints.of_plan(plans, |peer| Some(self.room(peer)));
        demands.iter().all(|(peer, demand)| self.room(*peer).fits(*demand))
    }
}
