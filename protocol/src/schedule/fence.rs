//! A first placement: cuts of the topological order and owners for the pieces, by a dynamic program.
//!
//! For each number of stages and each of a few orders of peers, the program finds the contiguous pieces that make
//! the slowest station (a stage's arithmetic, or the link into it) fastest; the estimator then ranks the winners by
//! predicted step time. Contiguous pieces of a topological order are always a legal cut.
//! Source: the objective and the dynamic program follow papers.md 1.8 (our proposal there, FusionLLM's algorithm is
//! not established). Not here: fences (clusters of peers), replicas, cuts along branches.

mod pieces;
mod profile;

use std::collections::BTreeMap;

use super::advert::Advert;
use super::estimate::Placement;
use super::links::Links;
use super::{Plan, PlanError, Prediction, StagePlan};
use crate::dag::cut::{Cut, StageGraph, cut, whole};
use crate::dag::grad::{Training, differentiate};
use crate::dag::rewrite::recompute;
use crate::ids::{Epoch, JobId, PeerId, StageId};
use crate::job::JobSpec;
use crate::units::Bytes;
use pieces::{Pieces, Stations};
use profile::Profile;

/// Most peers that the program considers, the fastest first.
const PEERS_MAX: usize = 16;
/// Up to so many peers every choice and order is tried.
const PERMUTED_MAX: usize = 4;
/// Most lines that are cut and predicted in full, over all numbers of stages.
const CANDIDATES_MAX: usize = 64;
/// Most voters of a job's council, beside the leader and the submitter.
const COUNCIL_MAX: usize = 9;

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
}

/// Places a job on the measured peers; the same inputs give the same plan on every machine.
///
/// *Errors*: [`PlanError`]. *Cost*: O(orders x stages x peers x places x (peers + places)); with 16 peers and 600
/// operators under a second.
pub fn place(request: Request<'_>, adverts: &[&Advert]) -> Result<Plan, PlanError> {
    let spec = request.spec;
    let able = able_peers(adverts);
    let wanted = spec.swarm.stages.unwrap_or(1);
    if able.is_empty() || able.len() < usize::from(wanted) {
        return Err(PlanError::NotEnoughPeers { wanted, known: able.len() });
    }
    let profile = Profile::of(spec)?;
    let pieces = profile.places.len() - 1;
    if pieces < usize::from(wanted) {
        return Err(PlanError::NotEnoughNodes { wanted, nodes: pieces });
    }
    let links = Links::of(adverts);
    let standby = Standby { spec, able: &able, links: &links, barred: &[] };
    let peers: BTreeMap<PeerId, &Advert> = adverts.iter().map(|a| (a.peer, *a)).collect();
    let most = able.len().min(pieces);
    let counts: Vec<usize> = match spec.swarm.stages {
        Some(n) => vec![usize::from(n)],
        None => (1..=most).collect(),
    };
    let mut best: Option<(Prediction, Vec<StageId>, Vec<StagePlan>)> = None;
    for pieces in candidates(&profile, spec, &able, (&links, &counts)) {
        let (assignment, owners) = profile.spread(&pieces, &able);
        let cut = cut_as(&profile.training, &assignment, spec.swarm.recompute)?;
        let plans = standby.with_backups(&cut, &owners);
        let placement = Placement {
            spec,
            cut: &cut,
            stages: &plans,
            leader: request.leader,
            peers: &peers,
            links: &links,
        };
        let prediction = placement.predict();
        if best.as_ref().is_none_or(|(least, ..)| prediction.step < least.step) {
            best = Some((prediction, assignment, plans));
        }
    }
    let Some((prediction, assignment, stages)) = best else {
        let mut one = whole(&profile.training).stages.swap_remove(0);
        if spec.swarm.recompute {
            one = recompute(one);
        }
        let needed = super::estimate::memory(spec, &one, 1);
        let offered = able.iter().filter_map(|a| a.hardware.as_ref()).map(|h| h.memory).sum();
        return Err(PlanError::OutOfMemory { needed, offered });
    };
    Ok(Plan {
        job: request.job,
        epoch: request.epoch,
        assignment,
        council: council(&stages, &able, &request),
        stages,
        submitter: request.submitter,
        order: spec.swarm.order,
        recompute: spec.swarm.recompute,
        prediction,
    })
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
fn cut_as(training: &Training, assignment: &[StageId], recomputes: bool) -> Result<Cut, PlanError> {
    let mut cut =
        cut(training, assignment).map_err(|error| PlanError::Network(error.to_string()))?;
    if recomputes {
        cut.stages = cut.stages.into_iter().map(recompute).collect();
    }
    Ok(cut)
}

/// Returns the voters of a job: owners, backups, others by speed, then the leader and the submitter; each once.
pub(super) fn council(
    stages: &[StagePlan],
    able: &[&Advert],
    request: &Request<'_>,
) -> Vec<PeerId> {
    let submitter = request.submitter;
    let owners = stages.iter().map(|s| s.owner);
    let backups = stages.iter().flat_map(|s| s.backups.iter().copied());
    let others = able.iter().map(|a| a.peer);
    let mut list: Vec<PeerId> = Vec::new();
    for peer in owners.chain(backups).chain(others) {
        if peer != submitter && !list.contains(&peer) && list.len() < COUNCIL_MAX {
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

/// What backups are chosen from.
#[derive(Debug)]
pub(super) struct Standby<'a> {
    pub(super) spec: &'a JobSpec,
    pub(super) able: &'a [&'a Advert],
    pub(super) links: &'a Links,
    /// Who backs which stage not.
    pub(super) barred: &'a [(StageId, PeerId)],
}

impl Standby<'_> {
    /// Chooses backups of each stage: peers without a stage first, then those to whom the gradient travels fastest.
    pub(super) fn with_backups(&self, cut: &Cut, owners: &[PeerId]) -> Vec<StagePlan> {
        let one = |(stage, &owner): (&StageGraph, &PeerId)| {
            let size = super::estimate::parameter_bytes(stage);
            let able = self.able.iter().map(|a| a.peer).filter(|p| *p != owner);
            let mut others: Vec<PeerId> =
                able.filter(|p| !self.barred.contains(&(stage.stage, *p))).collect();
            others
                .sort_by_key(|p| (owners.contains(p), self.links.transfer(owner, *p, size).0, *p));
            others.truncate(usize::from(self.spec.swarm.backups));
            StagePlan { owner, backups: others }
        };
        cut.stages.iter().zip(owners).map(one).collect()
    }
}

/// Returns pieces that may make the best plan: for each number of stages the fastest lines, each once.
fn candidates(
    profile: &Profile,
    spec: &JobSpec,
    able: &[&Advert],
    (links, counts): (&Links, &[usize]),
) -> Vec<Pieces> {
    let mut stations = Stations::new(profile, spec, able, links);
    let mut found: Vec<Pieces> = Vec::new();
    if able.len() <= PERMUTED_MAX {
        let peers: Vec<usize> = (0..able.len()).collect();
        for &stages in counts {
            for order in choices(&peers, stages) {
                found.extend(stations.pieces(&order, &[stages]));
            }
        }
    } else {
        for order in orders(able, links) {
            found.extend(stations.pieces(&order, counts));
        }
    }
    found.sort();
    found.dedup();
    let each = CANDIDATES_MAX.div_ceil(counts.len().max(1));
    let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
    found.retain(|pieces| {
        let taken = taken.entry(pieces.stages.len()).or_default();
        *taken += 1;
        *taken <= each
    });
    found
}

/// Returns orders of peers: all by speed, and from each along its fastest links (the program may leave some out).
fn orders(able: &[&Advert], links: &Links) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..able.len()).collect();
    let mut list = vec![all.clone()];
    for first in all.iter().copied() {
        let mut chain = vec![first];
        let mut left: Vec<usize> = all.iter().copied().filter(|n| *n != first).collect();
        while !left.is_empty() {
            let last = able[chain[chain.len() - 1]].peer;
            let size = Bytes::new(1 << 20);
            let (place, _) = left
                .iter()
                .enumerate()
                .min_by_key(|(_, n)| (links.transfer(last, able[**n].peer, size).0, able[**n].peer))
                .expect("left is not empty");
            chain.push(left.remove(place));
        }
        if !list.contains(&chain) {
            list.push(chain);
        }
    }
    list
}

/// Returns every choice of `count` peers in every order.
fn choices(peers: &[usize], count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut list = Vec::new();
    for first in peers.iter().copied() {
        let rest: Vec<usize> = peers.iter().copied().filter(|n| *n != first).collect();
        for tail in choices(&rest, count - 1) {
            list.push(std::iter::once(first).chain(tail).collect());
        }
    }
    list
}

#[cfg(test)]
mod tests;
