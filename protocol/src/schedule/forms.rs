//! What each edge's tensors look like on its link: part of a plan, so that both ends know it before a byte comes.
//!
//! Source: that FusionLLM compresses activations and gradients adaptively at the slowest links is the paper's; the rule is
//! our proposal (papers.md 1.9). Links are those between owners; replicas of a stage use its owner's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::StagePlan;
use super::ground::Ground;
use crate::codec::adatopk::{Estimate, Ratios};
use crate::codec::{Codec, Floats, Form};
use crate::dag::cut::CutEdge;
use crate::dag::{Dtype, Fact};
use crate::ids::{EdgeId, StageId};
use crate::units::{Bytes, Duration};

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

/// Says whether these may be the forms of a job's plan for these edges: what a stranger's plan is held to before it is
/// repaired, since repairs keep them.
pub(super) fn may_be(forms: &[EdgeForms], codec: Codec, edges: &[CutEdge]) -> bool {
    let one = |form: Form, fact: &Fact| {
        let elements = fact.elements();
        let is_selection = matches!(form, Form::TopK { keep, values: Floats::F32 } if (1..=elements).contains(&keep));
        match codec.form(elements) {
            _ if fact.dtype == Dtype::I32 => form == Form::DENSE,
            Some(fixed) => form == fixed,
            None => form == Form::DENSE || is_selection,
        }
    };
    let both = |(forms, edge): (&EdgeForms, &CutEdge)| {
        one(forms.there, &edge.fact) && one(forms.back, &edge.fact)
    };
    forms.is_empty()
        || (codec != Codec::Dense
            && forms.len() == edges.len()
            && forms.iter().zip(edges).all(both))
}

/// Returns the form of each edge of a cut on the links between owners; empty where all are dense. What goes over one link
/// shares its time.
pub(super) fn forms(
    codec: Codec,
    edges: &[CutEdge],
    stages: &[StagePlan],
    ground: &Ground<'_>,
) -> Vec<EdgeForms> {
    if codec == Codec::Dense {
        return Vec::new();
    }
    let ways = |edge: &CutEdge| [(edge.from, edge.to), (edge.to, edge.from)];
    let crosses = |edge: &CutEdge| [true, edge.cotangent.is_some()];
    let mut sizes: BTreeMap<(StageId, StageId), Bytes> = BTreeMap::new();
    for edge in edges {
        for (way, _) in ways(edge).into_iter().zip(crosses(edge)).filter(|(_, crosses)| *crosses) {
            *sizes.entry(way).or_default() += edge.fact.bytes();
        }
    }
    let owner = |stage: StageId| stages.get(stage.index()).and_then(|s| ground.number(s.owner));
    let time = |(from, to): (StageId, StageId)| {
        let size = sizes.get(&(from, to)).copied().unwrap_or_default();
        let ends = owner(from).zip(owner(to)).filter(|_| size > Bytes::ZERO);
        let transfer = ends.map(|(from, to)| ground.transfer(from, to, size));
        transfer.map_or(Duration::ZERO, |(busy, travel)| busy + travel)
    };
    let each = edges.iter().flat_map(|edge| ways(edge).map(|way| (edge, way)));
    let found: Vec<Form> = match codec {
        Codec::AdaTopK(base) => {
            let estimate = |(edge, way): (&CutEdge, _)| Estimate {
                elements: edge.fact.elements(),
                dense: time(way),
            };
            let estimates: Vec<Estimate> = each.map(estimate).collect();
            Ratios::new(base, Floats::F32, &estimates).forms().to_vec()
        }
        Codec::Dense | Codec::Half(_) | Codec::Int8 | Codec::TopK(_) => {
            each.map(|(edge, _)| codec.form(edge.fact.elements()).unwrap_or(Form::DENSE)).collect()
        }
    };
    let both = |(edge, forms): (&CutEdge, &[Form; 2])| match edge.fact.dtype {
        // Integers are exact.
        Dtype::I32 => EdgeForms::DENSE,
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => EdgeForms { there: forms[0], back: forms[1] },
    };
    edges.iter().zip(found.as_chunks::<2>().0).map(both).collect()
}
