//! What each edge's tensors look like on its link: part of a plan, so that both ends know it before a byte comes.
//!
//! Source: that FusionLLM compresses activations and gradients adaptively at the slowest links is the paper's; the rule is
//! our proposal (papers.md 1.9). Links are those between owners; replicas of a stage use its owner's.

use serde::{Deserialize, Serialize};

use super::StagePlan;
use super::ground::Ground;
use crate::codec::{Codec, Floats, Form, adatopk};
use crate::dag::cut::CutEdge;
use crate::dag::{Dtype, Fact};
use crate::ids::{EdgeId, StageId};
use crate::units::Duration;

/// Forms of one edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeForms {
    /// Of its activations.
    pub there: Form,
    /// Of the cotangents that come back.
    pub back: Form,
}

impl EdgeForms {
    /// Bit by bit.
    pub const DENSE: Self = Self { there: Form::DENSE, back: Form::DENSE };
}

/// Returns an edge's forms; an empty list stands for dense ones.
pub fn of_edge(forms: &[EdgeForms], edge: EdgeId) -> EdgeForms {
    forms.get(edge.index()).copied().unwrap_or(EdgeForms::DENSE)
}

/// Returns the form of each edge of a cut on the links between owners; empty where all are dense.
pub(super) fn forms(
    codec: Codec,
    edges: &[CutEdge],
    stages: &[StagePlan],
    ground: &Ground<'_>,
) -> Vec<EdgeForms> {
    if codec == Codec::Dense {
        return Vec::new();
    }
    let owner = |stage: StageId| stages.get(stage.index()).and_then(|s| ground.number(s.owner));
    let time = |from: StageId, to: StageId, fact: &Fact| {
        let ends = owner(from).zip(owner(to));
        let (busy, travel) = ends
            .map_or_else(Default::default, |(from, to)| ground.transfer(from, to, fact.bytes()));
        busy + travel
    };
    let there = |edge: &CutEdge| time(edge.from, edge.to, &edge.fact);
    let back = |edge: &CutEdge| match edge.cotangent {
        Some(_) => time(edge.to, edge.from, &edge.fact),
        None => Duration::ZERO,
    };
    let slowest = edges.iter().map(|edge| there(edge).max(back(edge))).max().unwrap_or_default();
    let one = |fact: &Fact, own: Duration| form(codec, fact, own, slowest);
    let both = |edge: &CutEdge| EdgeForms {
        there: one(&edge.fact, there(edge)),
        back: one(&edge.fact, back(edge)),
    };
    edges.iter().map(both).collect()
}

/// Returns the form of a tensor whose dense transfer takes `own`, where the slowest takes `slowest`. Integers are exact.
fn form(codec: Codec, fact: &Fact, own: Duration, slowest: Duration) -> Form {
    if fact.dtype == Dtype::I32 {
        return Form::DENSE;
    }
    let elements = fact.elements();
    let adaptive = || {
        let Codec::AdaTopK(base) = codec else { return Form::DENSE };
        let budget = adatopk::budget(Form::DENSE.bytes(elements), base, own, slowest);
        let form = budget.map(|budget| adatopk::within(budget, elements, Floats::F32));
        form.map_or(Form::DENSE, |form| form.or_dense(elements))
    };
    codec.form(elements).unwrap_or_else(adaptive)
}
