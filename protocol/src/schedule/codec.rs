//! How many bytes cross a link: dense or rounded tensors, or the largest elements of them (Top-K), more of them on faster
//! links (AdaTopK). The placement counts with these sizes; they are those of the encoding, `docs/decisions/0011-codecs.md`:
//! what an encoder writes is never more, and on random tensors less by a few percent at most.
//!
//! Source: that FusionLLM compresses activations and gradients adaptively at the slowest links is the paper's; rule and
//! wire costs are our proposal (papers.md 1.9).

use super::course::{Station, Wire};
use super::ground::Ground;
pub use crate::codec::Codec;
use crate::codec::{Floats, Form, adaptive, adatopk};
use crate::units::{Bytes, Duration};

/// Bytes of a dense element.
const VALUE: u64 = 4;

/// Returns the most bytes that the largest elements of a tensor take, one in `ratio` and at least one; dense if that is
/// less. No ratio: a single one.
///
/// *Source*: papers.md 1.9: k = max(1, floor(n / rho)).
fn largest(dense: Bytes, ratio: Option<u32>) -> Bytes {
    let elements = usize::try_from(dense.count() / VALUE).unwrap_or(usize::MAX);
    let ratio = ratio.and_then(|ratio| usize::try_from(ratio).ok()).unwrap_or(usize::MAX);
    let keep = (elements / ratio.max(1)).max(1);
    Form::TopK { keep, values: Floats::F32 }.bytes(elements).min(dense)
}

impl Codec {
    /// Returns the bytes of a tensor whose dense transfer takes `own`, where the slowest one takes `slowest`.
    ///
    /// With AdaTopK what the link may carry, which [`adatopk::within`] uses up but for less than an element.
    ///
    /// *Source*: papers.md 1.9: rho = w r R / R_max, dense where rho <= w.
    pub fn bytes(self, dense: Bytes, own: Duration, slowest: Duration) -> Bytes {
        match self {
            Self::Dense => dense,
            Self::Half(_) | Self::Int8 | Self::Int5 | Self::Int4 => {
                let elements = usize::try_from(dense.count() / VALUE).unwrap_or(usize::MAX);
                self.form(elements).map_or(dense, |form| form.bytes(elements).min(dense))
            }
            // As rough as activations get: whoever plans makes it milder where that costs nothing.
            Self::Adaptive => {
                let elements = usize::try_from(dense.count() / VALUE).unwrap_or(usize::MAX);
                adaptive::form(elements, own, slowest).bytes(elements).min(dense)
            }
            Self::TopK(ratio) => largest(dense, Some(ratio)),
            Self::AdaTopK(ratio) => match adatopk::budget(dense, ratio, own, slowest) {
                Some(budget) => budget.max(largest(dense, None)).min(dense),
                None => dense,
            },
        }
    }

    /// Returns the bytes of a tensor on the slowest link.
    pub(super) fn least(self, dense: Bytes) -> Bytes {
        let any = Duration::from_micros(1);
        self.bytes(dense, any, any)
    }

    /// Returns what crosses between stages once this codec has been at it; links are those between owners.
    pub(super) fn compress(
        self,
        ground: &Ground<'_>,
        stations: &[Station],
        mut wires: Vec<Wire>,
    ) -> Vec<Wire> {
        if self == Self::Dense {
            return wires;
        }
        let time = |from: usize, to: usize, size: Bytes| {
            let owner = |stage: usize| stations[stage].workers.first().map_or(0, |w| w.device);
            let (busy, travel) = ground.transfer(owner(from), owner(to), size);
            busy + travel
        };
        let both = |wire: &Wire| {
            let back = wire.back.map_or(Duration::ZERO, |size| time(wire.to, wire.from, size));
            time(wire.from, wire.to, wire.there).max(back)
        };
        let slowest = wires.iter().map(both).max().unwrap_or_default();
        for wire in &mut wires {
            let own = time(wire.from, wire.to, wire.there);
            wire.there = self.bytes(wire.there, own, slowest);
            let (from, to) = (wire.from, wire.to);
            wire.back = wire.back.map(|size| self.bytes(size, time(to, from, size), slowest));
        }
        wires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// papers.md 1.11: k = floor(n / 100), there at 8 bytes each; here at most at these.
    #[test]
    fn top_k_takes_less_than_the_bytes_of_the_notes() {
        let rows = [
            (786_432, 62_912, 39_904),
            (1_048_576, 83_880, 53_203),
            (1_310_720, 104_856, 66_508),
            (1_638_400, 131_072, 83_137),
        ];
        for (elements, nominal, bytes) in rows {
            let dense = Bytes::new(4 * elements);
            let any = Duration::from_micros(1);
            assert_eq!(8 * (elements / 100), nominal);
            assert_eq!(Codec::TopK(100).bytes(dense, any, any), Bytes::new(bytes));
        }
    }

    /// Goal: placement counts with what is sent. Method: encode random tensors of one to several chunks at each ratio.
    #[test]
    fn sizes_are_those_of_the_encoder() {
        let any = Duration::from_micros(1);
        for (elements, seed) in [(5_000u32, 1u32), (65_536, 2), (786_432, 3)] {
            let tensor: Vec<f32> = (0..elements)
                .map(|i| {
                    (i ^ seed << 20)
                        .wrapping_mul(0x9e37_79b1)
                        .rotate_left(15)
                        .wrapping_mul(0x85eb_ca77)
                })
                .map(|bits| f32::from(u16::try_from(bits >> 16).unwrap()) - 32768.5)
                .collect();
            let dense = Bytes::new(4 * u64::from(elements));
            for ratio in [2u32, 3, 5, 10, 30, 100, 300, 1000] {
                let keep = usize::try_from(elements / ratio).unwrap();
                let uniform = Form::TopK { keep, values: Floats::F32 };
                let budget = Codec::AdaTopK(ratio).bytes(dense, any, any);
                let adaptive = adatopk::within(budget, tensor.len(), Floats::F32);
                for (form, planned) in
                    [(uniform, Codec::TopK(ratio).bytes(dense, any, any)), (adaptive, budget)]
                {
                    let mut bytes = Vec::new();
                    crate::codec::encode(form, &tensor, &mut bytes).unwrap();
                    let (sent, planned) = (bytes.len() as u64, planned.count());
                    assert!(sent <= planned, "{form:?} of {elements}: {sent} {planned}");
                    assert!(
                        planned <= sent + sent / 40 + 12,
                        "{form:?} of {elements}: {sent} {planned}"
                    );
                }
            }
        }
    }

    proptest::proptest! {
        /// Never more than dense; on the slowest link the ratio that was asked for; elsewhere not slower than there.
        #[test]
        fn every_link_ends_up_no_slower_than_the_slowest(
            elements in 1000u64..10_000_000, own in 1u64..1_000_000, more in 0u64..1_000_000, ratio in 1u32..500
        ) {
            let (dense, slowest) = (Bytes::new(4 * elements), own + more);
            let of = |own: u64| {
                let (own, slowest) = (Duration::from_micros(own), Duration::from_micros(slowest));
                Codec::AdaTopK(ratio).bytes(dense, own, slowest).count()
            };
            proptest::prop_assert!(of(own) <= dense.count());
            let wanted = dense.count() / u64::from(ratio);
            proptest::prop_assert!(of(slowest) <= wanted.max(8));
            proptest::prop_assert!(of(slowest) + 8 >= wanted.min(dense.count()));
            // Time in proportion to bytes: own link's against the slowest's, but for the floor of one element.
            let share = u128::from(of(own)) * u128::from(own);
            let least = (u128::from(wanted) + 8) * u128::from(slowest);
            proptest::prop_assert!(share <= least, "{share} {least}");
        }
    }
}
