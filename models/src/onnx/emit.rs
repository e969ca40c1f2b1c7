//! The operators that mappings add to the network, with short names, and the arithmetic that both number kinds share.
//!
//! Each node of the Dag is named after the ONNX node that asks for it. What changes nothing adds nothing.

use wattle_protocol::dag::compose::Scope;
use wattle_protocol::dag::op::{Binary, Comparison, LITERAL_MAX, Numbers, Unary};
use wattle_protocol::dag::{DagError, Dtype, Op};
use wattle_protocol::ids::ValueId;

use super::array::{Array, Kind};
use super::call::Call;
use super::report::Reason;

type Made = Result<ValueId, Reason>;

impl Call<'_> {
    /// Adds an operator and returns all of its results.
    pub(super) fn ops(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, Reason> {
        let name = self.importer.claim(&format!("{}/{}", self.step.name(), op.name()));
        Ok(self.importer.builder.apply(name, op, inputs)?)
    }

    /// Adds an operator and returns its first result.
    pub(super) fn op(&mut self, op: Op, inputs: &[ValueId]) -> Made {
        Ok(self.ops(op, inputs)?[0])
    }

    /// Adds a composition of several operators.
    pub(super) fn compose(
        &mut self,
        build: impl FnOnce(&mut Scope<'_>) -> Result<ValueId, DagError>,
    ) -> Made {
        self.compose_or(|scope| Ok(build(scope)?))
    }

    /// Adds a composition that may be refused for other reasons than its operands.
    pub(super) fn compose_or(&mut self, build: impl FnOnce(&mut Scope<'_>) -> Made) -> Made {
        let name = self.importer.claim(&format!("{}/parts", self.step.name()));
        build(&mut Scope::new(&mut self.importer.builder, name))
    }

    /// Returns the shape of a value of the Dag.
    pub(super) fn shape_of(&self, value: ValueId) -> Vec<usize> {
        self.importer.builder.fact(value).shape.clone()
    }

    /// Says whether a value of the Dag holds integers.
    pub(super) fn is_int(&self, value: ValueId) -> bool {
        self.importer.builder.fact(value).dtype == Dtype::I32
    }

    pub(super) fn add(&mut self, a: ValueId, b: ValueId) -> Made {
        self.op(Op::Add, &[a, b])
    }

    pub(super) fn sub(&mut self, a: ValueId, b: ValueId) -> Made {
        self.op(Op::Sub, &[a, b])
    }

    pub(super) fn mul(&mut self, a: ValueId, b: ValueId) -> Made {
        self.op(Op::Mul, &[a, b])
    }

    pub(super) fn div(&mut self, a: ValueId, b: ValueId) -> Made {
        self.op(Op::Div, &[a, b])
    }

    pub(super) fn scale(&mut self, x: ValueId, factor: f32) -> Made {
        self.op(Op::Scale { factor }, &[x])
    }

    pub(super) fn shift(&mut self, x: ValueId, term: f32) -> Made {
        self.op(Op::Shift { term }, &[x])
    }

    pub(super) fn unary(&mut self, function: Unary, x: ValueId) -> Made {
        self.op(Op::Unary(function), &[x])
    }

    pub(super) fn binary(&mut self, function: Binary, a: ValueId, b: ValueId) -> Made {
        self.op(Op::Binary(function), &[a, b])
    }

    /// Compares; the result is a mask.
    pub(super) fn compare(&mut self, comparison: Comparison, a: ValueId, b: ValueId) -> Made {
        self.op(Op::Compare(comparison), &[a, b])
    }

    /// Takes `a` where the mask is not 0, else `b`.
    pub(super) fn select(&mut self, mask: ValueId, a: ValueId, b: ValueId) -> Made {
        self.op(Op::Where, &[mask, a, b])
    }

    /// Turns a mask around.
    pub(super) fn not(&mut self, mask: ValueId) -> Made {
        let zero = self.int_literal(0)?;
        self.compare(Comparison::Equal, mask, zero)
    }

    pub(super) fn as_float(&mut self, x: ValueId) -> Made {
        if self.is_int(x) { self.op(Op::Cast { dtype: Dtype::F32 }, &[x]) } else { Ok(x) }
    }

    pub(super) fn as_int(&mut self, x: ValueId) -> Made {
        if self.is_int(x) { Ok(x) } else { self.op(Op::Cast { dtype: Dtype::I32 }, &[x]) }
    }

    /// Makes one number of the same kind as `like`, as a scalar.
    pub(super) fn number_like(&mut self, like: ValueId, number: i16) -> Made {
        if self.is_int(like) {
            self.int_literal(i32::from(number))
        } else {
            self.fill(&[], f32::from(number))
        }
    }

    pub(super) fn int_literal(&mut self, number: i32) -> Made {
        self.ints(&[], vec![number])
    }

    /// Makes integers that are part of the network.
    pub(super) fn ints(&mut self, shape: &[usize], numbers: Vec<i32>) -> Made {
        self.literal_of(shape, Numbers::Ints(numbers))
    }

    /// Makes floats that are part of the network.
    pub(super) fn floats(&mut self, shape: &[usize], numbers: Vec<f32>) -> Made {
        if numbers.len() > LITERAL_MAX {
            return self.literal(Array::floats(Kind::F32, shape.to_vec(), numbers));
        }
        self.literal_of(shape, Numbers::Floats(numbers))
    }

    fn literal_of(&mut self, shape: &[usize], numbers: Numbers) -> Made {
        self.op(Op::Literal { shape: shape.to_vec(), numbers }, &[])
    }

    pub(super) fn fill(&mut self, shape: &[usize], value: f32) -> Made {
        self.op(Op::Fill { shape: shape.to_vec(), value }, &[])
    }

    pub(super) fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Made {
        if self.shape_of(x) == shape {
            return Ok(x);
        }
        self.op(Op::Reshape { shape: shape.to_vec() }, &[x])
    }

    pub(super) fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Made {
        if perm.iter().copied().eq(0..perm.len()) {
            return Ok(x);
        }
        self.op(Op::Transpose { perm: perm.to_vec() }, &[x])
    }

    pub(super) fn slice(&mut self, x: ValueId, axis: usize, start: usize, end: usize) -> Made {
        if start == 0 && self.shape_of(x).get(axis) == Some(&end) {
            return Ok(x);
        }
        self.op(Op::Slice { axis, start, end }, &[x])
    }

    pub(super) fn concat(&mut self, parts: &[ValueId], axis: usize) -> Made {
        if parts.len() == 1 { Ok(parts[0]) } else { self.op(Op::Concat { axis }, parts) }
    }

    pub(super) fn expand(&mut self, x: ValueId, shape: &[usize]) -> Made {
        if self.shape_of(x) == shape {
            return Ok(x);
        }
        self.op(Op::Expand { shape: shape.to_vec() }, &[x])
    }

    /// Reads an axis at places that are known.
    pub(super) fn take(&mut self, x: ValueId, axis: usize, places: &[usize]) -> Made {
        if let (Some(first), Some(last)) = (places.first(), places.last()) {
            let is_run = places.windows(2).all(|pair| pair[1] == pair[0] + 1);
            if is_run {
                return self.slice(x, axis, *first, last + 1);
            }
        }
        let ids: Result<Vec<i32>, _> = places.iter().map(|p| i32::try_from(*p)).collect();
        let ids = ids.map_err(|_| Reason::form("an axis is too long"))?;
        let ids = self.ints(&[ids.len()], ids)?;
        self.op(Op::Gather { axis }, &[x, ids])
    }

    pub(super) fn reduce_sum(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Made {
        if axes.is_empty() {
            return Ok(x);
        }
        self.op(Op::ReduceSum { axes: axes.to_vec(), keep }, &[x])
    }

    pub(super) fn reduce_mean(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Made {
        if axes.is_empty() {
            return Ok(x);
        }
        self.op(Op::ReduceMean { axes: axes.to_vec(), keep }, &[x])
    }

    pub(super) fn reduce_max(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Made {
        if axes.is_empty() {
            return Ok(x);
        }
        if !self.is_int(x) {
            return self.op(Op::ReduceMax { axes: axes.to_vec(), keep }, &[x]);
        }
        self.halved(x, axes, keep, |call, a, b| call.binary(Binary::Max, a, b))
    }

    /// Combines all elements along axes by halves: for functions that have no reduction of their own.
    pub(super) fn halved(
        &mut self,
        x: ValueId,
        axes: &[usize],
        keep: bool,
        combine: impl Fn(&mut Self, ValueId, ValueId) -> Made,
    ) -> Made {
        let mut x = x;
        for axis in axes {
            let mut length = self.shape_of(x)[*axis];
            while length > 1 {
                let half = length / 2;
                let a = self.slice(x, *axis, 0, half)?;
                let b = self.slice(x, *axis, half, 2 * half)?;
                let both = combine(self, a, b)?;
                x = if length.is_multiple_of(2) {
                    both
                } else {
                    let rest = self.slice(x, *axis, length - 1, length)?;
                    self.concat(&[both, rest], *axis)?
                };
                length = half + length % 2;
            }
        }
        if keep {
            return Ok(x);
        }
        let shape = self.shape_of(x);
        let kept = (0..shape.len()).filter(|axis| !axes.contains(axis));
        let shape: Vec<usize> = kept.map(|axis| shape[axis]).collect();
        self.reshape(x, &shape)
    }

    pub(super) fn matmul(&mut self, a: ValueId, b: ValueId) -> Made {
        self.op(Op::MatMul { transpose_a: false, transpose_b: false }, &[a, b])
    }

    pub(super) fn neg(&mut self, x: ValueId) -> Made {
        if !self.is_int(x) {
            return self.scale(x, -1.0);
        }
        let zero = self.int_literal(0)?;
        self.sub(zero, x)
    }

    /// Returns `x * x`.
    pub(super) fn square(&mut self, x: ValueId) -> Made {
        self.mul(x, x)
    }

    pub(super) fn abs(&mut self, x: ValueId) -> Made {
        if !self.is_int(x) {
            return self.unary(Unary::Abs, x);
        }
        let minus = self.neg(x)?;
        self.binary(Binary::Max, x, minus)
    }

    /// Keeps integers within a narrow type, as two's complement does.
    pub(super) fn wrapped(&mut self, x: ValueId, kind: Kind) -> Made {
        let (Some((least, most)), false) = (kind.range(), kind.size() > 2 || kind == Kind::Bool)
        else {
            return Ok(x);
        };
        let fit = |n: i64| i32::try_from(n).map_err(|_| Reason::form("a type is too wide"));
        let least = self.int_literal(fit(least)?)?;
        let span = self.int_literal(fit(most - kind.range().map_or(0, |r| r.0) + 1)?)?;
        let x = self.sub(x, least)?;
        let x = self.floor_mod(x, span)?;
        self.add(x, least)
    }

    /// Returns what is left of an integer division, with the divisor's sign.
    pub(super) fn floor_mod(&mut self, a: ValueId, b: ValueId) -> Made {
        let rest = self.binary(Binary::Remainder, a, b)?;
        let rest = self.add(rest, b)?;
        self.binary(Binary::Remainder, rest, b)
    }
}
