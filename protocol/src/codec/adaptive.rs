//! Adaptive rounding: every link's tensors in the mildest form with which it is no slower than the slowest link is in the
//! roughest.
//!
//! As [`super::adatopk`], with forms that send every element: what they lose does not show in what small networks learn,
//! where leaving elements out does, and cotangents bear more than activations (`docs/concepts/codecs.md`). How rough the
//! roughest form is, whoever plans says: no rougher than makes a step shorter. The rule is ours.
//! Pure: takes estimates, returns forms.

use super::adatopk::Estimate;
use super::form::{Floats, Form};
use crate::units::Duration;

/// The forms that activations may have, the mildest first; each sends half to two thirds of what the one before sends. Not
/// half precision: what is beyond its range would be refused in the middle of a job.
pub const ACTIVATIONS: [Form; 4] = [Form::DENSE, Form::Dense(Floats::Bf16), Form::Int8, Form::Int5];

/// The forms that cotangents may have.
pub const COTANGENTS: [Form; 4] = [Form::DENSE, Form::Dense(Floats::Bf16), Form::Int8, Form::Int4];

/// Returns each link's form of those that it may have, where none is rougher than its `rough`-th.
pub fn forms(rough: usize, links: &[(Estimate, &[Form])]) -> Vec<Form> {
    let time = |link: &Estimate, form: Form| -> u128 {
        let share = u128::from(form.bytes(link.elements).count()) * u128::from(link.dense.micros());
        share / u128::from(Form::DENSE.bytes(link.elements).count()).max(1)
    };
    let allowed = |may: &[Form]| rough.min(may.len().saturating_sub(1));
    let roughest = |(link, may): &(Estimate, &[Form])| {
        may.get(allowed(may)).map_or(0, |form| time(link, *form))
    };
    let most = links.iter().map(roughest).max().unwrap_or(0);
    let one = |(link, may): &(Estimate, &[Form])| {
        let mut mild = may.iter().take(allowed(may) + 1).filter(|form| time(link, **form) <= most);
        mild.next().copied().unwrap_or(Form::DENSE)
    };
    links.iter().map(one).collect()
}

/// Returns the form of a tensor as activations have it, that takes `own` when dense, where the slowest link takes `slowest`
/// for as many elements and has the roughest.
pub fn form(elements: usize, own: Duration, slowest: Duration) -> Form {
    let link = |dense| (Estimate { elements, dense }, ACTIVATIONS.as_slice());
    forms(usize::MAX, &[link(own), link(slowest)])[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    type Link = (usize, u64, bool);

    fn estimates(links: &[Link]) -> Vec<(Estimate, &'static [Form])> {
        let may = |back: bool| if back { COTANGENTS.as_slice() } else { ACTIVATIONS.as_slice() };
        let one = |(elements, micros, back): &Link| {
            (Estimate { elements: *elements, dense: Duration::from_micros(*micros) }, may(*back))
        };
        links.iter().map(one).collect()
    }

    proptest::proptest! {
        /// Some link is as rough as was said; none takes longer than the slowest as rough as it may be; whoever could have a
        /// milder form has it.
        #[test]
        fn links_are_as_rough_as_they_must_be(
            links in proptest::collection::vec((64usize..3_000_000, 1000u64..10_000_000, proptest::prelude::any::<bool>()), 1..12),
            rough in 0usize..5
        ) {
            let links = estimates(&links);
            let found = forms(rough, &links);
            let time = |link: &Estimate, form: Form| {
                u128::from(form.bytes(link.elements).count()) * u128::from(link.dense.micros())
                    / u128::from(4 * link.elements as u64)
            };
            let most = links.iter().map(|(link, may)| time(link, may[rough.min(may.len() - 1)])).max().unwrap();
            let mut as_rough = 0;
            for ((link, may), form) in links.iter().zip(&found) {
                let place = may.iter().position(|one| one == form).unwrap();
                proptest::prop_assert!(place <= rough && time(link, *form) <= most);
                proptest::prop_assert!(place == 0 || time(link, may[place - 1]) > most);
                as_rough += usize::from(place == rough.min(may.len() - 1));
            }
            proptest::prop_assert!(as_rough > 0);
        }
    }

    #[test]
    fn fast_links_are_dense_beside_slow_ones() {
        let found = forms(
            3,
            &estimates(&[
                (1 << 16, 262_144, false),
                (1 << 16, 262_144, true),
                (1 << 16, 45_000, true),
                (1 << 16, 1000, false),
            ]),
        );
        assert_eq!(found, [Form::Int5, Form::Int4, Form::DENSE, Form::DENSE]);
        let found = forms(3, &estimates(&[(1 << 16, 100_000, false), (1 << 16, 262_144, true)]));
        assert_eq!(found, [Form::Int8, Form::Int4], "whose link is slowest");
        assert_eq!(forms(0, &estimates(&[(1 << 16, 9_000_000, true)])), [Form::DENSE]);
    }
}
