//! A first placement: cuts of the topological order and owners for the pieces, by a dynamic program.
//!
//! For each number of stages and each of a few orders of peers, the program finds the contiguous pieces that make
//! the slowest station (a stage's arithmetic, or the link into it) fastest; the estimator then ranks the winners by
//! predicted step time. Contiguous pieces of a topological order are always a legal cut.
//! Source: the objective and the dynamic program follow papers.md 1.8 (our proposal there, FusionLLM's algorithm is
//! not established). Not here: fences (clusters of peers), replicas, cuts along branches.

use std::collections::BTreeMap;

use super::advert::Advert;
use super::estimate::{Placement, node_loads};
use super::links::Links;
use super::load::Load;
use super::pipeline::in_flight;
use super::{Plan, PlanError, Prediction, StagePlan};
use crate::dag::cut::{Cut, cut, whole};
use crate::dag::grad::{Training, differentiate};
use crate::ids::{Epoch, JobId, PeerId, StageId};
use crate::job::{JobSpec, Optimizer};
use crate::units::{Bytes, Duration};

/// Most places at which the order may be cut; beyond, the cheapest place of each stretch is taken.
const CUT_PLACES_MAX: usize = 160;
/// Most peers that the program considers, the fastest first.
const PEERS_MAX: usize = 16;
/// Up to so many peers every choice and order is tried.
const PERMUTED_MAX: usize = 4;
/// Most voters of a job's council, beside the submitter.
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

/// A network with what choosing cuts needs.
struct Profile {
    training: Training,
    /// Work before each cut place, forward and backward, running sums; one longer than the pieces.
    work: Vec<Load>,
    parameters: Vec<Bytes>,
    saved: Vec<Bytes>,
    /// Node index of each cut place; first 0, last the number of forward nodes.
    places: Vec<usize>,
    /// Bytes that cross each cut place in one direction.
    crossing: Vec<Bytes>,
}

/// Places a job on the measured peers; the same inputs give the same plan on every machine.
///
/// *Errors*: [`PlanError`]. *Cost*: O(orders x stages^2 x peers^2 x places^2).
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
    let peers: BTreeMap<PeerId, &Advert> = adverts.iter().map(|a| (a.peer, *a)).collect();
    let most = able.len().min(pieces);
    let counts: Vec<usize> = match spec.swarm.stages {
        Some(n) => vec![usize::from(n)],
        None => (1..=most).collect(),
    };
    let mut best: Option<(Prediction, Vec<StageId>, Vec<StagePlan>)> = None;
    for &stages in &counts {
        for order in orders(&able, &links, stages) {
            let Some((assignment, owners)) = profile.pieces(spec, &order, &links, stages) else {
                continue;
            };
            let cut = cut(&profile.training, &assignment)
                .map_err(|error| PlanError::Network(error.to_string()))?;
            let plans = with_backups(spec, &cut, &owners, &able, &links);
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
    }
    let Some((prediction, assignment, stages)) = best else {
        let one = whole(&profile.training);
        let needed = super::estimate::memory(spec, &one.stages[0], 1);
        let offered = able.iter().filter_map(|a| a.hardware.as_ref()).map(|h| h.memory).sum();
        return Err(PlanError::OutOfMemory { needed, offered });
    };
    Ok(Plan {
        job: request.job,
        epoch: request.epoch,
        assignment,
        council: council(&stages, &able, request.submitter),
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
    let network = |error: String| PlanError::Network(error);
    let training = differentiate(spec.dag.clone(), spec.train.micro_batches)
        .map_err(|error| network(error.to_string()))?;
    let mut cut = cut(&training, assignment).map_err(|error| network(error.to_string()))?;
    if recompute {
        cut.stages = cut.stages.into_iter().map(crate::dag::rewrite::recompute).collect();
    }
    Ok(cut)
}

/// Returns the voters of a job: owners, backups, others by speed, then the submitter; each once.
pub(super) fn council(stages: &[StagePlan], able: &[&Advert], submitter: PeerId) -> Vec<PeerId> {
    let owners = stages.iter().map(|s| s.owner);
    let backups = stages.iter().flat_map(|s| s.backups.iter().copied());
    let others = able.iter().map(|a| a.peer);
    let mut list: Vec<PeerId> = Vec::new();
    for peer in owners.chain(backups).chain(others) {
        if peer != submitter && !list.contains(&peer) && list.len() < COUNCIL_MAX {
            list.push(peer);
        }
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

/// Chooses backups of each stage: peers without a stage first, then those to whom the gradient travels fastest.
pub(super) fn with_backups(
    spec: &JobSpec,
    cut: &Cut,
    owners: &[PeerId],
    able: &[&Advert],
    links: &Links,
) -> Vec<StagePlan> {
    cut.stages
        .iter()
        .zip(owners)
        .map(|(stage, &owner)| {
            let size = super::estimate::parameter_bytes(stage);
            let mut others: Vec<PeerId> =
                able.iter().map(|a| a.peer).filter(|p| *p != owner).collect();
            others.sort_by_key(|p| (owners.contains(p), links.transfer(owner, *p, size).0, *p));
            others.truncate(usize::from(spec.swarm.backups));
            StagePlan { owner, backups: others }
        })
        .collect()
}

/// Returns orders of peers for so many stages: every choice in every order while that is few; else all peers by
/// speed, and from each along its fastest links (the program may leave some out).
fn orders<'a>(able: &[&'a Advert], links: &Links, stages: usize) -> Vec<Vec<&'a Advert>> {
    let mut list = vec![able.to_vec()];
    if able.len() <= PERMUTED_MAX || stages == 1 {
        return choices(able, stages);
    }
    for first in able {
        let mut chain = vec![*first];
        let mut left: Vec<&Advert> =
            able.iter().copied().filter(|a| a.peer != first.peer).collect();
        while !left.is_empty() {
            let last = chain[chain.len() - 1].peer;
            let size = Bytes::new(1 << 20);
            let (place, _) = left
                .iter()
                .enumerate()
                .min_by_key(|(_, a)| (links.transfer(last, a.peer, size).0, a.peer))
                .expect("left is not empty");
            chain.push(left.remove(place));
        }
        if !list.iter().any(|o| o.iter().map(|a| a.peer).eq(chain.iter().map(|a| a.peer))) {
            list.push(chain);
        }
    }
    list
}

/// Returns every choice of `count` peers in every order.
fn choices<'a>(able: &[&'a Advert], count: usize) -> Vec<Vec<&'a Advert>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut list = Vec::new();
    for (place, first) in able.iter().enumerate() {
        let rest: Vec<&Advert> =
            able.iter().enumerate().filter(|(i, _)| *i != place).map(|(_, a)| *a).collect();
        for tail in choices(&rest, count - 1) {
            list.push(std::iter::once(*first).chain(tail).collect());
        }
    }
    list
}

impl Profile {
    fn of(spec: &JobSpec) -> Result<Self, PlanError> {
        let training = differentiate(spec.dag.clone(), spec.train.micro_batches)
            .map_err(|error| PlanError::Network(error.to_string()))?;
        let (forward, backward) = node_loads(&training);
        let count = training.forward_nodes;
        let crossing = crossing_bytes(&training);
        let places = cut_places(&crossing, count);
        let mut parameters = vec![Bytes::ZERO; count];
        let mut saved = vec![Bytes::ZERO; count];
        let dag = &training.dag;
        let mut counted = std::collections::BTreeSet::new();
        for id in dag.node_ids().take(count) {
            for input in &dag.node(id).inputs {
                let parameter =
                    matches!(dag.value(*input).source, crate::dag::Source::Parameter { .. });
                if parameter && counted.insert(*input) {
                    parameters[id.index()] += dag.fact(*input).bytes();
                }
            }
            let outputs = &dag.node(id).outputs;
            saved[id.index()] = outputs.iter().map(|v| dag.fact(*v).bytes()).sum();
        }
        let total = |list: &[Bytes]| -> Vec<Bytes> {
            places.iter().map(|p| list[..*p].iter().copied().sum()).collect()
        };
        let work = places
            .iter()
            .map(|p| forward[..*p].iter().chain(&backward[..*p]).copied().sum())
            .collect();
        Ok(Self {
            work,
            parameters: total(&parameters),
            saved: total(&saved),
            crossing: places.iter().map(|p| crossing[*p]).collect(),
            places,
            training,
        })
    }

    /// Finds the best contiguous pieces for `stages` stages on peers taken in this order (some may be left out).
    fn pieces(
        &self,
        spec: &JobSpec,
        order: &[&Advert],
        links: &Links,
        stages: usize,
    ) -> Option<(Vec<StageId>, Vec<PeerId>)> {
        let ends = self.places.len();
        // papers.md 1.7: identical jobs on a line of stations take the sum of all plus the slowest for each further
        // job. The slowest and the sum are kept apart; their line time ranks the partial placements (our rule).
        let more = u64::from(spec.train.micro_batches.saturating_sub(1));
        let line = |slowest: Duration, sum: Duration| (sum + slowest * more, slowest);
        // best[stage][peer][place]: slowest station so far, its sum as tie-break, and where it came from.
        type Cell = Option<(Duration, Duration, usize, usize)>;
        let mut best: Vec<Vec<Vec<Cell>>> = vec![vec![vec![None; ends]; order.len()]; stages];
        for stage in 0..stages {
            for (peer, advert) in order.iter().enumerate() {
                for end in 1..ends {
                    let mut cell: Cell = None;
                    for start in 0..end {
                        let Some(own) = self.station(spec, advert, (start, end), (stage, stages))
                        else {
                            continue;
                        };
                        if stage == 0 {
                            if start == 0 {
                                cell = Some((own, own, 0, 0));
                            }
                            continue;
                        }
                        for (before, other) in order.iter().enumerate().take(peer) {
                            let Some((slowest, sum, ..)) = best[stage - 1][before][start] else {
                                continue;
                            };
                            let (link, _) =
                                links.transfer(other.peer, advert.peer, self.crossing[start]);
                            let (back, _) =
                                links.transfer(advert.peer, other.peer, self.crossing[start]);
                            let station = own.max(link).max(back);
                            let next =
                                (slowest.max(station), sum + own + link + back, before, start);
                            if cell.is_none_or(|c| line(next.0, next.1) < line(c.0, c.1)) {
                                cell = Some(next);
                            }
                        }
                    }
                    best[stage][peer][end] = cell;
                }
            }
        }
        let last = (0..order.len())
            .filter_map(|p| best[stages - 1][p][ends - 1].map(|c| (line(c.0, c.1), p)))
            .min()?;
        let (mut peer, mut end) = (last.1, ends - 1);
        let mut owners = vec![order[peer].peer; stages];
        let mut assignment = vec![StageId::default(); self.places[ends - 1]];
        for stage in (0..stages).rev() {
            let (_, _, before, start) = best[stage][peer][end]?;
            owners[stage] = order[peer].peer;
            let id = StageId::new(u16::try_from(stage).ok()?);
            assignment[self.places[start]..self.places[end]].fill(id);
            (peer, end) = (before, start);
        }
        Some((assignment, owners))
    }

    /// Returns a micro-batch's time of one piece on one peer, or None where it does not fit into its memory.
    fn station(
        &self,
        spec: &JobSpec,
        advert: &Advert,
        (start, end): (usize, usize),
        (stage, stages): (usize, usize),
    ) -> Option<Duration> {
        let hardware = advert.hardware.as_ref()?;
        let slots = match spec.train.optimizer {
            Optimizer::AdamW { .. } => 4,
            Optimizer::Sgd { .. } => 3,
        };
        let kept = in_flight(spec.swarm.order, stage, stages, spec.train.micro_batches);
        let parameters = self.parameters[end].count() - self.parameters[start].count();
        let saved = self.saved[end].count() - self.saved[start].count();
        let needed = parameters.saturating_mul(slots) + saved.saturating_mul(u64::from(kept));
        if needed > hardware.memory.count() {
            return None;
        }
        let (before, after) = (self.work[start], self.work[end]);
        Some(hardware.time(after - before))
    }
}

/// Returns the bytes of node outputs that are alive across each place of the order (0 and the end: none).
fn crossing_bytes(training: &Training) -> Vec<Bytes> {
    let dag = &training.dag;
    let count = training.forward_nodes;
    let mut change = vec![(0u64, 0u64); count + 1];
    let mut last_use: BTreeMap<crate::ids::ValueId, usize> = BTreeMap::new();
    for id in dag.node_ids().take(count) {
        for input in &dag.node(id).inputs {
            last_use.insert(*input, id.index());
        }
    }
    for (value, used) in last_use {
        if let Some(producer) = dag.producer(value) {
            let bytes = dag.fact(value).bytes().count();
            change[producer.index() + 1].0 += bytes;
            change[used + 1].1 += bytes;
        }
    }
    let mut alive = 0;
    change
        .into_iter()
        .map(|(born, dead)| {
            alive = alive + born - dead;
            Bytes::new(alive)
        })
        .collect()
}

/// Chooses where the order may be cut: everywhere, or the cheapest place of each of many equal stretches.
fn cut_places(crossing: &[Bytes], count: usize) -> Vec<usize> {
    let inner = count.saturating_sub(1);
    if inner <= CUT_PLACES_MAX {
        return (0..=count).collect();
    }
    let mut places = vec![0];
    for stretch in 0..CUT_PLACES_MAX {
        let from = 1 + stretch * inner / CUT_PLACES_MAX;
        let to = 1 + (stretch + 1) * inner / CUT_PLACES_MAX;
        let cheapest = (from..to).min_by_key(|p| (crossing[*p], *p));
        places.extend(cheapest);
    }
    places.push(count);
    places
}

#[cfg(test)]
mod tests;
