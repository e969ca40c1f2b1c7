//! The memory that a stage is said to take, beside what it takes: `cargo bench --workspace --bench memory`.
//!
//! Every allocation of this process is counted. Each network is one stage; its micro-batches pass forward first, then
//! backward, as under `GPipe`.

use std::io::Write as _;

use burn::backend::Dispatch;
use burn::tensor::Device as BurnDevice;
use peak_alloc::PeakAlloc;
use wattle_models::exec::Store;
use wattle_models::exec::stage::{Stage, State};
use wattle_models::single::{Steps, whole_work};
use wattle_models::zoo::resnet;
use wattle_models::{DeviceChoice, zoo};
use wattle_protocol::dag::Dag;
use wattle_protocol::ids::{Epoch, JobId, MicroBatch, Step};
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, PipelineOrder, Start, SwarmSpec, TrainSpec,
};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Micro-batches in flight.
const MICRO_BATCHES: u32 = 3;

fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").unwrap_or_default();
}

fn main() -> anyhow::Result<()> {
    warm()?;
    say("MiB of a stage: predicted, measured, and their ratio");
    say("network             state            forward            backward           step");
    // On a thread of arithmetic, as an executor's tasks.
    rayon::scope(|_| {
        for (dag, source) in networks()? {
            for recompute in [false, true] {
                row(&spec(dag.clone(), source, recompute))?;
            }
        }
        Ok(())
    })
}

/// Lets every thread multiply once: faer sets room aside for each, twice the third cache, of which what is not used is only
/// addresses. It belongs to the process, not to a stage.
fn warm() -> anyhow::Result<()> {
    let dag = zoo::by_name("gpt2-nano", Some(1)).ok_or_else(|| anyhow::anyhow!("gpt2-nano"))??;
    let spec = spec(dag, "text:kjv", false);
    let each = rayon::broadcast(|_| Steps::begin(&spec, DeviceChoice::Cpu)?.next_loss());
    each.into_iter().try_for_each(|loss| Ok(loss.map(|_| ())?))
}

fn networks() -> anyhow::Result<Vec<(Dag, &'static str)>> {
    let named =
        |name, batch| zoo::by_name(name, Some(batch)).ok_or_else(|| anyhow::anyhow!("{name}"));
    let config = resnet::Config::named("resnet18").ok_or_else(|| anyhow::anyhow!("resnet18"))?;
    let resnet18 = resnet::build(&resnet::Config { image: [3, 64, 64], ..config }, 8)?;
    Ok(vec![
        (named("gpt2-nano", 4)??, "text:kjv"),
        (named("gpt2-mini", 4)??, "text:kjv"),
        (named("llama-nano", 4)??, "text:kjv"),
        (named("resnet-tiny", 16)??, "images:digits"),
        (resnet18, "images:digits"),
    ])
}

fn spec(dag: Dag, source: &str, recompute: bool) -> JobSpec {
    let optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let learning_rate = LearningRate { peak: 1e-4, floor: 1e-4, warmup: 0 };
    let micro_batches = MICRO_BATCHES;
    let (clip_norm, seed) = (Some(1.0), 1);
    let train = TrainSpec { steps: 9, micro_batches, optimizer, learning_rate, clip_norm, seed };
    let swarm = SwarmSpec {
        order: Some(PipelineOrder::GPipe),
        recompute: Some(recompute),
        ..SwarmSpec::PLAIN
    };
    let data = DataSpec { source: source.into(), seed: 1 };
    JobSpec { name: dag.name().into(), dag, data, train, swarm, start: Start::Seed }
}

/// Figures in bytes: predicted and measured.
#[derive(Clone, Copy, Default)]
struct Pair {
    predicted: f64,
    measured: f64,
}

impl Pair {
    fn larger(self, other: Self) -> Self {
        Self {
            predicted: self.predicted.max(other.predicted),
            measured: self.measured.max(other.measured),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes, for a table")]
fn row(spec: &JobSpec) -> anyhow::Result<()> {
    // What is made once a process, such as the unpacked text, is no part of a stage.
    Steps::begin(spec, DeviceChoice::Cpu)?.next_loss()?;
    let work = whole_work(spec)?;
    let device = BurnDevice::flex().as_dispatch().clone();
    let store = Store::new();
    let failed = |error| anyhow::anyhow!("{error:?}");
    let begin = ALLOCATOR.current_usage();
    let mut stage =
        Stage::<Dispatch>::load(JobId::new([0; 16]), work, State::Drawn, Step::new(0), &device)
            .map_err(failed)?;
    let state = Pair {
        predicted: stage.held().count() as f64,
        measured: (ALLOCATOR.current_usage() - begin) as f64,
    };
    let (mut forward, mut backward, mut step) = (Pair::default(), Pair::default(), Pair::default());
    // The second step, when everything that is made once is there.
    for number in 0..2 {
        stage.reset(Epoch::new(1));
        let at = Step::new(number);
        for micro_batch in (0..MICRO_BATCHES).map(MicroBatch::new) {
            let (held, adds) =
                (stage.held().count() as f64, stage.footprint().forward.count() as f64);
            let before = ALLOCATOR.current_usage();
            ALLOCATOR.reset_peak_usage();
            stage.forward(at, micro_batch, &store).map_err(failed)?;
            let peak = ALLOCATOR.peak_usage();
            forward = Pair { predicted: adds, measured: (peak - before) as f64 };
            step = step.larger(Pair { predicted: held + adds, measured: (peak - begin) as f64 });
        }
        for micro_batch in (0..MICRO_BATCHES).map(MicroBatch::new) {
            let (held, adds) =
                (stage.held().count() as f64, stage.footprint().backward.count() as f64);
            let before = ALLOCATOR.current_usage();
            ALLOCATOR.reset_peak_usage();
            stage.backward(at, micro_batch, &store).map_err(failed)?;
            let peak = ALLOCATOR.peak_usage();
            backward = Pair { predicted: adds, measured: (peak - before) as f64 };
            step = step.larger(Pair { predicted: held + adds, measured: (peak - begin) as f64 });
        }
        if number == 0 {
            step = Pair::default();
        }
        stage.reduce(at, &[], false, &store).map_err(failed)?;
        stage.update(at, 1.0, None).map_err(failed)?;
    }
    let mib = |x: f64| x / f64::from(1 << 20);
    let cell = |p: Pair| {
        let ratio = p.predicted / p.measured;
        format!("{:7.2} {:7.2} {ratio:4.2}", mib(p.predicted), mib(p.measured))
    };
    let how = if spec.swarm.recompute == Some(true) { "again" } else { "" };
    say(&format!(
        "{:<12}{how:<6} {} {} {} {}",
        spec.name,
        cell(state),
        cell(forward),
        cell(backward),
        cell(step)
    ));
    Ok(())
}
