//! Lays a network along a line of groups so that no station takes longer than a given time for a micro-batch.
//!
//! From the end of the network to its start, since the number of stages behind a stage says how many micro-batches it
//! keeps. Each group takes as many units as it can; a cut moves towards the end until what crosses it passes the link
//! in time. The least time for which a line suffices is found by bisection (our algorithm; papers.md 1.8 proposes a
//! dynamic program over the same problem, which is slower by a factor of the number of units).

use super::super::ground::Ground;
use super::super::groups::Groups;
use super::super::load::Load;
use super::super::pipeline::{Way, in_flight};
use super::grain::Grain;
use super::judge::Judge;
use super::layout::{Layout, Team};
use super::memory::{Holding, Memory, Running};
use crate::job::JobSpec;
use crate::units::{Bytes, Duration};

/// How many groups a line may leave out between two that it uses.
const SKIPPED_MAX: usize = 6;
/// Steps of the bisection: the least time is found to within a five hundredth.
const BISECTIONS: u32 = 24;
/// Slower lines have fewer stages, thus less to fill and drain: these multiples of the least time are laid too, in
/// hundredths.
const SLACK: [u64; 12] = [100, 102, 105, 110, 120, 135, 160, 200, 270, 400, 700, 1500];

/// Times and sizes of prefixes of the network.
#[derive(Debug)]
pub(super) struct Stretch<'a> {
    grain: &'a Grain,
    spec: &'a JobSpec,
    ground: &'a Ground<'a>,
    order: Vec<usize>,
    /// In which of the job's ways passes are taken to run.
    number: u8,
    way: Way,
    /// Bytes that cross each place of the order, and what of them goes over a link.
    flowing: Vec<Bytes>,
    crossing: Vec<Bytes>,
    /// Nanoseconds for the units before each place, by peer.
    times: Vec<Vec<u64>>,
    /// Nanoseconds that both passes take beside their units, by peer.
    passes: Vec<u64>,
    groups: Groups,
    /// Memory that layouts may take, by peer.
    rooms: Vec<u64>,
    parameters: Vec<u64>,
    saved: Vec<u64>,
    inputs: Vec<u64>,
    memory: Memory,
}

/// A group's numbers for one line.
#[derive(Debug)]
struct Group<'l> {
    peers: &'l Team,
    /// Nanoseconds of a micro-batch for the units before each place, all peers working.
    times: Vec<u64>,
    /// Nanoseconds that both passes take beside their units.
    passes: u64,
    memory: u64,
}

/// The best piece that begins at a group: where it starts, how many stages there are from it on, what follows.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
    stages: usize,
    next: Option<usize>,
}

impl<'a> Stretch<'a> {
    /// Computes the times of the peers below `able` for the units in a topological order, in one of the job's ways.
    pub(super) fn new(
        judge: &Judge<'a>,
        able: usize,
        order: Vec<usize>,
        (number, way): (u8, Way),
    ) -> Self {
        let (grain, spec, ground) = (judge.grain, judge.spec, judge.ground);
        let (crowd, flowing) = (ground.crowd([]), grain.crossing(&order));
        let loads: Vec<Load> = order
            .iter()
            .map(|&unit| {
                let both = grain.forward[unit] + grain.backward[unit];
                if way.recompute { both + grain.again[unit] } else { both }
            })
            .collect();
        let both = Load::PASS.times(2000);
        let times = |peer: usize| {
            let nanos = loads.iter().map(|load| {
                // A thousand times the work, so that small units do not round to nothing.
                let thousand = load.times(1000);
                ground.time(peer, thousand, &crowd).micros()
            });
            sums(nanos)
        };
        Self {
            times: (0..able).map(times).collect(),
            passes: (0..able).map(|peer| ground.time(peer, both, &crowd).micros()).collect(),
            groups: judge.groups.clone(),
            rooms: (0..able).map(|peer| judge.room(peer).count()).collect(),
            parameters: sums(order.iter().map(|u| grain.parameters[*u].0.count())),
            saved: sums(order.iter().map(|u| grain.saved[*u].count())),
            inputs: sums(order.iter().map(|u| grain.inputs[*u].count())),
            crossing: flowing.iter().map(|bytes| judge.rules.codec.least(*bytes)).collect(),
            flowing,
            order,
            number,
            way,
            memory: judge.memory,
            grain,
            spec,
            ground,
        }
    }

    /// Returns how passes are taken to run.
    pub(super) const fn way(&self) -> Way {
        self.way
    }

    /// Returns layouts along a line: that of the least time, and some with fewer stages. With a fixed number of stages
    /// layouts have at most so many.
    pub(super) fn layouts(&self, line: &[Team]) -> Vec<Layout> {
        // A group that comes several times runs a stage each time, and has its memory for all of them.
        let times = |peers: &Team| line.iter().filter(|other| *other == peers).count();
        let groups: Vec<Group<'_>> =
            line.iter().map(|peers| self.group(peers, times(peers))).collect();
        let most = self.spec.swarm.stages.map_or(usize::from(crate::job::STAGES_MAX), usize::from);
        let whole =
            groups.iter().filter_map(|g| Some(g.times.last()?.saturating_add(g.passes))).max();
        let whole = whole.unwrap_or(0);
        let slowest_link = Duration::from_micros(whole / 1000);
        let (mut low, mut high) = (0, whole.max(1));
        // Links may need more time than any group: rise until the line suffices, or give up.
        let mut rises = 0;
        while self.lay(&groups, high, most).is_none() {
            low = high;
            high = high.saturating_mul(4);
            rises += 1;
            if rises > 12 || slowest_link == Duration::MAX {
                return Vec::new();
            }
        }
        for _ in 0..BISECTIONS {
            if high - low <= high / 500 {
                break;
            }
            let middle = low + (high - low) / 2;
            match self.lay(&groups, middle, most) {
                Some(_) => high = middle,
                None => low = middle,
            }
        }
        let mut found: Vec<Layout> = Vec::new();
        for slack in SLACK {
            let time = high.saturating_mul(slack) / 100;
            if let Some(layout) = self.lay(&groups, time, most)
                && !found.contains(&layout)
            {
                found.push(layout);
            }
        }
        found
    }

    fn group<'l>(&self, peers: &'l Team, times: usize) -> Group<'l> {
        let units = self.grain.units();
        // Groups of micro-batches are dealt out for whole stages; here as for the whole network.
        let whole = |peer: &usize| self.times[*peer].last().copied().unwrap_or(0);
        let shares = match peers.len() {
            1 => vec![u64::from(self.groups.count())],
            _ => self.groups.shares(&peers.iter().map(whole).collect::<Vec<u64>>()),
        };
        let busiest = |own: &dyn Fn(usize) -> u64| -> u64 {
            let each =
                peers.iter().zip(&shares).map(|(peer, share)| own(*peer).saturating_mul(*share));
            each.max().unwrap_or(0) / u64::from(self.groups.count())
        };
        let of = |unit: usize| {
            busiest(&|peer| (self.times[peer][unit + 1] - self.times[peer][unit]).max(1)).max(1)
        };
        let passes = busiest(&|peer| self.passes[peer]);
        let memory = peers.iter().map(|p| self.rooms[*p]).min().unwrap_or(0);
        let memory = memory / (times as u64).max(1);
        Group { peers, times: sums((0..units).map(of)), passes, memory }
    }

    /// Lays the network so that no station takes longer than `time`, in nanoseconds, with at most so many stages.
    fn lay(&self, groups: &[Group<'_>], time: u64, most: usize) -> Option<Layout> {
        let units = self.grain.units();
        let mut pieces: Vec<Option<Piece>> = vec![None; groups.len()];
        for place in (0..groups.len()).rev() {
            let mut best = self.piece(&groups[place], (units, 1), time, None);
            let last = (place + 1 + SKIPPED_MAX).min(groups.len() - 1);
            for next in place + 1..=last {
                let Some(behind) = pieces[next] else { continue };
                if behind.stages >= most || behind.start == 0 {
                    continue;
                }
                let pair = (groups[place].peers, groups[next].peers);
                let Some(end) = self.passable(pair, (behind.start, behind.end), time) else {
                    continue;
                };
                let piece = self.piece(&groups[place], (end, behind.stages + 1), time, Some(next));
                let better = |new: &Piece| {
                    best.is_none_or(|old| (new.start, new.stages) < (old.start, old.stages))
                };
                if let Some(piece) = piece.filter(better) {
                    best = Some(piece);
                }
            }
            pieces[place] = best;
        }
        let first = (0..groups.len())
            .filter(|place| pieces[*place].is_some_and(|p| p.start == 0))
            .min_by_key(|place| pieces[*place].map(|p| p.stages))?;
        let way = self.number;
        let mut layout = Layout { stage_of: vec![0; units], stages: Vec::new(), way };
        let (mut place, mut start) = (Some(first), 0);
        while let Some(at) = place {
            let piece = pieces[at]?;
            // The piece behind begins where this one ends, which may be later than it could.
            let end = piece.end;
            let stage = u16::try_from(layout.stages.len()).ok()?;
            for unit in &self.order[start..end] {
                layout.stage_of[*unit] = stage;
            }
            layout.stages.push(groups[at].peers.clone());
            start = end;
            place = piece.next;
        }
        Some(layout)
    }

    /// Returns the first place from `from` on, before `to`, across which one micro-batch passes in time both ways.
    fn passable(
        &self,
        (near, far): (&Team, &Team),
        (from, to): (usize, usize),
        time: u64,
    ) -> Option<usize> {
        let (near_peer, far_peer) = (near.first()?, far.first()?);
        if near == far {
            return Some(from);
        }
        let there = self.ground.link(*near_peer, *far_peer).0;
        let back = self.ground.link(*far_peer, *near_peer).0;
        let rate = u128::from(there.min(back).bytes_per_second());
        // Groups send on several links at once.
        let lanes = near.len().min(far.len()) as u128;
        let fits = u128::from(time) * rate * lanes / 1_000_000_000;
        (from..to).find(|place| u128::from(self.crossing[*place].count()) <= fits)
    }

    /// Returns the longest piece of a group that ends at a place, within time and memory; None if it is empty.
    fn piece(
        &self,
        group: &Group<'_>,
        (end, stages): (usize, usize),
        time: u64,
        next: Option<usize>,
    ) -> Option<Piece> {
        let (until, time) = (group.times[end], time.checked_sub(group.passes)?);
        let in_time = group.times[..end].partition_point(|before| until - before > time);
        let micro_batches = self.spec.train.micro_batches;
        let kept = in_flight(self.way.order, 0, stages, micro_batches);
        let shared = (group.peers.len(), u64::from(kept));
        let fits = |start: usize| self.need((start, end), shared) <= group.memory;
        // Mostly all of it fits.
        let (mut low, mut high) = (in_time, if fits(in_time) { in_time } else { end });
        while low < high {
            let middle = low + (high - low) / 2;
            if fits(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        (low < end).then_some(Piece { start: low, end, stages, next })
    }

    fn need(&self, (start, end): (usize, usize), (workers, kept): (usize, u64)) -> u64 {
        let of = |sums: &[u64]| Bytes::new(sums[end] - sums[start]);
        let holding = Holding {
            parameters: of(&self.parameters),
            saved: of(&self.saved),
            inputs: of(&self.inputs),
            outside: self.flowing[start],
        };
        let running = Running { workers, kept, recompute: self.way.recompute };
        self.memory.demand(&holding, running).peak.count()
    }
}

/// Returns running sums, from zero.
fn sums(list: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut total = 0u64;
    let rest = list.map(|item| {
        total = total.saturating_add(item);
        total
    });
    let mut sums = vec![0];
    sums.extend(rest);
    sums
}
