//! What does not fit where a search finds no placement: which operators, how much they need, and who has most room.
//!
//! A search does not say which of its candidates was nearest. So the network is cut here as evenly in memory as its order
//! allows, by the bound of [`super::outline`], and the largest pieces go to the roomiest peers. Where these fit, they are
//! a placement; else the first that does not is named. Where a piece is one operator, no cut helps.

use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::PlanError;
use super::advert::Advert;
use super::fence::cut_as;
use super::footprint::{Demand, Footprints, Room};
use super::outline::Outline;
use super::pipeline::{Way, in_flight};
use crate::dag::cut::Cut;
use crate::dag::grad::Training;
use crate::ids::{PeerId, StageId};
use crate::job::JobSpec;
use crate::units::Bytes;

/// What does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// The first and the last operator of a stage; the same where it is one.
    pub stage: [String; 2],
    /// Of how many stages it is one.
    pub stages: usize,
    /// What it needs.
    pub needed: Bytes,
    /// The peer that has most room for it.
    pub peer: PeerId,
    /// What that has.
    pub room: Bytes,
    /// Whether activations were to be computed again.
    pub recompute: bool,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage: [first, last], stages, needed, peer, room, recompute } = self;
        match (first == last, stages) {
            (true, _) => write!(f, "`{first}` alone")?,
            (false, 1) => write!(f, "the network in one stage")?,
            (false, _) => write!(f, "of {stages} even stages, the one from `{first}` to `{last}`")?,
        }
        write!(f, " needs {needed}, and {peer}, the peer with most room for it, has {room}; ")?;
        f.write_str("give peers more memory, make micro-batches smaller")?;
        f.write_str(match (first == last, recompute) {
            (true, true) => "",
            (true, false) => ", or compute activations again",
            (false, _) => ", or let more peers take part in more stages",
        })
    }
}

impl Shortage {
    /// Returns the one that lacks less.
    pub(super) fn nearer(self, other: Self) -> Self {
        let lacks = |s: &Self| s.needed.less(s.room);
        if lacks(&other) < lacks(&self) { other } else { self }
    }
}

/// A cut into stages that take about as much memory, and who owns each.
#[derive(Debug)]
pub(super) struct Even {
    pub(super) assignment: Vec<StageId>,
    pub(super) cut: Cut,
    pub(super) owners: Vec<PeerId>,
}

/// Cuts a network into so many stages that take about as much memory, and gives them to those of the peers that have most
/// left, each as many as the job allows. With more stages than nodes or parts for peers, into as many as there are. Returns
/// what does not fit where something does not.
///
/// *Errors*: [`PlanError::Network`] where the order cannot be cut so.
pub(super) fn even(
    spec: &JobSpec,
    training: &Training,
    able: &[&Advert],
    (stages, way): (usize, Way),
) -> Result<Result<Even, Shortage>, PlanError> {
    let rooms = |advert: &&Advert| Some((Room::of(advert.hardware.as_ref()?), advert.peer));
    let mut rooms: Vec<(Room, PeerId)> = able.iter().filter_map(rooms).collect();
    rooms.sort_by_key(|(room, peer)| (Reverse(room.memory), *peer));
    let each = usize::from(spec.swarm.stages_per_peer).max(1);
    let stages = stages.clamp(1, training.forward_nodes.min(rooms.len() * each).max(1));
    let outline = Outline::of(spec, training, way.recompute);
    let micro_batches = spec.train.micro_batches;
    let kept = |stage| u64::from(in_flight(way.order, stage, stages, micro_batches));
    let pieces = pieces(&outline, training.forward_nodes, stages, kept);
    let mut assignment = Vec::with_capacity(training.forward_nodes);
    for (stage, (_, end)) in (0..).map(StageId::new).zip(&pieces) {
        assignment.resize(*end, stage);
    }
    let cut = cut_as(training, &assignment, way.recompute)?;
    let mut footprints = Footprints::of(spec, &cut, way.order);
    let has_backups = spec.swarm.backups > 0;
    let one = Room { memory: Bytes::ZERO, threads: 1 };
    let mut largest: Vec<usize> = (0..stages).collect();
    largest.sort_by_key(|at| (Reverse(footprints.worker(*at, one, (1, has_backups)).peak), *at));
    let mut owners = vec![None; stages];
    let mut taken = vec![(Demand::default(), 0); rooms.len()];
    for at in largest {
        let with = |place: usize, footprints: &mut Footprints<'_>| {
            taken[place].0.and(footprints.worker(at, rooms[place].0, (1, has_backups)))
        };
        let free = (0..rooms.len()).filter(|place| taken[*place].1 < each);
        let left = |place: &usize| rooms[*place].0.memory.less(taken[*place].0.held);
        // The first of equals: peers come in order of their memory.
        let Some(place) = free.min_by_key(|place| Reverse(left(place))) else { break };
        let (room, peer) = rooms[place];
        let demand = with(place, &mut footprints);
        if !room.fits(demand) {
            let (start, end) = pieces[at];
            let name = |node: usize| training.dag.nodes()[node].name.clone();
            let stage = [name(start), name(end - 1)];
            let room = room.memory.less(taken[place].0.held);
            let needed = demand.peak.less(taken[place].0.held);
            let recompute = way.recompute;
            return Ok(Err(Shortage { stage, stages, needed, peer, room, recompute }));
        }
        taken[place] = (demand, taken[place].1 + 1);
        owners[at] = Some(peer);
    }
    Ok(Ok(Even { assignment, cut, owners: owners.into_iter().flatten().collect() }))
}

/// Cuts the order into so many pieces that the largest is as small as it can be.
fn pieces(
    outline: &Outline,
    nodes: usize,
    stages: usize,
    kept: impl Fn(usize) -> u64,
) -> Vec<(usize, usize)> {
    // The longest pieces within a limit, one after another; the last takes what is left.
    let within = |limit: Bytes| {
        let (mut list, mut start, mut worst) = (Vec::with_capacity(stages), 0, Bytes::ZERO);
        for stage in 0..stages {
            let most = nodes - (stages - 1 - stage);
            let (mut end, mut largest, mut needed) = (start, Bytes::ZERO, Bytes::ZERO);
            while end < most {
                let grown = largest.max(outline.largest((end, end + 1)));
                let need = outline.least((start, end + 1), kept(stage), grown);
                if end > start && need > limit && stage + 1 < stages {
                    break;
                }
                (end, largest, needed) = (end + 1, grown, need);
            }
            list.push((start, end));
            (start, worst) = (end, worst.max(needed));
        }
        (list, worst)
    };
    let (mut low, mut high) = (0, within(Bytes::ZERO).1.count());
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        match within(Bytes::new(middle)).1.count() <= middle {
            true => high = middle,
            false => low = middle,
        }
    }
    within(Bytes::new(high)).0
}
