//! The search for layouts: lays the network along lines of peers, keeps the best of different shapes, improves them.

use std::collections::{BTreeMap, BTreeSet};

use super::super::pipeline::Way;
use super::changes;
use super::judge::{Judge, Layout, Verdict};
use super::lines;
use super::refine::{Scene, refine};
use super::stretch::Stretch;

/// Effort of a search in all (passes run and units summed): a fraction of a second, and less for few peers, whose few
/// layouts are soon tried. Every voter searches anew, while messages are handled.
pub(super) const EFFORT_MAX: u64 = 600_000;
const EFFORT_PER_PEER: u64 = 60_000;
/// Layouts along lines that are improved.
pub(super) const IMPROVED: usize = 16;
/// Layouts that are cut and predicted in earnest.
const FINALS: usize = 4;
/// A way that keeps less is as good if the step is longer by less than one in so many.
const THRIFT: u64 = 500;

/// Returns layouts that may be the best plan, the best first.
pub(super) fn finalists(judge: &Judge<'_>, able: usize, plain: &[Layout]) -> Vec<Layout> {
    let scene = scene(judge, able);
    let mut found = starts(&scene);
    let wanted = judge.spec.swarm.stages.map(usize::from);
    let plain = plain.iter().filter(|l| wanted.is_none_or(|count| count == l.stages.len()));
    found.extend(plain.filter_map(|layout| Some((layout.clone(), judge.cost(layout)?))));
    found.sort_by_key(|(layout, verdict)| (verdict.step, layout.clone()));
    found.dedup();
    let kept = varied(found);
    let mut improved: Vec<(Layout, Verdict)> = Vec::new();
    let begun = judge.spent();
    let share = effort(able).saturating_sub(begun) / kept.len().max(1) as u64;
    for (number, start) in (1..).zip(kept) {
        improved.push(thrifty(judge, refine(&scene, start, begun + share * number)));
    }
    improved.sort_by_key(|(layout, verdict)| (verdict.step, layout.clone()));
    improved.dedup();
    improved.truncate(FINALS);
    improved.into_iter().map(|(layout, _)| layout).collect()
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
    let ample = judge.most() <= least;
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
        *line = changes::repeated(line, rounds);
    }
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    'lines: for stretch in &scene.stretches {
        for line in &lines {
            for layout in stretch.layouts(line) {
                if seen.insert(layout.clone()) {
                    found.extend(deepest(judge, &layout));
                }
                if judge.spent() > effort(scene.able) / 2 && !found.is_empty() {
                    break 'lines;
                }
            }
        }
    }
    match judge.spec.swarm.stages.map(usize::from) {
        Some(wanted) => with_all_stages(scene, found, wanted),
        None => found,
    }
}

/// Splits stages, at the best place each time, until there are as many as the job fixes. Of layouts that have fewer, those
/// that lack least are split, the fastest of them first.
fn with_all_stages(
    scene: &Scene<'_, '_>,
    found: Vec<(Layout, Verdict)>,
    wanted: usize,
) -> Vec<(Layout, Verdict)> {
    let (mut whole, mut short): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(layout, _)| layout.stages.len() == wanted);
    short.sort_by_key(|(layout, verdict)| {
        (wanted.abs_diff(layout.stages.len()), verdict.step, layout.clone())
    });
    for (mut layout, mut verdict) in short.into_iter().take(IMPROVED / 4) {
        while layout.stages.len() < wanted {
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

/// Keeps the best layouts, of each number of stages and workers at most a quarter.
fn varied(found: Vec<(Layout, Verdict)>) -> Vec<(Layout, Verdict)> {
    let mut taken = BTreeMap::new();
    let mut kept = Vec::new();
    for (layout, verdict) in found {
        let workers: usize = layout.stages.iter().map(Vec::len).sum();
        let count: &mut usize = taken.entry((layout.stages.len(), workers)).or_default();
        if *count < IMPROVED / 4 && kept.len() < IMPROVED {
            *count += 1;
            kept.push((layout, verdict));
        }
    }
    kept
}
