//! What real tasks say of this machine: the probe's coefficients set right by the operators of jobs.
//!
//! Sums of a few seconds count, so that a stall does not. What a pass does between operators and around them makes all of
//! them slower alike, as it does in the probe. No kind of operator becomes faster or slower than the probe's figure by more
//! than [`BOUND`], and only a difference that a prediction would feel is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use wattle_protocol::dag::cost::Unit;
use wattle_protocol::ids::{JobId, StageId};
use wattle_protocol::schedule::advert::Hardware;
use wattle_protocol::schedule::fitted::{Sample, fitted};
use wattle_protocol::schedule::kinds::{FACTOR_MAX, Kinds};
use wattle_protocol::schedule::load::Load;
use wattle_protocol::swarm::io::{OpTimes, StageWork, Task};
use wattle_protocol::units::{Duration, Rate, Speed};

use super::networks::loads;
use super::whole;

/// Nanoseconds of operators that are summed up before they count.
const WINDOW: u64 = 3_000_000_000;
/// A window in which stages ran one way only for so long, in nanoseconds, ends without them.
const LONGEST: u64 = 4 * WINDOW;
/// First passes of a stage, each way, that do not count.
const COLD: u64 = 2;
/// How far a kind of operator may move from the probe's figure, as a factor.
const BOUND: f64 = 4.0;
/// A predicted time that changes by less is not told.
const NEWS: f64 = 0.05;
/// A whole pass takes at most this factor of what its operators take, or something else was measured.
const AROUND_MAX: f64 = 2.0;

type Loads = BTreeMap<&'static str, (Unit, Load)>;

/// Passes of one direction, and what their operators took, all together.
#[derive(Debug, Default)]
struct Seen {
    passes: u64,
    nanos: BTreeMap<&'static str, u64>,
}

/// One direction of a stage: what a pass does, and what passes took since the last window.
#[derive(Debug)]
struct Way {
    loads: Loads,
    seen: Seen,
    /// Passes that are still to be left out: the first find no memory of their own, and code that has not run.
    cold: u64,
}

impl Way {
    fn new(loads: Loads) -> Self {
        Self { loads, seen: Seen::default(), cold: COLD }
    }
}

/// A stage, forward and back.
type Ways = [Way; 2];

/// Learns from tasks.
#[derive(Debug)]
pub(crate) struct Refiner {
    probed: Hardware,
    told: Hardware,
    stages: BTreeMap<(JobId, StageId), Ways>,
}

impl Refiner {
    /// Begins with what the probe has found, of the share of the machine that is given.
    pub(crate) fn new(probed: Hardware) -> Self {
        Self { told: probed.clone(), probed, stages: BTreeMap::new() }
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
        let ways = [&graph.forward, &graph.backward].map(|program| Way::new(loads(graph, program)));
        self.stages.insert((job, graph.stage), ways);
    }

    /// Takes what a pass took, and its operators. Returns hardware where that is news.
    pub(crate) fn ran(&mut self, pass: Pass, took: Duration, ops: &OpTimes) -> Option<Hardware> {
        let ways = self.stages.get_mut(&(pass.job, pass.stage))?;
        let way = &mut ways[usize::from(pass.is_back)];
        if way.cold > 0 {
            way.cold -= 1;
            return None;
        }
        let computed = took.seconds() - self.told.kinds.pass.seconds();
        let around = (computed * 1e9 / (ops.sum() as f64).max(1.0)).clamp(1.0, AROUND_MAX);
        way.seen.passes += 1;
        for (name, nanos) in ops.iter().filter(|(name, _)| way.loads.contains_key(name)) {
            *way.seen.nanos.entry(name).or_default() += whole(nanos as f64 * around);
        }
        let samples = self.window()?;
        let work: Load = samples.values().map(|(_, s)| s.load).sum();
        let found = bounded(fitted(&self.told, &samples), &self.probed);
        let change = found.time(work).seconds() / self.told.time(work).seconds().max(1e-9);
        if (1.0 - NEWS..1.0 + NEWS).contains(&change) {
            return None;
        }
        self.told = found.clone();
        Some(found)
    }

    /// Returns what operators took since the last window, once that is enough: of each stage as many passes forward as back,
    /// since one coefficient stands for operators of both, which are not equally fast.
    fn window(&mut self) -> Option<BTreeMap<&'static str, (Unit, Sample)>> {
        let ways = || self.stages.values().flatten();
        let seen: u64 = ways().flat_map(|way| way.seen.nanos.values()).sum();
        let is_whole = |ways: &Ways| {
            let runs = ways.iter().any(|way| way.seen.passes > 0);
            !runs || ways.iter().all(|way| way.seen.passes > 0 || way.loads.is_empty())
        };
        if seen < WINDOW || !(self.stages.values().all(is_whole) || seen > LONGEST) {
            return None;
        }
        let mut samples: BTreeMap<&'static str, (Unit, Sample)> = BTreeMap::new();
        for ways in self.stages.values_mut() {
            let counts = ways.iter().filter(|way| !way.loads.is_empty()).map(|way| way.seen.passes);
            let passes = counts.min().unwrap_or_default();
            for way in ways {
                let seen = std::mem::take(&mut way.seen);
                for (name, nanos) in seen.nanos {
                    let (unit, load) = way.loads[name];
                    let nanos = whole(nanos as f64 * passes as f64 / seen.passes as f64);
                    let sample = Sample { load: load.times(passes), nanos };
                    samples.entry(name).or_insert((unit, Sample::default())).1.add(sample);
                }
            }
        }
        // A stage that ran one way only says nothing.
        samples.retain(|_, (_, sample)| sample.nanos > 0);
        (!samples.is_empty()).then_some(samples)
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
        attention_grads: factor(
            kinds.attention_grads,
            known.attention_grads,
            products,
            old_products,
        ),
        recurrences: factor(kinds.recurrences, known.recurrences, products, old_products),
        convolution_grads: factor(
            kinds.convolution_grads,
            known.convolution_grads,
            convolutions,
            old_convolutions,
        ),
        norms: factor(kinds.norms, known.norms, touch, old_touch),
        channel_norms: factor(kinds.channel_norms, known.channel_norms, touch, old_touch),
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
    use wattle_protocol::units::{Bytes, Flops};

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
        let way = |loads: Loads| Way { cold: 0, ..Way::new(loads) };
        refiner.stages.insert((job, stage), [way(loads), way(Loads::new())]);
        (refiner, Pass { job, stage, is_back: false })
    }

    fn ops(linear: f64, norm: f64) -> OpTimes {
        let nanos = |seconds: f64| whole(seconds * 1e9);
        [("linear", nanos(linear)), ("norm", nanos(norm))].into_iter().collect()
    }

    /// A pass with nothing around its operators.
    fn ran(refiner: &mut Refiner, pass: Pass, ops: &OpTimes) -> Option<Hardware> {
        refiner.ran(pass, Duration::from_seconds(ops.sum() as f64 / 1e9), ops)
    }

    /// Goal: no kind gets further from the probe than the bound, whatever tasks seem to say. Method: a window in which
    /// everything took a hundred times as long, and one in which it took nothing like as long.
    #[test]
    fn no_kind_leaves_the_bound() {
        for times in [100.0, 0.01] {
            let (mut refiner, pass) = refiner();
            let mut found = None;
            for _ in 0..400 {
                found = ran(&mut refiner, pass, &ops(1.0 * times, 0.6 * times)).or(found);
            }
            let (found, probed) = (found.unwrap(), probed());
            let works = refiner.stages.values().next().unwrap()[0].loads.values();
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
        assert!(ran(&mut refiner, pass, &ops(3.0, 1.8)).is_some());
        let mut found = None;
        for _ in 0..4 {
            found = ran(&mut refiner, pass, &ops(1.0, 0.6)).or(found);
        }
        let (found, (_, load)) =
            (found.unwrap(), refiner.stages.values().next().unwrap()[0].loads["linear"]);
        let factor = found.time(load).seconds() / probed().time(load).seconds();
        assert!((factor - 1.0).abs() < 0.01, "{factor}");
        assert!(ran(&mut refiner, pass, &ops(3.2, 1.9)).is_some());
    }

    /// Goal: what is around operators counts as theirs, so that passes are predicted as long as they are. Method: passes that
    /// take a tenth longer than their operators, which is news.
    #[test]
    fn what_is_around_operators_is_predicted_too() {
        let (mut refiner, pass) = refiner();
        let works = refiner.stages.values().next().unwrap()[0].loads.clone();
        let probed: f64 = works.values().map(|(_, load)| probed().time(*load).seconds()).sum();
        let mut found = None;
        for _ in 0..4 {
            let took = Duration::from_seconds(1.6 * 1.1);
            found = refiner.ran(pass, took, &ops(1.0, 0.6)).or(found);
        }
        let found = found.unwrap();
        let predicted: f64 = works.values().map(|(_, load)| found.time(*load).seconds()).sum();
        assert!((predicted / probed - 1.1).abs() < 0.01, "{predicted} of {probed}");
    }

    /// Goal: operators that are slower on the way back than forward are predicted as what a step does of both, wherever a
    /// window ends. Method: passes of which several go forward before as many come back, as in a pipeline.
    #[test]
    fn windows_hold_as_many_passes_back_as_forward() {
        let (mut refiner, pass) = refiner();
        let ways = refiner.stages.values_mut().next().unwrap();
        ways[1].loads = ways[0].loads.clone();
        let back = Pass { is_back: true, ..pass };
        for step in 0..20 {
            for (pass, seconds) in [(pass, 0.8), (back, 1.2)] {
                for _ in 0..2 + step % 3 {
                    let found = ran(&mut refiner, pass, &ops(seconds, 0.6 * seconds));
                    assert_eq!(found, None, "step {step}");
                }
            }
        }
    }
}
