//! How many bytes cross a link: dense tensors, or the largest elements of them (Top-K), more of them on faster links
//! (AdaTopK). Sizes alone: the placement counts with them; encoding is elsewhere.
//!
//! Source: that FusionLLM compresses activations and gradients adaptively at the slowest links is the paper's; rule and
//! wire costs are our proposal (papers.md 1.9, 1.11).

use super::course::{Station, Wire};
use super::ground::Ground;
use crate::units::{Bytes, Duration};

/// Bytes of an element's value, and of its index.
const VALUE: u64 = 4;
const INDEX: u64 = 4;
/// A kept element costs as much as so many dense ones.
const COST: u64 = (VALUE + INDEX) / VALUE;

/// How tensors cross links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Every element.
    #[default]
    Dense,
    /// On every link one element in so many.
    TopK(u32),
    /// On the slowest link so many times fewer bytes, on others as many times fewer as keeps them as quick; dense on
    /// those that are that much faster.
    AdaTopK(u32),
}

/// Returns the bytes of a tensor of which one element in `ratio / per` is kept (at least one); dense if that is less.
///
/// *Source*: papers.md 1.9: k = max(1, floor(n / rho)).
fn kept(dense: Bytes, ratio: u128, per: u128) -> Bytes {
    let elements = u128::from(dense.count() / VALUE);
    let count = (elements * per / ratio.max(1)).max(1);
    let bytes = count * u128::from(VALUE + INDEX);
    Bytes::new(u64::try_from(bytes).unwrap_or(u64::MAX)).min(dense)
}

impl Codec {
    /// Returns the bytes of a tensor whose dense transfer takes `own`, where the slowest one takes `slowest`.
    ///
    /// *Source*: papers.md 1.9: rho = w r R / R_max, dense where rho <= w.
    pub fn bytes(self, dense: Bytes, own: Duration, slowest: Duration) -> Bytes {
        match self {
            Self::Dense => dense,
            Self::TopK(ratio) => kept(dense, u128::from(ratio), 1),
            Self::AdaTopK(ratio) => {
                let scaled = u128::from(ratio) * u128::from(own.micros());
                let slowest = u128::from(slowest.micros());
                if scaled <= slowest {
                    return dense;
                }
                kept(dense, u128::from(COST) * scaled, slowest.max(1))
            }
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

    /// papers.md 1.11: k = floor(n / 100) and 8 k bytes.
    #[test]
    fn top_k_takes_the_bytes_of_the_notes() {
        let rows =
            [(786_432, 62_912), (1_048_576, 83_880), (1_310_720, 104_856), (1_638_400, 131_072)];
        for (elements, bytes) in rows {
            let dense = Bytes::new(4 * elements);
            let any = Duration::from_micros(1);
            assert_eq!(Codec::TopK(100).bytes(dense, any, any), Bytes::new(bytes));
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
