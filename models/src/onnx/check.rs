//! Comparing an imported network with arrays that another tool computed.

use std::collections::BTreeMap;

use wattle_protocol::ids::ValueId;

use super::array::{Array, Elements, Kind};
use super::{Imported, Port};
use crate::exec::device::DeviceChoice;
use crate::exec::evaluate::{EvaluateError, HostValues, evaluate};

/// Why a network cannot be compared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CheckError {
    /// An input is not among the arrays, or does not fit.
    #[error("the input `{name}` needs an array of {expected}, got {got}")]
    Input {
        /// Its name.
        name: String,
        /// Type and shape that fit.
        expected: String,
        /// Type and shape that came.
        got: String,
    },
    /// An input holds an integer that Wattle does not compute with.
    #[error("the input `{name}` holds {number}, which is beyond 32-bit integers")]
    TooLarge {
        /// Its name.
        name: String,
        /// The integer.
        number: i64,
    },
    /// The network does not run.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}

/// Runs an imported network with arrays by name; returns its outputs in order, in their ONNX types.
///
/// *Errors*: [`CheckError`].
pub fn execute(
    imported: &Imported,
    arrays: &BTreeMap<String, Array>,
    choice: DeviceChoice,
) -> Result<Vec<Array>, CheckError> {
    let mut inputs = BTreeMap::new();
    for port in &imported.inputs {
        inputs.insert(port.value, given(imported, port, arrays.get(&port.name))?);
    }
    let weights = imported.weights.iter();
    let state = weights.map(|(name, _, values)| (name.clone(), values.clone())).collect();
    let outputs = evaluate(&imported.dag, &inputs, &state, choice)?;
    let typed = outputs.into_iter().zip(&imported.outputs);
    Ok(typed.map(|(values, port)| typed_as(imported, port.value, port.kind, values)).collect())
}

fn given(
    imported: &Imported,
    port: &Port,
    array: Option<&Array>,
) -> Result<HostValues, CheckError> {
    let shape = &imported.dag.fact(port.value).shape;
    let wrong = || CheckError::Input {
        name: port.name.clone(),
        expected: format!("{} {shape:?}", port.kind),
        got: array.map_or("none".into(), |a| format!("{} {:?}", a.kind(), a.shape())),
    };
    let array = array.filter(|a| a.shape() == shape).ok_or_else(wrong)?;
    match array.elements() {
        Elements::Floats(values) if port.kind.is_float() => Ok(HostValues::Floats(values.clone())),
        Elements::Ints(_) if !port.kind.is_float() => {
            let large = |number| CheckError::TooLarge { name: port.name.clone(), number };
            Ok(HostValues::Ints(array.to_i32().map_err(large)?))
        }
        _ => Err(wrong()),
    }
}

fn typed_as(imported: &Imported, value: ValueId, kind: Kind, values: HostValues) -> Array {
    let shape = imported.dag.fact(value).shape.clone();
    match values {
        HostValues::Floats(values) => {
            let kind = if kind.is_float() { kind } else { Kind::F32 };
            Array::floats(kind, shape, values)
        }
        HostValues::Ints(values) => {
            let kind = if kind.is_float() { Kind::I32 } else { kind };
            Array::ints(kind, shape, values.into_iter().map(i64::from).collect())
        }
    }
}

/// How far two values may lie apart: `|found - expected| <= absolute + relative |expected|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Share of the expected value.
    pub relative: f32,
    /// On top of it.
    pub absolute: f32,
}

/// ONNX's own tolerance for its tests.
pub const ONNX_TOLERANCE: Tolerance = Tolerance { relative: 1e-3, absolute: 1e-7 };

/// How two arrays differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Largest distance.
    pub absolute: f64,
    /// Largest distance as a share of the expected value, where that is not 0.
    pub relative: f64,
    /// Elements beyond the tolerance.
    pub outside: usize,
    /// Whether types and shapes are equal; where not, nothing was compared.
    pub alike: bool,
}

impl Difference {
    /// Says whether the arrays are equal within the tolerance.
    pub fn is_within(&self) -> bool {
        self.alike && self.outside == 0
    }
}

/// Compares arrays element by element. A NaN equals a NaN, an infinity itself.
pub fn compare(found: &Array, expected: &Array, tolerance: Tolerance) -> Difference {
    let mut difference = Difference { absolute: 0.0, relative: 0.0, outside: 0, alike: true };
    if found.shape() != expected.shape() || found.kind() != expected.kind() {
        return Difference { alike: false, ..difference };
    }
    if let (Some(found), Some(expected)) = (found.as_ints(), expected.as_ints()) {
        for (found, expected) in found.iter().zip(expected).filter(|(f, e)| f != e) {
            #[expect(clippy::cast_precision_loss, reason = "only its size is told")]
            let (gap, size) = (found.abs_diff(*expected) as f64, expected.unsigned_abs() as f64);
            difference.note(gap, size, false);
        }
        return difference;
    }
    for (found, expected) in found.to_floats().into_iter().zip(expected.to_floats()) {
        // Equal infinities have no distance that is a number.
        if found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()) {
            continue;
        }
        let (gap, size) = (f64::from(found) - f64::from(expected), f64::from(expected.abs()));
        let limit = f64::from(tolerance.absolute) + f64::from(tolerance.relative) * size;
        difference.note(gap.abs(), size, gap.abs() <= limit);
    }
    difference
}

impl Difference {
    fn note(&mut self, gap: f64, size: f64, is_within: bool) {
        // A NaN is the largest distance there is.
        let gap = if gap.is_nan() { f64::INFINITY } else { gap };
        self.absolute = self.absolute.max(gap);
        if size > 0.0 {
            self.relative = self.relative.max(gap / size);
        }
        self.outside += usize::from(!is_within);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_judged_by_both_parts_of_the_tolerance() {
        let floats = |v: &[f32]| Array::floats(Kind::F32, vec![v.len()], v.to_vec());
        let check = |found: &[f32], expected: &[f32]| {
            compare(&floats(found), &floats(expected), ONNX_TOLERANCE).is_within()
        };
        assert!(check(&[1.0005, 0.0, f32::NAN], &[1.0, 5e-8, f32::NAN]));
        assert!(check(&[f32::INFINITY, -0.0], &[f32::INFINITY, 0.0]));
        assert!(!check(&[1.002], &[1.0]));
        assert!(!check(&[f32::NAN], &[1.0]));
        assert!(!check(&[f32::INFINITY], &[1.0]));
        assert!(!check(&[1.0], &[1.0, 1.0]));
        let ints = |v: i64| Array::ints(Kind::I32, vec![1], vec![v]);
        assert!(!compare(&ints(2), &ints(3), ONNX_TOLERANCE).is_within());
        assert!(!compare(&ints(2), &floats(&[2.0]), ONNX_TOLERANCE).is_within());
    }
}
