//! Networks of the zoo, and one of an ONNX file, against values that PyTorch computed: logits, losses, every element of
//! every gradient, ten steps of training.
//!
//! The values lie in `reference/*.npz`, made by `reference/make.py` and `reference/onnx_net.py` in double precision. Weights
//! are drawn here and there by one formula. A further network is an entry of [`networks`] and one of `make.py`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use wattle_protocol::dag::cut::{cut, whole};
use wattle_protocol::dag::grad::differentiate;
use wattle_protocol::dag::rewrite::rename_inputs;
use wattle_protocol::dag::{Dag, Init, Source, Value};
use wattle_protocol::ids::{StageId, Step};
use wattle_protocol::job::{JobSpec, LearningRate, Optimizer};
use wattle_protocol::swarm::io::{StateSource, Task, TensorName};

use super::{EPOCH, JOB, gradients, job, key, passes, work};
use crate::data::{self, Place};
use crate::exec::evaluate::{HostValues, evaluate};
use crate::losses::Loss;
use crate::onnx::{ImportOptions, import_with_loss};
use crate::single::run_single_from;
use crate::weights::Named;
use crate::weights::given::Given;
use crate::zoo::{gpt2, llama, lstm, resnet};
use crate::{DeviceChoice, Executor, init, npz};

const ROWS: usize = 3;
const WINDOW: usize = 16;
const MICRO_BATCHES: u32 = 2;

/// Largest difference of a logit; seen: 1.6e-6.
const LOGITS: f32 = 1e-5;
/// Largest difference of a gradient's element, as a share of the largest element of the same gradient or, where that is
/// tiny against the others, of a thousandth of the largest of all; seen: 2.9e-6.
const GRADIENT: f32 = 1e-5;
/// Largest relative difference of a loss of ten steps of training; seen: 1.4e-6.
const LOSSES: f64 = 1e-5;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/reference"))
}

/// Arrays that PyTorch computed.
struct Reference {
    name: String,
    arrays: BTreeMap<String, Vec<f32>>,
    doubles: BTreeMap<String, Vec<f64>>,
}

impl Reference {
    fn of(name: &str) -> Self {
        let arrays = npz::read(&folder().join(format!("{name}.npz"))).unwrap();
        let floats = arrays.iter().map(|(name, array)| (name.clone(), array.to_floats())).collect();
        let doubles = |(name, array): (&String, &crate::onnx::array::Array)| {
            (name.clone(), array.to_floats().into_iter().map(f64::from).collect())
        };
        let doubles = arrays.iter().map(doubles).collect();
        Self { name: name.into(), arrays: floats, doubles }
    }

    fn array(&self, name: &str) -> &[f32] {
        self.arrays.get(name).unwrap_or_else(|| panic!("{} has no {name}", self.name))
    }

    /// Compares every element of every gradient, and asserts that neither side has one that the other lacks.
    fn check_gradients(&self, got: &BTreeMap<String, Vec<f32>>, what: &str) -> f32 {
        let wanted: BTreeMap<&str, &Vec<f32>> = self
            .arrays
            .iter()
            .filter_map(|(name, array)| Some((name.strip_prefix("gradient ")?, array)))
            .collect();
        assert!(wanted.keys().copied().eq(got.keys().map(String::as_str)), "{what}: other names");
        let largest = |values: &[f32]| values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let all = wanted.values().map(|values| largest(values)).fold(0.0, f32::max);
        let mut worst = 0.0f32;
        for (name, wanted) in wanted {
            let got = &got[name];
            assert_eq!(wanted.len(), got.len(), "{what}: {name}");
            let scale = largest(wanted).max(all / 1000.0);
            for (at, (a, b)) in wanted.iter().zip(got).enumerate() {
                let apart = (a - b).abs() / scale;
                worst = worst.max(apart);
                assert!(apart <= GRADIENT, "{what}: {name}[{at}]: {a} and {b} (of {scale})");
            }
        }
        worst
    }
}

/// A parameter or buffer of the reference networks: see `draws.py`, which has the same rule.
fn weight(value: &Value) -> Option<Named> {
    let name = &value.name;
    let is_matrix = value.fact.shape.len() > 1;
    let values = match value.source {
        Source::Parameter { .. } if is_matrix => init::draw(1, value, Init::Normal(0.2)),
        Source::Parameter { .. } => {
            let gain = if name.ends_with("weight") { 1.0 } else { 0.0 };
            init::draw(1, value, Init::Normal(0.1)).into_iter().map(|v| gain + v).collect()
        }
        Source::Buffer { init } => init::draw(1, value, init),
        Source::Node { .. } | Source::Input => return None,
    };
    Some((name.clone(), value.fact.shape.clone(), values))
}

/// The networks of `make.py`: name, data source, network, and the value that holds its logits.
fn networks() -> Vec<(&'static str, &'static str, Dag, &'static str)> {
    let gpt2 = gpt2::Config {
        vocabulary: 128,
        positions: 24,
        window: WINDOW,
        width: 16,
        layers: 2,
        heads: 2,
        ..gpt2::Config::named("gpt2-nano").unwrap()
    };
    let llama = llama::Config {
        vocabulary: 128,
        window: WINDOW,
        width: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        hidden: 24,
        ..llama::Config::named("llama-nano").unwrap()
    };
    let lstm = lstm::Config {
        vocabulary: 128,
        window: WINDOW,
        width: 16,
        ..lstm::Config::named("lstm-ptb").unwrap()
    };
    let basic = resnet::Config {
        image: [1, 8, 8],
        stem: resnet::Stem::Small,
        block: resnet::Block::Basic,
        width: 4,
        blocks: vec![1, 2, 1],
        ..resnet::Config::named("resnet-tiny").unwrap()
    };
    let bottleneck = resnet::Config {
        image: [3, 32, 32],
        stem: resnet::Stem::Large,
        block: resnet::Block::Bottleneck,
        blocks: vec![1, 1],
        ..basic.clone()
    };
    let padded = resnet::Config {
        image: [3, 8, 8],
        width: 5,
        blocks: vec![2; 3],
        ..resnet::Config::named("resnet20").unwrap()
    };
    let (text, digits) = (data::text::KJV, data::images::DIGITS);
    vec![
        ("gpt2", text, gpt2::build(&gpt2, ROWS).unwrap(), "lm_head"),
        ("llama", text, llama::build(&llama, ROWS).unwrap(), "lm_head"),
        ("lstm", text, lstm::build(&lstm, ROWS).unwrap(), "decoder"),
        ("resnet-basic", digits, resnet::build(&basic, ROWS).unwrap(), "fc"),
        ("resnet-padded", digits, resnet::build(&padded, ROWS).unwrap(), "fc"),
        ("resnet-bottleneck", digits, resnet::build(&bottleneck, ROWS).unwrap(), "fc"),
    ]
}

fn spec(dag: Dag, source: &str) -> JobSpec {
    let mut spec = job(dag, source);
    spec.train.micro_batches = MICRO_BATCHES;
    // Weights are given, so that the seed is that of dropout alone; `logits` and `draws.py` draw with this one.
    spec.train.seed = 0;
    spec
}

/// Returns the mean loss of step 0 and all gradients, with the forward nodes in so many runs of nearly equal length.
fn step_zero(spec: &JobSpec, given: &Given, stages: usize) -> (f64, BTreeMap<String, Vec<f32>>) {
    let mut executor = Executor::new(DeviceChoice::Cpu).unwrap();
    let training = differentiate(spec.dag.clone(), MICRO_BATCHES).unwrap();
    let nodes = training.forward_nodes;
    let stage = |node| StageId::new(u16::try_from(node * stages / nodes).unwrap());
    let assignment: Vec<StageId> = (0..nodes).map(stage).collect();
    let parts = if stages == 1 { whole(&training) } else { cut(&training, &assignment).unwrap() };
    let works: Vec<_> = parts.stages.into_iter().map(|graph| work(spec, graph)).collect();
    for work in &works {
        let stage = work.graph.stage;
        let name = key(0, TensorName::StageStart { stage });
        executor.store().accept(name, given.bundle(&work.graph).unwrap());
        let (source, step) = (StateSource::Given(name), Step::default());
        executor.run(&Task::LoadStage { job: JOB, work: work.clone(), source, step }).unwrap();
        executor.run(&Task::ResetStep { job: JOB, stage, epoch: EPOCH }).unwrap();
    }
    let loss = passes(&mut executor, &works, 0);
    let all = works.iter().flat_map(|work| gradients(&executor, work, 0)).collect();
    (loss, all)
}

/// Returns a value of the first micro-batch, with the loss's node and all others as they are.
fn logits(spec: &JobSpec, given: &Given, name: &str) -> Vec<f32> {
    let at = spec.dag.values().iter().position(|value| value.name == name).unwrap();
    let mut json = serde_json::to_value(&spec.dag).unwrap();
    json["outputs"] = serde_json::json!([at]);
    let dag: Dag = serde_json::from_value(json).unwrap();
    let place = Place { step: 0, micro_batch: 0, micro_batches: MICRO_BATCHES };
    let input = |id| {
        let value = dag.value(id);
        let values = match data::batch(&spec.data, place, &value.name, &value.fact).unwrap() {
            data::Elements::Ints(ints) => HostValues::Ints(ints),
            data::Elements::Floats(floats) => HostValues::Floats(floats),
        };
        (id, values)
    };
    let inputs = dag.inputs().map(input).collect();
    let names = dag.parameters().chain(dag.buffers()).map(|id| dag.value(id).name.clone());
    let state = names.map(|name| (name.clone(), given.elements(&name).unwrap())).collect();
    let outputs = evaluate(&dag, &inputs, &state, DeviceChoice::Cpu).unwrap();
    let [HostValues::Floats(logits)] = &outputs[..] else {
        panic!("logits are floats");
    };
    logits.clone()
}

#[test]
fn logits_and_gradients_equal_those_of_pytorch() {
    for (name, source, dag, head) in networks() {
        let reference = Reference::of(name);
        let mut spec = spec(dag, source);
        let given = Given::held(spec.dag.values().iter().filter_map(weight).collect());
        spec.start = given.start(&spec.dag).unwrap();
        let found = logits(&spec, &given, head);
        let wanted = reference.array("logits");
        assert_eq!(found.len(), wanted.len(), "{name}");
        let apart = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: logits {apart:.1e}");
        assert!(apart <= LOGITS, "{name}: logits differ by {apart}");
        for stages in [1, 3] {
            let (loss, gradients) = step_zero(&spec, &given, stages);
            let wanted = reference.doubles["loss"][0];
            assert!((loss - wanted).abs() <= 1e-6 * wanted, "{name}: {loss} and {wanted}");
            let what = format!("{name} in {stages} stages");
            let worst = reference.check_gradients(&gradients, &what);
            println!("{what}: loss {:.1e}, gradients {worst:.1e}", (loss - wanted).abs() / wanted);
        }
    }
}

#[test]
fn ten_steps_of_training_lose_what_pytorch_loses() {
    let adamw = Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let sgd = Optimizer::Sgd { momentum: 0.9, weight_decay: 1e-3 };
    for (name, source, dag, _) in networks() {
        let reference = Reference::of(name);
        // Some steps are clipped and some are not.
        let clip = match name {
            "gpt2" | "llama" => 1.5,
            "lstm" => 0.35,
            "resnet-padded" => 6.0,
            _ => 3.0,
        };
        for (kind, optimizer, peak) in [("adamw", adamw, 3e-3), ("sgd", sgd, 5e-2)] {
            let mut spec = spec(dag.clone(), source);
            let given = Given::held(spec.dag.values().iter().filter_map(weight).collect());
            spec.start = given.start(&spec.dag).unwrap();
            spec.train.optimizer = optimizer;
            spec.train.learning_rate = LearningRate { peak, floor: peak / 10.0, warmup: 3 };
            spec.train.clip_norm = Some(clip);
            let mut losses = Vec::new();
            let end = run_single_from(&spec, Some(&given), DeviceChoice::Cpu, |_, loss| {
                losses.push(loss);
            });
            let end = end.unwrap();
            let wanted = &reference.doubles[&format!("losses {kind}")];
            let apart = losses.iter().zip(wanted).map(|(a, b)| (a - b).abs() / b);
            let apart = apart.fold(0.0, f64::max);
            println!("{name}, {kind}: losses {apart:.1e}");
            assert_eq!(losses.len(), wanted.len());
            assert!(apart <= LOSSES, "{name}, {kind}: {losses:?} and {wanted:?}");
            for (buffer, wanted) in &reference.arrays {
                let Some(buffer) = buffer.strip_prefix(&format!("{kind} ")) else { continue };
                for (a, b) in end[buffer].iter().zip(wanted) {
                    assert!((a - b).abs() <= 1e-4 * b.abs().max(1e-2), "{buffer}: {a} and {b}");
                }
            }
        }
    }
}

/// Goal: a network that another tool wrote trains here as it trains there. Method: PyTorch's gradients of an exported
/// network, in one stage, two and three.
#[test]
fn an_imported_network_has_the_gradients_of_pytorch() {
    let reference = Reference::of("digits-net");
    let options = ImportOptions { batch: ROWS, ..ImportOptions::default() };
    let path = folder().join("digits-net.onnx");
    let imported = import_with_loss(&path, &options, |b, ports| {
        Loss::CrossEntropy.add(b, ports[0].value, "labels")
    });
    let imported = imported.unwrap();
    let names = BTreeMap::from([("pixels".to_owned(), "images".to_owned())]);
    let dag = rename_inputs(imported.dag, &names).unwrap();
    let mut spec = spec(dag, data::images::DIGITS);
    let given = Given::held(imported.weights);
    spec.start = given.start(&spec.dag).unwrap();
    for stages in [1, 2, 3] {
        let (loss, gradients) = step_zero(&spec, &given, stages);
        let wanted = reference.doubles["loss"][0];
        assert!((loss - wanted).abs() <= 1e-6 * wanted, "{loss} and {wanted}");
        let worst = reference.check_gradients(&gradients, &format!("in {stages} stages"));
        println!("digits-net in {stages} stages: gradients {worst:.1e}");
    }
}
