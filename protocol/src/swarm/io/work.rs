//! What the execution thread needs to run one stage: made of a job's specification and its cut, by every peer alike.

use crate::dag::cut::StageGraph;
use crate::ids::{TensorHash, ValueId};
use crate::job::{DataSpec, JobSpec, TrainSpec};
use crate::schedule::estimate::pass_loads;
use crate::schedule::groups::Groups;
use crate::schedule::load::Load;

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
    /// Hashes of what parameters and buffers start from, in order; None where they are drawn from the seed.
    pub start: Option<Vec<(ValueId, TensorHash)>>,
}

impl StageWork {
    /// Makes the work of one stage of a job.
    pub fn of(spec: &JobSpec, graph: StageGraph) -> Self {
        let start = spec.start.of_stage(&spec.dag, &graph);
        let (groups, loads) = (Groups::of(spec), pass_loads(&graph));
        Self { graph, data: spec.data.clone(), train: spec.train, groups, loads, start }
    }
}
