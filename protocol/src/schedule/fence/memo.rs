//! Placements that were made before, each kept with all that it follows from.
//!
//! For worlds of many peers in one process, where every voter, and every run of a test, asks for the same again. A peer of
//! its own hardly does, and keeps none. Not here: how jobs are placed (`place`).

use std::collections::VecDeque;

use super::{Request, place};
use crate::ids::{Epoch, JobId, PeerId};
use crate::job::JobSpec;
use crate::schedule::advert::Advert;
use crate::schedule::codec::Codec;
use crate::schedule::{Plan, PlanError};

/// Places a job: [`place`], or what gives the same for the same inputs.
pub type Planner = fn(Request<'_>, &[&Advert]) -> Result<Plan, PlanError>;

/// Most placements kept; the oldest goes first.
const KEPT: usize = 64;

/// The placements made last.
#[derive(Debug, Default)]
pub struct Memo {
    made: VecDeque<Made>,
}

#[derive(Debug)]
struct Made {
    spec: JobSpec,
    asked: (JobId, Epoch, PeerId, PeerId, Codec),
    adverts: Vec<Advert>,
    found: Result<Plan, PlanError>,
}

impl Memo {
    /// Makes a memo without placements.
    pub const fn new() -> Self {
        Self { made: VecDeque::new() }
    }

    /// Places a job as [`place`] does, with its errors, and at once where it was placed before.
    pub fn place(&mut self, request: Request<'_>, adverts: &[&Advert]) -> Result<Plan, PlanError> {
        let Request { spec, job, epoch, submitter, leader, codec } = request;
        let asked = (job, epoch, submitter, leader, codec);
        let is_same = |made: &&Made| {
            made.asked == asked
                && made.adverts.iter().eq(adverts.iter().copied())
                && made.spec == *spec
        };
        if let Some(made) = self.made.iter().find(is_same) {
            return made.found.clone();
        }
        let found = place(request, adverts);
        self.made.truncate(KEPT - 1);
        self.made.push_front(Made {
            spec: spec.clone(),
            asked,
            adverts: adverts.iter().copied().cloned().collect(),
            found: found.clone(),
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::sample::problem;
    use crate::units::Bytes;

    /// Goal: a memo never gives another answer than `place`. Method: problems by two leaders, in turns, with the first peer
    /// as it is and with little memory.
    #[test]
    fn a_memo_gives_what_a_placement_gives() {
        let (mut memo, mut asked) = (Memo::new(), 0);
        let problems: Vec<_> = (0..4).map(|seed| problem(seed, 4, 8)).collect();
        for _ in 0..2 {
            for (problem, leader, is_small) in problems
                .iter()
                .flat_map(|p| [(p, 0, false), (p, 0, true), (p, 1, false), (p, 1, true)])
            {
                let mut adverts = problem.adverts.clone();
                let hardware = adverts[0].hardware.as_mut().unwrap();
                hardware.memory = if is_small { Bytes::new(1) } else { hardware.memory };
                let leader = adverts[leader].peer;
                let (job, epoch) = (JobId::new([1; 16]), Epoch::new(1));
                let codec = Codec::Dense;
                let request =
                    Request { spec: &problem.spec, job, epoch, submitter: leader, leader, codec };
                let adverts: Vec<&Advert> = adverts.iter().collect();
                assert_eq!(memo.place(request, &adverts), place(request, &adverts));
                asked += 1;
            }
        }
        assert_eq!(memo.made.len() * 2, asked, "each is made once");
    }
}
