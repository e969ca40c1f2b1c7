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
use super::footprint::{Demand, Footprints, Room};
use super::links::Links;
use super::shortage::{Shortage, even};
use super::{Plan, PlanError, Prediction, StagePlan};
use crate::dag::cut::{Cut, cut};
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
/// Shares of peers' memory, in thousandths, in which pieces are looked for, until some fit in full: the search counts a
/// lower bound of what they take.
const SHARES: [u64; 4] = [1000, 800, 600, 400];
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
    let search = Search { request, profile, standby, peers, counts };
    let (prediction, assignment, stages) = search.best()?;
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

/// A placement that fits: what is expected of it, the stage of each node, and who has a part in each stage.
type Found = (Prediction, Vec<StageId>, Vec<StagePlan>);

/// What placements are made and compared with.
struct Search<'a> {
    request: Request<'a>,
    profile: Profile,
    standby: Standby<'a>,
    peers: BTreeMap<PeerId, &'a Advert>,
    /// Numbers of stages to try.
    counts: Vec<usize>,
}

impl Search<'_> {
    /// Finds the fastest candidate that fits; where none does, an even cut that does.
    fn best(&self) -> Result<Found, PlanError> {
        let (spec, Standby { able, links, .. }) = (self.request.spec, &self.standby);
        for share in SHARES {
            let mut best: Option<Found> = None;
            for pieces in candidates(&self.profile, spec, (able, share), (links, &self.counts)) {
                let (assignment, owners) = self.profile.spread(&pieces, able);
                let found = self.planned(assignment, &owners)?;
                best = match (best, found) {
                    (Some(best), Some(found)) if best.0.step <= found.0.step => Some(best),
                    (best, found) => found.or(best),
                };
            }
            if let Some(best) = best {
                return Ok(best);
            }
        }
        let mut short: Option<Shortage> = None;
        for stages in self.counts.iter().copied() {
            match even(spec, &self.profile.training, able, stages)? {
                Ok((assignment, owners)) => {
                    if let Some(found) = self.planned(assignment, &owners)? {
                        return Ok(found);
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
        let wanted = u16::try_from(self.counts.len()).unwrap_or(u16::MAX);
        let none = PlanError::NotEnoughPeers { wanted, known: able.len() };
        Err(short.map_or(none, |short| PlanError::OutOfMemory(Box::new(short))))
    }

    /// Gives the stages of a cut to owners, chooses backups, and predicts; None where some peer has no room.
    fn planned(
        &self,
        assignment: Vec<StageId>,
        owners: &[PeerId],
    ) -> Result<Option<Found>, PlanError> {
        let spec = self.request.spec;
        let cut = cut_as(&self.profile.training, &assignment, spec.swarm.recompute)?;
        let mut footprints = Footprints::of(spec, &cut);
        let stages = self.standby.with_backups(&cut, owners, &mut footprints);
        if !self.standby.fits(&stages, &mut footprints) {
            return Ok(None);
        }
        let placement = Placement {
            spec,
            cut: &cut,
            stages: &stages,
            leader: self.request.leader,
            peers: &self.peers,
            links: self.standby.links,
        };
        Ok(Some((placement.predict(), assignment, stages)))
    }
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
    fn room(&self, peer: PeerId) -> Option<Room> {
        let advert = self.able.iter().find(|a| a.peer == peer)?;
        advert.hardware.as_ref().map(Room::of)
    }

    /// Chooses backups of each stage among those who have room: peers without a stage first, then those to whom the
    /// gradient travels fastest.
    pub(super) fn with_backups(
        &self,
        cut: &Cut,
        owners: &[PeerId],
        footprints: &mut Footprints<'_>,
    ) -> Vec<StagePlan> {
        let plan = |owner: &PeerId| StagePlan { owner: *owner, backups: Vec::new() };
        let mut plans: Vec<StagePlan> = owners.iter().map(plan).collect();
        let wanted = usize::from(self.spec.swarm.backups);
        let mut demands: BTreeMap<PeerId, Demand> = BTreeMap::new();
        for (at, owner) in owners.iter().enumerate() {
            if let Some(room) = self.room(*owner) {
                let own = footprints.owner(at, room, wanted > 0);
                let sum = demands.entry(*owner).or_default();
                *sum = sum.and(own);
            }
        }
        for (at, (stage, plan)) in cut.stages.iter().zip(&mut plans).enumerate() {
            let (size, owner) = (super::estimate::parameter_bytes(stage), plan.owner);
            let able = self.able.iter().map(|a| a.peer).filter(|p| *p != owner);
            let mut others: Vec<PeerId> =
                able.filter(|p| !self.barred.contains(&(stage.stage, *p))).collect();
            others
                .sort_by_key(|p| (owners.contains(p), self.links.transfer(owner, *p, size).0, *p));
            for peer in others {
                let Some(room) = self.room(peer).filter(|_| plan.backups.len() < wanted) else {
                    continue;
                };
                let had = demands.get(&peer).copied().unwrap_or_default();
                let sum = had.and(footprints.backup(at, room));
                if room.fits(sum) {
                    demands.insert(peer, sum);
                    plan.backups.push(peer);
                }
            }
        }
        plans
    }

    /// Says whether every peer has room for its parts in a plan.
    fn fits(&self, plans: &[StagePlan], footprints: &mut Footprints<'_>) -> bool {
        let demands = footprints.of_plan(plans, |peer| self.room(peer));
        demands.iter().all(|(peer, demand)| self.room(*peer).is_some_and(|r| r.fits(*demand)))
    }
}

/// Returns pieces that may make the best plan: for each number of stages the fastest lines, each once.
fn candidates(
    profile: &Profile,
    spec: &JobSpec,
    (able, share): (&[&Advert], u64),
    (links, counts): (&Links, &[usize]),
) -> Vec<Pieces> {
    let mut stations = Stations::new(profile, spec, (able, share), links);
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
