//! The fixed order in which gradients are summed over micro-batches, whoever runs them: in groups, and groups one after
//! another.
//!
//! A job with at most `n` workers a stage has `n` groups (no more than micro-batches). Micro-batch `m` belongs to the
//! group of `m mod n`; within a group they are summed in order, and the groups' sums in the order of the groups. A worker
//! runs groups that follow each other, so that a chain of workers, each adding its groups to what it receives, finds the
//! bits that one worker finds. Groups are numbered by reversed bits (van der Corput), so that neighbours in the sum are
//! spread over the step and each worker has something to do all the time. With one group it is the plain sum.
//! See docs/decisions/0010-replicas.md.

use crate::ids::MicroBatch;
use crate::job::JobSpec;

/// How a job's micro-batches are grouped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Group of each residue.
    order: Vec<u16>,
    micro_batches: u32,
}

impl Groups {
    /// Groups the micro-batches of a job.
    pub fn of(spec: &JobSpec) -> Self {
        Self::new(spec.swarm.replicas, spec.train.micro_batches)
    }

    /// Makes at most so many groups.
    pub(super) fn new(most: u16, micro_batches: u32) -> Self {
        let count = u16::try_from(micro_batches).unwrap_or(u16::MAX).min(most).max(1);
        let bits = u16::BITS - (count - 1).leading_zeros();
        let mut residues: Vec<u16> = (0..count).collect();
        residues.sort_by_key(|r| r.reverse_bits().checked_shr(u16::BITS - bits).unwrap_or(0));
        let mut order = vec![0; usize::from(count)];
        for (group, residue) in (0..).zip(residues) {
            order[usize::from(residue)] = group;
        }
        Self { order, micro_batches }
    }

    /// Returns how many there are.
    pub fn count(&self) -> u16 {
        u16::try_from(self.order.len()).unwrap_or(u16::MAX)
    }

    /// Returns the group of a micro-batch.
    pub fn group(&self, micro_batch: MicroBatch) -> u16 {
        let residue = micro_batch.index() as usize % self.order.len();
        self.order[residue]
    }

    /// Lists the micro-batches of the groups before one, in order.
    pub fn before(&self, group: u16) -> impl Iterator<Item = MicroBatch> + '_ {
        let all = (0..self.micro_batches).map(MicroBatch::new);
        all.filter(move |micro_batch| self.group(*micro_batch) < group)
    }

    /// Returns how many groups each of some workers has, who take such times for a micro-batch.
    pub(super) fn shares(&self, times: &[u64]) -> Vec<u64> {
        let mut shares = vec![0u64; times.len()];
        for _ in 0..self.count() {
            let finish = |w: &usize| (times[*w].max(1).saturating_mul(shares[*w] + 1), *w);
            let Some(worker) = (0..times.len()).min_by_key(finish) else { break };
            shares[worker] += 1;
        }
        shares
    }

    /// Returns how many groups each of so many workers has, from the worker of each micro-batch; an owner without turns has
    /// all.
    pub(super) fn held(&self, turns: &[u16], workers: usize) -> Vec<u64> {
        let mut held = vec![0; workers];
        // The first micro-batches are of one group each.
        for turn in turns.iter().take(self.order.len()) {
            if let Some(held) = held.get_mut(usize::from(*turn)) {
                *held += 1;
            }
        }
        if turns.is_empty()
            && let Some(first) = held.first_mut()
        {
            *first = self.order.len() as u64;
        }
        held
    }

    /// Deals the groups out to workers that take such times for a micro-batch: each group to whoever would have finished
    /// it first, then the last groups to the first worker. Returns the worker of each micro-batch; empty for a single
    /// worker.
    pub(super) fn deal(&self, times: &[u64]) -> Vec<u16> {
        if times.len() < 2 {
            return Vec::new();
        }
        let shares = self.shares(times);
        let mut workers: Vec<u16> = Vec::with_capacity(self.order.len());
        for (worker, share) in (0..).zip(&shares) {
            workers.extend((0..*share).map(|_| worker));
        }
        workers.reverse();
        let worker = |m| workers[usize::from(self.group(MicroBatch::new(m)))];
        (0..self.micro_batches).map(worker).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_group_is_the_plain_order() {
        let groups = Groups::new(1, 5);
        assert_eq!((groups.count(), groups.deal(&[10])), (1, vec![]));
        assert!((0..5).all(|m| groups.group(MicroBatch::new(m)) == 0));
    }

    #[test]
    fn turns_follow_speed_and_alternate() {
        assert_eq!(Groups::new(2, 4).deal(&[10, 10]), [1, 0, 1, 0]);
        assert_eq!(Groups::new(4, 8).deal(&[10, 10]), [1, 0, 1, 0, 1, 0, 1, 0]);
        assert_eq!(Groups::new(4, 8).deal(&[10, 30]), [1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(Groups::new(8, 2).count(), 2, "no more groups than micro-batches");
    }

    proptest::proptest! {
        /// Whatever the speeds: who comes later in the chain holds later groups, and each group has one worker.
        #[test]
        fn workers_hold_whole_groups_in_a_row(
            most in 1u16..20, micro_batches in 1u32..40, times in proptest::collection::vec(1u64..50, 2..9),
        ) {
            let groups = Groups::new(most, micro_batches);
            let turns = groups.deal(&times);
            proptest::prop_assert_eq!(turns.len(), micro_batches as usize);
            let mut of = std::collections::BTreeMap::new();
            for (m, turn) in (0..).zip(&turns) {
                let group = groups.group(MicroBatch::new(m));
                proptest::prop_assert!(group < groups.count());
                proptest::prop_assert_eq!(*of.entry(group).or_insert(*turn), *turn);
            }
            let workers: Vec<u16> = of.into_values().collect();
            proptest::prop_assert_eq!(workers.len(), usize::from(groups.count()));
            proptest::prop_assert!(workers.windows(2).all(|pair| pair[0] >= pair[1]));
        }
    }
}
