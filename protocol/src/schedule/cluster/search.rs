//! How a good grouping is found: a core is merged bottom-up, the rest joins it, then groups and peers move.

use std::collections::{BTreeMap, BTreeSet};

use super::Sample;
use super::blocks::{Block, Blocks};

/// Most peers that are merged bottom-up, which costs their number cubed; the rest joins what these make.
pub(super) const CORE: usize = 128;
/// Most groups; beyond, whoever fits nowhere is put where it fits best, so that no network makes the search slow.
const GROUPS_MAX: usize = 96;
/// Rounds of moves and mergers; each lowers the cost, and a handful is usual.
const ROUNDS: usize = 16;
/// An improvement below this is rounding.
const EPSILON: f64 = 1e-6;

/// A grouping in the making.
pub(super) struct Search<'a> {
    samples: &'a [Vec<Sample>],
    peers: Vec<usize>,
    /// Group of each peer that has one.
    group: Vec<Option<usize>>,
    blocks: Blocks,
}

impl<'a> Search<'a> {
    /// Begins a search over some of the peers whose links these are.
    pub(super) fn new(samples: &'a [Vec<Sample>], peers: Vec<usize>) -> Self {
        let blocks = Blocks::new(peers.len() + 1);
        Self { samples, peers, group: vec![None; samples.len()], blocks }
    }

    /// Finds groups from nothing.
    pub(super) fn run(&mut self) {
        let core = self.core();
        for peer in &core {
            let place = self.blocks.free();
            self.put(*peer, place);
        }
        self.merge();
        self.place_rest();
        self.settle();
    }

    /// Takes groups that were found before; who is in none joins what fits best.
    pub(super) fn follow(&mut self, groups: &[Vec<usize>]) {
        for group in groups {
            let linked = group.iter().filter(|p| self.peers.binary_search(p).is_ok());
            let linked: Vec<usize> = linked.copied().collect();
            if !linked.is_empty() {
                let place = self.blocks.free();
                for peer in linked {
                    self.put(peer, place);
                }
            }
        }
        self.place_rest();
    }

    fn place_rest(&mut self) {
        for peer in self.peers.clone() {
            if self.group[peer].is_none() {
                let place = self.best(peer).0;
                self.put(peer, place);
            }
        }
    }

    /// Lets peers move and groups merge while that lowers the cost.
    pub(super) fn settle(&mut self) {
        for _ in 0..ROUNDS {
            let moved = self.shift();
            if !self.merge() && !moved {
                break;
            }
        }
    }

    /// Returns the description length of the grouping.
    pub(super) fn cost(&self) -> f64 {
        self.blocks.cost()
    }

    /// Returns the groups.
    pub(super) fn groups(self) -> Vec<Vec<usize>> {
        self.blocks.members.into_iter().filter(|members| !members.is_empty()).collect()
    }

    /// Returns the peers that know most of each other: those with the fewest links among the rest go first.
    fn core(&self) -> BTreeSet<usize> {
        let mut core: BTreeSet<usize> = self.peers.iter().copied().collect();
        let mut degree: BTreeMap<usize, usize> =
            self.peers.iter().map(|p| (*p, self.samples[*p].len())).collect();
        let mut queue: BTreeSet<(usize, usize)> = degree.iter().map(|(p, d)| (*d, *p)).collect();
        while core.len() > CORE {
            let Some((_, peer)) = queue.pop_first() else {
                break;
            };
            core.remove(&peer);
            for other in self.samples[peer].iter().map(|s| s.other) {
                if let Some(count) = degree.get_mut(&other)
                    && queue.remove(&(*count, other))
                {
                    *count -= 1;
                    queue.insert((*count, other));
                }
            }
        }
        core
    }

    /// Returns a peer's links to the groups to which it has any.
    fn links(&self, peer: usize) -> Vec<(usize, Block)> {
        let mut links = vec![Block::default(); self.blocks.members.len()];
        for sample in &self.samples[peer] {
            if let Some(group) = self.group[sample.other] {
                links[group].add(sample.level);
            }
        }
        links.into_iter().enumerate().filter(|(_, block)| block.weight > 0).collect()
    }

    fn put(&mut self, peer: usize, place: usize) {
        let links = self.links(peer);
        self.blocks.insert(peer, &links, place);
        self.group[peer] = Some(place);
    }

    /// Returns where a peer without a group fits best, and what that costs.
    fn best(&mut self, peer: usize) -> (usize, f64) {
        let mut places = self.blocks.places();
        if places.len() < GROUPS_MAX {
            // Last, so that a tie goes to a group that is there.
            places.push(self.blocks.free());
        }
        let links = self.links(peer);
        let mut best = (places[0], f64::INFINITY);
        for place in places {
            let cost = self.blocks.insertion(&links, place);
            if cost < best.1 - EPSILON {
                best = (place, cost);
            }
        }
        best
    }

    /// Lets each peer in turn move to where it fits best. Returns whether any has moved.
    fn shift(&mut self) -> bool {
        let mut moved = false;
        for peer in self.peers.clone() {
            let Some(here) = self.group[peer] else {
                continue;
            };
            let links = self.links(peer);
            self.blocks.remove(peer, &links, here);
            self.group[peer] = None;
            let stay = self.blocks.insertion(&links, here);
            let (place, cost) = self.best(peer);
            let place = if cost < stay - EPSILON { place } else { here };
            moved |= place != here;
            self.put(peer, place);
        }
        moved
    }

    /// Merges the pair of groups that gains most, again and again. Returns whether any pair was merged.
    fn merge(&mut self) -> bool {
        let mut places = self.blocks.places();
        let mut costs = self.mergers(&places);
        let mut merged = false;
        while let Some((_, a, b)) = cheapest(&places, &costs) {
            self.forget(&mut costs, &places, (a, b));
            for peer in self.blocks.members[b].clone() {
                self.group[peer] = Some(a);
            }
            self.blocks.merge(a, b);
            places.retain(|place| *place != b);
            self.renew(&mut costs, &places, a);
            merged = true;
        }
        merged
    }

    /// Returns the cost of merging each pair of groups, by their places.
    fn mergers(&self, places: &[usize]) -> Vec<Vec<f64>> {
        let size = self.blocks.members.len();
        let mut costs = vec![vec![0.0; size]; size];
        for (i, a) in places.iter().enumerate() {
            for b in &places[i + 1..] {
                costs[*a][*b] = self.merger(places, *a, *b);
            }
        }
        costs
    }

    fn merger(&self, places: &[usize], a: usize, b: usize) -> f64 {
        let others = places.iter().filter(|c| **c != a && **c != b);
        self.blocks.merger_inside(a, b)
            + others.map(|c| self.blocks.merger_beside(a, b, *c)).sum::<f64>()
    }

    /// Takes out of all mergers' costs what two groups, which are about to become one, have to do with them.
    fn forget(&self, costs: &mut [Vec<f64>], places: &[usize], (p, q): (usize, usize)) {
        for (i, a) in places.iter().enumerate().filter(|(_, a)| **a != p && **a != q) {
            for b in places[i + 1..].iter().filter(|b| **b != p && **b != q) {
                costs[*a][*b] -= self.blocks.merger_beside(*a, *b, p);
                costs[*a][*b] -= self.blocks.merger_beside(*a, *b, q);
            }
        }
    }

    /// Brings into all mergers' costs what a group that has changed has to do with them.
    fn renew(&self, costs: &mut [Vec<f64>], places: &[usize], p: usize) {
        for (i, a) in places.iter().enumerate() {
            for b in &places[i + 1..] {
                if *a == p || *b == p {
                    costs[*a][*b] = self.merger(places, *a, *b);
                } else {
                    costs[*a][*b] += self.blocks.merger_beside(*a, *b, p);
                }
            }
        }
    }
}

/// Returns the merger that gains most, if any gains; ties go to the first places.
fn cheapest(places: &[usize], costs: &[Vec<f64>]) -> Option<(f64, usize, usize)> {
    let mut best: Option<(f64, usize, usize)> = None;
    for (i, a) in places.iter().enumerate() {
        for b in &places[i + 1..] {
            let cost = costs[*a][*b];
            if cost < -EPSILON && best.is_none_or(|(least, _, _)| cost < least - EPSILON) {
                best = Some((cost, *a, *b));
            }
        }
    }
    best
}
