//! How long operators and training steps take on this machine's CPU.
//!
//! `cargo bench --workspace --bench speed` prints a table; `-- --json CASE` prints one figure, which `speed.py` sets
//! beside PyTorch's. `RAYON_NUM_THREADS` says how many threads compute. Times are the least of the repetitions.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use burn::backend::Dispatch;
use burn::tensor::Device as BurnDevice;
use burn_backend::tensor::Device;
use wattle_models::exec::kernel::{RunContext, eval};
use wattle_models::exec::tensor::Tensor;
use wattle_models::single::Steps;
use wattle_models::zoo::{gpt2, resnet};
use wattle_models::{DeviceChoice, zoo};
use wattle_protocol::dag::Dag;
use wattle_protocol::dag::op::{Conv2d, Gelu, Op, Targets};
use wattle_protocol::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, Start, SwarmSpec, TrainSpec,
};

/// As in the `wattle` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long one case is repeated.
const BUDGET: Duration = Duration::from_millis(1_500);
/// Fewest repetitions of a case.
const LEAST: usize = 5;

const CASES: [&str; 22] = [
    "gpt2-mini step",
    "gpt2-mini nodes",
    "resnet18 step",
    "matmul",
    "linear",
    "linear back",
    "conv 3x3",
    "conv 3x3 back",
    "conv 1x1",
    "conv 1x1 back",
    "attention",
    "attention back",
    "layer norm",
    "layer norm back",
    "softmax",
    "softmax back",
    "gelu",
    "gelu back",
    "embedding back",
    "cross-entropy",
    "cross-entropy back",
    "add",
];

fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").unwrap_or_default();
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let Some(at) = args.iter().position(|a| a == "--json") {
        let case = args.get(at + 1).context("--json takes a case")?;
        say(&serde_json::json!({ "schema": "wattle.speed.1", "case": case, "ms": milliseconds(case)? }).to_string());
        return Ok(());
    }
    say(&format!(
        "{} threads; milliseconds, the least of at least {LEAST}",
        rayon::current_num_threads()
    ));
    for case in
        CASES.iter().filter(|c| args.is_empty() || args.iter().any(|a| c.contains(a.as_str())))
    {
        say(&format!("{case:<20} {:>10.3}", milliseconds(case)?));
    }
    Ok(())
}

/// Values between -1 and 1 that are no constant.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| f32::from(u8::try_from(i * 37 % 251).unwrap_or(0)) / 125.0 - 1.0).collect()
}

fn device() -> Device<Dispatch> {
    BurnDevice::flex().as_dispatch().clone()
}

fn floats(shape: &[usize]) -> Tensor<Dispatch> {
    Tensor::floats(values(shape.iter().product()), shape, &device())
}

fn ints(count: usize, below: usize) -> Tensor<Dispatch> {
    let ids = (0..count).map(|i| i32::try_from(i * 7919 % below).unwrap_or(0)).collect();
    Tensor::ints(ids, &[count], &device())
}

/// Returns the least time of some work, in milliseconds.
fn least(mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    work()?;
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut done = 0;
    while done < LEAST || start.elapsed() < BUDGET {
        let one = Instant::now();
        work()?;
        best = best.min(one.elapsed().as_secs_f64());
        done += 1;
    }
    Ok(best * 1e3)
}

fn milliseconds(case: &str) -> anyhow::Result<f64> {
    match case {
        "gpt2-mini step" => return steps(gpt2_mini()?, "text:kjv", 8),
        "gpt2-mini nodes" => return steps(gpt2_mini_nodes()?, "text:kjv", 8),
        "resnet18 step" => return steps(resnet18()?, "images:digits", 2),
        _ => {}
    }
    let operators = operators(case)?;
    let context = RunContext::default();
    let device = device();
    // As the executor does, on a thread of arithmetic.
    rayon::scope(|_| {
        least(|| {
            for (op, inputs) in &operators {
                eval(op, inputs.clone(), &context, &device)
                    .map_err(|e| anyhow::anyhow!("{e:?}"))?;
            }
            Ok(())
        })
    })
}

/// Operators of a case with their operands, which run one after the other.
fn operators(case: &str) -> anyhow::Result<Vec<(Op, Vec<Tensor<Dispatch>>)>> {
    let rows = || floats(&[4096, 1024]);
    let width = || floats(&[1024]);
    let column = || floats(&[4096]);
    let heads = || floats(&[8, 4, 256, 64]);
    let (causal, scale) = (true, 0.125);
    let targets = Targets::default();
    Ok(match case {
        "matmul" => {
            let op = Op::MatMul { transpose_a: false, transpose_b: false };
            vec![(op, vec![floats(&[1024, 1024]), floats(&[1024, 1024])])]
        }
        "linear" => {
            vec![(Op::Linear, vec![floats(&[512, 192]), floats(&[192, 768]), floats(&[768])])]
        }
        "linear back" => {
            let (x, w, g) = (floats(&[512, 192]), floats(&[192, 768]), floats(&[512, 768]));
            let op = Op::MatMul { transpose_a: false, transpose_b: true };
            let bias = Op::ReduceSum { axes: vec![0], keep: false };
            vec![
                (op, vec![g.clone(), w]),
                (Op::LinearWeightGrad, vec![x, g.clone()]),
                (bias, vec![g]),
            ]
        }
        "conv 3x3" | "conv 3x3 back" => conv(3, case.ends_with("back")),
        "conv 1x1" | "conv 1x1 back" => conv(1, case.ends_with("back")),
        "attention" => vec![(Op::Attention { causal, scale }, vec![heads(), heads(), heads()])],
        "attention back" => {
            let op = Op::AttentionGrad { causal, scale, mask_grad: false };
            vec![(op, vec![heads(), heads(), heads(), heads()])]
        }
        "layer norm" => vec![(Op::LayerNorm { eps: 1e-5 }, vec![rows(), width(), width()])],
        "layer norm back" => {
            vec![(Op::LayerNormGrad, vec![rows(), width(), column(), column(), rows()])]
        }
        "softmax" => vec![(Op::Softmax { axis: 1 }, vec![rows()])],
        "softmax back" => vec![(Op::SoftmaxGrad { axis: 1 }, vec![rows(), rows()])],
        "gelu" => vec![(Op::Gelu(Gelu::Tanh), vec![rows()])],
        "gelu back" => vec![(Op::GeluGrad(Gelu::Tanh), vec![rows(), rows()])],
        "embedding back" => {
            vec![(
                Op::EmbeddingGrad { rows: 50_257 },
                vec![ints(1024, 50_257), floats(&[1024, 768])],
            )]
        }
        "cross-entropy" => {
            vec![(Op::CrossEntropy(targets), vec![floats(&[512, 8192]), ints(512, 8192)])]
        }
        "cross-entropy back" => {
            let operands = vec![floats(&[512, 8192]), ints(512, 8192), floats(&[1])];
            vec![(Op::CrossEntropyGrad(targets), operands)]
        }
        "add" => vec![(Op::Add, vec![rows(), rows()])],
        _ => anyhow::bail!("there is no case {case}; there are {}", CASES.join(", ")),
    })
}

fn conv(kernel: usize, back: bool) -> Vec<(Op, Vec<Tensor<Dispatch>>)> {
    let padding = [kernel / 2; 2];
    let conv = Conv2d { stride: [1; 2], padding, dilation: [1; 2], groups: 1 };
    let (image, taps) = ([8, 64, 56, 56], [64, 64, kernel, kernel]);
    let (x, w, g) = (floats(&image), floats(&taps), floats(&image));
    match back {
        false => vec![(Op::Conv2d(conv), vec![x, w])],
        true => vec![
            (Op::Conv2dInputGrad { conv, shape: image }, vec![w, g.clone()]),
            (Op::Conv2dWeightGrad { conv, shape: taps }, vec![x, g]),
        ],
    }
}

fn gpt2_mini() -> anyhow::Result<Dag> {
    Ok(zoo::by_name("gpt2-mini", Some(4)).context("gpt2-mini")??)
}

/// The nodes of gpt2-mini with next to nothing in them: what its step spends on anything but arithmetic, at most.
fn gpt2_mini_nodes() -> anyhow::Result<Dag> {
    let config = gpt2::Config::named("gpt2-mini").context("gpt2-mini")?;
    let config = gpt2::Config { window: 1, positions: 1, width: config.heads, ..config };
    Ok(gpt2::build(&config, 1)?)
}

/// ResNet-18 on images of 64 x 64.
fn resnet18() -> anyhow::Result<Dag> {
    let config = resnet::Config::named("resnet18").context("resnet18")?;
    Ok(resnet::build(&resnet::Config { image: [3, 64, 64], ..config }, 8)?)
}

/// Time of an optimizer step: forward and backward passes of all micro-batches, clipping, `AdamW`.
fn steps(dag: Dag, source: &str, micro_batches: u32) -> anyhow::Result<f64> {
    let optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let learning_rate = LearningRate { peak: 1e-4, floor: 1e-4, warmup: 0 };
    let train = TrainSpec {
        steps: u64::MAX,
        micro_batches,
        optimizer,
        learning_rate,
        clip_norm: Some(1.0),
        seed: 1,
    };
    let swarm = SwarmSpec::PLAIN;
    let data = DataSpec { source: source.into(), seed: 1 };
    let spec = JobSpec { name: dag.name().into(), dag, data, train, swarm, start: Start::Seed };
    let mut steps = Steps::begin(&spec, DeviceChoice::Cpu)?;
    least(|| {
        steps.next_loss()?;
        Ok(())
    })
}
