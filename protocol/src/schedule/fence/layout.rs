//! A layout: which stage each unit of a network is in, who runs each stage, and how passes run.
//!
//! Not here: what it costs (`judge`), how it becomes another (`changes`).

use std::rc::Rc;

/// The peers of a stage by number, the owner first. Layouts are copied by the hundred thousand, and differ in a stage or two.
pub(super) type Team = Rc<Vec<usize>>;

/// Units in stages, and stages on peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Layout {
    /// Stage of each unit; no unit reads what a later stage makes.
    pub(super) stage_of: Vec<u16>,
    pub(super) stages: Vec<Team>,
    /// Which of the ways that the job allows passes run in. Comes last, so that of equals the thriftiest is first.
    pub(super) way: u8,
}

impl Layout {
    /// Returns the peers of all stages, one that has several as often.
    pub(super) fn peers(&self) -> impl Iterator<Item = usize> + '_ {
        self.stages.iter().flat_map(|team| team.iter().copied())
    }

    /// Returns all of it in one row: to be kept in large numbers.
    pub(super) fn key(&self) -> Vec<u16> {
        let short = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        let mut key = Vec::with_capacity(1 + self.stage_of.len() + 4 * self.stages.len());
        key.push(u16::from(self.way));
        key.extend(&self.stage_of);
        for peers in &self.stages {
            key.extend([peers.len()].iter().chain(peers.iter()).map(|number| short(*number)));
        }
        key
    }
}
