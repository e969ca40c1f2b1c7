//! What choosing cuts needs to know of a network: running sums of work and memory, and what crosses each place.

use std::collections::BTreeMap;

use super::super::PlanError;
use super::super::advert::Advert;
use super::super::estimate::node_loads;
use super::super::load::Load;
use super::super::outline::Outline;
use super::pieces::Pieces;
use crate::dag::grad::{Training, differentiate};
use crate::ids::{PeerId, StageId};
use crate::job::JobSpec;
use crate::units::Bytes;

/// Most places at which the order may be cut; beyond, the cheapest place of each stretch is taken.
const CUT_PLACES_MAX: usize = 160;

/// A network with what choosing cuts needs.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) training: Training,
    /// Forward work before each cut place, running sums; one longer than the pieces. So is the next.
    forward: Vec<Load>,
    backward: Vec<Load>,
    /// What pieces take of memory at least.
    outline: Outline,
    /// Node index of each cut place; first 0, last the number of forward nodes.
    pub(super) places: Vec<usize>,
    /// Bytes that cross each cut place in one direction.
    pub(super) crossing: Vec<Bytes>,
}

impl Profile {
    pub(super) fn of(spec: &JobSpec) -> Result<Self, PlanError> {
        let training = differentiate(spec.dag.clone(), spec.train.micro_batches)
            .map_err(|error| PlanError::Network(error.to_string()))?;
        let (forward, backward) = node_loads(&training);
        let count = training.forward_nodes;
        let crossing = crossing_bytes(&training);
        let places = cut_places(&crossing, count);
        let work = |list: &[Load]| -> Vec<Load> {
            places.iter().map(|p| list[..*p].iter().copied().sum()).collect()
        };
        Ok(Self {
            forward: work(&forward),
            backward: work(&backward),
            outline: Outline::of(spec, &training),
            crossing: places.iter().map(|p| crossing[*p]).collect(),
            places,
            training,
        })
    }

    /// Returns the stage of each node and the owner of each stage.
    pub(super) fn spread(&self, pieces: &Pieces, able: &[&Advert]) -> (Vec<StageId>, Vec<PeerId>) {
        let (mut assignment, mut owners) = (Vec::new(), Vec::new());
        for (stage, (owner, end)) in (0..).map(StageId::new).zip(&pieces.stages) {
            assignment.resize(self.places[*end], stage);
            owners.push(able[*owner].peer);
        }
        (assignment, owners)
    }

    /// Returns a micro-batch's work in one piece: forward, backward, and forward again where that is not kept.
    pub(super) fn load(&self, start: usize, end: usize, recompute: bool) -> Load {
        let forward = self.forward[end] - self.forward[start];
        let both = forward + (self.backward[end] - self.backward[start]);
        if recompute { both + forward } else { both }
    }

    /// Returns the least memory that one piece takes while it keeps so many micro-batches; grows with the piece.
    pub(super) fn least_memory(&self, (start, end): (usize, usize), kept: u64) -> Bytes {
        let nodes = (self.places[start], self.places[end]);
        self.outline.least(nodes, kept, self.outline.largest(nodes))
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
