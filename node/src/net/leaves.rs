//! What is under way from this machine: a transfer measures a link if nothing else was.

use std::sync::PoisonError;

use super::{Net, Shared};

/// Something that is on its way from here.
pub(super) struct Leaves<'a> {
    shared: &'a Shared,
    /// Its number, and how many others were under way when it began.
    mine: u64,
    before: u64,
}

impl Leaves<'_> {
    /// Says whether nothing else was under way since it began.
    pub(super) fn is_alone(&self) -> bool {
        let leaving = self.shared.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        self.before == 0 && leaving.0 == self.mine
    }
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.shared.leaving.lock().unwrap_or_else(PoisonError::into_inner).1 -= 1;
    }
}

impl Net {
    /// Notes that something leaves this machine, until the result is dropped.
    pub(super) fn leaves(&self) -> Leaves<'_> {
        let mut leaving = self.shared.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        *leaving = (leaving.0 + 1, leaving.1 + 1);
        Leaves { shared: &self.shared, mine: leaving.0, before: leaving.1 - 1 }
    }
}
