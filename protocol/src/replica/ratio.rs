//! How much of each merge group is sent: as much as the backward pass hides.
//!
//! *Source*: that the ratio adapts to a layer's communication-to-computation ratio is the paper's (abstract); its formula
//! is not established and the release's own is switched off (papers.md 3.3). Our rule: a group may take as long to
//! send as the next one takes to compute and to be selected from, since in the authors' timeline (papers.md 3.5) selecting
//! holds up the backward pass and not the link. A dense all-reduce that fits there is preferred, as in a variant that
//! their code has in comments.

use crate::codec::lags::{Costs, Layer};
use crate::codec::{Floats, Form};
use crate::units::{Bytes, Duration};

/// Bytes of an element in memory.
const FLOAT: u64 = 4;

/// What a dense ring all-reduce costs.
///
/// *Source*: the authors' model (papers.md 3.4), 2 (P - 1) alpha + 2 (P - 1) / P d beta.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ring {
    /// Workers in it.
    pub workers: u32,
    /// What a round takes however short its chunk is: alpha.
    pub round: Duration,
    /// Seconds a byte on one worker's link: beta.
    pub byte: f64,
}

impl Ring {
    /// Returns the time of one all-reduce of so many elements.
    #[expect(clippy::cast_precision_loss, reason = "gradients have far fewer than 2^53 bytes")]
    pub fn reducing(&self, elements: usize) -> Duration {
        let others = self.workers.saturating_sub(1);
        let bytes = (Bytes::new(FLOAT) * elements as u64).count() as f64;
        let share = 2.0 * f64::from(others) / f64::from(self.workers.max(1));
        self.round * (2 * u64::from(others)) + Duration::from_seconds(share * bytes * self.byte)
    }
}

/// Returns how long a merge group is under way in this form.
pub fn sending(costs: &Costs, ring: &Ring, form: Form, elements: usize) -> Duration {
    match form {
        Form::TopK { keep, .. } => costs.gathering(keep, elements),
        Form::Dense(_) | Form::Int8 | Form::Int5 | Form::Int4 => ring.reducing(elements),
    }
}

/// Returns the form of each merge group, in backward order: dense where that is hidden, else as many of the largest as
/// are, but at least one in `ratio_most`; of the last, which nothing hides, just that many.
///
/// *Cost*: O(groups log elements).
pub fn adaptive(groups: &[Layer], costs: &Costs, ring: &Ring, ratio_most: usize) -> Vec<Form> {
    let following = groups.iter().skip(1).map(Some).chain([None]);
    let forms = groups.iter().zip(following).map(|(group, next)| {
        let elements = group.elements;
        let room =
            next.map_or(Duration::ZERO, |next| next.backward + costs.selecting(next.elements));
        if next.is_some() && ring.reducing(elements) <= room {
            return Form::DENSE;
        }
        let least = elements.div_ceil(ratio_most.max(1));
        let keep = costs.keep_from(least, elements, room + costs.selecting(elements));
        Form::TopK { keep, values: Floats::F32 }
    });
    forms.collect()
}
