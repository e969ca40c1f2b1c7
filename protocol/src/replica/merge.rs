//! Merge groups: tensors whose gradients are sent as one message.
//!
//! A gradient is one row of elements: the tensors in the order in which the backward pass makes them, one after
//! another. A merge group is a run of them. Few large messages cost fewer starts, many small ones begin sooner.

use std::ops::Range;

use super::error::ReplicaError;
use crate::codec::lags::{self, Layer};

/// A gradient cut into merge groups: in order, without gaps, none empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeGroups {
    tensors: Vec<Range<usize>>,
    elements: Vec<Range<usize>>,
}

impl MergeGroups {
    /// Cuts after the tensor that brings a group to so many elements; at 0 each tensor is one group.
    ///
    /// *Source*: authors' code (papers.md 3.6); 8,192 elements there. `usize::MAX` is one group: the whole-model
    /// selection that the authors call SLGS.
    ///
    /// *Errors*: [`ReplicaError::Length`] where there is nothing to send.
    pub fn of(layers: &[Layer], threshold: usize) -> Result<Self, ReplicaError> {
        if layers.is_empty() || layers.iter().any(|layer| layer.elements == 0) {
            return Err(ReplicaError::Length { what: "a tensor", found: 0, wanted: 1 });
        }
        let tensors = lags::groups(layers, threshold);
        let mut start = 0;
        let elements = tensors.iter().map(|group| {
            let size = layers[group.clone()].iter().map(|layer| layer.elements).sum::<usize>();
            start += size;
            start - size..start
        });
        let elements = elements.collect();
        Ok(Self { tensors, elements })
    }

    /// Returns how many groups there are.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Says whether there are none; never, for groups that were made.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Returns the elements of the whole gradient.
    pub fn total(&self) -> usize {
        self.elements.last().map_or(0, |last| last.end)
    }

    /// Returns which elements each group holds, in backward order.
    pub fn elements(&self) -> &[Range<usize>] {
        &self.elements
    }

    /// Returns which tensors each group holds, in backward order.
    pub fn tensors(&self) -> &[Range<usize>] {
        &self.tensors
    }

    /// Returns the elements of one group.
    ///
    /// *Errors*: [`ReplicaError::Group`].
    pub fn group(&self, group: usize) -> Result<Range<usize>, ReplicaError> {
        let found = self.elements.get(group).cloned();
        found.ok_or(ReplicaError::Group { group, groups: self.len() })
    }

    /// Returns each group as one layer, which is sent when its last tensor has been computed.
    pub fn layers(&self, layers: &[Layer]) -> Vec<Layer> {
        self.tensors.iter().map(|group| lags::merged(&layers[group.clone()])).collect()
    }
}
