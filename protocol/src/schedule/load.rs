//! What running operators asks of a device: arithmetic, memory traffic, launches.

use std::iter::Sum;
use std::ops::Add;

use crate::dag::Dag;
use crate::dag::cost::flops;
use crate::ids::NodeId;
use crate::units::{Bytes, Flops};

/// An amount of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Arithmetic.
    pub flops: Flops,
    /// Bytes read and written.
    pub bytes: Bytes,
    /// Operators started.
    pub launches: u64,
}

impl Load {
    /// Returns the load of one node.
    pub fn of(dag: &Dag, id: NodeId) -> Self {
        let node = dag.node(id);
        let inputs: Vec<_> = node.inputs.iter().map(|v| dag.fact(*v)).collect();
        let outputs: Vec<_> = node.outputs.iter().map(|v| dag.fact(*v)).collect();
        let bytes = inputs.iter().chain(&outputs).map(|f| f.bytes()).sum();
        Self { flops: flops(&node.op, &inputs, &outputs), bytes, launches: 1 }
    }
}

impl Add for Load {
    type Output = Self;

    fn add(self, rhs: Self) -> Self {
        Self {
            flops: self.flops + rhs.flops,
            bytes: self.bytes + rhs.bytes,
            launches: self.launches.saturating_add(rhs.launches),
        }
    }
}

impl Sum for Load {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Add::add)
    }
}
