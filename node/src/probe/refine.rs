//! What real tasks say of this machine: the probe's coefficients set right by the operators of jobs.
//!
//! Sums of a few seconds count, so that a stall does not; no kind of operator becomes faster or slower than the probe's
//! figure by more than [`BOUND`], and only a difference that a placement would feel is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use wattle_protocol::dag::cost::Unit;
use wattle_protocol::ids::{JobId, StageId};
use wattle_protocol::schedule::advert::Hardware;
use wattle_protocol::schedule::fitted::{Sample, fitted};
use wattle_protocol::schedule::kinds::{FACTOR_MAX, Kinds};
use wattle_protocol::schedule::load::Load;
use wattle_protocol::swarm::io::{OpTimes, StageWork, Task};
use wattle_protocol::units::{Rate, Speed};

use super::networks::loads;
use super::whole;

/// Seconds of operators that are summed up before they count.
const WINDOW: u64 = 3_000_000_000;
/// How far a kind of operator may move from the probe's figure, as a factor.
const BOUND: f64 = 4.0;
/// A predicted time that changes by less is not told.
const NEWS: f64 = 0.15;

type Loads = BTreeMap<&'static str, (Unit, Load)>;

/// Learns from tasks.
#[derive(Debug)]
pub(crate) struct Refiner {
    probed: Hardware,
    told: Hardware,
    stages: BTreeMap<(JobId, StageId), (Loads, Loads)>,
    samples: BTreeMap<&'static str, (Unit, Sample)>,
}

impl Refiner {
    /// Begins with what the probe has found, of the share of the machine that is given.
    pub(crate) fn new(probed: Hardware) -> Self {
        Self { told: probed.clone(), probed, stages: BTreeMap::new(), samples: BTreeMap::new() }
    }

    /// Notes which stages there are.
    pub(crate) fn hears(&mut self, task: &Task) {
        match task {
            Task::LoadStage { job, work, .. } => self.loaded(*job, work),
            Task::Unload { job, stage } => {
                self.stages.remove(&(*job, *stage));
            }
            Task::ResetStep { .. }
            | Task::Forward { .. }
            | Task::Backward { .. }
            | Task::GatherGradients { .. }
            | Task::ShareGradients { .. }
            | Task::ReduceGradients { .. }
            | Task::OptimizerStep { .. }
            | Task::Snapshot { .. } => {}
        }
    }

    fn loaded(&mut self, job: JobId, work: &Arc<StageWork>) {
        let graph = &work.graph;
        let both = (loads(graph, &graph.forward), loads(graph, &graph.backward));
        self.stages.insert((job, graph.stage), both);
    }

    /// Takes what a pass's operators took. Returns hardware where that is news.
    pub(crate) fn ran(&mut self, pass: Pass, ops: &OpTimes) -> Option<Hardware> {
        let both = self.stages.get(&(pass.job, pass.stage))?;
        let loads = if pass.is_back { &both.1 } else { &both.0 };
        for (name, nanos) in ops.iter() {
            if let Some((unit, load)) = loads.get(name) {
                let sample = Sample { load: *load, nanos };
                self.samples.entry(name).or_insert((*unit, Sample::default())).1.add(sample);
            }
        }
        let seen: u64 = self.samples.values().map(|(_, s)| s.nanos).sum();
        if seen < WINDOW {
            return None;
        }
        let samples = std::mem::take(&mut self.samples);
        let work: Load = samples.values().map(|(_, s)| s.load).sum();
        let found = bounded(fitted(&self.told, &samples), &self.probed);
        let change = found.time(work).seconds() / self.told.time(work).seconds().max(1e-9);
        if (1.0 - NEWS..1.0 + NEWS).contains(&change) {
            return None;
        }
        self.told = found.clone();
        Some(found)
    }
}

/// Keeps each kind near the probe's figure: tasks may seem to say something that no machine does.
fn bounded(found: Hardware, probed: &Hardware) -> Hardware {
    let near = |found: f64, probed: f64| found.clamp(probed / BOUND, probed * BOUND);
    let speed = |found: Speed, probed: Speed| {
        let each = |speed: Speed| speed.flops_per_second() as f64;
        Speed::from_flops_per_second(whole(near(each(found), each(probed))))
    };
    let each = |rate: Rate| rate.bytes_per_second() as f64;
    let touch = near(each(found.touch_rate), each(probed.touch_rate));
    let (kinds, known) = (found.kinds, probed.kinds);
    let bounded = Hardware {
        speed: speed(found.speed, probed.speed),
        conv_speed: speed(found.conv_speed, probed.conv_speed),
        vector_speed: speed(found.vector_speed, probed.vector_speed),
        touch_rate: Rate::from_bytes_per_second(whole(touch)),
        ..found
    };
    // A kind's factor is on a headline speed: what counts is how fast the kind is by both.
    let factor = |found: u32, known: u32, headline: f64, before: f64| {
        let factor = near(f64::from(found) / headline, f64::from(known) / before) * headline;
        u32::try_from(whole(factor)).unwrap_or(FACTOR_MAX).clamp(1, FACTOR_MAX)
    };
    let flops = |speed: Speed| speed.flops_per_second() as f64;
    let (products, old_products) = (flops(bounded.speed), flops(probed.speed));
    let (convolutions, old_convolutions) = (flops(bounded.conv_speed), flops(probed.conv_speed));
    let (touch, old_touch) = (each(bounded.touch_rate), each(probed.touch_rate));
    let kinds = Kinds {
        attention: factor(kinds.attention, known.attention, products, old_products),
        recurrences: factor(kinds.recurrences, known.recurrences, products, old_products),
        convolution_grads: factor(
            kinds.convolution_grads,
            known.convolution_grads,
            convolutions,
            old_convolutions,
        ),
        norms: factor(kinds.norms, known.norms, touch, old_touch),
        moves: factor(kinds.moves, known.moves, touch, old_touch),
        pass: kinds.pass,
        starts: known.starts,
    };
    Hardware { kinds, ..bounded }
}

/// A pass of a stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    job: JobId,
    stage: StageId,
    is_back: bool,
}

impl Pass {
    /// Returns the pass that a task is; None for other tasks.
    pub(crate) fn of(task: &Task) -> Option<Self> {
        match task {
            Task::Forward { job, stage, .. } => {
                Some(Self { job: *job, stage: *stage, is_back: false })
            }
            Task::Backward { job, stage, .. } => {
                Some(Self { job: *job, stage: *stage, is_back: true })
            }
            Task::LoadStage { .. }
            | Task::ResetStep { .. }
            | Task::GatherGradients { .. }
            | Task::ShareGradients { .. }
            | Task::ReduceGradients { .. }
            | Task::OptimizerStep { .. }
            | Task::Snapshot { .. }
            | Task::Unload { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use wattle_protocol::units::{Bytes, Duration, Flops};

    use super::*;

    fn probed() -> Hardware {
        Hardware {
            device: "cpu".into(),
            speed: Speed::from_flops_per_second(40_000_000_000),
            conv_speed: Speed::from_flops_per_second(20_000_000_000),
            vector_speed: Speed::from_flops_per_second(2_000_000_000),
            touch_rate: Rate::from_bytes_per_second(5_000_000_000),
            overhead: Duration::from_micros(3),
            kinds: Kinds { norms: 3000, ..Kinds::default() },
            memory: Bytes::ZERO,
            host: 0,
            host_capacity: 0,
            demand: 0,
        }
    }

    fn refiner() -> (Refiner, Pass) {
        let mut refiner = Refiner::new(probed());
        let (job, stage) = (JobId::new([1; 16]), StageId::default());
        let flops = Flops::new(40_000_000_000);
        let products = Load { products: flops, ..Load::default() };
        let norms = Load { norms: Bytes::new(1_000_000_000), ..Load::default() };
        let loads: Loads =
            [("linear", (Unit::Products, products)), ("norm", (Unit::Norms, norms))].into();
        refiner.stages.insert((job, stage), (loads.clone(), loads));
        (refiner, Pass { job, stage, is_back: false })
    }

    fn ops(linear: f64, norm: f64) -> OpTimes {
        let nanos = |seconds: f64| whole(seconds * 1e9);
        [("linear", nanos(linear)), ("norm", nanos(norm))].into_iter().collect()
    }

    /// Goal: no kind gets further from the probe than the bound, whatever tasks seem to say. Method: a window in which
    /// everything took a hundred times as long, and one in which it took nothing like as long.
    #[test]
    fn no_kind_leaves_the_bound() {
        for times in [100.0, 0.01] {
            let (mut refiner, pass) = refiner();
            let mut found = None;
            for _ in 0..400 {
                found = refiner.ran(pass, &ops(1.0 * times, 0.6 * times)).or(found);
            }
            let (found, probed) = (found.unwrap(), probed());
            let works = refiner.stages.values().next().unwrap().0.values();
            for (_, load) in works {
                let factor = found.time(*load).seconds() / probed.time(*load).seconds();
                let want = if times > 1.0 { BOUND } else { 1.0 / BOUND };
                assert!((factor / want - 1.0).abs() < 0.01, "{factor}, not {want}");
            }
        }
    }

    /// Goal: a bad window does no lasting harm.
    #[test]
    fn figures_come_back_after_a_bad_window() {
        let (mut refiner, pass) = refiner();
        assert!(refiner.ran(pass, &ops(3.0, 1.8)).is_some());
        let mut found = None;
        for _ in 0..4 {
            found = refiner.ran(pass, &ops(1.0, 0.6)).or(found);
        }
        let (found, (_, load)) =
            (found.unwrap(), refiner.stages.values().next().unwrap().0["linear"]);
        let factor = found.time(load).seconds() / probed().time(load).seconds();
        assert!((factor - 1.0).abs() < 0.01, "{factor}");
        assert!(refiner.ran(pass, &ops(3.2, 1.9)).is_some());
    }
}
