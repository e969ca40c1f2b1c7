//! Placements that a person would try first: what OP-Fence is compared with.
//!
//! None looks at links. Definitions follow papers.md 1.8 (our proposal there), which lists equal number, equal compute
//! and random order; the best single peer and the even split by layers are ours.

use std::rc::Rc;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::super::advert::Advert;
use super::super::ground::Ground;
use super::super::load::Load;
use super::grain::Grain;
use super::layout::{Layout, Team};
use crate::job::STAGES_MAX;

/// A way to place a job without clustering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Baseline {
    /// As many operators for each peer, in the order of the adverts.
    EqualNumber,
    /// Arithmetic in proportion to speed, in the order of the adverts.
    EqualCompute,
    /// The same with peers in a random order from this seed.
    RandomOrder(u64),
    /// The same arithmetic for each peer, whatever its speed, in the order of the adverts.
    EvenLayers,
    /// Everything on one peer, the fastest for it.
    BestSingle,
}

/// Returns the layouts of a baseline, in the first of the job's ways; the fastest of them counts. Single peers come in the
/// order of their speed with this network. Peers are numbers on the ground below `able`.
pub(super) fn layouts(
    baseline: Baseline,
    grain: &Grain,
    (ground, able): (&Ground<'_>, &[&Advert]),
    given: &[&Advert],
) -> Vec<Layout> {
    let units = grain.units();
    if baseline == Baseline::BestSingle {
        let whole: Load = grain.forward.iter().chain(&grain.backward).copied().sum();
        let mut peers: Vec<usize> = (0..able.len()).collect();
        peers.sort_by_key(|peer| (ground.time(*peer, whole, &ground.crowd([*peer])), *peer));
        let one =
            |peer| Layout { stage_of: vec![0; units], stages: vec![Rc::new(vec![peer])], way: 0 };
        return peers.into_iter().map(one).collect();
    }
    // In the order of the adverts, not by speed.
    let mut order: Vec<usize> =
        given.iter().filter_map(|a| ground.number(a.peer)).filter(|n| *n < able.len()).collect();
    if let Baseline::RandomOrder(seed) = baseline {
        shuffle(&mut order, seed);
    }
    order.truncate(units.min(usize::from(STAGES_MAX)));
    let speed = |peer: &usize| {
        let hardware = able[*peer].hardware.as_ref();
        hardware.map_or(0, |h| u128::from(h.speed.flops_per_second()))
    };
    let weights: Vec<u128> = match baseline {
        Baseline::EqualNumber | Baseline::EvenLayers | Baseline::BestSingle => vec![1; order.len()],
        Baseline::EqualCompute | Baseline::RandomOrder(_) => order.iter().map(speed).collect(),
    };
    let sizes: Vec<u128> = match baseline {
        Baseline::EqualNumber => vec![1; units],
        _ => (0..units)
            .map(|unit| u128::from((grain.forward[unit] + grain.backward[unit]).flops().count()))
            .collect(),
    };
    let stage_of = shares(&sizes, &weights);
    let mut stages: Vec<Team> = Vec::new();
    let mut renumbered = Vec::with_capacity(units);
    let mut last = None;
    for stage in stage_of {
        if last != Some(stage) {
            stages.push(Rc::new(vec![order[stage]]));
            last = Some(stage);
        }
        renumbered.push(u16::try_from(stages.len() - 1).unwrap_or(u16::MAX));
    }
    vec![Layout { stage_of: renumbered, stages, way: 0 }]
}

/// Returns the stage of each unit such that each stage's size comes near its weight; stages may be empty.
fn shares(sizes: &[u128], weights: &[u128]) -> Vec<usize> {
    let (total, whole): (u128, u128) = (sizes.iter().sum(), weights.iter().sum());
    let mut bounds = Vec::with_capacity(weights.len());
    let mut sum = 0;
    for weight in weights {
        sum += weight;
        bounds.push(total * sum / whole.max(1));
    }
    let mut before = 0;
    sizes
        .iter()
        .map(|size| {
            // A unit belongs where its middle lies.
            let middle = before + size / 2;
            before += size;
            bounds.partition_point(|bound| *bound <= middle).min(weights.len() - 1)
        })
        .collect()
}

fn shuffle(list: &mut [usize], seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for place in (1..list.len()).rev() {
        let draw = rng.next_u64() % (place as u64 + 1);
        list.swap(place, usize::try_from(draw).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// papers.md 1.11: 14 operators of GPT-2 small, A twice as fast as B, peers in the order A1, B1, A2, B2.
    #[test]
    fn shares_are_those_of_the_notes() {
        let block = 1_772;
        let sizes: Vec<u128> =
            (0..14).map(|n| [0, block, 7_905][usize::from(n > 0) + usize::from(n == 13)]).collect();
        let ends = |stages: &[usize]| -> Vec<usize> {
            (1..4).map(|s| stages.partition_point(|stage| *stage < s)).collect()
        };
        assert_eq!(ends(&shares(&sizes, &[2, 1, 2, 1])), [6, 9, 13]);
        let even = ends(&shares(&[1; 14], &[1; 4]));
        assert!(even == [4, 8, 11] || even == [3, 7, 10] || even == [4, 7, 11], "{even:?}");
    }
}
