//! A device's coefficients from the times of operators that it has run: of the probe's networks, later of real tasks.
//!
//! Pure: takes loads and times, returns hardware. Our rule: an operator takes a start, whatever its size, and then a time in
//! proportion to its arithmetic or its bytes; kinds have both, but that element-wise operators and moves share one start.
//! [`probed`] finds both, from networks of several sizes;
//! [`fitted`] takes the starts for known, and finds what is in proportion. Kinds of which nothing was seen, or of which next
//! to nothing is left beside their starts, keep their factor on the headline speeds.
//!
//! Reading order: this file; [`line`](self::line) (starts and proportions of one kind).

mod line;

use std::collections::BTreeMap;

use self::line::{Line, Point, slope};
use super::advert::Hardware;
use super::kinds::{FACTOR_MAX, ONE, stretched_by};
use super::load::Load;
use crate::dag::cost::Unit;
use crate::units::{Duration, Rate, Speed};

/// A kind of which less than this share of its time is left, when what its launches took is off, tells nothing of its work.
const WORK_MIN: f64 = 0.1;
/// An operator with more operations a byte than this spends its time in arithmetic.
const DENSE: f64 = 0.5;

/// What operators of one name did, all calls together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Their work.
    pub load: Load,
    /// The time that it took, in nanoseconds.
    pub nanos: u64,
}

impl Sample {
    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.load = self.load + other.load;
        self.nanos = self.nanos.saturating_add(other.nanos);
    }

    fn is_dense(&self) -> bool {
        self.load.elements.count() as f64 > self.load.bytes.count() as f64 * DENSE
    }
}

/// What the operators of one name did in one network, and which share of its time that was.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Their kind.
    pub unit: Unit,
    /// What they did.
    pub sample: Sample,
    /// Their share of the network's time: what weighs little is fitted less closely.
    pub share: f64,
}

/// Returns hardware with the coefficients that networks of several sizes show: of each kind what an operator takes however
/// small it is, and what its work takes.
pub fn probed(hardware: &Hardware, parts: &[Part]) -> Hardware {
    let mut found = hardware.clone();
    let mut plain = points(parts, &[Unit::Elements], |s| s.load.bytes.count());
    plain.retain(|(sample, _)| !sample.is_dense());
    if let Some(line) = Line::through(&bare(&plain), hardware.overhead.seconds()) {
        found.overhead = Duration::from_seconds(line.start).max(Duration::from_micros(1));
        found.touch_rate = Rate::from_bytes_per_second(whole(1.0 / line.slope));
    }
    let usual = found.overhead.seconds();
    let mut dense = points(parts, &[Unit::Elements], |s| s.load.elements.count());
    dense.retain(|(sample, _)| sample.is_dense());
    for (sample, point) in &mut dense {
        let all = point.seconds;
        point.seconds -= (sample.load.bytes / found.touch_rate).seconds();
        // What is left of it is a smaller share of the network's time.
        point.weight *= point.seconds / all;
    }
    dense.retain(|(_, point)| point.seconds > 0.0);
    if let Some(slope) = slope(&bare(&dense), usual) {
        found.vector_speed = Speed::from_flops_per_second(whole(1.0 / slope));
    }
    // What only renames may have to copy what a transpose before it left where it was.
    let moves = points(parts, &[Unit::Moves, Unit::Names], |s| s.load.moves.count());
    if let Some(slope) = slope(&bare(&moves), usual) {
        let touch = found.touch_rate.bytes_per_second() as f64;
        found.kinds.moves = thousandths(slope * touch);
    }
    with_kinds(found, parts)
}

/// Finds starts and proportions of the kinds that are neither element-wise nor moves.
fn with_kinds(mut found: Hardware, parts: &[Part]) -> Hardware {
    let usual = found.overhead.seconds();
    let line =
        |unit, work: fn(&Sample) -> u64| Line::through(&bare(&points(parts, &[unit], work)), usual);
    let start = |line: Line| thousandths(line.start / usual);
    let speed = |line: Line| Speed::from_flops_per_second(whole(1.0 / line.slope));
    let mut kinds = found.kinds;
    if let Some(line) = line(Unit::Products, |s| s.load.products.count()) {
        (found.speed, kinds.starts.products) = (speed(line), start(line));
    }
    if let Some(line) = line(Unit::Convolutions, |s| s.load.convolutions.count()) {
        (found.conv_speed, kinds.starts.convolutions) = (speed(line), start(line));
    }
    let products = found.speed.flops_per_second() as f64;
    let convolutions = found.conv_speed.flops_per_second() as f64;
    let touch = found.touch_rate.bytes_per_second() as f64;
    let over = |line: Line, headline: f64| thousandths(line.slope * headline);
    if let Some(line) = line(Unit::Attention, |s| s.load.attention.count()) {
        (kinds.attention, kinds.starts.attention) = (over(line, products), start(line));
    }
    if let Some(line) = line(Unit::AttentionGrads, |s| s.load.attention_grads.count()) {
        (kinds.attention_grads, kinds.starts.attention_grads) = (over(line, products), start(line));
    }
    if let Some(line) = line(Unit::Recurrence, |s| s.load.recurrences.count()) {
        (kinds.recurrences, kinds.starts.recurrences) = (over(line, products), start(line));
    }
    if let Some(line) = line(Unit::ConvolutionGrads, |s| s.load.convolution_grads.count()) {
        let starts = &mut kinds.starts;
        (kinds.convolution_grads, starts.convolution_grads) =
            (over(line, convolutions), start(line));
    }
    if let Some(line) = line(Unit::Norms, |s| s.load.norms.count()) {
        (kinds.norms, kinds.starts.norms) = (over(line, touch), start(line));
    }
    if let Some(line) = line(Unit::ChannelNorms, |s| s.load.channel_norms.count()) {
        (kinds.channel_norms, kinds.starts.channel_norms) = (over(line, touch), start(line));
    }
    Hardware { kinds, ..found }
}

/// Returns the parts of some kinds as points, with what they are made of.
fn points(parts: &[Part], units: &[Unit], work: fn(&Sample) -> u64) -> Vec<(Sample, Point)> {
    let seen = |part: &&Part| units.contains(&part.unit) && part.sample.nanos > 0;
    let point = |part: &Part| Point {
        launches: part.sample.load.launches.count() as f64,
        work: work(&part.sample) as f64,
        seconds: part.sample.nanos as f64 / 1e9,
        weight: part.share,
    };
    parts.iter().filter(seen).map(|part| (part.sample, point(part))).collect()
}

fn bare(points: &[(Sample, Point)]) -> Vec<Point> {
    points.iter().map(|(_, point)| *point).collect()
}

/// Returns hardware with the coefficients that samples by operator show.
pub fn fitted(hardware: &Hardware, samples: &BTreeMap<&'static str, (Unit, Sample)>) -> Hardware {
    let mut found = hardware.clone();
    let starts = hardware.kinds.starts;
    let seconds = |sample: &Sample| {
        let took = sample.nanos as f64 / 1e9;
        let begun = stretched_by(hardware.overhead, sample.load.launches.weighed(&starts));
        let left = took - begun.seconds();
        (left > took * WORK_MIN).then_some(left)
    };
    let sum = |kinds: &[Unit], which: &dyn Fn(&Sample) -> bool| {
        let mut total = Sample::default();
        for (unit, sample) in samples.values() {
            if kinds.contains(unit) && which(sample) {
                total.add(*sample);
            }
        }
        Some((total.load, seconds(&total)?))
    };
    let all = |kind| sum(&[kind], &|_| true);
    let speed = |flops: u64, time: f64| Speed::from_flops_per_second(whole(flops as f64 / time));
    if let Some((load, time)) = all(Unit::Products) {
        found.speed = speed(load.products.count(), time);
    }
    if let Some((load, time)) = all(Unit::Convolutions) {
        found.conv_speed = speed(load.convolutions.count(), time);
    }
    if let Some((load, time)) = sum(&[Unit::Elements], &|s| !s.is_dense()) {
        found.touch_rate = Rate::from_bytes_per_second(whole(load.bytes.count() as f64 / time));
    }
    if let Some((load, time)) = sum(&[Unit::Elements], &Sample::is_dense) {
        let left = time - (load.bytes / found.touch_rate).seconds();
        if left > time * WORK_MIN {
            found.vector_speed = speed(load.elements.count(), left);
        }
    }
    let factor = |time: f64, headline: Duration, old: u32| match headline {
        Duration::ZERO => old,
        headline => thousandths(time / headline.seconds()),
    };
    let kinds = &mut found.kinds;
    if let Some((load, time)) = all(Unit::Attention) {
        kinds.attention = factor(time, load.attention / found.speed, kinds.attention);
    }
    if let Some((load, time)) = all(Unit::AttentionGrads) {
        let headline = load.attention_grads / found.speed;
        kinds.attention_grads = factor(time, headline, kinds.attention_grads);
    }
    if let Some((load, time)) = all(Unit::Recurrence) {
        kinds.recurrences = factor(time, load.recurrences / found.speed, kinds.recurrences);
    }
    if let Some((load, time)) = all(Unit::ConvolutionGrads) {
        let headline = load.convolution_grads / found.conv_speed;
        kinds.convolution_grads = factor(time, headline, kinds.convolution_grads);
    }
    if let Some((load, time)) = all(Unit::Norms) {
        kinds.norms = factor(time, load.norms / found.touch_rate, kinds.norms);
    }
    if let Some((load, time)) = all(Unit::ChannelNorms) {
        let headline = load.channel_norms / found.touch_rate;
        kinds.channel_norms = factor(time, headline, kinds.channel_norms);
    }
    // What only renames may have to copy what a transpose before it left where it was.
    if let Some((load, time)) = sum(&[Unit::Moves, Unit::Names], &|_| true) {
        kinds.moves = factor(time, load.moves / found.touch_rate, kinds.moves);
    }
    found
}

fn thousandths(factor: f64) -> u32 {
    let number = whole(factor * f64::from(ONE)).clamp(1, u64::from(FACTOR_MAX));
    u32::try_from(number).unwrap_or(FACTOR_MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float to integer cast saturates, which is what is wanted"
)]
fn whole(value: f64) -> u64 {
    (value.round() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::kinds::{Kinds, Starts};
    use crate::schedule::launches::Launches;
    use crate::units::{Bytes, Flops};

    fn hardware() -> Hardware {
        let speed = |giga: u64| Speed::from_flops_per_second(giga * 1_000_000_000);
        Hardware {
            device: "cpu".into(),
            speed: speed(40),
            conv_speed: speed(20),
            vector_speed: speed(2),
            touch_rate: Rate::from_bytes_per_second(5_000_000_000),
            overhead: Duration::from_micros(3),
            kinds: Kinds {
                attention: 2500,
                attention_grads: 3500,
                recurrences: 4000,
                convolution_grads: 1800,
                norms: 3000,
                channel_norms: 5000,
                moves: 700,
                pass: Duration::from_micros(90),
                starts: Starts {
                    products: 4000,
                    attention: 50_000,
                    attention_grads: 60_000,
                    recurrences: 20_000,
                    convolutions: 30_000,
                    convolution_grads: 40_000,
                    norms: 9000,
                    channel_norms: 12_000,
                },
            },
            memory: Bytes::new(1 << 30),
            host: 0,
            host_capacity: 0,
            demand: 0,
        }
    }

    /// Operators of all kinds, of a size that takes so many operations.
    fn loads(flops: u64) -> Vec<(&'static str, Unit, Load)> {
        let (work, bytes) = (Flops::new(flops), Bytes::new(flops / 7));
        let none = Load::default();
        let all = [
            ("linear", Unit::Products, Load { products: work, ..none }),
            ("attention", Unit::Attention, Load { attention: work, ..none }),
            ("attention_grad", Unit::AttentionGrads, Load { attention_grads: work, ..none }),
            ("lstm", Unit::Recurrence, Load { recurrences: work, ..none }),
            ("conv", Unit::Convolutions, Load { convolutions: work, ..none }),
            ("conv_grad", Unit::ConvolutionGrads, Load { convolution_grads: work, ..none }),
            ("add", Unit::Elements, Load { bytes, ..none }),
            ("gelu", Unit::Elements, Load { bytes, elements: work, ..none }),
            ("norm", Unit::Norms, Load { norms: bytes, ..none }),
            ("batch_norm", Unit::ChannelNorms, Load { channel_norms: bytes, ..none }),
            ("slice", Unit::Moves, Load { moves: bytes, ..none }),
        ];
        let launched = |unit, load| Load { launches: Launches::one(unit).times(20), ..load };
        all.into_iter().map(|(name, unit, load)| (name, unit, launched(unit, load))).collect()
    }

    fn close(
        truth: &Hardware,
        found: &Hardware,
        loads: &[(&'static str, Unit, Load)],
        within: f64,
    ) {
        for (name, _, load) in loads {
            let (want, got) = (truth.time(*load).seconds(), found.time(*load).seconds());
            assert!((got / want - 1.0).abs() < within, "{name}: {got} for {want}");
        }
    }

    /// Hardware that knows no kinds.
    fn begun() -> Hardware {
        let truth = hardware();
        Hardware {
            speed: Speed::from_flops_per_second(1_000_000_000),
            kinds: Kinds { pass: truth.kinds.pass, ..Kinds::default() },
            ..truth
        }
    }

    /// Goal: what a device does is found from its operators alone. Method: times that known hardware would take.
    #[test]
    fn coefficients_come_back_from_the_times_that_they_make() {
        let truth = hardware();
        let loads = loads(4_000_000_000);
        let sample = |(name, unit, load): &(&'static str, Unit, Load)| {
            (*name, (*unit, Sample { load: *load, nanos: truth.time(*load).micros() * 1000 }))
        };
        let samples = loads.iter().map(sample).collect();
        let known = Kinds { starts: truth.kinds.starts, ..begun().kinds };
        let begun = Hardware { kinds: known, ..begun() };
        close(&truth, &fitted(&begun, &samples), &loads, 0.01);
        assert_eq!(fitted(&begun, &BTreeMap::new()), begun);
    }

    /// Goal: networks of two sizes tell starts from work, so that any size is predicted. Method: times that known hardware
    /// takes for small and for large operators; then operators between and beyond.
    #[test]
    fn starts_and_proportions_come_back_from_two_sizes() {
        let truth = hardware();
        let mut parts = Vec::new();
        for size in [3_000_000, 4_000_000_000] {
            let loads = loads(size);
            let all: u64 = loads.iter().map(|(_, _, load)| truth.time(*load).micros()).sum();
            for (_, unit, load) in loads {
                let micros = truth.time(load).micros();
                let sample = Sample { load, nanos: micros * 1000 };
                parts.push(Part { unit, sample, share: micros as f64 / all as f64 });
            }
        }
        let found = probed(&begun(), &parts);
        for size in [1_000_000, 100_000_000, 20_000_000_000] {
            close(&truth, &found, &loads(size), 0.03);
        }
        assert_eq!(probed(&begun(), &[]), begun());
        // One size alone leaves starts as they were thought to be.
        let alone = probed(&begun(), &parts[..11]);
        assert_eq!(alone.kinds.starts.attention, 1000);
    }

    /// Goal: operators that are all launches say nothing of how fast memory is.
    #[test]
    fn launches_alone_tell_of_no_speed() {
        let truth = hardware();
        let launches = Launches::light(100);
        let load = Load { bytes: Bytes::new(4000), launches, ..Load::default() };
        let nanos = truth.time(load).micros() * 1000;
        let samples = [("add", (Unit::Elements, Sample { load, nanos }))].into();
        let begun = Hardware { touch_rate: Rate::from_mbit(1000.0), ..truth };
        assert_eq!(fitted(&begun, &samples), begun);
    }
}
