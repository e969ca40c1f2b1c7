//! PyTorch's results and gradients of every case, from the files that `make.py` wrote, and how far ours are from them.
//!
//! They were computed in f64 from the same f32 operands and rounded once. A file holds one tensor a case: a fingerprint
//! of each operand, the results, the gradients; of large tensors some elements and a sum of all.

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use super::run::{Found, SuiteError};
use super::{Case, Measure, formula};
use crate::exec::store::to_floats;

/// Larger tensors are not kept whole. As in `make.py`.
const WHOLE_MAX: usize = 256;
/// Elements of those that are kept, beside the sum of all. As in `make.py`.
const CHOSEN: usize = 64;
/// How far apart two sums of an operand may be, relative to it: it was rounded to f32.
const FINGERPRINT: f64 = 1e-6;

/// The files, one a family.
const FILES: [&[u8]; 10] = [
    include_bytes!("values/elements.safetensors"),
    include_bytes!("values/functions.safetensors"),
    include_bytes!("values/products.safetensors"),
    include_bytes!("values/norms.safetensors"),
    include_bytes!("values/layout.safetensors"),
    include_bytes!("values/index.safetensors"),
    include_bytes!("values/images.safetensors"),
    include_bytes!("values/sampling.safetensors"),
    include_bytes!("values/sequences.safetensors"),
    include_bytes!("values/compositions.safetensors"),
];

/// Largest differences of a case from its reference, as its [`Measure`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Differences {
    /// Of its results.
    pub forward: f32,
    /// Of its gradients.
    pub gradient: f32,
}

/// Reference values by the id of their case.
#[derive(Debug)]
pub struct References(BTreeMap<String, Vec<f32>>);

impl References {
    /// Reads the files.
    ///
    /// *Errors*: [`SuiteError::Reference`] for a file that is not sound.
    pub fn load() -> Result<Self, SuiteError> {
        let mut all = BTreeMap::new();
        for file in FILES {
            let tensors = SafeTensors::deserialize(file);
            let tensors = tensors.map_err(|e| wrong("a file of values", &e.to_string()))?;
            for (name, view) in tensors.iter() {
                all.insert(name.to_string(), to_floats(view.data()));
            }
        }
        Ok(Self(all))
    }

    /// Returns the ids of all cases that there are values of.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Compares what a case computes with its reference.
    ///
    /// *Errors*: [`SuiteError::Reference`] where there is none, or one of other operands or results.
    pub fn compare(&self, case: &Case, found: &Found) -> Result<Differences, SuiteError> {
        let id = case.id();
        let all = self.0.get(&id).ok_or_else(|| wrong(&id, "there are no reference values"))?;
        let mut rest = all.as_slice();
        for (at, operand) in case.operands.iter().enumerate() {
            let own = formula::fingerprint(&formula::values(at, operand));
            let theirs = f64::from(take(&mut rest, 1, &id)?[0]);
            // What is infinite or no number on both sides is made by the network, not by the formula.
            if (own - theirs).abs() > FINGERPRINT * own.abs().max(1.0) {
                return Err(wrong(&id, &format!("operand {at} sums to {own}, not to {theirs}")));
            }
        }
        let mut differences = Differences::default();
        for own in &found.results {
            let off = off(own, &mut rest, case)?;
            differences.forward = differences.forward.max(off);
        }
        for own in &found.gradients {
            let off = off(own, &mut rest, case)?;
            differences.gradient = differences.gradient.max(off);
        }
        if !rest.is_empty() {
            return Err(wrong(&id, &format!("{} reference values are left over", rest.len())));
        }
        Ok(differences)
    }
}

fn wrong(what: &str, why: &str) -> SuiteError {
    SuiteError::Reference(what.into(), why.into())
}

fn take<'a>(rest: &mut &'a [f32], count: usize, id: &str) -> Result<&'a [f32], SuiteError> {
    let (head, tail) =
        rest.split_at_checked(count).ok_or_else(|| wrong(id, "there are too few values"))?;
    *rest = tail;
    Ok(head)
}

/// Returns how far one tensor is from the next one of the reference.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a difference needs few digits"
)]
fn off(own: &[f32], rest: &mut &[f32], case: &Case) -> Result<f32, SuiteError> {
    let id = case.id();
    if own.len() <= WHOLE_MAX {
        let want = take(rest, own.len(), &id)?;
        return Ok(largest(own, want, case.measure));
    }
    let places = formula::chosen(own.len(), CHOSEN);
    let want = take(rest, places.len(), &id)?;
    let some: Vec<f32> = places.iter().map(|place| own[*place]).collect();
    let apart = largest(&some, want, case.measure);
    // Rounding errors add up like the steps of a random walk; one wrong element of usual size is far more than that.
    let sum = f64::from(take(rest, 1, &id)?[0]);
    let walk = f64::from(size(want)) * (own.len() as f64).sqrt();
    let of_sum = (formula::signed_sum(own) - sum).abs() / walk.max(f64::MIN_POSITIVE);
    Ok(apart.max(of_sum as f32))
}

/// A reference below this is the rounding error of a zero.
const ZERO: f32 = 1e-9;

/// Returns the largest finite magnitude, or 1 if all are zero.
fn size(values: &[f32]) -> f32 {
    let finite = values.iter().map(|v| v.abs()).filter(|v| v.is_finite());
    let most = finite.fold(0.0, f32::max);
    if most > ZERO { most } else { 1.0 }
}

/// Returns the largest difference; infinite where one side is finite, or a number, and the other is not.
fn largest(own: &[f32], want: &[f32], measure: Measure) -> f32 {
    let whole = size(want);
    let one = |(own, want): (&f32, &f32)| {
        if own == want || (own.is_nan() && want.is_nan()) {
            return 0.0;
        }
        let unit = match measure {
            Measure::Tensor => whole,
            Measure::Element(least) => want.abs().max(least),
        };
        let off = (own - want).abs() / unit;
        if off.is_nan() { f32::INFINITY } else { off }
    };
    own.iter().zip(want).map(one).fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_count_what_a_case_asks_for() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let far = largest(&[1.0, 0.11], &[1.0, 0.1], Measure::Tensor);
        assert!((far - 0.01).abs() < 1e-6, "{far}");
        let far = largest(&[1.0, 0.11], &[1.0, 0.1], Measure::Element(1e-3));
        assert!((far - 0.1).abs() < 1e-6, "{far}");
        assert_eq!(largest(&[nan, inf], &[nan, inf], Measure::Element(1.0)), 0.0);
        assert_eq!(largest(&[1.0], &[nan], Measure::Element(1.0)), inf);
        assert_eq!(largest(&[-inf], &[inf], Measure::Tensor), inf);
        assert_eq!(largest(&[0.0], &[0.0], Measure::Tensor), 0.0);
    }
}
