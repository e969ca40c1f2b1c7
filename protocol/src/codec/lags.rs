//! LAGS: how much of each layer's gradient is sent, so that it is under way while earlier layers are computed.
//!
//! S. Shi et al., "Layer-wise Adaptive Gradient Sparsification for Distributed Deep Learning with
//! Convergence Guarantees" (arXiv 1911.08727). Cost models and the order of events are those of the authors' code
//! (papers.md 3.4 to 3.6); that the ratio adapts to a layer's communication-to-computation ratio is the paper's, its
//! formula is not established and the one here ours (papers.md 3.3). Arithmetic alone: `replica` exchanges gradients by it,
//! no running job does.

use std::ops::Range;

use super::form::{Floats, Form};
use crate::units::{Bytes, Duration};

/// Of a layer at least one element in so many is sent; the density of the authors' runs.
const RATIO_MAX: usize = 1000;

/// One tensor, or several that are sent as one, in the order of the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Elements of its gradient.
    pub elements: usize,
    /// Time of its backward pass.
    pub backward: Duration,
}

/// How kept elements are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Values and indices of 32 bits each, as two messages: the authors'.
    Apart,
    /// One message of ours.
    Together(Floats),
}

/// What selecting and sending cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Seconds to select from n elements, over n log2 n.
    pub select: f64,
    /// Seconds that a message takes however short it is.
    pub message: f64,
    /// Seconds a byte of all workers' messages together.
    pub byte: f64,
    /// Workers that gather from each other.
    pub workers: u32,
    /// How kept elements are laid out.
    pub layout: Layout,
}

#[expect(clippy::cast_precision_loss, reason = "tensors have far fewer than 2^53 elements")]
impl Costs {
    /// Returns the time to select from so many elements.
    ///
    /// *Source*: authors' code, t = s n log2 n.
    pub fn selecting(&self, elements: usize) -> Duration {
        let elements = elements.max(1) as f64;
        Duration::from_seconds(self.select * elements * elements.log2())
    }

    /// Returns the time until each worker has what every other one keeps.
    ///
    /// *Source*: authors' code, t = 2 (a + b 4 k P).
    pub fn gathering(&self, keep: usize, elements: usize) -> Duration {
        let (messages, bytes) = match self.layout {
            Layout::Apart => (2.0, Bytes::new(8) * keep as u64),
            Layout::Together(values) => (1.0, Form::TopK { keep, values }.bytes(elements)),
        };
        let bytes = self.byte * f64::from(self.workers) * bytes.count() as f64;
        Duration::from_seconds(messages * self.message + bytes)
    }

    /// Returns how many elements of a layer are kept: as many as are selected and sent while what follows is computed,
    /// but at least one in a thousand.
    ///
    /// *Source*: our rule (papers.md 3.3): c = min(1000, min { c >= 1 : selecting + gathering <= what follows }).
    /// *Cost*: O(log elements).
    pub fn keep(&self, elements: usize, following: Duration) -> usize {
        self.keep_from(elements.div_ceil(RATIO_MAX), elements, following)
    }

    /// The same, but at least so many.
    pub fn keep_from(&self, least: usize, elements: usize, following: Duration) -> usize {
        let room = following - self.selecting(elements);
        let fits = |keep| self.gathering(keep, elements) <= room;
        let (mut keep, mut above) = (least.min(elements), elements + 1);
        while above - keep > 1 {
            let middle = keep.midpoint(above);
            if fits(middle) {
                keep = middle;
            } else {
                above = middle;
            }
        }
        keep
    }
}

/// When a backward pass ends, and when the last of its gradients has arrived, from the start of the pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// End of computing and selecting.
    pub computed: Duration,
    /// End of sending.
    pub sent: Duration,
}

impl Timeline {
    /// Follows a pass whose layers keep so many elements each: a layer is computed, then selected from, then sent while
    /// the next is computed; messages go one after another.
    ///
    /// *Source*: authors' code (papers.md 3.5).
    pub fn of(layers: &[Layer], keep: impl Fn(&Layer) -> usize, costs: &Costs) -> Self {
        let (mut computed, mut sent) = (Duration::ZERO, Duration::ZERO);
        for layer in layers {
            computed += layer.backward + costs.selecting(layer.elements);
            sent = sent.max(computed) + costs.gathering(keep(layer), layer.elements);
        }
        Self { computed, sent }
    }

    /// Returns the communication that no computation hides.
    pub fn exposed(&self) -> Duration {
        self.sent - self.computed
    }
}

/// Puts small layers together: a group ends with the layer that brings it to so many elements; at 0 each layer is one.
///
/// *Source*: authors' code (papers.md 3.6); 8,192 elements there.
pub fn groups(layers: &[Layer], threshold: usize) -> Vec<Range<usize>> {
    let (mut groups, mut start, mut held) = (Vec::new(), 0, 0);
    for (place, layer) in layers.iter().enumerate() {
        held += layer.elements;
        if held >= threshold {
            groups.push(start..place + 1);
            (start, held) = (place + 1, 0);
        }
    }
    if start < layers.len() {
        groups.push(start..layers.len());
    }
    groups
}

/// Returns a group as one layer, which is sent when its last member has been computed.
pub fn merged(layers: &[Layer]) -> Layer {
    let elements = layers.iter().map(|layer| layer.elements).sum();
    let backward = layers.iter().fold(Duration::ZERO, |sum, layer| sum + layer.backward);
    Layer { elements, backward }
}

/// Returns how many times quicker a step can get by sending while it computes: no schedule gains more.
///
/// *Source*: authors' plotting scripts (papers.md 3.5).
pub fn gain_max(forward: Duration, backward: Duration, communication: Duration) -> f64 {
    let apart = (forward + backward + communication).seconds();
    apart / (forward + backward.max(communication)).seconds()
}

#[cfg(test)]
mod tests;
