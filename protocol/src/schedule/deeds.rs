//! What peers did, against what their adverts promised: measured work is the truth that a placement starts from.
//!
//! Each decided step is one sample of a peer: how long its passes took, of all its stages together, over how long the advert
//! had predicted. A gauge a peer makes one factor of them, without outliers; after a few the advert's speeds are divided by
//! it. Whether a peer claims a hundred times its speed or a hundredth, it is placed by what it did.
//!
//! A plan is made again by all who vote, so the factors that a leader places by are part of what it offers. They are a
//! leader's word, and bound: within [`TRUST`] either way, and each member disputes a plan that says of it what its own clock
//! does not ([`Deeds::contradicts`]); the plan is then made anew without that word, and nobody is barred.
//! Whether a running job is worth moving a leader judges by how much slower owners have become (`swarm/lead/moving`).
//! Concept: `docs/concepts/links-and-fences.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::advert::{Advert, Hardware};
use super::gauge::Gauge;
use crate::ids::PeerId;
use crate::units::{Duration, Instant, Rate, Speed};

/// Samples before a peer's deeds count for more than its words.
pub const SAMPLES_MIN: usize = 4;
/// Most deeds in one offer.
pub const DEEDS_MAX: usize = 256;
/// A factor of one.
const ONE: u64 = 1_000_000;
/// Factors stay within a million times either way.
const FACTOR_MAX: u64 = ONE * ONE;
/// No plan takes a peer for slower or faster than it says by more than this factor.
const TRUST: u64 = 1000;
/// Below this factor either way a deed changes no plan: models are off by as much for one network or another, and what was
/// seen with one would spoil the prediction of the next. Adverts follow real tasks by themselves.
const NEAR: u64 = 2;
/// A leader's word and a member's clock may differ by this factor.
const AGREES: u64 = 3;

/// How much longer than its advert promises a peer's passes take, as its leader has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// Who.
    pub peer: PeerId,
    /// In millionths.
    pub factor: u64,
}

/// What is known of one peer.
#[derive(Clone, Debug)]
struct Record {
    /// What it promised; another promise begins another record.
    promised: Hardware,
    factor: Gauge,
    samples: usize,
}

/// Factors of many peers.
#[derive(Clone, Debug, Default)]
pub struct Deeds {
    records: BTreeMap<PeerId, Record>,
}

impl Deeds {
    /// Takes one sample in: what the peer had promised, how long that predicts for some work, and how long that took.
    pub fn observe(
        &mut self,
        peer: PeerId,
        promised: &Hardware,
        (predicted, took): (Duration, Duration),
        now: Instant,
    ) {
        if predicted == Duration::ZERO {
            return;
        }
        let factor = u128::from(took.micros()) * u128::from(ONE) / u128::from(predicted.micros());
        let factor = u64::try_from(factor).unwrap_or(u64::MAX).clamp(1, FACTOR_MAX);
        if self.records.get(&peer).is_none_or(|record| record.promised != *promised) {
            let promised = promised.clone();
            self.records.insert(peer, Record { promised, factor: Gauge::default(), samples: 0 });
        }
        if let Some(record) = self.records.get_mut(&peer) {
            record.factor.add(factor, now);
            record.samples = record.samples.saturating_add(1);
        }
    }

    /// Returns how much longer than promised a peer's passes take, in millionths; None before it has done enough.
    fn factor(&self, peer: PeerId, now: Instant) -> Option<u64> {
        let record = self.records.get(&peer).filter(|record| record.samples >= SAMPLES_MIN)?;
        record.factor.figure(now)
    }

    /// Returns the same against what an advert promises; None too where the record is of another promise.
    fn shown(&self, advert: &Advert, now: Instant) -> Option<u64> {
        let promised = self.records.get(&advert.peer).map(|record| &record.promised);
        self.factor(advert.peer, now).filter(|_| promised == advert.hardware.as_ref())
    }

    /// Returns what a placement on these adverts should know beyond them, in their order.
    pub fn of<'a>(&self, adverts: impl IntoIterator<Item = &'a Advert>, now: Instant) -> Vec<Deed> {
        let deed = |advert: &Advert| {
            let factor = self.shown(advert, now)?;
            let factor = factor.clamp(ONE / TRUST, ONE * TRUST);
            (!(ONE / NEAR..=ONE * NEAR).contains(&factor))
                .then_some(Deed { peer: advert.peer, factor })
        };
        adverts.into_iter().filter_map(deed).take(DEEDS_MAX).collect()
    }

    /// Says whether what somebody says of a peer's deeds against its advert differs widely from what was seen of them here.
    /// Who says nothing has seen nothing, which is no lie; and what was seen under another advert says nothing of this one.
    pub fn contradicts(&self, advert: &Advert, said: &[Deed], now: Instant) -> bool {
        let said = said.iter().find(|deed| deed.peer == advert.peer).map(|deed| deed.factor);
        let Some((said, seen)) = said.zip(self.shown(advert, now)) else {
            return false;
        };
        let seen = seen.clamp(ONE / TRUST, ONE * TRUST);
        said > seen.saturating_mul(AGREES) || seen > said.saturating_mul(AGREES)
    }

    /// Returns an advert that is as much slower as a factor in millionths says.
    pub fn slowed(advert: &Advert, factor: u64) -> Advert {
        let mut advert = advert.clone();
        if let Some(hardware) = advert.hardware.as_mut() {
            slow(hardware, factor);
        }
        advert
    }

    /// Returns an advert with the speeds that the peer has shown.
    #[must_use]
    pub fn corrected(&self, advert: &Advert, now: Instant) -> Advert {
        let mut list = corrected(&[advert], &self.of([advert], now));
        list.pop().unwrap_or_else(|| advert.clone())
    }
}

/// Returns adverts with the speeds that deeds say; whatever a stranger says, within [`TRUST`].
pub fn corrected(adverts: &[&Advert], deeds: &[Deed]) -> Vec<Advert> {
    let one = |advert: &&Advert| {
        let mut advert = (*advert).clone();
        let deed = deeds.iter().take(DEEDS_MAX).find(|deed| deed.peer == advert.peer);
        if let Some((hardware, deed)) = advert.hardware.as_mut().zip(deed) {
            slow(hardware, deed.factor.clamp(ONE / TRUST, ONE * TRUST));
        }
        advert
    };
    adverts.iter().map(one).collect()
}

/// Makes hardware as much slower as a factor in millionths says, in every kind of work alike.
fn slow(hardware: &mut Hardware, factor: u64) {
    let over = |value: u64| {
        let scaled = u128::from(value) * u128::from(ONE) / u128::from(factor.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX).max(1)
    };
    for speed in [&mut hardware.speed, &mut hardware.conv_speed, &mut hardware.vector_speed] {
        *speed = Speed::from_flops_per_second(over(speed.flops_per_second()));
    }
    hardware.touch_rate = Rate::from_bytes_per_second(over(hardware.touch_rate.bytes_per_second()));
    for time in [&mut hardware.overhead, &mut hardware.kinds.pass] {
        let longer = u128::from(time.micros()) * u128::from(factor) / u128::from(ONE);
        *time = Duration::from_micros(u64::try_from(longer).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::Codec;
    use super::super::fence::{Request, place};
    use super::super::launches::Launches;
    use super::super::load::Load;
    use super::super::repair::repair;
    use super::super::sample::{Problem, problem};
    use super::*;
    use crate::ids::{Epoch, JobId};
    use crate::schedule::Standing;
    use crate::units::{Bytes, Flops};

    /// Micro-batches after which a liar has to be where it belongs.
    const MICRO_BATCHES: u64 = 20;

    fn load() -> Load {
        Load {
            products: Flops::new(4_000_000),
            elements: Flops::new(300_000),
            bytes: Bytes::new(900_000),
            launches: Launches::light(12),
            passes: 1,
            ..Load::default()
        }
    }

    /// Lets a peer that claims to be `claim` millionths as slow as it is do micro-batches, forward and backward.
    fn after_work(deeds: &mut Deeds, honest: &Advert, claim: u64, noise: u64) -> Advert {
        let mut claimed = honest.clone();
        slow(claimed.hardware.as_mut().unwrap(), claim);
        for pass in 0..2 * MICRO_BATCHES {
            let predicted = claimed.hardware.as_ref().unwrap().time(load());
            let truth = honest.hardware.as_ref().unwrap().time(load());
            // Off by up to this many percent, and every seventh pass five times as long.
            let off = 100 + (pass * 37) % (2 * noise + 1);
            let spike = if pass % 7 == 3 && noise > 0 { 5 } else { 1 };
            let took = Duration::from_micros(truth.micros() * (off - noise) * spike / 100);
            let now = Instant::from_micros(1 + pass * 100_000);
            deeds.observe(honest.peer, claimed.hardware.as_ref().unwrap(), (predicted, took), now);
        }
        claimed
    }

    fn request(problem: &Problem, peer: PeerId) -> Request<'_> {
        let (job, epoch) = (JobId::new([1; 16]), Epoch::new(1));
        let codec = Codec::Dense;
        Request { spec: &problem.spec, job, epoch, submitter: peer, leader: peer, codec }
    }

    /// Seconds of a step, as honest adverts predict them, of the placement that some adverts lead to.
    fn truly(problem: &Problem, adverts: &[Advert]) -> Option<f64> {
        let request = request(problem, adverts[0].peer);
        let plan = place(request, &adverts.iter().collect::<Vec<_>>()).ok()?;
        let workers = |stage: &crate::schedule::StagePlan| stage.workers().collect();
        let holders = plan.stages.iter().map(workers).collect();
        let standing = Standing { holders, ..Standing::default() };
        let honest: Vec<&Advert> = problem.adverts.iter().collect();
        let plan = repair(request, &plan, &standing, &honest).ok()?;
        Some(plan.prediction.step.seconds())
    }

    /// Goal: a claim of a hundred times the speed, or a hundredth, changes nothing for long. Method: every other peer
    /// lies; after twenty micro-batches placements are as fast as those of honest adverts.
    #[test]
    fn liars_are_placed_by_what_they_did_within_twenty_micro_batches() {
        let now = Instant::from_micros(1 + 2 * MICRO_BATCHES * 100_000);
        let (mut fooled, mut right) = (0, 0);
        for seed in 0..30 {
            let problem = problem(seed, 6, 16);
            let mut deeds = Deeds::default();
            let mut claimed = Vec::new();
            for (n, honest) in problem.adverts.iter().enumerate() {
                let claim = [ONE / 100, ONE, ONE * 100, ONE][(n + 3) % 4];
                claimed.push(after_work(&mut deeds, honest, claim, 0));
            }
            // Of placements that are about as fast, a last digit decides.
            let truth = truly(&problem, &problem.adverts);
            let near = |other: Option<f64>| match (truth, other) {
                (Some(truth), Some(other)) => other < 1.05 * truth,
                (truth, other) => truth.is_none() && other.is_none(),
            };
            fooled += u32::from(!near(truly(&problem, &claimed)));
            let corrected: Vec<Advert> = claimed.iter().map(|a| deeds.corrected(a, now)).collect();
            right += u32::from(near(truly(&problem, &corrected)));
        }
        println!("30 placements: {fooled} fooled by claims, {right} right after the work");
        assert!(fooled >= 10 && right >= 28, "{fooled} fooled, {right} right");
    }

    #[test]
    fn noise_and_stalls_leave_a_tenth_and_few_passes_say_nothing() {
        let honest = problem(3, 4, 8).adverts.remove(0);
        let truth = honest.hardware.as_ref().unwrap().time(load()).seconds();
        for claim in [ONE / 100, ONE, 100 * ONE] {
            let mut deeds = Deeds::default();
            let claimed = after_work(&mut deeds, &honest, claim, 20);
            let now = Instant::from_micros(5_000_000);
            let corrected = deeds.corrected(&claimed, now);
            let shown = corrected.hardware.as_ref().unwrap().time(load()).seconds();
            assert!(
                (shown / truth - 1.0).abs() < 0.15,
                "{shown} for {truth} after a claim of {claim}"
            );
        }
        let mut deeds = Deeds::default();
        let now = Instant::from_micros(9);
        let promised = honest.hardware.as_ref().unwrap();
        let millis = Duration::from_millis;
        deeds.observe(honest.peer, promised, (millis(1), millis(9)), now);
        assert_eq!(deeds.corrected(&honest, now), honest);
        deeds.observe(honest.peer, promised, (Duration::ZERO, Duration::MAX), now);
    }

    /// Goal: what models are off by is no deed. Method: peers that take nearly twice, and a little more than twice, as long or
    /// as short as their adverts say.
    #[test]
    fn deeds_begin_at_a_factor_of_two() {
        let honest = problem(3, 4, 8).adverts.remove(0);
        let now = Instant::from_micros(5_000_000);
        for (claim, counts) in [(190, false), (210, true), (53, false), (47, true)] {
            let mut deeds = Deeds::default();
            let claimed = after_work(&mut deeds, &honest, ONE * claim / 100, 0);
            assert_eq!(deeds.of([&claimed], now).len(), usize::from(counts), "{claim}");
        }
    }

    #[test]
    fn a_leaders_word_is_bound_and_checked_against_ones_own_clock() {
        let honest = problem(3, 4, 8).adverts.remove(0);
        let mut own = Deeds::default();
        let now = Instant::from_micros(5_000_000);
        let says = |factor| vec![Deed { peer: honest.peer, factor }];
        // Who has done nothing yet has nothing to say against it.
        assert!(!own.contradicts(&honest, &says(ONE * 900), now));
        after_work(&mut own, &honest, ONE, 0);
        assert!(own.of([&honest], now).is_empty());
        assert!(!own.contradicts(&honest, &[], now));
        assert!(!own.contradicts(&honest, &says(ONE * 2), now));
        assert!(own.contradicts(&honest, &says(ONE * 9), now));
        assert!(own.contradicts(&honest, &says(ONE / 9), now));
        let time = |deed: u64| {
            let advert = corrected(&[&honest], &says(deed)).remove(0);
            advert.hardware.unwrap().time(load()).seconds()
        };
        assert!((time(u64::MAX) / time(ONE) / TRUST as f64 - 1.0).abs() < 0.05);
        // Another promise is another record.
        let mut faster = honest.clone();
        slow(faster.hardware.as_mut().unwrap(), ONE / 7);
        assert!(own.of([&faster], now).is_empty());
        // Nor does what was seen under one promise contradict what is said of another.
        assert!(!own.contradicts(&faster, &says(ONE * 9), now));
    }
}
