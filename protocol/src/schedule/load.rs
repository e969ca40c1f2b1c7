//! What running operators asks of a device: arithmetic or bytes by kind of operator, launches, passes.

use std::iter::Sum;
use std::ops::{Add, Sub};

use super::launches::Launches;
use crate::dag::cost::{Unit, flops, unit};
use crate::dag::{Dag, Fact, Op};
use crate::ids::NodeId;
use crate::units::{Bytes, Flops};

/// An amount of work. Kinds that spend their time in arithmetic count that, the others the bytes that they read and
/// write; element-wise operators count both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Arithmetic of matrix products.
    pub products: Flops,
    /// Arithmetic of fused attention.
    pub attention: Flops,
    /// Arithmetic of gradients of fused attention.
    pub attention_grads: Flops,
    /// Arithmetic of recurrences.
    pub recurrences: Flops,
    /// Arithmetic of convolutions.
    pub convolutions: Flops,
    /// Arithmetic of gradients of convolutions.
    pub convolution_grads: Flops,
    /// Arithmetic element by element.
    pub elements: Flops,
    /// Bytes read and written element by element, and by sums.
    pub bytes: Bytes,
    /// Bytes read and written by norms along rows, softmax and losses.
    pub norms: Bytes,
    /// Bytes read and written by norms of channels and by pools.
    pub channel_norms: Bytes,
    /// Bytes read and written by what only moves data.
    pub moves: Bytes,
    /// Operators started.
    pub launches: Launches,
    /// Passes begun: tensors taken in and handed out, whatever is computed between.
    pub passes: u64,
}

const NONE: Launches = Launches {
    light: 0,
    products: 0,
    attention: 0,
    attention_grads: 0,
    recurrences: 0,
    convolutions: 0,
    convolution_grads: 0,
    norms: 0,
    channel_norms: 0,
};

impl Load {
    /// A pass in which nothing is computed.
    pub const PASS: Self = Self {
        products: Flops::ZERO,
        attention: Flops::ZERO,
        attention_grads: Flops::ZERO,
        recurrences: Flops::ZERO,
        convolutions: Flops::ZERO,
        convolution_grads: Flops::ZERO,
        elements: Flops::ZERO,
        bytes: Bytes::ZERO,
        norms: Bytes::ZERO,
        channel_norms: Bytes::ZERO,
        moves: Bytes::ZERO,
        launches: NONE,
        passes: 1,
    };

    /// Returns the load of one operator on operands of these facts.
    pub fn of_op(op: &Op, inputs: &[&Fact], outputs: &[&Fact]) -> Self {
        let bytes = || inputs.iter().chain(outputs).map(|f| f.bytes()).sum();
        let unit = unit(op);
        let load = Self { launches: Launches::one(unit), ..Self::default() };
        let arithmetic = flops(op, inputs, outputs);
        match unit {
            Unit::Products => Self { products: arithmetic, ..load },
            Unit::Attention => Self { attention: arithmetic, ..load },
            Unit::AttentionGrads => Self { attention_grads: arithmetic, ..load },
            Unit::Recurrence => Self { recurrences: arithmetic, ..load },
            Unit::Convolutions => Self { convolutions: arithmetic, ..load },
            Unit::ConvolutionGrads => Self { convolution_grads: arithmetic, ..load },
            Unit::Elements => Self { elements: arithmetic, bytes: bytes(), ..load },
            Unit::Norms => Self { norms: bytes(), ..load },
            Unit::ChannelNorms => Self { channel_norms: bytes(), ..load },
            Unit::Moves => Self { moves: bytes(), ..load },
            Unit::Names => load,
        }
    }

    /// Returns the load of one node.
    pub fn of(dag: &Dag, id: NodeId) -> Self {
        let node = dag.node(id);
        let inputs: Vec<_> = node.inputs.iter().map(|v| dag.fact(*v)).collect();
        let outputs: Vec<_> = node.outputs.iter().map(|v| dag.fact(*v)).collect();
        Self::of_op(&node.op, &inputs, &outputs)
    }

    /// Returns the arithmetic of all kinds; norms count one operation for each element that they read or write (our rule).
    pub fn flops(self) -> Flops {
        let Self {
            products,
            attention,
            attention_grads,
            recurrences,
            convolutions,
            convolution_grads,
            elements,
            norms,
            channel_norms,
            // Traffic and starts are no arithmetic.
            bytes: _,
            moves: _,
            launches: _,
            passes: _,
        } = self;
        let dense = products + attention + attention_grads + recurrences;
        let swept = norms + channel_norms;
        dense + convolutions + convolution_grads + elements + Flops::new(swept.count() / 4)
    }

    /// Returns the same work so many times.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self {
            products: self.products * count,
            attention: self.attention * count,
            attention_grads: self.attention_grads * count,
            recurrences: self.recurrences * count,
            convolutions: self.convolutions * count,
            convolution_grads: self.convolution_grads * count,
            elements: self.elements * count,
            bytes: self.bytes * count,
            norms: self.norms * count,
            channel_norms: self.channel_norms * count,
            moves: self.moves * count,
            launches: self.launches.times(count),
            passes: self.passes.saturating_mul(count),
        }
    }
}

impl Add for Load {
    type Output = Self;

    fn add(self, rhs: Self) -> Self {
        Self {
            products: self.products + rhs.products,
            attention: self.attention + rhs.attention,
            attention_grads: self.attention_grads + rhs.attention_grads,
            recurrences: self.recurrences + rhs.recurrences,
            convolutions: self.convolutions + rhs.convolutions,
            convolution_grads: self.convolution_grads + rhs.convolution_grads,
            elements: self.elements + rhs.elements,
            bytes: self.bytes + rhs.bytes,
            norms: self.norms + rhs.norms,
            channel_norms: self.channel_norms + rhs.channel_norms,
            moves: self.moves + rhs.moves,
            launches: self.launches + rhs.launches,
            passes: self.passes.saturating_add(rhs.passes),
        }
    }
}

/// The part of a running sum that comes after an earlier part; never below zero.
impl Sub for Load {
    type Output = Self;

    fn sub(self, rhs: Self) -> Self {
        let less = |a: Flops, b: Flops| Flops::new(a.count().saturating_sub(b.count()));
        let fewer = |a: Bytes, b: Bytes| Bytes::new(a.count().saturating_sub(b.count()));
        Self {
            products: less(self.products, rhs.products),
            attention: less(self.attention, rhs.attention),
            attention_grads: less(self.attention_grads, rhs.attention_grads),
            recurrences: less(self.recurrences, rhs.recurrences),
            convolutions: less(self.convolutions, rhs.convolutions),
            convolution_grads: less(self.convolution_grads, rhs.convolution_grads),
            elements: less(self.elements, rhs.elements),
            bytes: fewer(self.bytes, rhs.bytes),
            norms: fewer(self.norms, rhs.norms),
            channel_norms: fewer(self.channel_norms, rhs.channel_norms),
            moves: fewer(self.moves, rhs.moves),
            launches: self.launches - rhs.launches,
            passes: self.passes.saturating_sub(rhs.passes),
        }
    }
}

impl Sum for Load {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Add::add)
    }
}
