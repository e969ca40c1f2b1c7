//! What running operators asks of a device: arithmetic by kind, memory traffic, launches.

use std::iter::Sum;
use std::ops::{Add, Sub};

use crate::dag::cost::{Unit, flops, unit};
use crate::dag::{Dag, Fact, Op};
use crate::ids::NodeId;
use crate::units::{Bytes, Flops};

/// An amount of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Arithmetic of matrix products.
    pub products: Flops,
    /// Arithmetic of convolutions.
    pub convolutions: Flops,
    /// Arithmetic of everything else, element by element.
    pub elements: Flops,
    /// Bytes read and written.
    pub bytes: Bytes,
    /// Operators started.
    pub launches: u64,
}

impl Load {
    /// Returns the load of one operator on operands of these facts.
    pub fn of_op(op: &Op, inputs: &[&Fact], outputs: &[&Fact]) -> Self {
        let bytes = inputs.iter().chain(outputs).map(|f| f.bytes()).sum();
        let load = Self { bytes, launches: 1, ..Self::default() };
        let arithmetic = flops(op, inputs, outputs);
        match unit(op) {
            Unit::Products => Self { products: arithmetic, ..load },
            Unit::Convolutions => Self { convolutions: arithmetic, ..load },
            Unit::Elements => Self { elements: arithmetic, ..load },
        }
    }

    /// Returns the load of one node.
    pub fn of(dag: &Dag, id: NodeId) -> Self {
        let node = dag.node(id);
        let inputs: Vec<_> = node.inputs.iter().map(|v| dag.fact(*v)).collect();
        let outputs: Vec<_> = node.outputs.iter().map(|v| dag.fact(*v)).collect();
        Self::of_op(&node.op, &inputs, &outputs)
    }
}

impl Add for Load {
    type Output = Self;

    fn add(self, rhs: Self) -> Self {
        Self {
            products: self.products + rhs.products,
            convolutions: self.convolutions + rhs.convolutions,
            elements: self.elements + rhs.elements,
            bytes: self.bytes + rhs.bytes,
            launches: self.launches.saturating_add(rhs.launches),
        }
    }
}

/// The part of a running sum that comes after an earlier part; never below zero.
impl Sub for Load {
    type Output = Self;

    fn sub(self, rhs: Self) -> Self {
        let less = |a: Flops, b: Flops| Flops::new(a.count().saturating_sub(b.count()));
        Self {
            products: less(self.products, rhs.products),
            convolutions: less(self.convolutions, rhs.convolutions),
            elements: less(self.elements, rhs.elements),
            bytes: Bytes::new(self.bytes.count().saturating_sub(rhs.bytes.count())),
            launches: self.launches.saturating_sub(rhs.launches),
        }
    }
}

impl Sum for Load {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Add::add)
    }
}
