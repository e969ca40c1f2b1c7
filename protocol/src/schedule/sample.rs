//! Random placement problems from a seed: networks, peers, links, and how the job may be spread.
//!
//! Small ones have random graphs with branches, skips and tied weights; their tensors are tiny, so peers and links are
//! slow in proportion. Large ones have residual blocks. For tests, and for the example `placement`.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::advert::{Advert, Hardware, Link};
use super::codec::Codec;
use super::kinds::Kinds;
use crate::dag::op::Unary;
use crate::dag::sample::random_dag;
use crate::dag::{Dag, DagBuilder, DagError, Fact, Init, Op};
use crate::ids::PeerId;
use crate::job::{
    DataSpec, JobSpec, LearningRate, Optimizer, PipelineOrder, Start, SwarmSpec, TrainSpec,
};
use crate::units::{Bytes, Duration, Rate, Speed};

/// A job and the peers to place it on.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The job.
    pub spec: JobSpec,
    /// Measured peers.
    pub adverts: Vec<Advert>,
}

/// Returns a problem of at most `peers` peers and `operators` operators.
pub fn problem(seed: u64, peers: usize, operators: usize) -> Problem {
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(seed));
    let mut size = draw.between(3, operators as u64 - 2);
    let dag = loop {
        let dag = random_dag(seed, usize::try_from(size).unwrap_or(1));
        if dag.nodes().len() <= operators || size <= 1 {
            break dag;
        }
        size -= 1;
    };
    let count = usize::try_from(draw.between(2, peers as u64)).unwrap_or(2);
    let order = match draw.between(0, 5) {
        0 => Some(PipelineOrder::GPipe),
        1 | 2 => Some(PipelineOrder::OneFOneB),
        _ => None,
    };
    let replicas = if draw.between(0, 1) == 0 { 1 } else { 4 };
    let micro_batches = u32::try_from(1 << draw.between(1, 4)).unwrap_or(2);
    let backups = u8::try_from(draw.between(0, 1)).unwrap_or(0);
    let recompute = match draw.between(0, 3) {
        0 => Some(true),
        1 => Some(false),
        _ => None,
    };
    let swarm = SwarmSpec {
        stages: None,
        order,
        recompute,
        backups,
        replicas,
        stages_per_peer: 1,
        codec: Codec::Dense,
    };
    let speeds = (0..count).map(|_| draw.log(50_000, 1_000_000)).collect::<Vec<_>>();
    let (slow, fast) = (draw.log(2_000, 100_000), draw.log(100_000, 4_000_000));
    let tight = draw.between(0, 3) == 0;
    let memory = (0..count)
        .map(|_| if tight { draw.log(4_000, 40_000) } else { 1 << 30 })
        .collect::<Vec<_>>();
    let adverts: Vec<Advert> = (0..count)
        .map(|at| {
            let links = (0..count).filter(|to| *to != at).map(|to| Link {
                peer: peer(to),
                rate: Rate::from_bytes_per_second(draw.log(slow, fast)),
                round_trip: Duration::from_micros(draw.log(200, 20_000)),
                loss: None,
            });
            let links = links.collect();
            let hardware = hardware(speeds[at], 400, Bytes::new(memory[at]));
            Advert { hardware: Some(hardware), links, ..Advert::new(peer(at)) }
        })
        .collect();
    let stages_per_peer = if draw.between(0, 4) == 0 { 2 } else { 1 };
    Problem { spec: job(dag, micro_batches, SwarmSpec { stages_per_peer, ..swarm }), adverts }
}

/// Returns residual blocks on peers in sites with fast links inside and slow ones between.
///
/// *Errors*: none that a caller can cause; those of building the network.
pub fn large(peers: usize, operators: usize, replicas: u16) -> Result<Problem, DagError> {
    let dag = blocks(operators)?;
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(1));
    let sites = 8;
    let speeds: Vec<u64> = (0..peers).map(|_| draw.log(1 << 40, 1 << 45)).collect();
    let adverts = (0..peers).map(|at| {
        // An advert holds some links: here to near numbers, of which most are of the same site.
        let near = (1..=16).flat_map(|far| [(at + far) % peers, (at + peers - far) % peers]);
        let mut others: Vec<usize> = near.filter(|to| *to != at).collect();
        others.sort_unstable();
        others.dedup();
        let link = |to: usize| {
            let same = at * sites / peers == to * sites / peers;
            let mbit = if same { draw.log(1_000, 10_000) } else { draw.log(50, 500) };
            let rate = Rate::from_bytes_per_second(mbit * 125_000);
            let round_trip = Duration::from_micros(if same { 500 } else { 30_000 });
            Link { peer: peer(to), rate, round_trip, loss: None }
        };
        let links = others.into_iter().map(link).collect();
        let hardware = hardware(speeds[at], speeds[at] / 1000, Bytes::new(8 << 30));
        Advert { hardware: Some(hardware), links, ..Advert::new(peer(at)) }
    });
    let adverts = adverts.collect();
    let (order, recompute) = (None, None);
    let swarm = SwarmSpec {
        stages: None,
        order,
        recompute,
        backups: 1,
        replicas,
        stages_per_peer: 2,
        codec: Codec::Dense,
    };
    Ok(Problem { spec: job(dag, 32, swarm), adverts })
}

/// Layers with a skip around every second one.
fn blocks(operators: usize) -> Result<Dag, DagError> {
    let mut b = DagBuilder::new("blocks");
    let mut x = b.input("x", Fact::f32(&[64, 512]));
    for layer in 0..operators / 5 {
        let name = |part: &str| format!("{part}{layer}");
        let near = b.parameter(name("near"), &[512, 1024], Init::Normal(0.02), true);
        let far = b.parameter(name("far"), &[1024, 512], Init::Normal(0.02), true);
        let y = b.op(name("up"), Op::Linear, &[x, near])?;
        let y = b.op(name("bend"), Op::Unary(Unary::Tanh), &[y])?;
        let y = b.op(name("down"), Op::Linear, &[y, far])?;
        let y = b.op(name("bound"), Op::Unary(Unary::Tanh), &[y])?;
        x = b.op(name("sum"), Op::Add, &[x, y])?;
    }
    let loss = b.op("loss", Op::ReduceMean { axes: vec![0, 1], keep: false }, &[x])?;
    b.output(loss);
    b.finish()
}

fn job(dag: Dag, micro_batches: u32, swarm: SwarmSpec) -> JobSpec {
    JobSpec {
        name: "sample".into(),
        dag,
        start: Start::Seed,
        data: DataSpec { source: "none".into(), seed: 0 },
        train: TrainSpec {
            steps: 1,
            micro_batches,
            optimizer: Optimizer::Sgd { momentum: 0.9, weight_decay: 0.0 },
            learning_rate: LearningRate { peak: 0.1, floor: 0.1, warmup: 0 },
            clip_norm: None,
            seed: 0,
        },
        swarm,
    }
}

fn peer(number: usize) -> PeerId {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    PeerId::new(bytes)
}

/// A device of this speed in products, a third of it in convolutions, a tenth element by element.
fn hardware(speed: u64, overhead_share: u64, memory: Bytes) -> Hardware {
    Hardware {
        device: "sample".into(),
        speed: Speed::from_flops_per_second(speed),
        conv_speed: Speed::from_flops_per_second(speed / 3),
        vector_speed: Speed::from_flops_per_second(speed / 10),
        touch_rate: Rate::from_bytes_per_second(speed / 4),
        // Slow devices take longer to start an operator too.
        overhead: Duration::from_micros(overhead_share * 100_000 / speed.max(1) + 1),
        kinds: Kinds::default(),
        memory,
        host: 0,
        host_capacity: 0,
        demand: 0,
    }
}

struct Draw(ChaCha8Rng);

impl Draw {
    /// From `low` to `high`, both possible; the bias of the remainder does not matter to a sample.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.next_u64() % (high.max(low) - low + 1)
    }

    /// Uniform in the logarithm.
    #[expect(clippy::cast_precision_loss, reason = "a draw needs few digits")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two u64")]
    fn log(&mut self, low: u64, high: u64) -> u64 {
        let share = (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let ratio = high as f64 / low.max(1) as f64;
        (low as f64 * ratio.max(1.0).powf(share)) as u64
    }
}
