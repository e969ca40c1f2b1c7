//! What choosing cuts needs to know of a network: running sums of work and memory, and what crosses each place.

use std::collections::BTreeMap;

use super::super::PlanError;
use super::super::advert::Advert;
use super::super::estimate::node_loads;
use super::super::links::Links;
use super::super::load::Load;
use super::super::pipeline::in_flight;
use crate::dag::grad::{Training, differentiate};
use crate::ids::{PeerId, StageId};
use crate::job::{JobSpec, Optimizer};
use crate::units::{Bytes, Duration};

/// Most places at which the order may be cut; beyond, the cheapest place of each stretch is taken.
const CUT_PLACES_MAX: usize = 160;

/// A network with what choosing cuts needs.
pub(super) struct Profile {
    pub(super) training: Training,
    /// Work before each cut place, forward and backward, running sums; one longer than the pieces.
    work: Vec<Load>,
    parameters: Vec<Bytes>,
    saved: Vec<Bytes>,
    /// Node index of each cut place; first 0, last the number of forward nodes.
    pub(super) places: Vec<usize>,
    /// Bytes that cross each cut place in one direction.
    crossing: Vec<Bytes>,
}

impl Profile {
    pub(super) fn of(spec: &JobSpec) -> Result<Self, PlanError> {
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
    pub(super) fn pieces(
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
