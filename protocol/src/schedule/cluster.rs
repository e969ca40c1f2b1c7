//! Fences: peers grouped so that those of one fence see the same rates, inside it and to every other fence.
//!
//! Our rule (FusionLLM's abstract groups devices of similar bandwidth and says no more): a block model on the
//! logarithm of the rate. Each pair of fences has one mean rate, links scatter around it, and the best grouping is the
//! one with the shortest description. Groups are merged while that pays, then single peers move while that pays.
//! Pairs that nobody has measured say nothing; whoever has no measured link at all stands alone.
//!
//! Pure, independent of the order of the peers, and without any function whose last bits differ between machines.
//! Reading order: [`blocks`] (what a grouping costs), [`search`] (how a good one is found), [`logarithm`].
//! Concept: `docs/concepts/links-and-fences.md`.

mod blocks;
mod logarithm;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::links::Links;
use crate::ids::PeerId;
use crate::units::Rate;
use logarithm::log2;
use search::Search;

/// Directions that differ by more than this factor are not one rate with noise: the slower one counts.
const ASYMMETRY: u64 = 2;

/// A measured pair as seen from one end: the other end, and the base-2 logarithm of the rate less its mean over all.
#[derive(Clone, Copy, Debug)]
struct Sample {
    other: usize,
    level: f64,
}

/// What a second look at fences finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Regrouping {
    /// The fences as they were, without who is gone; newcomers stand where they fit best.
    pub kept: Vec<Vec<PeerId>>,
    /// The best fences.
    pub best: Vec<Vec<PeerId>>,
    /// By how many nats the best describe the links better than the kept.
    pub gain: f64,
}

/// Groups peers into fences; each lists its peers in order, and fences stand in the order of their first peers.
///
/// *Cost*: O(links x fences + core^3), where the core is at most [`search::CORE`] peers.
pub fn fences(peers: &[PeerId], links: &Links) -> Vec<Vec<PeerId>> {
    let network = Network::new(peers, links);
    let mut search = Search::new(&network.samples, network.linked());
    search.run();
    network.name(search)
}

/// Compares fences that were found before with the best ones.
///
/// *Cost*: twice that of [`fences`].
pub fn regroup(previous: &[Vec<PeerId>], peers: &[PeerId], links: &Links) -> Regrouping {
    let network = Network::new(peers, links);
    let mut best = Search::new(&network.samples, network.linked());
    best.run();
    let place = |peer: &PeerId| network.peers.binary_search(peer).ok();
    let groups: Vec<Vec<usize>> =
        previous.iter().map(|fence| fence.iter().filter_map(place).collect()).collect();
    let mut kept = Search::new(&network.samples, network.linked());
    kept.follow(&groups);
    let mut gain = kept.cost() - best.cost();
    if gain < 0.0 {
        // The search found less than what was there: go on from that.
        best = Search::new(&network.samples, network.linked());
        best.follow(&groups);
        best.settle();
        gain = kept.cost() - best.cost();
    }
    Regrouping { kept: network.name(kept), best: network.name(best), gain }
}

/// Peers by place, and the measured pairs among them.
struct Network {
    peers: Vec<PeerId>,
    samples: Vec<Vec<Sample>>,
}

impl Network {
    fn new(peers: &[PeerId], links: &Links) -> Self {
        let mut peers = peers.to_vec();
        peers.sort_unstable();
        peers.dedup();
        Self { samples: samples(&peers, links), peers }
    }

    /// Returns the peers with any measured link.
    fn linked(&self) -> Vec<usize> {
        (0..self.peers.len()).filter(|i| !self.samples[*i].is_empty()).collect()
    }

    /// Returns the groups of a search, by peers; who has no measured link stands alone.
    fn name(&self, search: Search<'_>) -> Vec<Vec<PeerId>> {
        let name = |group: Vec<usize>| group.into_iter().map(|i| self.peers[i]).collect();
        let mut groups: Vec<Vec<PeerId>> = search.groups().into_iter().map(name).collect();
        let alone = (0..self.peers.len()).filter(|i| self.samples[*i].is_empty());
        groups.extend(alone.map(|i| vec![self.peers[i]]));
        groups.sort();
        groups
    }
}

/// Gathers the measured pairs among these peers, by end.
fn samples(peers: &[PeerId], links: &Links) -> Vec<Vec<Sample>> {
    let place: BTreeMap<PeerId, usize> = peers.iter().enumerate().map(|(i, p)| (*p, i)).collect();
    let mut pairs: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for ((from, to), (rate, _)) in links.measured() {
        let (Some(a), Some(b)) = (place.get(&from), place.get(&to)) else {
            continue;
        };
        if a != b {
            let reverse = links.measurement(to, from).map(|(rate, _)| rate);
            pairs.entry((*a.min(b), *a.max(b))).or_insert_with(|| level(rate, reverse));
        }
    }
    let count = u32::try_from(pairs.len().max(1)).unwrap_or(u32::MAX);
    let mean = pairs.values().sum::<f64>() / f64::from(count);
    let mut samples = vec![Vec::new(); peers.len()];
    for ((a, b), level) in pairs {
        samples[a].push(Sample { other: b, level: level - mean });
        samples[b].push(Sample { other: a, level: level - mean });
    }
    samples
}

/// Returns a pair's level from its two directions, the same whichever comes first.
fn level(one: Rate, other: Option<Rate>) -> f64 {
    let one = one.bytes_per_second().max(1);
    let other = other.map_or(one, |rate| rate.bytes_per_second().max(1));
    let (slow, fast) = (one.min(other), one.max(other));
    if fast / slow >= ASYMMETRY {
        return log2(slow);
    }
    f64::midpoint(log2(slow), log2(fast))
}
