//! Small changes of a layout: units go to a neighbouring stage (off the border, or any unit whose branch allows it), stages
//! exchange their peers, a peer takes over from another, joins a stage as a replica or leaves it, two stages become one,
//! one becomes two, passes run in another order or with recomputation, the network is laid anew along the same workers.

use std::rc::Rc;

use super::grain::Grain;
use super::layout::{Layout, Team};
use super::refine::Scene;
use super::rings::{rounds, ties};

/// How many units at once may cross a border.
const STRIDES: [usize; 5] = [1, 2, 4, 8, 16];
/// Of the peers that may take one more stage, so many are tried for each place.
const IDLE_TRIED: usize = 8;
/// Up to so many units in three stages are cut at any two places.
const RECUT_MAX: usize = 20;
/// Up to so many units change places in pairs.
const PAIRED_MAX: usize = 32;
/// Of the peers of a stage, so many are exchanged one by one.
const SINGLE_TRIED: usize = 8;
/// Up to so many stages, all pairs of stages exchange peers; beyond, near ones.
const PAIRS_ALL: usize = 12;

/// A kind of change: all of its kind that can be made to a layout.
pub(super) type Kind = fn(&Scene<'_, '_>, &Layout) -> Vec<Layout>;

pub(super) const KINDS: [Kind; 12] = [
    ways, rounds, ties, shifts, recuts, branches, takeovers, exchanges, replicas, counts, pairs,
    relays,
];

/// Those that change who runs which stage, and nothing else.
pub(super) const OWNERS: [Kind; 2] = [takeovers, exchanges];

/// Passes run in the next deeper order, the next shallower one, the deepest, or with recomputation where there was none.
fn ways(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let ways = &scene.judge.ways;
    let own = usize::from(layout.way);
    let same = |other: usize| ways.get(other).is_some_and(|w| w.recompute == ways[own].recompute);
    let near = [own + 1, own.wrapping_sub(1)].into_iter().filter(|other| same(*other));
    let deepest = (0..ways.len()).rev().find(|other| same(*other));
    let turned =
        (0..ways.len()).find(|other| !same(*other) && ways[*other].order == ways[own].order);
    let mut list: Vec<usize> = near.chain(deepest).chain(turned).filter(|o| *o != own).collect();
    list.dedup();
    let with = |way| Layout { way: u8::try_from(way).unwrap_or(layout.way), ..layout.clone() };
    list.into_iter().map(with).collect()
}

/// The last units of a stage go to the next one, the first ones to the one before.
fn shifts(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let mut list = Vec::new();
    let members = members(layout, scene.judge.grain);
    for (stage, units) in members.iter().enumerate() {
        for stride in STRIDES.into_iter().filter(|stride| *stride < units.len()) {
            if stage + 1 < members.len() {
                list.push(moved(layout, &units[units.len() - stride..], stage + 1));
            }
            if stage > 0 {
                list.push(moved(layout, &units[..stride], stage - 1));
            }
        }
    }
    list.into_iter().filter(|change| is_legal(scene.judge.grain, change)).collect()
}

/// Three stages in a row are cut anew, at any two places if they have few units; else the middle one slides.
fn recuts(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let members = members(layout, scene.judge.grain);
    let mut list = Vec::new();
    for (first, three) in members.windows(3).enumerate() {
        let units = three.concat();
        let (low, high) = (three[0].len(), three[0].len() + three[1].len());
        let mut cut = |near: usize, far: usize| {
            if (near, far) != (low, high) {
                let mut change = moved(layout, &units[..near], first);
                put(&mut change, &units[near..far], first + 1);
                put(&mut change, &units[far..], first + 2);
                list.push(change);
            }
        };
        if units.len() <= RECUT_MAX {
            (1..units.len())
                .for_each(|near| (near + 1..units.len()).for_each(|far| cut(near, far)));
        } else {
            for stride in STRIDES {
                if low > stride {
                    cut(low - stride, high - stride);
                }
                if high + stride < units.len() {
                    cut(low + stride, high + stride);
                }
            }
        }
    }
    list
}

/// Any single unit goes to any stage that the units around it allow.
fn branches(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let grain = scene.judge.grain;
    let stage = |unit: &usize| usize::from(layout.stage_of[*unit]);
    let mut list = Vec::new();
    for unit in 0..grain.units() {
        let low = grain.before[unit].iter().map(stage).max().unwrap_or(0);
        let high = grain.after[unit].iter().map(stage).min().unwrap_or(layout.stages.len() - 1);
        for to in (low..=high).filter(|to| *to != stage(&unit)) {
            list.push(moved(layout, &[unit], to));
        }
    }
    list
}

/// Two units of different stages change places; for few units.
fn pairs(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let units = scene.judge.grain.units();
    let mut list = Vec::new();
    if units > PAIRED_MAX {
        return list;
    }
    for a in 0..units {
        for b in a + 1..units {
            let (near, far) = (layout.stage_of[a], layout.stage_of[b]);
            if near != far {
                let mut change = layout.clone();
                change.stage_of[a] = far;
                change.stage_of[b] = near;
                if is_legal(scene.judge.grain, &change) {
                    list.push(change);
                }
            }
        }
    }
    list
}

/// A peer that may take one more stage takes over from one that has it.
fn takeovers(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let mut list = Vec::new();
    let idle = idle(scene, layout);
    for (stage, peers) in layout.stages.iter().enumerate() {
        for place in 0..peers.len() {
            for peer in idle.iter().filter(|peer| !peers.contains(peer)) {
                let mut change = layout.clone();
                Rc::make_mut(&mut change.stages[stage])[place] = *peer;
                list.push(change);
            }
        }
    }
    list
}

/// Two stages exchange all their peers, or their owners; a stage's peers move to another place of the line.
fn exchanges(_scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let mut list = Vec::new();
    let count = layout.stages.len();
    for a in 0..count {
        for b in a + 1..count {
            if count > PAIRS_ALL && b > a + 2 {
                continue;
            }
            let mut change = layout.clone();
            change.stages.swap(a, b);
            list.push(change);
            // Single peers: any of one stage for any of the other.
            if layout.stages[a].len() + layout.stages[b].len() > 2 {
                for near in 0..layout.stages[a].len().min(SINGLE_TRIED) {
                    for far in 0..layout.stages[b].len().min(SINGLE_TRIED) {
                        let mut change = layout.clone();
                        Rc::make_mut(&mut change.stages[a])[near] = layout.stages[b][far];
                        Rc::make_mut(&mut change.stages[b])[far] = layout.stages[a][near];
                        list.push(change);
                    }
                }
            }
            if b > a + 1 {
                for (from, to) in [(a, b), (b, a)] {
                    let mut change = layout.clone();
                    let peers = change.stages.remove(from);
                    change.stages.insert(to, peers);
                    list.push(change);
                }
            }
        }
    }
    // Another owner within a stage.
    for (stage, peers) in layout.stages.iter().enumerate() {
        for place in 1..peers.len() {
            let mut change = layout.clone();
            Rc::make_mut(&mut change.stages[stage]).swap(0, place);
            list.push(change);
        }
    }
    list
}

/// A peer joins a stage as a replica, leaves it, or goes from one stage to another.
fn replicas(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let most = usize::from(scene.judge.spec.swarm.replicas);
    let mut list = Vec::new();
    if most < 2 {
        return list;
    }
    let idle = idle(scene, layout);
    for (stage, peers) in layout.stages.iter().enumerate() {
        if peers.len() < most {
            for peer in idle.iter().filter(|peer| !peers.contains(peer)) {
                let mut change = layout.clone();
                Rc::make_mut(&mut change.stages[stage]).push(*peer);
                list.push(change);
            }
        }
        for place in (0..peers.len()).filter(|_| peers.len() > 1) {
            let mut change = layout.clone();
            let peer = Rc::make_mut(&mut change.stages[stage]).remove(place);
            for other in (0..layout.stages.len()).filter(|other| *other != stage) {
                if layout.stages[other].len() < most {
                    let mut change = change.clone();
                    Rc::make_mut(&mut change.stages[other]).push(peer);
                    list.push(change);
                }
            }
            list.push(change);
        }
    }
    list
}

/// Two stages in a row become one, with the peers of either or of both; a stage becomes two, with an idle peer or with
/// its own replicas. Not where the job fixes the number of stages.
fn counts(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    if scene.judge.spec.swarm.stages.is_some() {
        return Vec::new();
    }
    let mut list = Vec::new();
    for stage in 1..layout.stages.len() {
        let (before, after) = (&layout.stages[stage - 1], &layout.stages[stage]);
        let mut both = before.clone();
        Rc::make_mut(&mut both).extend(after.iter().filter(|peer| !before.contains(peer)));
        let mut choices = vec![before.clone(), after.clone()];
        if both.len() <= usize::from(scene.judge.spec.swarm.replicas) {
            choices.push(both);
        }
        for peers in choices {
            list.push(joined(layout, stage, peers));
        }
    }
    list.extend(splits(scene, layout));
    list
}

/// Every way in which one stage becomes two.
pub(super) fn splits(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let mut list = Vec::new();
    let idle = idle(scene, layout);
    if layout.stages.len() >= usize::from(crate::job::STAGES_MAX) {
        return list;
    }
    for (stage, units) in members(layout, scene.judge.grain).iter().enumerate() {
        let peers = &layout.stages[stage];
        let cuts =
            (1..units.len()).filter(|at| units.len() <= 16 || at % units.len().div_ceil(8) == 0);
        for at in cuts {
            for peer in &idle {
                list.push(split(
                    layout,
                    stage,
                    &units[at..],
                    (peers.clone(), Rc::new(vec![*peer])),
                ));
                list.push(split(
                    layout,
                    stage,
                    &units[at..],
                    (Rc::new(vec![*peer]), peers.clone()),
                ));
            }
            for take in 1..peers.len() {
                let (near, far) =
                    (Rc::new(peers[..take].to_vec()), Rc::new(peers[take..].to_vec()));
                list.push(split(layout, stage, &units[at..], (near, far)));
            }
        }
    }
    list
}

/// The same workers in the same order, the network laid anew along them.
fn relays(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let recompute = scene.judge.way(layout).recompute;
    let stretches = scene.stretches.iter().filter(|stretch| stretch.way().recompute == recompute);
    let laid = stretches.flat_map(|stretch| stretch.layouts(&layout.stages));
    let fixed = scene.judge.spec.swarm.stages.is_some();
    laid.map(|l| Layout { way: layout.way, ..l })
        .filter(|l| l != layout && (!fixed || l.stages.len() == layout.stages.len()))
        .collect()
}

fn joined(layout: &Layout, stage: usize, peers: Team) -> Layout {
    let mut change = layout.clone();
    for at in &mut change.stage_of {
        if usize::from(*at) >= stage {
            *at -= 1;
        }
    }
    change.stages.remove(stage);
    change.stages[stage - 1] = peers;
    change
}

pub(super) fn split(
    layout: &Layout,
    stage: usize,
    later: &[usize],
    (near, far): (Team, Team),
) -> Layout {
    let mut change = layout.clone();
    for at in &mut change.stage_of {
        if usize::from(*at) > stage {
            *at += 1;
        }
    }
    for unit in later {
        change.stage_of[*unit] += 1;
    }
    change.stages[stage] = near;
    change.stages.insert(stage + 1, far);
    change
}

fn moved(layout: &Layout, units: &[usize], to: usize) -> Layout {
    let mut change = layout.clone();
    put(&mut change, units, to);
    change
}

fn put(layout: &mut Layout, units: &[usize], to: usize) {
    for unit in units {
        layout.stage_of[*unit] = u16::try_from(to).unwrap_or(u16::MAX);
    }
}

/// Returns the units of each stage in the order of units.
pub(super) fn members(layout: &Layout, grain: &Grain) -> Vec<Vec<usize>> {
    let mut list = vec![Vec::new(); layout.stages.len()];
    for unit in 0..grain.units() {
        list[usize::from(layout.stage_of[unit])].push(unit);
    }
    list
}

/// Returns peers that may take one more stage: first those that have none, of equals the fastest.
fn idle(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<usize> {
    let mut parts = vec![0; scene.able];
    for peer in layout.peers() {
        parts[peer] += 1;
    }
    let most = scene.judge.spec.swarm.stages_per_peer;
    let mut list: Vec<usize> = (0..scene.able).filter(|peer| parts[*peer] < most).collect();
    list.sort_by_key(|peer| parts[*peer]);
    list.truncate(IDLE_TRIED);
    list
}

/// Says whether no unit reads what a later stage makes.
fn is_legal(grain: &Grain, layout: &Layout) -> bool {
    let stage = |unit: usize| layout.stage_of[unit];
    grain.flows.iter().all(|flow| flow.to.iter().all(|to| stage(flow.from) <= stage(*to)))
}
