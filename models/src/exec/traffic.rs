//! What crosses between host memory and a GPU, counted on the thread that computes.
//!
//! All that reads a device or writes to one passes [`Float`](super::tensor::Float), [`Tensor`](super::tensor::Tensor) or
//! [`Reading`](super::reading::Reading), and is counted there. A wait stops the thread until the device has computed
//! everything before it; a reading does not.

use std::cell::Cell;
use std::ops::Sub;

/// Crossings of one thread since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Tensors that were waited for.
    pub waits: u64,
    /// Tensors whose reading began, to be finished later.
    pub readings: u64,
    /// Tensors written from host memory.
    pub uploads: u64,
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            waits: self.waits - before.waits,
            readings: self.readings - before.readings,
            uploads: self.uploads - before.uploads,
        }
    }
}

thread_local! {
    static TRAFFIC: Cell<Traffic> = const { Cell::new(Traffic { waits: 0, readings: 0, uploads: 0 }) };
}

/// Returns what has crossed on this thread.
pub fn traffic() -> Traffic {
    TRAFFIC.get()
}

fn count(change: impl FnOnce(&mut Traffic)) {
    let mut traffic = TRAFFIC.get();
    change(&mut traffic);
    TRAFFIC.set(traffic);
}

/// A tensor on a GPU is waited for.
pub(super) fn waits() {
    count(|traffic| traffic.waits += 1);
}

/// The reading of a tensor on a GPU begins.
pub(super) fn reads() {
    count(|traffic| traffic.readings += 1);
}

/// A tensor is written to a device.
pub(super) fn uploads() {
    count(|traffic| traffic.uploads += 1);
}

#[cfg(test)]
pub(crate) mod by_operator {
    //! The same by operator, for tests.

    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use wattle_protocol::dag::op::Op;

    use super::Traffic;

    thread_local! {
        static FOUND: RefCell<BTreeMap<&'static str, (Op, Traffic)>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Notes what an operator has brought over, where it has.
    pub(crate) fn note(op: &Op, traffic: Traffic) {
        if traffic != Traffic::default() {
            FOUND.with_borrow_mut(|found| {
                let (_, sum) = found.entry(op.name()).or_insert_with(|| (op.clone(), traffic));
                sum.waits = sum.waits.max(traffic.waits);
                sum.uploads = sum.uploads.max(traffic.uploads);
            });
        }
    }

    /// Takes what was noted on this thread.
    pub(crate) fn take() -> BTreeMap<&'static str, (Op, Traffic)> {
        FOUND.take()
    }
}
