//! A device's coefficients from the times of operators that it has run: of the probe's networks, later of real tasks.
//!
//! Pure: takes loads and times, returns hardware. Our rule: what an operator takes however small it is comes off first; then
//! each kind's time is in proportion to its arithmetic or its bytes. Kinds of which nothing was seen, or of which next to
//! nothing is left then, keep their factor on the headline speeds, and headline speeds keep what they had.

use std::collections::BTreeMap;

use super::advert::Hardware;
use super::kinds::{FACTOR_MAX, ONE};
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
}

/// Returns hardware with the coefficients that samples by operator show.
pub fn fitted(hardware: &Hardware, samples: &BTreeMap<&'static str, (Unit, Sample)>) -> Hardware {
    let mut found = hardware.clone();
    let overhead = hardware.overhead.seconds();
    let seconds = |sample: &Sample| {
        let took = sample.nanos as f64 / 1e9;
        let left = took - overhead * sample.load.launches as f64;
        (left > took * WORK_MIN).then_some(left)
    };
    let sum = |kind: Unit, which: &dyn Fn(&Sample) -> bool| {
        let mut total = Sample::default();
        for (unit, sample) in samples.values() {
            if *unit == kind && which(sample) {
                total.add(*sample);
            }
        }
        Some((total.load, seconds(&total)?))
    };
    let all = |kind| sum(kind, &|_| true);
    let speed = |flops: u64, time: f64| Speed::from_flops_per_second(whole(flops as f64 / time));
    if let Some((load, time)) = all(Unit::Products) {
        found.speed = speed(load.products.count(), time);
    }
    if let Some((load, time)) = all(Unit::Convolutions) {
        found.conv_speed = speed(load.convolutions.count(), time);
    }
    let is_dense =
        |s: &Sample| s.load.elements.count() as f64 > s.load.bytes.count() as f64 * DENSE;
    if let Some((load, time)) = sum(Unit::Elements, &|s| !is_dense(s)) {
        found.touch_rate = Rate::from_bytes_per_second(whole(load.bytes.count() as f64 / time));
    }
    if let Some((load, time)) = sum(Unit::Elements, &is_dense) {
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
    if let Some((load, time)) = all(Unit::Moves) {
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
    use crate::schedule::kinds::Kinds;
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
                recurrences: 4000,
                convolution_grads: 1800,
                norms: 3000,
                moves: 700,
                pass: Duration::from_micros(90),
            },
            memory: Bytes::new(1 << 30),
            host: 0,
            host_capacity: 0,
            demand: 0,
        }
    }

    /// Goal: what a device does is found from its operators alone. Method: times that known hardware would take, with
    /// launches of some microseconds among them, starting from hardware that knows no kinds.
    #[test]
    fn coefficients_come_back_from_the_times_that_they_make() {
        let truth = hardware();
        let one = |load: Load| Load { launches: 20, ..load };
        let (flops, bytes) = (Flops::new(4_000_000_000), Bytes::new(600_000_000));
        let loads = [
            ("linear", Unit::Products, one(Load { products: flops, ..Load::default() })),
            ("attention", Unit::Attention, one(Load { attention: flops, ..Load::default() })),
            ("lstm", Unit::Recurrence, one(Load { recurrences: flops, ..Load::default() })),
            ("conv", Unit::Convolutions, one(Load { convolutions: flops, ..Load::default() })),
            (
                "conv_grad",
                Unit::ConvolutionGrads,
                one(Load { convolution_grads: flops, ..Load::default() }),
            ),
            ("add", Unit::Elements, one(Load { bytes, ..Load::default() })),
            ("gelu", Unit::Elements, one(Load { bytes, elements: flops, ..Load::default() })),
            ("norm", Unit::Norms, one(Load { norms: bytes, ..Load::default() })),
            ("slice", Unit::Moves, one(Load { moves: bytes, ..Load::default() })),
        ];
        let sample = |(name, unit, load): (&'static str, Unit, Load)| {
            (name, (unit, Sample { load, nanos: truth.time(load).micros() * 1000 }))
        };
        let samples = loads.into_iter().map(sample).collect();
        let begun = Hardware {
            speed: Speed::from_flops_per_second(1_000_000_000),
            kinds: Kinds { pass: truth.kinds.pass, ..Kinds::default() },
            ..truth.clone()
        };
        let found = fitted(&begun, &samples);
        for (_, _, load) in loads {
            let (want, got) = (truth.time(load).seconds(), found.time(load).seconds());
            assert!((got / want - 1.0).abs() < 0.01, "{got} for {want}");
        }
        assert_eq!(fitted(&begun, &BTreeMap::new()), begun);
    }

    /// Goal: operators that are all launches say nothing of how fast memory is.
    #[test]
    fn launches_alone_tell_of_no_speed() {
        let truth = hardware();
        let load = Load { bytes: Bytes::new(4000), launches: 100, ..Load::default() };
        let nanos = truth.time(load).micros() * 1000;
        let samples = [("add", (Unit::Elements, Sample { load, nanos }))].into();
        let begun = Hardware { touch_rate: Rate::from_mbit(1000.0), ..truth };
        assert_eq!(fitted(&begun, &samples), begun);
    }
}
