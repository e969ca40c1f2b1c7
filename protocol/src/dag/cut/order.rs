//! Whether an assignment is legal: every stage has nodes, and data flow from lower to higher stages.

use std::collections::{BTreeMap, BTreeSet};

use super::{CutEdge, CutError, Edges};
use crate::dag::Dag;
use crate::dag::grad::Training;
use crate::ids::{NodeId, StageId, ValueId};

/// Returns the number of stages of a legal assignment.
pub(super) fn check(training: &Training, assignment: &[StageId]) -> Result<usize, CutError> {
    let ranks = ranks(training, assignment)?;
    for (value, from, to) in crossings(training, assignment) {
        if from > to {
            return Err(CutError::Order {
                from,
                to,
                value: training.dag.value(value).name.clone(),
            });
        }
    }
    check_buffers(training, assignment)?;
    Ok(ranks.len())
}

/// Returns the place of each stage in the order of the data.
pub(super) fn ranks(training: &Training, assignment: &[StageId]) -> Result<Vec<StageId>, CutError> {
    let count = count_stages(training, assignment)?;
    let mut links: BTreeMap<(StageId, StageId), ValueId> = BTreeMap::new();
    for (value, from, to) in crossings(training, assignment) {
        links.entry((from, to)).or_insert(value);
    }
    let mut missing = vec![0usize; count];
    links.keys().for_each(|(_, to)| missing[to.index()] += 1);
    let ids: Vec<StageId> = (0..=u16::MAX).map(StageId::new).take(count).collect();
    let mut ready: BTreeSet<StageId> =
        ids.iter().copied().filter(|stage| missing[stage.index()] == 0).collect();
    let mut ranks = vec![None; count];
    let mut next = ids.iter();
    while let Some(stage) = ready.pop_first() {
        ranks[stage.index()] = next.next().copied();
        for (_, to) in links
            .range((stage, StageId::new(0))..=(stage, StageId::new(u16::MAX)))
            .map(|(link, _)| link)
        {
            missing[to.index()] -= 1;
            if missing[to.index()] == 0 {
                ready.insert(*to);
            }
        }
    }
    let placed: Option<Vec<StageId>> = ranks.iter().copied().collect();
    placed.ok_or_else(|| cycle(training, &links, &ranks))
}

/// Names an edge of a cycle among the stages that could not be placed.
fn cycle(
    training: &Training,
    links: &BTreeMap<(StageId, StageId), ValueId>,
    ranks: &[Option<StageId>],
) -> CutError {
    // Each stage without a place has such a predecessor, so walking back from any of them ends in a cycle.
    let back = |stage: StageId| {
        let into =
            links.iter().find(|((from, to), _)| *to == stage && ranks[from.index()].is_none());
        into.map(|((from, _), value)| (*from, *value)).expect("a stage waits for another one")
    };
    let stuck = links.keys().map(|(_, to)| *to).find(|to| ranks[to.index()].is_none());
    let mut to = stuck.expect("some stage was not placed");
    let mut seen = BTreeSet::new();
    while seen.insert(to) {
        to = back(to).0;
    }
    let (from, value) = back(to);
    CutError::Cyclic { from, to, value: training.dag.value(value).name.clone() }
}

fn count_stages(training: &Training, assignment: &[StageId]) -> Result<usize, CutError> {
    if assignment.len() != training.forward_nodes {
        let (nodes, assigned) = (training.forward_nodes, assignment.len());
        return Err(CutError::Length { nodes, assigned });
    }
    let used: BTreeSet<StageId> = assignment.iter().copied().collect();
    let gap = used.iter().zip(0..).find(|(stage, index)| stage.index() != *index);
    match (gap, used.last()) {
        (Some((_, index)), Some(last)) => {
            let empty = StageId::new(u16::try_from(index).expect("below a stage's number"));
            Err(CutError::Gap { empty, last: *last })
        }
        _ => Ok(used.len()),
    }
}

/// Returns (value, producing stage, using stage) for every use of a value in another stage.
fn crossings<'a>(
    training: &'a Training,
    assignment: &'a [StageId],
) -> impl Iterator<Item = (ValueId, StageId, StageId)> + 'a {
    uses(&training.dag, training.forward_nodes).filter_map(|(value, user)| {
        let from = assignment[training.dag.producer(value)?.index()];
        let to = assignment[user.index()];
        (from != to).then_some((value, from, to))
    })
}

fn uses(dag: &Dag, nodes: usize) -> impl Iterator<Item = (ValueId, NodeId)> + '_ {
    dag.node_ids()
        .take(nodes)
        .flat_map(|id| dag.node(id).inputs.iter().map(move |value| (*value, id)))
}

/// Returns the edges of a legal assignment, without their cotangents.
pub(super) fn edges(training: &Training, assignment: &[StageId]) -> Edges {
    let mut edges = Edges::new();
    for (value, from, to) in crossings(training, assignment) {
        let fact = training.dag.fact(value);
        edges.entry((value, to)).or_insert_with(|| CutEdge {
            value,
            fact: fact.clone(),
            from,
            to,
            cotangent: None,
        });
    }
    edges
}

fn check_buffers(training: &Training, assignment: &[StageId]) -> Result<(), CutError> {
    let dag = &training.dag;
    let stage_of = |value| dag.producer(value).map(|node| assignment[node.index()]);
    let mut updaters: BTreeMap<ValueId, StageId> = BTreeMap::new();
    let split = |buffer, updater, user| {
        Err(CutError::BufferSplit { buffer: dag.value(buffer).name.clone(), updater, user })
    };
    for update in dag.updates() {
        let Some(user) = stage_of(update.from) else { continue };
        let updater = *updaters.entry(update.buffer).or_insert(user);
        if updater != user {
            return split(update.buffer, updater, user);
        }
    }
    for (value, node) in uses(dag, training.forward_nodes) {
        let user = assignment[node.index()];
        match updaters.get(&value) {
            Some(&updater) if updater != user => return split(value, updater, user),
            _ => {}
        }
    }
    Ok(())
}
