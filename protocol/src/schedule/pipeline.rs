//! GPipe and 1F1B, deep or not: in which order a stage runs its passes, and how many micro-batches it keeps meanwhile.

use crate::ids::MicroBatch;
use crate::job::{PipelineOrder, SwarmSpec};

/// One pass of one micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Forward.
    Forward(MicroBatch),
    /// Backward.
    Backward(MicroBatch),
}

/// Returns the passes of the stage at `index` of `stages`, in order. Each direction runs micro-batches in
/// increasing order, so that gradients accumulate in the same order everywhere.
///
/// *Source*: GPipe, Huang et al. 2019; 1F1B (PipeDream-Flush), Narayanan et al. 2019 and 2021.
pub fn passes(order: PipelineOrder, index: usize, stages: usize, micro_batches: u32) -> Vec<Pass> {
    let ahead = in_flight(order, index, stages, micro_batches);
    let mut list = Vec::new();
    let (mut forward, mut backward) = (0, 0);
    while backward < micro_batches {
        if forward < micro_batches && forward - backward < ahead {
            list.push(Pass::Forward(MicroBatch::new(forward)));
            forward += 1;
        } else {
            list.push(Pass::Backward(MicroBatch::new(backward)));
            backward += 1;
        }
    }
    list
}

/// Returns how many micro-batches a stage keeps saved values of at once.
pub fn in_flight(order: PipelineOrder, index: usize, stages: usize, micro_batches: u32) -> u32 {
    let depth = match order {
        PipelineOrder::GPipe => return micro_batches,
        PipelineOrder::OneFOneB => 1,
        PipelineOrder::Deep(depth) => usize::from(depth),
    };
    let behind = stages.saturating_sub(index).saturating_sub(1);
    let kept = u32::try_from(behind.saturating_mul(depth).saturating_add(1));
    kept.unwrap_or(u32::MAX).clamp(1, micro_batches.max(1))
}

/// How a job's passes run: what a planner may choose without any effect on what is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Order of passes.
    pub order: PipelineOrder,
    /// Whether activations are computed again instead of kept.
    pub recompute: bool,
}

/// Depths of 1F1B that are tried where the job leaves the order open.
const DEPTHS: [u8; 4] = [2, 3, 4, 8];

impl Way {
    /// Returns the ways that a job allows: first those that keep activations, each time from the one that keeps the
    /// fewest micro-batches to the one that keeps most.
    pub fn all(swarm: &SwarmSpec) -> Vec<Self> {
        let orders = match swarm.order {
            Some(order) => vec![order],
            None => [PipelineOrder::OneFOneB]
                .into_iter()
                .chain(DEPTHS.map(PipelineOrder::Deep))
                .chain([PipelineOrder::GPipe])
                .collect(),
        };
        let recomputes = match swarm.recompute {
            Some(recompute) => vec![recompute],
            None => vec![false, true],
        };
        let with = |recompute| orders.iter().map(move |order| Self { order: *order, recompute });
        recomputes.into_iter().flat_map(with).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(order: PipelineOrder, index: usize, stages: usize, micro_batches: u32) -> String {
        passes(order, index, stages, micro_batches)
            .iter()
            .map(|pass| match pass {
                Pass::Forward(m) => format!("F{}", m.index()),
                Pass::Backward(m) => format!("B{}", m.index()),
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn orders_are_those_of_the_papers() {
        assert_eq!(text(PipelineOrder::GPipe, 0, 2, 3), "F0 F1 F2 B0 B1 B2");
        assert_eq!(text(PipelineOrder::OneFOneB, 0, 3, 4), "F0 F1 F2 B0 F3 B1 B2 B3");
        assert_eq!(text(PipelineOrder::OneFOneB, 2, 3, 4), "F0 B0 F1 B1 F2 B2 F3 B3");
        assert_eq!(text(PipelineOrder::OneFOneB, 0, 8, 2), "F0 F1 B0 B1");
        assert_eq!(text(PipelineOrder::Deep(2), 0, 2, 4), "F0 F1 F2 B0 F3 B1 B2 B3");
        assert_eq!(text(PipelineOrder::Deep(2), 1, 2, 3), "F0 B0 F1 B1 F2 B2");
    }

    proptest::proptest! {
        #[test]
        fn every_micro_batch_goes_forward_then_backward_once(
            index in 0usize..9, more in 1usize..9, micro_batches in 1u32..20, way in 0usize..6
        ) {
            let open = SwarmSpec {
                order: None, recompute: None, ..SwarmSpec::PLAIN
            };
            let order = Way::all(&open)[way].order;
            let list = passes(order, index, index + more, micro_batches);
            let mut kept = 0i64;
            let mut seen = std::collections::BTreeSet::new();
            for pass in &list {
                match pass {
                    Pass::Forward(m) => { proptest::prop_assert!(seen.insert((0, *m))); kept += 1; }
                    Pass::Backward(m) => {
                        proptest::prop_assert!(seen.contains(&(0, *m)) && seen.insert((1, *m)));
                        kept -= 1;
                    }
                }
                proptest::prop_assert!(kept <= i64::from(in_flight(order, index, index + more, micro_batches)));
            }
            proptest::prop_assert_eq!(list.len(), 2 * micro_batches as usize);
        }
    }
}
