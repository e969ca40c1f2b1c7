//! Compositions: what is written with operators instead of being one.
//!
//! Each is a function over a [`Scope`] that adds primitives to a network and returns the result; its derivative, price
//! and kernel follow from theirs, on every device (`docs/decisions/0006-operator-set.md`). The zoo, ONNX import and
//! users build with them. Beyond the builder nothing can tell a composition from nodes written by hand.
//!
//! Reading order: [`elements`], [`layout`] (padding, flips, windows), [`einsum`], [`reduce`] (over what a mask keeps),
//! [`resize`], [`sample`] (grid sampling, warping, deformable convolution), [`volume`] (the same in three axes),
//! [`stereo`] (correlation), [`conv`] (one and three axes, transposed), [`pool`], [`norm`], [`recurrent`], [`mesh`],
//! [`loss`], [`scan`] (cumulative products, volume rendering).

pub mod conv;
pub mod einsum;
pub mod elements;
pub mod layout;
pub mod loss;
pub mod mesh;
pub mod norm;
pub mod pool;
pub mod recurrent;
pub mod reduce;
pub mod resize;
pub mod sample;
pub mod scan;
pub mod stereo;
#[cfg(test)]
mod tests;
pub mod volume;

use super::op::{Binary, Comparison, Numbers, Unary};
use super::{DagBuilder, DagError, Dtype, Fact, Op};
use crate::ids::ValueId;

/// Result of a composition.
pub type Built = Result<ValueId, DagError>;

/// A builder with a name under which the nodes of a composition stand: `name`, and `name.1`, `name.2` for its parts.
#[derive(Debug)]
pub struct Scope<'a> {
    builder: &'a mut DagBuilder,
    name: String,
    parts: usize,
}

impl<'a> Scope<'a> {
    /// Opens a scope; the name must be unused, and no other node's name may begin with it and a dot.
    pub fn new(builder: &'a mut DagBuilder, name: impl Into<String>) -> Self {
        Self { builder, name: name.into(), parts: 0 }
    }

    /// Adds an operator and returns its first result.
    ///
    /// *Errors*: as [`DagBuilder::apply`].
    pub fn op(&mut self, op: Op, inputs: &[ValueId]) -> Built {
        self.parts += 1;
        let name = format!("{}.{}", self.name, self.parts);
        self.builder.op(name, op, inputs)
    }

    /// Adds an operator and returns all its results.
    ///
    /// *Errors*: as [`DagBuilder::apply`].
    pub fn all(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, DagError> {
        self.parts += 1;
        let name = format!("{}.{}", self.name, self.parts);
        self.builder.apply(name, op, inputs)
    }

    /// Returns the dtype and shape of a value.
    pub fn fact(&self, id: ValueId) -> &Fact {
        self.builder.fact(id)
    }

    /// Returns the shape of a value.
    pub fn shape(&self, id: ValueId) -> Vec<usize> {
        self.builder.fact(id).shape.clone()
    }

    /// Returns the length of one axis, 1 where there is none.
    pub fn len(&self, id: ValueId, axis: usize) -> usize {
        self.builder.fact(id).shape.get(axis).copied().unwrap_or(1)
    }

    /// Returns the shape of a value that must have `N` axes.
    ///
    /// *Errors*: [`DagError::Composition`] if it has not.
    pub fn sized<const N: usize>(
        &self,
        id: ValueId,
        expected: &'static str,
    ) -> Result<[usize; N], DagError> {
        let shape = self.fact(id).shape.as_slice();
        shape.try_into().map_err(|_| self.refuse(expected, self.fact(id)))
    }

    /// Says that a composition does not fit what it is asked for.
    pub fn refuse(&self, expected: &'static str, got: impl std::fmt::Display) -> DagError {
        DagError::Composition { name: self.name.clone(), expected, got: got.to_string() }
    }

    /// A scalar that broadcasts.
    ///
    /// *Errors*: as [`DagBuilder::apply`].
    pub fn number(&mut self, value: f32) -> Built {
        self.op(Op::Fill { shape: vec![], value }, &[])
    }

    /// An integer scalar that broadcasts, in the shape `[1]`.
    ///
    /// *Errors*: as [`DagBuilder::apply`].
    pub fn int(&mut self, value: i32) -> Built {
        self.ints(&[1], vec![value])
    }

    /// Integers of the network itself.
    ///
    /// *Errors*: as [`DagBuilder::apply`].
    pub fn ints(&mut self, shape: &[usize], values: Vec<i32>) -> Built {
        self.op(Op::Literal { shape: shape.to_vec(), numbers: Numbers::Ints(values) }, &[])
    }

    /// Floats of the network itself.
    ///
    /// *Errors*: as [`DagBuilder::apply`].
    pub fn floats(&mut self, shape: &[usize], values: Vec<f32>) -> Built {
        self.op(Op::Literal { shape: shape.to_vec(), numbers: Numbers::Floats(values) }, &[])
    }

    /// `a + b`. *Errors*: as [`DagBuilder::apply`], here and below.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Add, &[a, b])
    }

    /// `a - b`.
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Sub, &[a, b])
    }

    /// `a * b`.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Mul, &[a, b])
    }

    /// `a / b`.
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Div, &[a, b])
    }

    /// `factor x`.
    pub fn scale(&mut self, x: ValueId, factor: f32) -> Built {
        self.op(Op::Scale { factor }, &[x])
    }

    /// `x + term`.
    pub fn shift(&mut self, x: ValueId, term: f32) -> Built {
        self.op(Op::Shift { term }, &[x])
    }

    /// A function of one number.
    pub fn unary(&mut self, function: Unary, x: ValueId) -> Built {
        self.op(Op::Unary(function), &[x])
    }

    /// A function of two numbers.
    pub fn binary(&mut self, function: Binary, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Binary(function), &[a, b])
    }

    /// A mask.
    pub fn compare(&mut self, comparison: Comparison, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Compare(comparison), &[a, b])
    }

    /// a where the mask holds, else b.
    pub fn choose(&mut self, mask: ValueId, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Where, &[mask, a, b])
    }

    /// A mask, or any integers, as f32.
    pub fn float(&mut self, x: ValueId) -> Built {
        self.op(Op::Cast { dtype: Dtype::F32 }, &[x])
    }

    /// The same elements under another shape.
    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Built {
        self.op(Op::Reshape { shape: shape.to_vec() }, &[x])
    }

    /// Axes reordered.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Built {
        self.op(Op::Transpose { perm: perm.to_vec() }, &[x])
    }

    /// `start..end` of one axis.
    pub fn slice(&mut self, x: ValueId, axis: usize, start: usize, end: usize) -> Built {
        self.op(Op::Slice { axis, start, end }, &[x])
    }

    /// Tensors joined along one axis; a single one is itself.
    pub fn concat(&mut self, parts: &[ValueId], axis: usize) -> Built {
        match parts {
            [only] => Ok(*only),
            _ => self.op(Op::Concat { axis }, parts),
        }
    }

    /// x stretched to a shape, if it is not of that shape already.
    pub fn expand(&mut self, x: ValueId, shape: &[usize]) -> Built {
        if self.fact(x).shape == shape {
            return Ok(x);
        }
        self.op(Op::Expand { shape: shape.to_vec() }, &[x])
    }

    /// Sum over axes.
    pub fn sum(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Built {
        self.op(Op::ReduceSum { axes: axes.to_vec(), keep }, &[x])
    }

    /// Mean over axes.
    pub fn mean(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Built {
        self.op(Op::ReduceMean { axes: axes.to_vec(), keep }, &[x])
    }

    /// x read along an axis at indices that are known.
    pub fn pick(&mut self, x: ValueId, axis: usize, at: &[usize]) -> Built {
        let ids = at.iter().map(|i| i32::try_from(*i).unwrap_or(i32::MAX)).collect();
        let ids = self.ints(&[at.len()], ids)?;
        self.op(Op::Gather { axis }, &[x, ids])
    }
}
