//! What the execution thread needs to run one stage: made of a job's specification and its cut, by every peer alike.

use crate::codec::Form;
use crate::dag::cut::StageGraph;
use crate::dag::{Dtype, Fact};
use crate::ids::{EdgeId, TensorHash, ValueId};
use crate::job::{DataSpec, JobSpec, TrainSpec};
use crate::schedule::estimate::pass_loads;
use crate::schedule::forms::{EdgeForms, of_edge};
use crate::schedule::groups::Groups;
use crate::schedule::load::Load;
use crate::units::Bytes;

/// Everything the execution thread needs to run one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageWork {
    /// The stage's forward and backward sub-DAGs.
    pub graph: StageGraph,
    /// Data source of the stage's inputs.
    pub data: DataSpec,
    /// Training procedure.
    pub train: TrainSpec,
    /// The order in which gradients are summed over micro-batches.
    pub groups: Groups,
    /// What a forward and a backward pass of one micro-batch ask of a device.
    pub loads: (Load, Load),
    /// What each edge's tensors look like on its link; empty where all are dense.
    pub forms: Vec<EdgeForms>,
    /// Hashes of what parameters and buffers start from, in order; None where they are drawn from the seed.
    pub start: Option<Vec<(ValueId, TensorHash)>>,
}

impl StageWork {
    /// Makes the work of one stage of a job whose tensors cross links in such forms.
    pub fn of(spec: &JobSpec, graph: StageGraph, forms: &[EdgeForms]) -> Self {
        let start = spec.start.of_stage(&spec.dag, &graph);
        let (groups, loads) = (Groups::of(spec), pass_loads(&graph));
        let forms = forms.to_vec();
        Self { graph, data: spec.data.clone(), train: spec.train, groups, loads, forms, start }
    }

    /// Returns the form of an edge's activations.
    pub fn form_there(&self, edge: EdgeId) -> Form {
        of_edge(&self.forms, edge).there
    }

    /// Returns the form of an edge's cotangents.
    pub fn form_back(&self, edge: EdgeId) -> Form {
        of_edge(&self.forms, edge).back
    }
}

/// How long an awaited bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Exactly(Bytes),
    /// A tensor of floats of a form, which may be decoded while it arrives.
    Tensor {
        /// How it is encoded.
        form: Form,
        /// Its elements.
        elements: usize,
    },
}

impl Length {
    /// Returns the length of one tensor's bundle.
    pub fn of(form: Form, fact: &Fact) -> Self {
        match fact.dtype {
            Dtype::I32 => Self::Exactly(fact.bytes()),
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => {
                Self::Tensor { form, elements: fact.elements() }
            }
        }
    }

    /// Returns the most bytes that it may have.
    pub fn most(self) -> Bytes {
        match self {
            Self::Exactly(bytes) => bytes,
            Self::Tensor { form, elements } => form.bytes(elements),
        }
    }

    /// Says whether so many bytes may be it.
    pub fn is(self, bytes: Bytes) -> bool {
        match self {
            Self::Exactly(wanted) => bytes == wanted,
            Self::Tensor { form, .. } if form.is_of_one_length() => bytes == self.most(),
            Self::Tensor { .. } => bytes <= self.most(),
        }
    }
}
