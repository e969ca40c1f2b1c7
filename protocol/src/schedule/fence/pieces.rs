//! The dynamic program: for a line of peers, the contiguous pieces whose pipeline is fastest, for every number of stages.
//!
//! It runs from the end of the network to its start, so that a piece's place from the end, which says how many
//! micro-batches it keeps, is known and one run serves every number of stages. What lies behind a place is a few lines
//! of stations of which none is both slower at its slowest and longer in sum than another; the rest is dropped.
//! Lines far above the best one known are dropped as well, since a line only grows.

use super::profile::Profile;
use crate::job::JobSpec;
use crate::schedule::advert::Advert;
use crate::schedule::links::Links;
use crate::schedule::pipeline::in_flight;
use crate::units::Bytes;

/// Lines up to so many times the best one may still be the best plan: they know nothing of backups or shared machines.
const SLACK: u64 = 16;

/// Contiguous pieces with their owners, in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pieces {
    /// Time of a step without its end, as the program sees it, in microseconds.
    pub(super) line: u64,
    /// For each stage, its owner's place among the able peers and the cut place at which it ends.
    pub(super) stages: Vec<(usize, usize)>,
}

/// The best stations from a place on: the slowest and the sum of all, in microseconds, and where the first one ends.
#[derive(Clone, Copy, Debug)]
struct Rest {
    slowest: u64,
    sum: u64,
    /// Place of the next stage's peer in the order; anything at the last stage.
    next: usize,
    end: usize,
}

/// Times of all stations and links, computed once.
#[derive(Debug)]
pub(super) struct Stations<'a> {
    profile: &'a Profile,
    spec: &'a JobSpec,
    able: &'a [&'a Advert],
    /// Thousandths of the peers' memory that pieces may take.
    share: u64,
    ends: usize,
    /// By peer, start and end.
    own: Vec<u64>,
    /// By sender, receiver and place: the busier direction, and both together.
    links: Vec<(u64, u64)>,
    /// Micro-batches after the first.
    more: u64,
    /// Lines above this are dropped.
    most: u64,
}

impl<'a> Stations<'a> {
    /// Computes the times.
    ///
    /// *Cost*: O(peers x places^2 + peers^2 x places).
    pub(super) fn new(
        profile: &'a Profile,
        spec: &'a JobSpec,
        (able, share): (&'a [&'a Advert], u64),
        links: &Links,
    ) -> Self {
        let ends = profile.places.len();
        let mut own = vec![u64::MAX; able.len() * ends * ends];
        for (peer, hardware) in
            able.iter().enumerate().filter_map(|(n, a)| Some((n, a.hardware.as_ref()?)))
        {
            for start in 0..ends {
                for end in start + 1..ends {
                    let load = profile.load(start, end, spec.swarm.recompute);
                    own[(peer * ends + start) * ends + end] = hardware.time(load).micros();
                }
            }
        }
        let mut times = Vec::with_capacity(able.len() * able.len() * ends);
        for from in able {
            for to in able {
                for size in &profile.crossing {
                    let there = links.transfer(from.peer, to.peer, *size).0.micros();
                    let back = links.transfer(to.peer, from.peer, *size).0.micros();
                    times.push((there.max(back), there.saturating_add(back)));
                }
            }
        }
        let more = u64::from(spec.train.micro_batches.saturating_sub(1));
        Self { profile, spec, able, share, ends, own, links: times, more, most: u64::MAX }
    }

    /// Returns the time of a line of stations.
    ///
    /// papers.md 1.7: identical jobs on a line of stations take the sum of all plus the slowest for each further job.
    /// The slowest and the sum are kept apart; their line time ranks the partial placements (our rule).
    fn line(&self, slowest: u64, sum: u64) -> u64 {
        sum.saturating_add(slowest.saturating_mul(self.more))
    }

    /// Finds the best pieces on peers in this order, of which some may be left out, for each of these numbers of stages
    /// and each first peer.
    ///
    /// *Cost*: O(stages x peers x places x (peers + places)).
    pub(super) fn pieces(&mut self, order: &[usize], counts: &[usize]) -> Vec<Pieces> {
        let most = counts.iter().copied().max().unwrap_or(0).min(order.len());
        let mut found = Vec::new();
        // rest[stages - 1][place in the order][start]
        let mut rest: Vec<Vec<Vec<Option<Rest>>>> = Vec::new();
        for stages in 1..=most {
            let layer: Vec<Vec<Option<Rest>>> = (0..order.len())
                .map(|place| match order.len() - place < stages {
                    true => vec![None; self.ends],
                    false => self.begin(order, place, stages, rest.last()),
                })
                .collect();
            rest.push(layer);
            if counts.contains(&stages) {
                let whole = (0..order.len()).filter_map(|place| self.trace(order, place, &rest));
                found.extend(whole.filter(|p| p.line <= self.most));
                let least = found.iter().map(|p| p.line).min().unwrap_or(u64::MAX);
                self.most = self.most.min(least.saturating_mul(SLACK));
            }
        }
        found
    }

    /// Finds the best lines of so many stages that begin at one peer, by start; `behind` are those of one stage less.
    fn begin(
        &self,
        order: &[usize],
        place: usize,
        stages: usize,
        behind: Option<&Vec<Vec<Option<Rest>>>>,
    ) -> Vec<Option<Rest>> {
        let last = self.ends - 1;
        let followers: Vec<Vec<Rest>> = match behind {
            None => {
                (0..=last).map(|end| if end == last { vec![NOTHING] } else { vec![] }).collect()
            }
            Some(behind) => {
                (0..=last).map(|end| self.followers(order, place, end, behind)).collect()
            }
        };
        let micro_batches = self.spec.train.micro_batches;
        let kept = u64::from(in_flight(self.spec.swarm.order, 0, stages, micro_batches));
        let peer = order[place];
        let memory = self.able[peer].hardware.as_ref().map_or(0, |h| h.memory.count());
        let memory = Bytes::new(memory / 1000) * self.share;
        let best = |start: usize| {
            let mut best: Option<(u64, Rest)> = None;
            let own = &self.own[(peer * self.ends + start) * self.ends..][..self.ends];
            for end in start + 1..=last {
                // Both only grow with the piece.
                if self.line(own[end], own[end]) > self.most
                    || self.profile.least_memory((start, end), kept) > memory
                {
                    break;
                }
                for after in &followers[end] {
                    let slowest = after.slowest.max(own[end]);
                    let sum = after.sum.saturating_add(own[end]);
                    let line = self.line(slowest, sum);
                    if line <= self.most && best.as_ref().is_none_or(|(least, _)| line < *least) {
                        best = Some((line, Rest { slowest, sum, next: after.next, end }));
                    }
                }
            }
            best.map(|(_, rest)| rest)
        };
        (0..self.ends).map(best).collect()
    }

    /// Returns the lines that may follow a piece of one peer that ends at a place, with the link into them.
    fn followers(
        &self,
        order: &[usize],
        place: usize,
        end: usize,
        behind: &[Vec<Option<Rest>>],
    ) -> Vec<Rest> {
        let mut list: Vec<Rest> = Vec::new();
        for next in place + 1..order.len() {
            let Some(rest) = behind[next][end] else {
                continue;
            };
            let pair = order[place] * self.able.len() + order[next];
            let (busier, both) = self.links[pair * self.ends + end];
            let (slowest, sum) = (rest.slowest.max(busier), rest.sum.saturating_add(both));
            if list.iter().any(|other| other.slowest <= slowest && other.sum <= sum) {
                continue;
            }
            list.retain(|other| other.slowest < slowest || other.sum < sum);
            list.push(Rest { slowest, sum, next, end });
        }
        list
    }

    /// Follows the best line from the start of the network.
    fn trace(
        &self,
        order: &[usize],
        mut place: usize,
        rest: &[Vec<Vec<Option<Rest>>>],
    ) -> Option<Pieces> {
        let first = rest.last()?[place][0]?;
        let line = self.line(first.slowest, first.sum);
        let (mut stages, mut start) = (Vec::with_capacity(rest.len()), 0);
        for layer in rest.iter().rev() {
            let at = layer[place][start]?;
            stages.push((order[place], at.end));
            (place, start) = (at.next, at.end);
        }
        Some(Pieces { line, stages })
    }
}

/// What follows the last piece.
const NOTHING: Rest = Rest { slowest: 0, sum: 0, next: 0, end: 0 };
