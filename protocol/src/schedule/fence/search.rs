//! The search for layouts: lays the network along lines of peers, keeps the best of different shapes, improves them.

use std::collections::{BTreeMap, BTreeSet};

use super::super::pipeline::Way;
use super::changes;
use super::judge::{Judge, Verdict};
use super::layout::Layout;
use super::lines;
use super::refine::{Scene, refine};
use super::rings::{repeated, ties};
use super::stretch::Stretch;

/// Effort of a search in all (passes run, units summed, layouts made; not the laying along lines): some tenths of a second, less for few peers, whose
/// few layouts are soon tried. Every voter searches anew, while messages are handled. A placement makes one search, two
/// where the job allows replicas, one more with a codec; and as many again, in a smaller share of the peers' memory, while
/// nothing that it finds fits in earnest.
pub(super) const EFFORT_MAX: u64 = 600_000;
const EFFORT_PER_PEER: u64 = 60_000;
/// Layouts along lines that are improved.
pub(super) const IMPROVED: usize = 16;
/// Layouts that are cut and predicted in earnest.
const FINALS: usize = 4;
/// Kicks in a row that bring nothing, after which a layout is taken for the best.
const KICKS: usize = 32;
/// Of layouts on a single peer, so many are looked at: the fastest ones.
const SINGLES: usize = 4;
/// Of layouts with fewer stages than the job fixes, so many of each number are split.
const SPLIT: usize = 3;
/// From a kick to the next in the list of all changes.
const KICK_STRIDE: usize = 7919;
/// A way that keeps less is as good if the step is longer by less than one in so many.
const THRIFT: u64 = 500;

/// Returns layouts that may be the best plan, the best first. Besides those along lines it begins with `given` ones.
pub(super) fn finalists(judge: &Judge<'_>, able: usize, given: &[Layout]) -> Vec<Layout> {
    let scene = scene(judge, able);
    let mut found = starts(&scene);
    found.extend(costed(&scene, given));
    let mut improved: Vec<(Layout, Verdict)> =
        halved(&scene, varied(found)).into_iter().map(|found| thrifty(judge, found)).collect();
    improved.sort_by_key(ranked);
    improved.dedup();
    improved.into_iter().map(|(layout, _)| layout).collect()
}

/// Costs given layouts in their own way, and with and without recomputation in the deepest that fits; of those on a single
/// peer the first few that fit. Stops where a quarter of the effort is spent on it.
pub(super) fn costed(scene: &Scene<'_, '_>, given: &[Layout]) -> Vec<(Layout, Verdict)> {
    let judge = scene.judge;
    let wanted = judge.spec.swarm.stages.map(usize::from);
    let (mut found, mut singles, begun) = (Vec::new(), 0, judge.spent());
    for layout in given.iter().filter(|l| wanted.is_none_or(|count| count == l.stages.len())) {
        if judge.spent() - begun > effort(scene.able) / 4 {
            break;
        }
        let is_single = layout.stages.len() == 1;
        if is_single && singles == SINGLES {
            continue;
        }
        let before = found.len();
        found.extend(judge.cost(layout).map(|verdict| (layout.clone(), verdict)));
        for way in first_ways(judge) {
            found.extend(deepest(judge, &Layout { way, ..layout.clone() }));
        }
        singles += usize::from(is_single && found.len() > before);
    }
    found
}

/// Returns the thriftiest way with recomputation and the one without, as far as the job allows them.
fn first_ways(judge: &Judge<'_>) -> Vec<u8> {
    let mut ways: Vec<(u8, Way)> = (0..).zip(judge.ways.iter().copied()).collect();
    ways.dedup_by_key(|(_, way)| way.recompute);
    ways.into_iter().map(|(number, _)| number).collect()
}

/// What layouts are sorted by, the best first.
fn ranked((layout, verdict): &(Layout, Verdict)) -> (u64, Layout) {
    (verdict.step, layout.clone())
}

/// Improves layouts by turns; those that are behind after a turn leave the rest of the effort to the better half. What is
/// left in the end goes to kicks.
fn halved(scene: &Scene<'_, '_>, mut found: Vec<(Layout, Verdict)>) -> Vec<(Layout, Verdict)> {
    let (judge, effort) = (scene.judge, effort(scene.able));
    // Half of it is for improvements, whatever it took to find anything.
    let all = effort.max(judge.spent() + effort / 2);
    loop {
        // As much for each turn, the last one among them.
        let turns = 1 + u64::from(found.len().div_ceil(FINALS).next_power_of_two().ilog2());
        let begun = judge.spent();
        let share = all.saturating_sub(begun) / turns / found.len().max(1) as u64;
        let turn = (1..).zip(found);
        found = turn.map(|(number, one)| refine(scene, one, begun + share * number)).collect();
        found.sort_by_key(ranked);
        found.dedup();
        if found.len() <= FINALS {
            break;
        }
        found.truncate(FINALS.max(found.len() / 2));
    }
    if let Some(best) = found.first().cloned() {
        let kicked = kicked(scene, best, all);
        if !found.contains(&kicked) {
            found.truncate(FINALS - 1);
            found.insert(0, kicked);
        }
    }
    found
}

/// Leaves a layout that no small change improves: by one of all changes, whatever it costs, after which the small ones have
/// another try. Until as many in a row have brought nothing, or the effort is spent.
fn kicked(scene: &Scene<'_, '_>, mut best: (Layout, Verdict), all: u64) -> (Layout, Verdict) {
    let judge = scene.judge;
    let list = |layout: &Layout| -> Vec<Layout> {
        changes::KINDS.iter().flat_map(|kind| kind(scene, layout)).collect()
    };
    let (mut choices, mut vain) = (list(&best.0), 0);
    while vain < KICKS && judge.spent() < all && !choices.is_empty() {
        // Far from each other in the list, so that all kinds have their turn.
        let change = choices[vain * KICK_STRIDE % choices.len()].clone();
        vain += 1;
        let Some(verdict) = judge.cost(&change) else { continue };
        let found = refine(scene, (change, verdict), all);
        if found.1.step < best.1.step {
            (choices, vain) = (list(&found.0), 0);
            best = found;
        }
    }
    best
}

/// Prepares for laying the network along lines of the peers below `able`.
pub(super) fn scene<'j, 'a>(judge: &'j Judge<'a>, able: usize) -> Scene<'j, 'a> {
    let ways = laid_ways(judge, able);
    let orders = judge.grain.orders().into_iter();
    let all = orders.flat_map(|order| ways.iter().map(move |way| (order.clone(), *way)));
    let stretches = all.map(|(order, way)| Stretch::new(judge, able, order, way)).collect();
    Scene { judge, stretches, able }
}

/// Returns the ways in which networks are laid along lines: for each kind of memory need the thriftiest and the most
/// wasteful, which sizes of stages suit; one where every peer has room for all.
fn laid_ways(judge: &Judge<'_>, able: usize) -> Vec<(u8, Way)> {
    let all: Vec<(u8, Way)> = (0..).zip(judge.ways.iter().copied()).collect();
    let least = (0..able).map(|peer| judge.room(peer)).min().unwrap_or_default();
    let most = judge.memory.most(judge.grain, judge.spec.train.micro_batches);
    let ample = most <= least;
    let mut list = Vec::new();
    for block in all.chunk_by(|one, other| one.1.recompute == other.1.recompute) {
        list.extend(block.first().copied());
        if ample {
            break;
        }
        list.extend(block.last().copied().filter(|_| block.len() > 1));
    }
    list
}

/// Costs a layout in the deepest of its ways that fits: links that take long hide behind it. GPipe, which keeps most, is
/// left to later changes.
fn deepest(judge: &Judge<'_>, layout: &Layout) -> Option<(Layout, Verdict)> {
    let recompute = judge.way(layout).recompute;
    let mut ways: Vec<u8> = (0..)
        .zip(&judge.ways)
        .filter(|(_, way)| way.recompute == recompute)
        .map(|(number, _)| number)
        .collect();
    if ways.len() > 1 {
        ways.pop();
    }
    ways.into_iter().rev().find_map(|way| {
        let layout = Layout { way, ..layout.clone() };
        judge.cost(&layout).map(|verdict| (layout, verdict))
    })
}

/// Runs a layout in the thriftiest way that is about as fast.
fn thrifty(judge: &Judge<'_>, (layout, verdict): (Layout, Verdict)) -> (Layout, Verdict) {
    let enough = verdict.step.saturating_add(verdict.step / THRIFT);
    let recompute = judge.way(&layout).recompute;
    let lower = (0..layout.way).filter(|way| judge.ways[usize::from(*way)].recompute == recompute);
    let found = lower.into_iter().find_map(|way| {
        let layout = Layout { way, ..layout.clone() };
        judge.cost(&layout).filter(|v| v.step <= enough).map(|verdict| (layout, verdict))
    });
    found.unwrap_or((layout, verdict))
}

pub(super) fn effort(able: usize) -> u64 {
    EFFORT_MAX.min(EFFORT_PER_PEER * able as u64)
}

/// Lays the network along all lines, in all orders of its units.
pub(super) fn starts(scene: &Scene<'_, '_>) -> Vec<(Layout, Verdict)> {
    let judge = scene.judge;
    let mut lines = lines::lines(judge.ground, scene.able, usize::from(judge.spec.swarm.replicas));
    // More stages than peers: along each line several times.
    let wanted = usize::from(judge.spec.swarm.stages.unwrap_or(1));
    let rounds = wanted.div_ceil(scene.able.max(1));
    for line in lines.iter_mut().filter(|_| rounds > 1) {
        *line = repeated(line, rounds);
    }
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for (stretch, line) in turns(scene.stretches.len(), lines.len()) {
        for layout in scene.stretches[stretch].layouts(&lines[line]) {
            for layout in [ties(scene, &layout), vec![layout]].concat() {
                if seen.insert(layout.clone()) {
                    found.extend(deepest(judge, &layout));
                }
            }
        }
        // A quarter, or half where nothing fits so far.
        let share = if found.is_empty() { 2 } else { 4 };
        if judge.spent() > effort(scene.able) / share {
            break;
        }
    }
    match judge.spec.swarm.stages.map(usize::from) {
        Some(wanted) => with_all_stages(scene, found, wanted),
        None => found,
    }
}

/// Returns all pairs of a stretch and a line, such that the effort may end anywhere: all lines once, each with another
/// stretch than its neighbours, before any line comes again; any few lines in a row are far from each other.
fn turns(stretches: usize, lines: usize) -> impl Iterator<Item = (usize, usize)> {
    let divides = |by: usize, stride: usize| stride.is_multiple_of(by) && lines.is_multiple_of(by);
    let is_prime_to = |stride: &usize| (2..=*stride).all(|by| !divides(by, *stride));
    let stride = (lines * 5 / 8..).find(is_prime_to).unwrap_or(1);
    let line = move |at: usize| at * stride % lines.max(1);
    let pair = move |round: usize| (0..lines).map(move |at| ((at + round) % stretches, line(at)));
    (0..stretches).flat_map(pair)
}

/// Splits stages, at the best place each time, until there are as many as the job fixes: of layouts with fewer, the best of
/// each number of stages first. Where peers may run several, one that lacks most may end as the best.
fn with_all_stages(
    scene: &Scene<'_, '_>,
    found: Vec<(Layout, Verdict)>,
    wanted: usize,
) -> Vec<(Layout, Verdict)> {
    let (mut whole, mut short): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(layout, _)| layout.stages.len() == wanted);
    short.sort_by_key(ranked);
    let mut taken = BTreeMap::new();
    let mut turns: Vec<_> = short
        .into_iter()
        .filter_map(|(layout, verdict)| {
            let before: &mut usize = taken.entry(layout.stages.len()).or_default();
            *before += 1;
            let lacking = wanted.abs_diff(layout.stages.len());
            (*before <= SPLIT).then_some((*before, lacking, layout, verdict))
        })
        .collect();
    turns.sort_by_key(|(place, lacking, ..)| (*place, *lacking));
    for (_, _, mut layout, mut verdict) in turns {
        // The first in any case, others while there is effort for improvements.
        while layout.stages.len() < wanted
            && (whole.is_empty() || scene.judge.spent() < effort(scene.able) / 2)
        {
            let choices = changes::splits(scene, &layout).into_iter();
            let costed = choices.filter_map(|split| Some((scene.judge.cost(&split)?, split)));
            let Some(best) = costed.min_by_key(|(v, split)| (v.step, split.clone())) else { break };
            (verdict, layout) = best;
        }
        if layout.stages.len() == wanted {
            whole.push((layout, verdict));
        }
    }
    whole
}

/// Keeps the best layouts, each in the way that suits it best, of each number of stages and workers at most a quarter.
fn varied(mut found: Vec<(Layout, Verdict)>) -> Vec<(Layout, Verdict)> {
    found.sort_by_key(ranked);
    let (mut seen, mut taken) = (BTreeSet::new(), BTreeMap::new());
    let mut kept = Vec::new();
    for (layout, verdict) in found {
        let workers: usize = layout.peers().count();
        let count: &mut usize = taken.entry((layout.stages.len(), workers)).or_default();
        let is_new = seen.insert((layout.stage_of.clone(), layout.stages.clone()));
        if is_new && *count < IMPROVED / 4 && kept.len() < IMPROVED {
            *count += 1;
            kept.push((layout, verdict));
        }
    }
    kept
}
