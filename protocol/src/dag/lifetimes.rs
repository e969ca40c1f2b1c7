//! When each value of a program can be freed, and the most memory that a run takes at once.
//!
//! The executor frees by it, and `schedule/footprint` counts by it, so that what is predicted is what is done.

use std::collections::{BTreeMap, BTreeSet};

use super::Fact;
use super::cost::workspace::workspace;
use super::cut::Program;
use crate::ids::ValueId;
use crate::units::Bytes;

/// What happens to the operands and results of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// For each operand: whether this is the value's last use.
    pub last: Vec<bool>,
    /// For each result: whether anything uses it.
    pub wanted: Vec<bool>,
}

/// Last uses of a program's values, worked out once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes(Vec<Uses>);

/// What a tensor takes beside its elements: shape, strides, counters, its place in maps, and what allocators round up.
/// Our figure: with it, the states of `cargo bench --workspace --bench memory` come out to within 1 % on a host (2026-11).
/// Devices of other kinds have not been measured.
pub const HEADER: Bytes = Bytes::new(768);

/// Returns what a tensor takes; a stranger's shape may be beyond any number.
pub fn tensor_bytes(fact: &Fact) -> Bytes {
    let lengths = fact.shape.iter().map(|length| *length as u64);
    Bytes::new(lengths.fold(fact.dtype.size() as u64, u64::saturating_mul)) + HEADER
}

impl Lifetimes {
    /// Works out when each value can be freed, `keep` never.
    pub fn of(program: &Program, keep: &BTreeSet<ValueId>) -> Self {
        let mut seen = keep.clone();
        let mut uses: Vec<Uses> = program
            .nodes
            .iter()
            .rev()
            .map(|node| {
                let wanted = node.outputs.iter().map(|v| seen.contains(v)).collect();
                let mut last: Vec<bool> =
                    node.inputs.iter().rev().map(|v| seen.insert(*v)).collect();
                last.reverse();
                Uses { last, wanted }
            })
            .collect();
        uses.reverse();
        Self(uses)
    }

    /// Returns what happens to the values of each node, in order.
    pub fn uses(&self) -> &[Uses] {
        &self.0
    }

    /// Returns the most memory that a run on so many threads takes at once: what it `begins` with (parameters and
    /// buffers aside), results until their last use, and the running kernel's workspace. A view counts as a tensor of its
    /// own.
    ///
    /// *Cost*: O(operands log operands).
    pub fn peak<'a>(
        &self,
        program: &Program,
        begins: impl IntoIterator<Item = ValueId>,
        fact: impl Fn(ValueId) -> Option<&'a Fact>,
        threads: u64,
    ) -> Bytes {
        let mut alive = Alive::default();
        let size = |id: ValueId| fact(id).map_or(Bytes::ZERO, tensor_bytes);
        begins.into_iter().for_each(|id| alive.add(id, size(id)));
        let mut most = alive.now;
        for (node, uses) in program.nodes.iter().zip(&self.0) {
            node.outputs.iter().for_each(|id| alive.add(*id, size(*id)));
            let facts =
                |ids: &[ValueId]| ids.iter().map(|id| fact(*id)).collect::<Option<Vec<_>>>();
            let space = match (facts(&node.inputs), facts(&node.outputs)) {
                (Some(inputs), Some(outputs)) => workspace(&node.op, &inputs, &outputs).on(threads),
                _ => Bytes::ZERO,
            };
            most = most.max(alive.now + space);
            let dead = node.inputs.iter().zip(&uses.last).filter(|(_, last)| **last);
            let unused = node.outputs.iter().zip(&uses.wanted).filter(|(_, wanted)| !**wanted);
            dead.chain(unused).for_each(|(id, _)| alive.free(*id));
        }
        most
    }
}

/// Values that are there, and their size together.
#[derive(Debug, Default)]
struct Alive {
    values: BTreeMap<ValueId, Bytes>,
    now: Bytes,
}

impl Alive {
    fn add(&mut self, id: ValueId, size: Bytes) {
        if self.values.insert(id, size).is_none() {
            self.now += size;
        }
    }

    fn free(&mut self, id: ValueId) {
        let size = self.values.remove(&id).unwrap_or(Bytes::ZERO);
        self.now = self.now.less(size);
    }
}
