//! Changes that bring together what reads one parameter: its gradient, which is as large as itself, then crosses no link.
//!
//! The ends of a language model share their embedding. A pipeline over slow links is a ring then: the network's last
//! operators run on the peer that has its first ones, as a stage of their own.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::changes::{members, split};
use super::layout::Layout;
use super::refine::Scene;

/// What the last stage that reads a parameter does from its first reader on goes to the peers of the first stage that reads
/// it, or what the first one does up to its last reader to the peers of the last. Not where the job fixes the number of stages.
pub(super) fn ties(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let (grain, swarm) = (scene.judge.grain, &scene.judge.spec.swarm);
    let full = layout.stages.len() >= usize::from(crate::job::STAGES_MAX);
    if swarm.stages_per_peer < 2 || swarm.stages.is_some() || full {
        return Vec::new();
    }
    let mut parts = vec![0; scene.able];
    layout.peers().for_each(|peer| parts[peer] += 1);
    let has_room = |stage: usize| {
        let mut peers = layout.stages[stage].iter();
        peers.all(|peer| parts[*peer] < swarm.stages_per_peer)
    };
    let members = members(layout, grain);
    let mut list = Vec::new();
    for (_, readers) in &grain.ties {
        let stage = |unit: &usize| usize::from(layout.stage_of[*unit]);
        let stages: BTreeSet<usize> = readers.iter().map(stage).collect();
        let (Some(first), Some(last)) = (stages.first().copied(), stages.last().copied()) else {
            continue;
        };
        if layout.stages[first] == layout.stages[last] {
            continue;
        }
        let reads = |unit: &usize| readers.contains(unit);
        let (near, far) = (&layout.stages[first], &layout.stages[last]);
        if let Some(at) = members[last].iter().position(reads).filter(|_| has_room(first)) {
            list.push(match at {
                0 => taken(layout, last, first),
                _ => split(layout, last, &members[last][at..], (far.clone(), near.clone())),
            });
        }
        if let Some(at) = members[first].iter().rposition(reads).filter(|_| has_room(last)) {
            let rest = &members[first][at + 1..];
            list.push(match rest.is_empty() {
                true => taken(layout, first, last),
                false => split(layout, first, rest, (far.clone(), near.clone())),
            });
        }
    }
    list
}

/// The peers of one stage take over another.
fn taken(layout: &Layout, stage: usize, from: usize) -> Layout {
    let mut change = layout.clone();
    change.stages[stage] = Rc::clone(&layout.stages[from]);
    change
}
