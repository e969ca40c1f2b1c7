//! How known values enter the Dag: weights as parameters, running statistics as buffers, constants as literals.

use std::rc::Rc;

use wattle_protocol::dag::op::{LITERAL_MAX, Numbers};
use wattle_protocol::dag::shape::check_size;
use wattle_protocol::dag::{Dtype, Init, Op};
use wattle_protocol::ids::ValueId;

use super::array::{Array, Elements};
use super::import::{Importer, Known, Role};
use super::report::Reason;

/// Most floats that are part of the network's structure; more of them are a buffer in the weights' file.
const SMALL_MAX: usize = 1 << 10;
/// Integers up to here are exact as f32.
const EXACT_MAX: u32 = 1 << 24;

/// What an operator does with a float initializer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Reads it; it is trained.
    Plain,
    /// Keeps running statistics in it; it is not trained.
    Statistics,
}

impl Importer {
    /// Puts a known value into the Dag, once.
    ///
    /// *Errors*: integers that do not fit, empty tensors.
    pub(super) fn value(&mut self, known: &Rc<Known>, for_use: Use) -> Result<ValueId, Reason> {
        if let Some(value) = self.leaves.get(&known.id) {
            return Ok(*value);
        }
        let array = &known.array;
        if array.count() == 0 {
            return Err(Reason::form(format!("`{}` is empty", known.name)));
        }
        check_size(array.shape()).map_err(|error| Reason::form(error.to_string()))?;
        let value = match (known.role, array.elements()) {
            (Role::Weight, Elements::Floats(values)) => self.weight(known, values, for_use),
            (_, Elements::Floats(values)) => self.float_constant(known, values)?,
            (_, Elements::Ints(_)) => self.int_constant(known)?,
        };
        self.leaves.insert(known.id, value);
        Ok(value)
    }

    fn weight(&mut self, known: &Known, values: &[f32], for_use: Use) -> ValueId {
        let shape = known.array.shape();
        let name = self.claim(&known.name);
        let init = init_like(values);
        let value = match for_use {
            // By the field's habit, biases and gains do not decay.
            Use::Plain => self.builder.parameter(name.as_str(), shape, init, shape.len() > 1),
            Use::Statistics => self.builder.buffer(name.as_str(), shape, init),
        };
        self.weights.insert(value, (name, shape.to_vec(), values.to_vec()));
        value
    }

    fn float_constant(&mut self, known: &Known, values: &[f32]) -> Result<ValueId, Reason> {
        let shape = known.array.shape().to_vec();
        let first = values[0];
        if first.is_finite() && values.iter().all(|v| v.to_bits() == first.to_bits()) {
            let name = self.claim(&known.name);
            return Ok(self.builder.op(name, Op::Fill { shape, value: first }, &[])?);
        }
        let name = self.claim(&known.name);
        // Literals are finite; masks of minus infinity are buffers.
        if values.len() <= SMALL_MAX && values.iter().all(|v| v.is_finite()) {
            let numbers = Numbers::Floats(values.to_vec());
            return Ok(self.builder.op(name, Op::Literal { shape, numbers }, &[])?);
        }
        let value = self.builder.buffer(name.as_str(), &shape, init_like(values));
        self.weights.insert(value, (name, shape, values.to_vec()));
        Ok(value)
    }

    fn int_constant(&mut self, known: &Known) -> Result<ValueId, Reason> {
        let numbers = fitting(&known.name, &known.array)?;
        let shape = known.array.shape().to_vec();
        let name = self.claim(&known.name);
        if numbers.len() <= LITERAL_MAX {
            let numbers = Numbers::Ints(numbers);
            return Ok(self.builder.op(name, Op::Literal { shape, numbers }, &[])?);
        }
        // Too many for the network's structure: a buffer of floats holds them as long as it does so exactly.
        if numbers.iter().any(|n| n.unsigned_abs() > EXACT_MAX) {
            let what = format!("`{}` holds too many large integers", known.name);
            return Err(Reason::form(what));
        }
        let floats = self.float_constant(known, &known.array.to_floats())?;
        Ok(self.builder.op(name, Op::Cast { dtype: Dtype::I32 }, &[floats])?)
    }
}

/// Returns integers as Wattle computes with them.
///
/// *Errors*: one does not fit.
fn fitting(name: &str, array: &Array) -> Result<Vec<i32>, Reason> {
    array.to_i32().map_err(|number| {
        Reason::form(format!("`{name}` holds {number}, which is beyond 32-bit integers"))
    })
}

/// Returns how a tensor like this one starts where it is trained afresh.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a spread")]
fn init_like(values: &[f32]) -> Init {
    let first = values.first().copied().unwrap_or(0.0);
    if first.is_finite() && values.iter().all(|v| v.to_bits() == first.to_bits()) {
        return Init::Constant(first);
    }
    let square: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    let spread = (square / values.len().max(1) as f64).sqrt() as f32;
    if spread.is_finite() { Init::Normal(spread) } else { Init::Constant(0.0) }
}
