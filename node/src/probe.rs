//! What this machine can do, measured by running small networks through the executor that jobs run through.
//!
//! The coefficients of `Hardware::time`: what an operator takes however small it is and what a pass does, from networks of
//! one and of many small operators; then each kind of operator from its share of the training passes of a few networks,
//! by the executor's own clock. A GPU does not tell its operators' times: there, networks of one kind of operator and
//! whole training passes say what they can. Taken at the share of the machine that its owner gives, one process of this
//! machine at a time, and kept for later starts.
//!
//! Reading order: [`hardware`]; `networks` (what is run), `cache` (what was measured before), `refine` (real tasks).

mod cache;
mod networks;
mod refine;

use wattle_models::Executor;
use wattle_protocol::dag::Fact;
use wattle_protocol::dag::Op;
use wattle_protocol::dag::cost::flops;
use wattle_protocol::dag::op::Gelu;
use wattle_protocol::schedule::advert::Hardware;
use wattle_protocol::schedule::fitted::{Part, probed};
use wattle_protocol::schedule::kinds::Kinds;
use wattle_protocol::schedule::load::Load;
use wattle_protocol::units::{Bytes, Duration, Flops, Rate, Speed};

use self::networks::{MANY, REPEATS, Trained, time, trained};
pub(crate) use self::refine::{Pass, Refiner};
use crate::worker::WorkerConfig;

/// Side of the matrices: about what a small transformer's stage multiplies.
const SIDE: usize = 256;
/// Elements of the tensors that element-wise operators run over: 1 MiB, beyond the first caches.
const LARGE: usize = 1 << 18;
/// Share of the free memory that jobs may use unless the owner says otherwise.
const MEMORY_SHARE: f64 = 0.5;
/// Least part of a residual network's training pass that convolutions take, whatever the rest seems to explain.
const LEFT_MIN: f64 = 0.3;
/// Memory that jobs may use where the system does not say what is free.
const MEMORY_UNKNOWN: u64 = 1 << 30;

/// Networks whose training passes are measured, and how often each: all kinds of operators, small and middling sizes.
const TRAINED: [(&str, u32); 5] =
    [("gpt2-nano", 15), ("gpt2-mini", 5), ("resnet-tiny", 15), ("lstm-nano", 9), ("resnet18", 3)];
/// Whole passes are no further than this factor from their operators, or something else was measured.
const OFF_MAX: f64 = 2.0;
/// Passes of each network that is compared.
const CHECKS: u32 = 9;
/// Those that tell of products and of convolutions on a device that does not tell of operators.
const PRODUCTS: usize = 0;
const LARGER: usize = 1;
const CONVOLUTIONS: usize = 2;
/// Two networks whose shares of starts and of work are closer than this tell nothing of either.
const APART_MIN: f64 = 0.2;
/// Chains are no further than this factor from whole passes, or something else was measured.
const FACTOR_MAX: f64 = 10.0;

/// Measures this machine through an executor, or remembers it.
pub(crate) fn hardware(executor: &mut Executor, config: &WorkerConfig) -> Hardware {
    let _lock = Lock::wait();
    let place = cache::place(executor.device_name(), executor_threads());
    let known = place.as_deref().filter(|_| config.remember).and_then(cache::read);
    let found = known.unwrap_or_else(|| {
        let (found, is_whole) = measured(executor);
        if let Some(place) = place.filter(|_| is_whole) {
            cache::write(&place, &found);
        }
        found
    });
    let found = Hardware {
        memory: Bytes::new(config.memory.unwrap_or_else(free_memory)),
        host: host(),
        host_capacity: thousandths(threads()),
        demand: thousandths(config.share * f64::from(executor_threads())),
        ..found
    };
    at_share(found, config.share.clamp(0.001, 1.0))
}

/// Returns the predicted and the measured seconds of a training pass of a network; None where it does not run.
pub(crate) fn compared(
    executor: &mut Executor,
    found: &Hardware,
    model: &str,
) -> Option<(f64, f64)> {
    let network = trained(executor, model, CHECKS)?;
    Some((found.time(network.load).seconds(), network.took))
}

/// Measures all of the device; says whether all of it ran. On a device that does not tell of operators only three
/// networks run: a GPU compiles shaders for each.
fn measured(executor: &mut Executor) -> (Hardware, bool) {
    let (begun, mut is_whole) = chains(executor);
    let mut run = |(model, runs): (&str, u32)| {
        let found = trained(executor, model, runs);
        is_whole &= found.is_some();
        found
    };
    let products = run(TRAINED[PRODUCTS]);
    if products.as_ref().is_some_and(|network| !network.ops.is_empty()) {
        let others = (0..TRAINED.len()).filter(|place| *place != PRODUCTS);
        let all: Vec<Trained> =
            products.into_iter().chain(others.filter_map(|place| run(TRAINED[place]))).collect();
        return (by_operators(&begun, &all), is_whole);
    }
    let [large, convolutions] = [LARGER, CONVOLUTIONS].map(|place| run(TRAINED[place]));
    let found = by_networks(begun, products.as_ref(), large.as_ref(), convolutions.as_ref());
    (found, is_whole)
}

/// Lets whole training passes say how fast products and convolutions are.
fn by_networks(
    begun: Hardware,
    small: Option<&Trained>,
    large: Option<&Trained>,
    convolutions: Option<&Trained>,
) -> Hardware {
    let mut found = by_two(begun, small, large);
    if let Some(network) = convolutions {
        let none = Flops::ZERO;
        let rest = Load { convolutions: none, convolution_grads: none, ..network.load };
        let all = network.load.convolutions + network.load.convolution_grads;
        // Where the rest seems to explain everything, convolutions still took a part of it.
        let left = (network.took - found.time(rest).seconds()).max(network.took * LEFT_MIN);
        found.conv_speed = Speed::from_flops_per_second(whole(all.count() as f64 / left).max(1));
    }
    found
}

/// Sets what operators take however small they are, and what their work takes, each by a factor of its own: a small network
/// mostly starts operators, a large one mostly computes. Where the two do not tell one from the other, both factors are
/// the small network's.
fn by_two(begun: Hardware, small: Option<&Trained>, large: Option<&Trained>) -> Hardware {
    let Some(small) = small else { return begun };
    let halves = |network: &Trained| {
        let Load { launches, passes, .. } = network.load;
        let starts = begun.time(Load { launches, passes, ..Load::default() }).seconds();
        (starts, begun.time(network.load).seconds() - starts)
    };
    let one = halves(small);
    let both = small.took / (one.0 + one.1).max(1e-9);
    let (mut starts, mut work) = (both, both);
    if let Some(large) = large {
        let two = halves(large);
        let apart = one.0 * two.1 - two.0 * one.1;
        if apart > APART_MIN * one.0 * two.1 {
            starts = (small.took * two.1 - large.took * one.1) / apart;
            work = (one.0 * large.took - two.0 * small.took) / apart;
        }
    }
    let [starts, work] = [starts, work].map(|factor| factor.clamp(1.0 / FACTOR_MAX, FACTOR_MAX));
    let kept = at_share(begun.clone(), 1.0 / starts);
    let Hardware { speed, conv_speed, vector_speed, touch_rate, .. } = at_share(begun, 1.0 / work);
    Hardware { speed, conv_speed, vector_speed, touch_rate, ..kept }
}

/// Takes each kind of operator's coefficients from what its operators took; what is between operators and around them makes all
/// of them slower alike, by as much as whole passes are longer than their operators.
fn by_operators(begun: &Hardware, networks: &[Trained]) -> Hardware {
    let mut parts = Vec::new();
    for network in networks {
        for (unit, sample) in network.ops.values() {
            let share = sample.nanos as f64 / 1e9 / network.took.max(1e-9);
            parts.push(Part { unit: *unit, sample: *sample, share });
        }
    }
    let found = probed(begun, &parts);
    let off =
        |network: &Trained| (found.time(network.load).seconds() / network.took.max(1e-9)).ln();
    let mean = networks.iter().map(off).sum::<f64>() / networks.len().max(1) as f64;
    at_share(found, mean.exp().clamp(1.0 / OFF_MAX, OFF_MAX))
}

/// Measures networks of one kind of operator; says whether all of them ran.
fn chains(executor: &mut Executor) -> (Hardware, bool) {
    let mut chained = |op: Op, shape: &[usize], count: u64| time(executor, op, shape, count);
    let scale = || Op::Scale { factor: 1.0 };
    let (one, many) = (chained(scale(), &[8, 8], 1), chained(scale(), &[8, 8], MANY));
    let overhead = ((many - one) / (MANY - 1) as f64).max(1e-7);
    // One operator and the mean are in the pass.
    let pass = (one - overhead * 2.0).max(0.0);
    let large = [LARGE / 256, 256];
    let mut each =
        |op: Op, shape: &[usize]| (chained(op, shape, REPEATS) - pass) / REPEATS as f64 - overhead;
    let touched = (LARGE * 4 * 2) as f64;
    let wide = each(scale(), &large).max(1e-9);
    let curved = each(Op::Gelu(Gelu::Tanh), &large);
    let matrices = each(Op::Linear, &[SIDE, SIDE]);
    let fact = Fact::f32(&large);
    let curve = flops(&Op::Gelu(Gelu::Tanh), &[&fact], &[&fact]).count() as f64;
    let products = (2 * SIDE * SIDE * SIDE) as f64;
    let speed = |flops: f64, time: f64| Speed::from_flops_per_second(whole(flops / time.max(1e-9)));
    let is_whole = [one, many, wide, curved, matrices].iter().all(|time| time.is_finite());
    let found = Hardware {
        device: executor.device_name().chars().take(100).collect(),
        speed: speed(products, matrices),
        conv_speed: speed(products, matrices),
        vector_speed: speed(curve, curved - wide),
        touch_rate: Rate::from_bytes_per_second(whole(touched / wide)),
        overhead: Duration::from_seconds(overhead).max(Duration::from_micros(1)),
        kinds: Kinds { pass: Duration::from_seconds(pass), ..Kinds::default() },
        memory: Bytes::ZERO,
        host: 0,
        host_capacity: 0,
        demand: 0,
    };
    (found, is_whole)
}

/// Returns what a peer has that gets only a share of the machine's time.
pub(crate) fn at_share(whole_machine: Hardware, share: f64) -> Hardware {
    let less =
        |speed: Speed| Speed::from_flops_per_second(whole(speed.flops_per_second() as f64 * share));
    let touch = whole_machine.touch_rate.bytes_per_second() as f64 * share;
    let longer = |time: Duration| Duration::from_seconds(time.seconds() / share);
    // Starts are multiples of a whole number of microseconds: what rounding it does to them is undone.
    let overhead = longer(whole_machine.overhead).max(Duration::from_micros(1));
    let exact = whole(whole_machine.overhead.seconds() * 1e9 / share);
    let starts = whole_machine.kinds.starts.over(exact, overhead.micros().saturating_mul(1000));
    Hardware {
        speed: less(whole_machine.speed),
        conv_speed: less(whole_machine.conv_speed),
        vector_speed: less(whole_machine.vector_speed),
        touch_rate: Rate::from_bytes_per_second(whole(touch)),
        overhead,
        kinds: Kinds { pass: longer(whole_machine.kinds.pass), starts, ..whole_machine.kinds },
        ..whole_machine
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float to integer cast saturates, which is what is wanted"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

fn free_memory() -> u64 {
    let Ok(mut system) = sysinfo::System::new() else {
        return MEMORY_UNKNOWN;
    };
    system.refresh_memory();
    whole(system.available_memory() as f64 * MEMORY_SHARE)
}

/// Returns a name of this machine until it starts again, and never 0.
fn host() -> u64 {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let name = boot.or_else(|| sysinfo::System::host_name().ok()).unwrap_or_default();
    let hash = blake3::hash(name.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first).max(1)
}

fn threads() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64)
}

/// Returns the threads that the executor computes with; more than the machine has are no more.
fn executor_threads() -> u16 {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok());
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    asked.filter(|n| *n > 0).or_else(|| u16::try_from(all).ok()).unwrap_or(1)
}

fn thousandths(value: f64) -> u32 {
    u32::try_from(whole(value * 1000.0)).unwrap_or(u32::MAX)
}

/// One process of this machine measures at a time: peers that start together would measure each other.
struct Lock {
    _file: Option<std::fs::File>,
}

impl Lock {
    /// Waits for the others. Without a lock (another user's file, no such file system) the measurement goes on anyway.
    fn wait() -> Self {
        let path = std::env::temp_dir().join("wattle-probe.lock");
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.ok().filter(|file| file.lock().is_ok());
        Self { _file: file }
    }
}
