//! What a grouping costs: the evidence of every pair of groups, and of the groups' sizes.
//!
//! The levels of a block (the links between two groups, or inside one) are draws around one unknown mean. With a
//! normal prior on that mean its integral is closed: for `weight` links with sum `sum`, less what no grouping changes,
//!
//! ```text
//! cost = 1/2 ln(1 + weight SPREAD) - sum^2 SPREAD / (2 NOISE^2 (1 + weight SPREAD))        nats
//! ```
//!
//! The first term is the price of one more mean; it keeps noise from being split. Sizes cost as a Chinese restaurant
//! process has it (`-ln (size - 1)!` a group, [`NEW`] a group). All costs are nats.

use super::logarithm::log2;

/// Standard deviation of a link's level around its block's mean, in octaves: +-30 % is 0.26, and some more.
const NOISE: f64 = 0.3;
/// Variance of the means over the links' variance: means lie within about 3 octaves of the overall one.
const SPREAD: f64 = 100.0;
/// Price of one more group.
pub(super) const NEW: f64 = 1.0;
/// SPREAD as a factor on counts.
const SPREAD_COUNT: u64 = 100;
/// Weights whose terms are kept.
const TABLE: u32 = 1024;
const LN_2: f64 = std::f64::consts::LN_2;

/// What is known of the links of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Block {
    /// How many.
    pub(super) weight: u32,
    /// Sum of their levels.
    pub(super) sum: f64,
}

impl Block {
    /// Takes one more link in.
    pub(super) fn add(&mut self, level: f64) {
        self.weight += 1;
        self.sum += level;
    }

    /// Returns both blocks as one.
    pub(super) fn with(self, other: Self) -> Self {
        Self { weight: self.weight + other.weight, sum: self.sum + other.sum }
    }

    /// Returns the block without some of its links.
    pub(super) fn without(self, other: Self) -> Self {
        let weight = self.weight - other.weight;
        // No links, no sum: rounding must not leave a rest.
        Self { weight, sum: if weight == 0 { 0.0 } else { self.sum - other.sum } }
    }
}

/// What the weight of a block has to say in its cost: the price of its mean, and the factor on its squared sum.
fn terms(weight: u32) -> (f64, f64) {
    if weight == 0 {
        return (0.0, 0.0);
    }
    let scale = 1.0 + f64::from(weight) * SPREAD;
    let mean = LN_2 * log2(1 + u64::from(weight) * SPREAD_COUNT) / 2.0;
    (mean, SPREAD / (2.0 * NOISE * NOISE * scale))
}

/// Groups by place, and a block for each pair of them.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// Peers of each group; an empty one is a place that is free.
    pub(super) members: Vec<Vec<usize>>,
    /// Each block with its cost, which is asked for more often than it changes.
    blocks: Vec<Vec<(Block, f64)>>,
    /// `ln (n - 1)!` by n.
    factorials: Vec<f64>,
    /// Terms of small weights, which are asked for most.
    terms: Vec<(f64, f64)>,
}

impl Blocks {
    /// No groups yet, for up to this many peers.
    pub(super) fn new(peers: usize) -> Self {
        let mut factorials = vec![0.0, 0.0];
        let mut sum = 0.0;
        for n in 2..=peers {
            sum += LN_2 * log2(u64::try_from(n - 1).unwrap_or(u64::MAX));
            factorials.push(sum);
        }
        let terms = (0..TABLE).map(terms).collect();
        Self { members: Vec::new(), blocks: Vec::new(), factorials, terms }
    }

    /// Returns a block's description length.
    fn price(&self, block: Block) -> f64 {
        let place = usize::try_from(block.weight).unwrap_or(usize::MAX);
        let (mean, factor) = self.terms.get(place).copied().unwrap_or_else(|| terms(block.weight));
        mean - block.sum * block.sum * factor
    }

    /// Returns the places of the groups that have peers.
    pub(super) fn places(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|a| !self.members[*a].is_empty()).collect()
    }

    /// Returns a place for one more group.
    pub(super) fn free(&mut self) -> usize {
        if let Some(place) = self.members.iter().position(Vec::is_empty) {
            return place;
        }
        self.members.push(Vec::new());
        for row in &mut self.blocks {
            row.push(Default::default());
        }
        self.blocks.push(vec![Default::default(); self.members.len()]);
        self.members.len() - 1
    }

    /// Returns the block of two groups, or of one and itself.
    pub(super) fn block(&self, a: usize, b: usize) -> Block {
        self.blocks[a][b].0
    }

    fn block_cost(&self, a: usize, b: usize) -> f64 {
        self.blocks[a][b].1
    }

    fn set(&mut self, a: usize, b: usize, block: Block) {
        let costed = (block, self.price(block));
        self.blocks[a][b] = costed;
        self.blocks[b][a] = costed;
    }

    /// Puts a peer, whose links to groups these are, into a group.
    pub(super) fn insert(&mut self, peer: usize, links: &[(usize, Block)], group: usize) {
        for (c, link) in links {
            self.set(group, *c, self.block(group, *c).with(*link));
        }
        let members = &mut self.members[group];
        let place = members.binary_search(&peer).unwrap_or_else(|place| place);
        members.insert(place, peer);
    }

    /// Takes a peer, whose links to groups these are, out of its group.
    pub(super) fn remove(&mut self, peer: usize, links: &[(usize, Block)], group: usize) {
        for (c, link) in links {
            self.set(group, *c, self.block(group, *c).without(*link));
        }
        self.members[group].retain(|p| *p != peer);
    }

    /// Returns what it costs to put a peer, whose links to groups these are, into a group.
    pub(super) fn insertion(&self, links: &[(usize, Block)], group: usize) -> f64 {
        let size = self.members[group].len();
        let mut cost = self.factorials[size] - self.factorials[size + 1];
        for (c, link) in links {
            let (block, cost_before) = self.blocks[group][*c];
            cost += self.price(block.with(*link)) - cost_before;
        }
        if size == 0 { cost + NEW } else { cost }
    }

    /// Returns the part of a merger's cost that is about the two groups alone.
    pub(super) fn merger_inside(&self, a: usize, b: usize) -> f64 {
        let (n, m) = (self.members[a].len(), self.members[b].len());
        let (aa, ab, bb) = (self.block(a, a), self.block(a, b), self.block(b, b));
        self.price(aa.with(ab).with(bb))
            - self.block_cost(a, a)
            - self.block_cost(a, b)
            - self.block_cost(b, b)
            + self.factorials[n]
            + self.factorials[m]
            - self.factorials[n + m]
            - NEW
    }

    /// Returns the part of a merger's cost that is about a third group.
    pub(super) fn merger_beside(&self, a: usize, b: usize, c: usize) -> f64 {
        let (ac, bc) = (self.block(a, c), self.block(b, c));
        if ac.weight == 0 || bc.weight == 0 {
            return 0.0;
        }
        self.price(ac.with(bc)) - self.block_cost(a, c) - self.block_cost(b, c)
    }

    /// Returns the description length of the whole grouping.
    pub(super) fn cost(&self) -> f64 {
        let places = self.places();
        let mut cost = 0.0;
        for (i, a) in places.iter().enumerate() {
            cost += NEW - self.factorials[self.members[*a].len()];
            cost += places[i..].iter().map(|b| self.block_cost(*a, *b)).sum::<f64>();
        }
        cost
    }

    /// Merges group `b` into group `a`.
    pub(super) fn merge(&mut self, a: usize, b: usize) {
        let inside = self.block(a, a).with(self.block(a, b)).with(self.block(b, b));
        for c in 0..self.members.len() {
            let beside = self.block(a, c).with(self.block(b, c));
            self.set(a, c, beside);
            self.set(b, c, Block::default());
        }
        self.set(a, a, inside);
        let mut moved = std::mem::take(&mut self.members[b]);
        self.members[a].append(&mut moved);
        self.members[a].sort_unstable();
    }
}
