//! AdaTopK: how much of its tensor each link sends, so that none is slower than the slowest one compressed.
//!
//! That activations and gradients are compressed adaptively at the slowest links is the paper's (FusionLLM, abstract);
//! the rule is ours, since the paper's formula is not established: bytes in proportion to how quick a link is, dense
//! where that is enough. A kept element costs what our encoding takes for it, not a nominal 8 bytes, so that the
//! slowest link really gets `base` times fewer bytes, whatever the ratio of elements is.
//! Pure: takes estimates, returns forms. Not here: estimating links (`schedule`), encoding (`topk`).

use super::form::{Floats, Form};
use crate::units::{Bytes, Duration};

/// Estimates within so many percent of those in force change nothing.
const STILL: u128 = 20;

/// A link with a tensor to carry, and how long that takes dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Elements of the tensor.
    pub elements: usize,
    /// Estimated time of the dense tensor.
    pub dense: Duration,
}

/// Returns how many bytes a link may carry of a tensor that takes `own` when dense, where the slowest link takes
/// `slowest`; None where the dense tensor is quick enough.
///
/// *Source*: papers.md 1.9, rho = w r R / R_max, dense where rho <= w; here with bytes in place of elements.
pub fn budget(dense: Bytes, base: u32, own: Duration, slowest: Duration) -> Option<Bytes> {
    let scaled = u128::from(base) * u128::from(own.micros());
    let slowest = u128::from(slowest.micros());
    if scaled <= slowest {
        return None;
    }
    let bytes = u128::from(dense.count()) * slowest.max(1) / scaled;
    Some(Bytes::new(u64::try_from(bytes).unwrap_or(u64::MAX)))
}

/// Returns the form that keeps most elements within so many bytes, but at least one.
///
/// *Cost*: O(log elements).
pub fn within(budget: Bytes, elements: usize, values: Floats) -> Form {
    let (mut keep, mut above) = (1, elements.max(1) + 1);
    while above - keep > 1 {
        let middle = keep.midpoint(above);
        if (Form::TopK { keep: middle, values }).bytes(elements) <= budget {
            keep = middle;
        } else {
            above = middle;
        }
    }
    Form::TopK { keep, values }
}

/// The forms of a job's links, with the estimates that they were made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ratios {
    base: u32,
    values: Floats,
    estimates: Vec<Estimate>,
    forms: Vec<Form>,
}

impl Ratios {
    /// Finds each link's form: `base` times fewer bytes on the slowest one.
    ///
    /// *Cost*: O(links), and O(log elements) for each that is compressed.
    pub fn new(base: u32, values: Floats, estimates: &[Estimate]) -> Self {
        let slowest = estimates.iter().map(|link| link.dense).max().unwrap_or_default();
        let form = |link: &Estimate| {
            let dense = Form::Dense(Floats::F32);
            let size = dense.bytes(link.elements);
            budget(size, base, link.dense, slowest)
                .map(|budget| within(budget, link.elements, values))
                .filter(|form| form.bytes(link.elements) < size)
                .unwrap_or(dense)
        };
        let forms = estimates.iter().map(form).collect();
        Self { base, values, estimates: estimates.to_vec(), forms }
    }

    /// Returns the forms for later estimates: the same while each is within a fifth of the one in force, of any age, so
    /// that neither noise nor slow drift back and forth changes a form; all anew where one has left that, or where the
    /// links or their tensors are others.
    #[must_use]
    pub fn renew(self, estimates: &[Estimate]) -> Self {
        let is_still = self.estimates.len() == estimates.len()
            && self.estimates.iter().zip(estimates).all(|(old, new)| is_near(*old, *new));
        if is_still { self } else { Self::new(self.base, self.values, estimates) }
    }

    /// Returns each link's form, in the order of the estimates.
    pub fn forms(&self) -> &[Form] {
        &self.forms
    }
}

/// Says whether a link carries the same, in a time within a fifth of the other one, in either direction.
fn is_near(old: Estimate, new: Estimate) -> bool {
    let (old_time, new_time) = (u128::from(old.dense.micros()), u128::from(new.dense.micros()));
    let is_no_more = |time: u128, other: u128| 100 * time <= (100 + STILL) * other;
    old.elements == new.elements && is_no_more(old_time, new_time) && is_no_more(new_time, old_time)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DENSE: Form = Form::Dense(Floats::F32);

    fn estimate(elements: usize, micros: u64) -> Estimate {
        Estimate { elements, dense: Duration::from_micros(micros) }
    }

    fn links() -> impl Strategy<Value = Vec<Estimate>> {
        let link = (1usize..3_000_000, 0u64..10_000_000);
        prop::collection::vec(link.prop_map(|(n, micros)| estimate(n, micros)), 1..12)
    }

    fn bytes(form: Form, elements: usize) -> u128 {
        u128::from(form.bytes(elements).count())
    }

    proptest! {
        /// Bytes of the slowest link: a real reduction by the base, to a byte or two of an element's.
        #[test]
        fn the_slowest_link_gets_base_times_fewer_bytes(
            elements in 1000usize..10_000_000, micros in 1u64..1 << 40, base in 2u32..500
        ) {
            let ratios = Ratios::new(base, Floats::F32, &[estimate(elements, micros)]);
            let wanted = 4 * elements as u128 / u128::from(base);
            let found = bytes(ratios.forms()[0], elements);
            prop_assert!(found <= wanted.max(8) && found + 8 > wanted, "{} {}", found, wanted);
        }

        /// Time in proportion to bytes, no compressed link takes longer than the slowest, but for the floor of one
        /// element; quick links are dense, and nothing is ever larger than dense.
        #[test]
        fn no_link_is_slower_than_the_slowest_compressed(links in links(), base in 1u32..2000) {
            let ratios = Ratios::new(base, Floats::F32, &links);
            let slowest = links.iter().map(|link| link.dense.micros()).max().unwrap();
            for (link, form) in links.iter().zip(ratios.forms()) {
                let (own, dense) = (u128::from(link.dense.micros()), bytes(DENSE, link.elements));
                let found = bytes(*form, link.elements);
                prop_assert!(found <= dense);
                prop_assert_eq!(*form == DENSE, own * u128::from(base) <= u128::from(slowest) || found == dense);
                let is_floor = matches!(form, Form::TopK { keep: 1, .. });
                let share = found * own * u128::from(base);
                prop_assert!(is_floor || *form == DENSE || share <= dense * u128::from(slowest.max(1)));
            }
        }

        #[test]
        fn slower_links_keep_no_more(elements in 1usize..3_000_000, links in links(), base in 1u32..2000) {
            let mut links: Vec<Estimate> = links.iter().map(|l| Estimate { elements, ..*l }).collect();
            links.sort_by_key(|link| link.dense);
            let ratios = Ratios::new(base, Floats::F16, &links);
            let sizes: Vec<u128> = ratios.forms().iter().map(|f| bytes(*f, elements)).collect();
            prop_assert!(sizes.is_sorted_by(|quick, slow| quick >= slow), "{:?}", sizes);
        }

        /// Forms go with their links, whatever the order.
        #[test]
        fn order_changes_nothing(links in links(), base in 1u32..2000) {
            let forms = Ratios::new(base, Floats::F32, &links).forms().to_vec();
            let turned: Vec<Estimate> = links.iter().rev().copied().collect();
            let back: Vec<Form> = Ratios::new(base, Floats::F32, &turned).forms().iter().rev().copied().collect();
            prop_assert_eq!(forms, back);
        }

        /// Within a fifth nothing changes, however often; beyond, it is as if made from what is estimated by then.
        #[test]
        fn forms_change_when_an_estimate_leaves_its_fifth(
            links in links(), percent in prop::collection::vec(84u64..120, 12),
            which in any::<prop::sample::Index>(), factor in 121u64..900
        ) {
            let links: Vec<Estimate> =
                links.iter().map(|l| estimate(l.elements, 100 + l.dense.micros() / 100 * 100)).collect();
            let ratios = Ratios::new(100, Floats::F32, &links);
            let near: Vec<Estimate> = links.iter().zip(&percent)
                .map(|(link, percent)| estimate(link.elements, link.dense.micros() / 100 * percent)).collect();
            prop_assert_eq!(&ratios.clone().renew(&near), &ratios);
            prop_assert_eq!(&ratios.clone().renew(&near).renew(&links).renew(&near), &ratios);
            let mut far = near.clone();
            let moved = which.index(links.len());
            far[moved] = estimate(links[moved].elements, links[moved].dense.micros() / 100 * factor);
            prop_assert_eq!(ratios.clone().renew(&far), Ratios::new(100, Floats::F32, &far));
            far[moved] = estimate(links[moved].elements, links[moved].dense.micros() * 100 / factor);
            prop_assert_eq!(ratios.renew(&far), Ratios::new(100, Floats::F32, &far));
        }

        /// One more element would not fit.
        #[test]
        fn a_budget_is_used_up(elements in 1usize..3_000_000, budget in 0u64..12_000_000) {
            let Form::TopK { keep, values } = within(Bytes::new(budget), elements, Floats::F32) else { unreachable!() };
            let size = |keep| Form::TopK { keep, values }.bytes(elements).count();
            prop_assert!(keep == 1 || size(keep) <= budget);
            prop_assert!(keep == elements || size(keep + 1) > budget);
        }
    }

    /// Other links, or other tensors on them, are planned anew whatever their times.
    #[test]
    fn other_links_are_planned_anew() {
        let ratios = Ratios::new(10, Floats::F32, &[estimate(1000, 500), estimate(1000, 50)]);
        for links in [vec![estimate(1000, 500)], vec![estimate(1000, 500), estimate(2000, 50)]] {
            assert_eq!(ratios.clone().renew(&links), Ratios::new(10, Floats::F32, &links));
        }
    }
}
