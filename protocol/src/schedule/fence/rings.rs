//! Changes that give peers several stages: rounds along the same workers, and rings, which bring together what reads one
//! parameter: its gradient, which is as large as itself, then crosses no link.
//!
//! The ends of a language model share their embedding. A pipeline over slow links is a ring then: the network's last
//! operators run on the peer that has its first ones, as a stage of their own.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::changes::{members, split};
use super::layout::{Layout, Team};
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

/// Returns a line that is gone along so many times.
pub(super) fn repeated(line: &[Team], rounds: usize) -> Vec<Team> {
    std::iter::repeat_n(line, rounds).flatten().cloned().collect()
}

/// The network laid anew along the same workers, each of whom has a stage in every round.
pub(super) fn rounds(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let swarm = &scene.judge.spec.swarm;
    let most = usize::from(swarm.stages_per_peer);
    if most < 2 {
        return Vec::new();
    }
    let mut line: Vec<Team> = Vec::new();
    for peers in &layout.stages {
        if !line.contains(peers) {
            line.push(peers.clone());
        }
    }
    let recompute = scene.judge.way(layout).recompute;
    let stretches = scene.stretches.iter().filter(|stretch| stretch.way().recompute == recompute);
    let mut lines: Vec<_> = (1..=most).map(|rounds| repeated(&line, rounds)).collect();
    // Rings: what ties the ends of a network together stays on one peer.
    if let (Some(first), Some(last)) = (line.first(), line.last())
        && line.len() > 1
    {
        lines.push([line.as_slice(), std::slice::from_ref(first)].concat());
        lines.push([std::slice::from_ref(last), line.as_slice()].concat());
    }
    let laid = stretches.flat_map(|stretch| lines.iter().flat_map(|line| stretch.layouts(line)));
    // What is deep for one round may keep too much for several.
    let mut list: Vec<Layout> =
        laid.flat_map(|l| [Layout { way: layout.way, ..l.clone() }, l]).collect();
    list.dedup();
    let fits = |count: usize| swarm.stages.is_none_or(|wanted| usize::from(wanted) == count);
    list.retain(|l| l != layout && fits(l.stages.len()));
    list
}

/// The peers of one stage take over another.
fn taken(layout: &Layout, stage: usize, from: usize) -> Layout {
    let mut change = layout.clone();
    change.stages[stage] = Rc::clone(&layout.stages[from]);
    change
}
