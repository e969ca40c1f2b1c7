//! Improves a layout by small changes, each kept if the step gets shorter, until none helps or the budget is spent.
//!
//! Changes: units go to a neighbouring stage (off the border, or any unit whose branch allows it), stages exchange
//! their peers, a peer takes over from another, joins a stage as a replica or leaves it, two stages become one, one
//! becomes two. Deterministic: changes are tried in a fixed order.

use super::grain::Grain;
use super::judge::{Judge, Layout, Verdict};
use super::stretch::Stretch;

/// How many units at once may cross a border.
const STRIDES: [usize; 5] = [1, 2, 4, 8, 16];
/// Of the peers without a stage, so many are tried for each place: the first ones, which are the fastest.
const IDLE_TRIED: usize = 8;
/// Up to so many units in three stages are cut at any two places.
const RECUT_MAX: usize = 20;
/// Up to so many units change places in pairs.
const PAIRED_MAX: usize = 32;
/// Of the peers of a stage, so many are exchanged one by one.
const SINGLE_TRIED: usize = 8;
/// Up to so many stages, all pairs of stages exchange peers; beyond, near ones.
const PAIRS_ALL: usize = 12;

/// What changes are made from.
#[derive(Debug)]
pub(super) struct Scene<'j, 'a> {
    pub(super) judge: &'j Judge<'a>,
    /// One for each order of the units.
    pub(super) stretches: Vec<Stretch<'a>>,
    /// Peers below this number may work.
    pub(super) able: usize,
}

/// Improves a layout until nothing helps or the judge has spent so much in all. Returns it with its verdict.
pub(super) fn refine(
    scene: &Scene<'_, '_>,
    (mut layout, mut verdict): (Layout, Verdict),
    budget: u64,
) -> (Layout, Verdict) {
    loop {
        let mut improved = false;
        for kind in KINDS {
            let mut from = 0;
            // A change that helps is followed by the changes after it in the list of the new layout.
            loop {
                let changes = kind(scene, &layout);
                let Some((place, better, gain)) =
                    first_better(scene.judge, &changes, from, (verdict, budget))
                else {
                    break;
                };
                (layout, verdict) = (better, gain);
                from = place;
                improved = true;
            }
        }
        if !improved || scene.judge.spent() >= budget {
            return (layout, verdict);
        }
    }
}

fn first_better(
    judge: &Judge<'_>,
    changes: &[Layout],
    from: usize,
    (verdict, budget): (Verdict, u64),
) -> Option<(usize, Layout, Verdict)> {
    for (place, change) in changes.iter().enumerate().skip(from) {
        if judge.spent() >= budget {
            return None;
        }
        if let Some(gain) = judge.cost(change).filter(|v| v.step < verdict.step) {
            return Some((place, change.clone(), gain));
        }
    }
    None
}

type Kind = fn(&Scene<'_, '_>, &Layout) -> Vec<Layout>;

const KINDS: [Kind; 9] =
    [shifts, recuts, branches, takeovers, exchanges, replicas, counts, pairs, relays];

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
                let change = moved(layout, &units[..near], first);
                let change = moved(&change, &units[near..far], first + 1);
                list.push(moved(&change, &units[far..], first + 2));
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

/// A peer without a stage takes over from one that has a part.
fn takeovers(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let mut list = Vec::new();
    let idle = idle(layout, scene.able);
    for (stage, peers) in layout.stages.iter().enumerate() {
        for place in 0..peers.len() {
            for peer in &idle {
                let mut change = layout.clone();
                change.stages[stage][place] = *peer;
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
                        let peer = change.stages[a][near];
                        change.stages[a][near] =
                            std::mem::replace(&mut change.stages[b][far], peer);
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
            change.stages[stage].swap(0, place);
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
    let idle = idle(layout, scene.able);
    for (stage, peers) in layout.stages.iter().enumerate() {
        if peers.len() < most {
            for peer in &idle {
                let mut change = layout.clone();
                change.stages[stage].push(*peer);
                list.push(change);
            }
        }
        for place in (0..peers.len()).filter(|_| peers.len() > 1) {
            let mut change = layout.clone();
            let peer = change.stages[stage].remove(place);
            for other in (0..layout.stages.len()).filter(|other| *other != stage) {
                if layout.stages[other].len() < most {
                    let mut change = change.clone();
                    change.stages[other].push(peer);
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
        let both = [before.as_slice(), after.as_slice()].concat();
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
    let idle = idle(layout, scene.able);
    if layout.stages.len() >= usize::from(crate::job::STAGES_MAX) {
        return list;
    }
    for (stage, units) in members(layout, scene.judge.grain).iter().enumerate() {
        let peers = &layout.stages[stage];
        let cuts =
            (1..units.len()).filter(|at| units.len() <= 16 || at % units.len().div_ceil(8) == 0);
        for at in cuts {
            for peer in &idle {
                list.push(split(layout, stage, &units[at..], (peers.clone(), vec![*peer])));
                list.push(split(layout, stage, &units[at..], (vec![*peer], peers.clone())));
            }
            for take in 1..peers.len() {
                let (near, far) = (peers[..take].to_vec(), peers[take..].to_vec());
                list.push(split(layout, stage, &units[at..], (near, far)));
            }
        }
    }
    list
}

/// The same workers in the same order, the network laid anew along them.
fn relays(scene: &Scene<'_, '_>, layout: &Layout) -> Vec<Layout> {
    let laid = scene.stretches.iter().flat_map(|stretch| stretch.layouts(&layout.stages));
    let fixed = scene.judge.spec.swarm.stages.is_some();
    laid.filter(|l| l != layout && (!fixed || l.stages.len() == layout.stages.len())).collect()
}

fn joined(layout: &Layout, stage: usize, peers: Vec<usize>) -> Layout {
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

fn split(
    layout: &Layout,
    stage: usize,
    later: &[usize],
    (near, far): (Vec<usize>, Vec<usize>),
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
    for unit in units {
        change.stage_of[*unit] = u16::try_from(to).unwrap_or(u16::MAX);
    }
    change
}

/// Returns the units of each stage in the order of units.
fn members(layout: &Layout, grain: &Grain) -> Vec<Vec<usize>> {
    let mut list = vec![Vec::new(); layout.stages.len()];
    for unit in 0..grain.units() {
        list[usize::from(layout.stage_of[unit])].push(unit);
    }
    list
}

/// Returns the first peers that have no part.
fn idle(layout: &Layout, able: usize) -> Vec<usize> {
    let mut busy = vec![false; able];
    for peer in layout.stages.iter().flatten() {
        busy[*peer] = true;
    }
    (0..able).filter(|peer| !busy[*peer]).take(IDLE_TRIED).collect()
}

/// Says whether no unit reads what a later stage makes.
fn is_legal(grain: &Grain, layout: &Layout) -> bool {
    let stage = |unit: usize| layout.stage_of[unit];
    grain.flows.iter().all(|flow| flow.to.iter().all(|to| stage(flow.from) <= stage(*to)))
}
