//! Whom to measure next, within a budget of bytes: nobody measures all pairs.
//!
//! Each turn looks for one kind of link: one that behaves oddly, one to somebody near, one to anybody, the stalest, one
//! across a border of fences. "Anybody" is the same draw at both ends and differs between peers, so that the measured
//! links are a random graph plus the neighbourhoods: what clustering needs. Probes spend tokens that flow in with a
//! share of the line's own rate; passive samples cost nothing and count as fresh.
//! Not here: what a measurement says (`gauge`). Concept: `docs/concepts/links-and-fences.md`.

use crate::ids::PeerId;
use crate::units::{Bytes, Duration, Instant, Rate};

/// Links that a peer keeps measured: half of them near, half to anybody.
pub const LINKS: usize = 64;
/// A probe's share of the line: one in this many bytes that it could carry.
const SHARE: u64 = 100;
/// Bytes a second for probes on the slowest lines.
const FLOW_MIN: u64 = 16 << 10;
/// Bytes that may be saved up: first looks at as many peers as an advert lists links.
const SAVED_MAX: u64 = 16 << 20;
/// What a probe of an unknown link is taken to cost.
const PROBE_FIRST: u64 = 512 << 10;
/// A probe of a known link carries what the link does in this time.
const PROBE_TIME: Duration = Duration::from_millis(200);
/// No probe carries more.
const PROBE_MAX: u64 = 16 << 20;
/// A link that was not measured for so long is stale.
const STALE: Duration = Duration::from_millis(600_000);
/// A link across a border of fences is looked at more often.
const STALE_BORDER: Duration = Duration::from_millis(300_000);
/// A doubtful link is looked at again after this.
const STALE_DOUBTFUL: Duration = Duration::from_millis(2_000);

/// A peer that could be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: PeerId,
    /// When the link was measured last, and what it reached.
    pub measured: Option<(Instant, Rate)>,
    /// Predicted round trip.
    pub near: Duration,
    /// The last sample does not fit the others.
    pub is_doubtful: bool,
    /// It is of another fence.
    pub is_across: bool,
}

/// Kinds of links, one a turn.
const KINDS: usize = 5;

/// The budget, and whose turn it is.
#[derive(Clone, Debug)]
pub struct Prober {
    me: PeerId,
    saved: u64,
    filled: Instant,
    turn: usize,
}

impl Prober {
    /// Begins with a full purse.
    pub fn new(me: PeerId) -> Self {
        Self { me, saved: SAVED_MAX, filled: Instant::default(), turn: 0 }
    }

    /// Says whether the budget allows a probe of an unknown link.
    pub fn is_ready(&mut self, now: Instant, line: Option<Rate>) -> bool {
        self.fill(now, line);
        self.saved >= PROBE_FIRST
    }

    /// Returns whom to probe now, if the budget allows a probe and any link wants one.
    pub fn next(&mut self, now: Instant, line: Option<Rate>, all: &[Candidate]) -> Option<PeerId> {
        self.fill(now, line);
        let measured = all.iter().filter(|c| c.measured.is_some()).count();
        for _ in 0..KINDS {
            let kind = self.turn;
            self.turn = (self.turn + 1) % KINDS;
            let chosen = self.choose(kind, now, measured, all);
            if let Some(candidate) = chosen {
                return self
                    .spend(candidate.measured.map(|(_, rate)| rate))
                    .then_some(candidate.peer);
            }
        }
        None
    }

    /// Says whether a peer that has just been met may be measured at once, and pays for it.
    pub fn first(&mut self, now: Instant, line: Option<Rate>, measured: usize) -> bool {
        self.fill(now, line);
        measured < LINKS / 2 && self.spend(None)
    }

    /// Pays for what the first look at a link has cost beyond what was known: probes that double until the line is full.
    pub fn has_found(&mut self, rate: Rate) {
        self.saved = self.saved.saturating_sub(cost(Some(rate)).count());
    }

    fn fill(&mut self, now: Instant, line: Option<Rate>) {
        let flow = line.map_or(0, |rate| rate.bytes_per_second() / SHARE).max(FLOW_MIN);
        let micros = u128::from(now.since(self.filled).micros());
        let more = u64::try_from(micros * u128::from(flow) / 1_000_000).unwrap_or(u64::MAX);
        if more > 0 {
            self.filled = now;
            self.saved = self.saved.saturating_add(more).min(SAVED_MAX);
        }
    }

    fn spend(&mut self, rate: Option<Rate>) -> bool {
        let cost = cost(rate).count();
        let can = self.saved >= cost;
        if can {
            self.saved -= cost;
        }
        can
    }

    fn choose<'a>(
        &self,
        kind: usize,
        now: Instant,
        measured: usize,
        all: &'a [Candidate],
    ) -> Option<&'a Candidate> {
        let older = |c: &Candidate, limit| c.measured.is_some_and(|(at, _)| now.since(at) >= limit);
        let age = |c: &&Candidate| (c.measured.map(|(at, _)| at), c.peer);
        let (room, near) = (measured < LINKS, measured < LINKS / 2);
        match kind {
            0 => all.iter().filter(|c| c.is_doubtful && older(c, STALE_DOUBTFUL)).min_by_key(age),
            1 => all
                .iter()
                .filter(|c| near && c.measured.is_none())
                .min_by_key(|c| (c.near, lot(self.me, c.peer))),
            2 => all
                .iter()
                .filter(|c| room && c.measured.is_none())
                .min_by_key(|c| lot(self.me, c.peer)),
            3 => all.iter().filter(|c| older(c, STALE)).min_by_key(age),
            _ => all.iter().filter(|c| c.is_across && older(c, STALE_BORDER)).min_by_key(age),
        }
    }
}

/// Returns what a probe of a link carries, two parts of it together.
pub fn cost(rate: Option<Rate>) -> Bytes {
    let known = rate.map(|r| r.bytes_per_second() / 1_000 * (PROBE_TIME.micros() / 1_000));
    Bytes::new(known.map_or(PROBE_FIRST, |bytes| (bytes + PROBE_FIRST / 2).min(PROBE_MAX)))
}

/// A pair's lot: the same from both ends, and in no order over pairs (finalizer of `SplitMix64`).
pub fn lot(a: PeerId, b: PeerId) -> u64 {
    let head = |peer: PeerId| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&peer.bytes()[..8]);
        u64::from_le_bytes(bytes)
    };
    let mut mixed = head(a) ^ head(b);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> PeerId {
        PeerId::new(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn fresh(n: u32) -> Candidate {
        let near = Duration::from_millis(u64::from(n));
        Candidate { peer: peer(n), measured: None, near, is_doubtful: false, is_across: false }
    }

    fn later(seconds: u64) -> Instant {
        Instant::default() + Duration::from_millis(seconds * 1000)
    }

    /// Goal: the budget holds whatever there is to measure. Method: 10,000 peers, an hour, a probe whenever it may be.
    #[test]
    fn ten_thousand_peers_are_measured_within_the_budget() {
        let mut all: Vec<Candidate> = (1..=10_000).map(fresh).collect();
        let mut prober = Prober::new(peer(0));
        let rate = Rate::from_mbit(20.0);
        let mut spent = 0;
        for second in 0..3600 {
            if let Some(found) = prober.next(later(second), Some(rate), &all) {
                let candidate = all.iter_mut().find(|c| c.peer == found).unwrap();
                spent += cost(candidate.measured.map(|(_, rate)| rate)).count();
                candidate.measured = Some((later(second), rate));
            }
        }
        let measured: Vec<&Candidate> = all.iter().filter(|c| c.measured.is_some()).collect();
        assert_eq!(measured.len(), LINKS);
        let near = measured.iter().filter(|c| c.near < Duration::from_millis(40)).count();
        assert!((12..=40).contains(&near), "{near} near ones, the others anywhere");
        let age = |c: &&Candidate| later(3600).since(c.measured.unwrap().0);
        assert!(measured.iter().map(age).max() < Some(STALE * 5), "all in turn");
        let flow = (rate.bytes_per_second() / SHARE).max(FLOW_MIN);
        assert!(spent <= SAVED_MAX + 3600 * flow, "{spent} bytes in an hour");
    }

    #[test]
    fn doubt_comes_before_age_and_nobody_is_asked_for_nothing() {
        let mut prober = Prober::new(peer(0));
        let settled = |n, doubtful| Candidate {
            measured: Some((later(1), Rate::from_mbit(8.0))),
            is_doubtful: doubtful,
            ..fresh(n)
        };
        let all = [settled(1, false), settled(2, true)];
        assert_eq!(prober.next(later(5), None, &all), Some(peer(2)));
        assert_eq!(prober.next(later(6), None, &[settled(1, false)]), None);
        assert_eq!(prober.next(later(700), None, &[settled(1, false)]), Some(peer(1)));
    }

    #[test]
    fn both_ends_draw_the_same_lot() {
        assert_eq!(lot(peer(1), peer(2)), lot(peer(2), peer(1)));
        assert_ne!(lot(peer(1), peer(2)), lot(peer(1), peer(3)));
    }
}
