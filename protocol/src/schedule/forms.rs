//! What each edge's tensors look like on its link: part of a plan, so that both ends know it before a byte comes.
//!
//! Source: that FusionLLM compresses activations and gradients adaptively at the slowest links is the paper's; the rule is
//! our proposal (papers.md 1.9). Links are those between owners; replicas of a stage use its owner's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::StagePlan;
use super::ground::Ground;
use crate::codec::adatopk::{Estimate, Ratios};
use crate::codec::{Codec, Floats, Form, adaptive};
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
    let one = |form: Form, fact: &Fact, adapted: &[Form]| {
        let elements = fact.elements();
        let is_selection = matches!(form, Form::TopK { keep, values: Floats::F32 } if (1..=elements).contains(&keep));
        match codec.form(elements) {
            _ if fact.dtype == Dtype::I32 => form == Form::DENSE,
            Some(fixed) => form == fixed,
            None if codec == Codec::Adaptive => adapted.contains(&form),
            None => form == Form::DENSE || is_selection,
        }
    };
    let both = |(forms, edge): (&EdgeForms, &CutEdge)| {
        one(forms.there, &edge.fact, &adaptive::ACTIVATIONS)
            && one(forms.back, &edge.fact, &adaptive::COTANGENTS)
    };
    forms.is_empty()
        || (codec != Codec::Dense
            && forms.len() == edges.len()
            && forms.iter().zip(edges).all(both))
}

/// Returns the forms that a cut's edges may have on the links between owners, those that lose least first: a list for each
/// choice there is, empty where all are dense. What goes over one link shares its time.
pub(super) fn choices(
    codec: Codec,
    edges: &[CutEdge],
    stages: &[StagePlan],
    ground: &Ground<'_>,
) -> Vec<Vec<EdgeForms>> {
    let links = || estimates(edges, stages, ground);
    let fixed = |edge: &CutEdge| codec.form(edge.fact.elements()).unwrap_or(Form::DENSE);
    match codec {
        Codec::Dense => vec![Vec::new()],
        Codec::Half(_) | Codec::Int8 | Codec::Int5 | Codec::Int4 | Codec::TopK(_) => {
            vec![both_ways(edges, edges.iter().flat_map(|edge| [fixed(edge); 2]))]
        }
        Codec::AdaTopK(base) => {
            let ratios = Ratios::new(base, Floats::F32, &links());
            vec![Vec::new(), both_ways(edges, ratios.forms().iter().copied())]
        }
        Codec::Adaptive => {
            let may = [adaptive::ACTIVATIONS.as_slice(), adaptive::COTANGENTS.as_slice()];
            let links: Vec<(Estimate, &[Form])> =
                links().into_iter().zip(may.into_iter().cycle()).collect();
            let as_rough = |rough| both_ways(edges, adaptive::forms(rough, &links).into_iter());
            let rougher = (1..adaptive::COTANGENTS.len()).map(as_rough);
            std::iter::once(Vec::new()).chain(rougher).collect()
        }
    }
}

fn both_ways(edges: &[CutEdge], forms: impl Iterator<Item = Form>) -> Vec<EdgeForms> {
    let found: Vec<Form> = forms.collect();
    let both = |(edge, forms): (&CutEdge, &[Form; 2])| match edge.fact.dtype {
        // Integers are exact.
        Dtype::I32 => EdgeForms::DENSE,
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => EdgeForms { there: forms[0], back: forms[1] },
    };
    edges.iter().zip(found.as_chunks::<2>().0).map(both).collect()
}

/// For each edge, there and back: its elements, and how long its link takes for all that goes over it.
fn estimates(edges: &[CutEdge], stages: &[StagePlan], ground: &Ground<'_>) -> Vec<Estimate> {
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
    let one = |edge: &CutEdge, way| Estimate { elements: edge.fact.elements(), dense: time(way) };
    edges.iter().flat_map(|edge| ways(edge).map(|way| one(edge, way))).collect()
}
