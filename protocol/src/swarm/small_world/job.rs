//! The job of the small world: a chain with a shared parameter, so that stages have gradients to share.

use crate::dag::op::{Op, Targets};
use crate::dag::{Dag, DagBuilder, Fact, Init};
use crate::ids::TensorHash;
use crate::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, PipelineOrder, Start, SwarmSpec, TrainSpec,
};

fn chain(layers: usize, rows: usize) -> Dag {
    let mut b = DagBuilder::new("chain");
    let mut x = b.input("tokens", Fact::f32(&[rows, 8]));
    let shared = b.parameter("shared", &[8, 8], Init::Normal(0.1), true);
    x = b.op("first", Op::Linear, &[x, shared]).unwrap();
    for layer in 0..layers {
        let w = b.parameter(format!("w{layer}"), &[8, 8], Init::Normal(0.1), true);
        x = b.op(format!("l{layer}"), Op::Linear, &[x, w]).unwrap();
        x = b.op(format!("r{layer}"), Op::Relu, &[x]).unwrap();
    }
    x = b.op("last", Op::Linear, &[x, shared]).unwrap();
    let targets = b.input("targets", Fact::i32(&[rows]));
    let loss = b.op("loss", Op::CrossEntropy(Targets::default()), &[x, targets]).unwrap();
    b.output(loss);
    b.finish().unwrap()
}

pub(super) fn spec(stages: u16, steps: u64) -> JobSpec {
    JobSpec {
        name: "chain".into(),
        dag: chain(6, 4),
        start: Start::Seed,
        data: DataSpec { source: "none".into(), seed: 1 },
        train: TrainSpec {
            steps,
            micro_batches: 4,
            optimizer: Optimizer::Sgd { momentum: 0.9, weight_decay: 0.0 },
            learning_rate: LearningRate { peak: 0.1, floor: 0.1, warmup: 0 },
            clip_norm: Some(1.0),
            seed: 1,
        },
        swarm: SwarmSpec {
            stages: Some(stages),
            order: Some(PipelineOrder::OneFOneB),
            recompute: Some(false),
            backups: 1,
            ..SwarmSpec::PLAIN
        },
    }
}

/// A job that is worth several workers a stage.
pub(super) fn heavy((stages, replicas, backups): (u16, u16, u8), steps: u64) -> JobSpec {
    let mut spec = spec(stages, steps);
    spec.dag = chain(6, 4096);
    spec.train.micro_batches = 8;
    (spec.swarm.replicas, spec.swarm.backups) = (replicas, backups);
    spec
}

/// The same job from weights that the submitter gives.
pub(super) fn given(stages: u16, steps: u64) -> JobSpec {
    let mut spec = spec(stages, steps);
    let count = spec.dag.parameters().count() + spec.dag.buffers().count();
    let hash = |n: usize| TensorHash::of(&n.to_le_bytes());
    spec.start = Start::Given((0..count).map(hash).collect());
    spec
}
