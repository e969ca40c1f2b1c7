//! Adaptive rounding: every link's tensors in the mildest form with which it is no slower than the slowest link in a rougher
//! one.
//!
//! As [`super::adatopk`], with forms that send every element: what they lose does not show in what small networks learn,
//! where leaving elements out does (`docs/concepts/codecs.md`). How rough the slowest link's form is, whoever plans says:
//! no rougher than makes a step shorter. The rule is ours.
//! Pure: takes estimates, returns forms.

use super::form::{Floats, Form};
use crate::units::Duration;

/// The forms there are, the mildest first; each sends about half of what the one before sends. Not half precision: what is
/// beyond its range would be refused in the middle of a job.
pub const LADDER: [Form; 4] = [Form::DENSE, Form::Dense(Floats::Bf16), Form::Int8, Form::Int4];

/// Returns the form of a tensor that takes `own` when dense, where the slowest link takes `slowest` and has the `rough`-th
/// form.
pub fn form(rough: usize, elements: usize, own: Duration, slowest: Duration) -> Form {
    let rough = rough.min(LADDER.len() - 1);
    let time = |form: Form, dense: Duration| {
        u128::from(form.bytes(elements).count()) * u128::from(dense.micros())
    };
    let most = time(LADDER[rough], slowest);
    let mut mild = LADDER[..rough].iter().filter(|form| time(**form, own) <= most);
    mild.next().copied().unwrap_or(LADDER[rough])
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// The slowest link has the form that was named; no other takes longer than it does then, nor has a rougher one;
        /// faster links have milder forms; whoever could have a milder one has it.
        #[test]
        fn links_are_as_rough_as_they_must_be(
            elements in 64usize..3_000_000, own in 1u64..1_000_000, more in 0u64..10_000_000, rough in 0usize..4
        ) {
            let micros = Duration::from_micros;
            let slowest = own + more;
            let of = |own: u64| {
                let found = form(rough, elements, micros(own), micros(slowest));
                LADDER.iter().position(|form| *form == found).unwrap()
            };
            proptest::prop_assert_eq!(of(slowest), rough);
            proptest::prop_assert!(of(own) <= of(own + more / 2) && of(own) <= rough);
            let time = |place: usize, own: u64| u128::from(LADDER[place].bytes(elements).count()) * u128::from(own);
            proptest::prop_assert!(time(of(own), own) <= time(rough, slowest));
            proptest::prop_assert!(of(own) == 0 || time(of(own) - 1, own) > time(rough, slowest));
        }
    }
}
