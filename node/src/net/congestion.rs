//! How many bytes may be under way on a connection: as many as fill the line, and few more.
//!
//! Cubic, quinn's default, fills the queue of the bottleneck until it overflows, so that control messages wait behind
//! tensors for as long as that queue is deep; and it takes each lost packet for a full queue, so that one per cent of loss
//! by chance leaves a few Mbit/s of any line. Here the window is the rate of arrival, times the shortest round trip and a
//! short queue: the model of BBR (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue 14(5), 2016;
//! rates as in draft-cheng-iccrg-delivery-rate-estimation). Departures: the queue is held all the time instead of probing
//! in cycles, since it is what shows that the line has become faster; the start ends when the queue grows, and not only
//! when the rate does not; the shortest round trip is looked for with three quarters of the line instead of four packets;
//! loss counts once it exceeds what chance makes of a bad line. quinn's own BBR is told sizes that add up over the packets
//! of one system call, and is not used.

mod seen;
mod windows;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub(super) use self::seen::{Progress, Seen};
pub(super) use self::windows::Windows;

/// Packets of the first window: RFC 6928's ten, and more, since tensors come in bursts.
const FIRST: u64 = 32;
/// Packets of the smallest window: more than wait for one acknowledgement, else each waits for its delay.
const LEAST: u64 = 12;
/// Rounds in which the fastest arrival counts.
const ROUNDS: u64 = 10;
/// The queue that is held: half of the round trip, within these, and as many packets at least.
const QUEUE_LEAST: Duration = Duration::from_millis(12);
const QUEUE_MOST: Duration = Duration::from_millis(20);
const QUEUE_PACKETS: u64 = 16;
/// A shortest round trip that was not seen for so long is looked for.
const OLD: Duration = Duration::from_secs(10);
/// The start ends after so many rounds without a quarter more, or once this many acknowledgements in a row, over as long as
/// the queue that is held, came from behind a longer one.
const STALLED: u32 = 3;
const QUEUED: u32 = 8;
/// After so many rounds the window is a quarter larger for two, but by no more than the line carries in this time, and for
/// two more as long as that brings a tenth more.
const PUSHED: u64 = 8;
const PUSHED_BY: Duration = Duration::from_millis(10);
/// A round is lossy if more than one packet in so many is lost, and so many more.
const LOSS: u64 = 25;
const LOSS_PACKETS: u64 = 1;
/// Instants of sending that are remembered at most.
const MARKS: usize = 1 << 16;

/// What was known when packets were sent.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// When the packet was sent whose arrival was the newest known.
    first: Instant,
    /// Whether there was too little to send to fill the line.
    is_limited: bool,
}

/// Growth before the first queue: the fastest rate so far, rounds since it grew by a quarter, and acknowledgements from
/// behind a queue, since when.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    fastest: u64,
    stalled: u32,
    queued: u32,
    since: Option<Instant>,
}

/// Growth after the start where delays that are none of the line's hide that its queue is empty: the round in which the
/// window becomes larger (again), and the rate before, while it is.
#[derive(Clone, Copy, Debug, Default)]
struct Push {
    next: u64,
    before: Option<u64>,
}

/// The window of one connection; rates are bytes a second.
#[derive(Clone, Debug)]
pub(super) struct Steady {
    seen: Seen,
    packet: u64,
    window: u64,
    delivered: u64,
    delivered_at: Instant,
    first: Instant,
    marks: VecDeque<Mark>,
    /// Of the packets that one acknowledgement names: the one sent last.
    newest: Option<Mark>,
    acked: u64,
    is_idle: bool,
    limited_until: u64,
    round: u64,
    round_end: u64,
    round_acked: u64,
    round_lost: u64,
    round_marked: bool,
    /// The fastest of each round; falling, so that the first is the fastest of all.
    rates: VecDeque<(u64, u64)>,
    shortest: Option<(Duration, Instant)>,
    /// Until when the queue is drained, and the shortest round trip since.
    draining: Option<(Instant, Duration)>,
    start: Option<Start>,
    push: Push,
    /// What was too much for the line, less a fifth.
    ceiling: Option<u64>,
    /// When everything was lost for the last time: what was sent before and is missed later says nothing of the new start.
    restarted: Option<Instant>,
}

/// Bytes of a rate in a time.
fn bytes_in(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

impl Steady {
    pub(super) fn new(now: Instant, packet: u64) -> Self {
        Self {
            seen: Seen::new(now),
            packet,
            window: FIRST * packet,
            delivered: 0,
            delivered_at: now,
            first: now,
            marks: VecDeque::new(),
            newest: None,
            acked: 0,
            is_idle: true,
            limited_until: 0,
            round: 0,
            round_end: 0,
            round_acked: 0,
            round_lost: 0,
            round_marked: false,
            rates: VecDeque::new(),
            shortest: None,
            draining: None,
            start: Some(Start::default()),
            push: Push::default(),
            ceiling: None,
            restarted: None,
        }
    }

    /// Packets leave. Their sizes are not asked for: what arrives is counted.
    pub(super) fn sent(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_idle) {
            (self.first, self.delivered_at) = (now, now);
        }
        if self.marks.back().is_some_and(|mark| mark.at >= now) {
            return;
        }
        if self.marks.len() >= MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first: self.first,
            is_limited: self.delivered < self.limited_until,
        });
    }

    /// A packet that was sent then has arrived.
    pub(super) fn arrived(&mut self, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.acked += bytes;
        self.round_acked += bytes;
        if let Ok(place) = self.marks.binary_search_by_key(&sent, |mark| mark.at) {
            let mark = self.marks[place];
            if self.newest.is_none_or(|newest| newest.at < mark.at) {
                self.newest = Some(mark);
            }
        }
    }

    /// All of one acknowledgement has been told.
    pub(super) fn told(&mut self, now: Instant, in_flight: u64, is_limited: bool) {
        let acked = std::mem::take(&mut self.acked);
        if is_limited {
            self.limited_until = self.delivered + in_flight.max(1);
        }
        self.is_idle = in_flight == 0;
        let Some(mark) = self.newest.take() else { return };
        let round_trip = now.saturating_duration_since(mark.at);
        self.see(now, round_trip, mark.is_limited);
        let elapsed = mark.at.saturating_duration_since(mark.first);
        let elapsed = elapsed.max(now.saturating_duration_since(mark.delivered_at)).as_nanos();
        (self.delivered_at, self.first) = (now, mark.at);
        let arrived = u128::from(self.delivered - mark.delivered);
        if let Some(rate) = (arrived * 1_000_000_000).checked_div(elapsed) {
            self.note(u64::try_from(rate).unwrap_or(u64::MAX), mark.is_limited);
        }
        if mark.delivered >= self.round_end {
            self.round_end = self.delivered;
            self.end_round(mark.is_limited);
        }
        // Packets of earlier rounds that are still out may come late; those of long ago do not.
        let kept = round_trip.saturating_mul(4).max(Duration::from_secs(1));
        while self.marks.front().is_some_and(|mark| mark.at + kept < now) {
            self.marks.pop_front();
        }
        self.steer(now, round_trip, acked, is_limited);
        let is_starting = self.start.is_some();
        self.seen.set(Progress { delivered: self.delivered, at: now, is_starting });
    }

    /// Packets are lost (or marked by a router, without bytes), the last of them sent then.
    pub(super) fn lost(&mut self, now: Instant, sent: Instant, bytes: u64, is_all: bool) {
        if self.restarted.is_some_and(|restarted| sent <= restarted) {
            return;
        }
        self.round_lost += bytes;
        self.round_marked |= bytes == 0;
        if is_all {
            self.rates.clear();
            (self.round_lost, self.round_marked) = (0, false);
            (self.start, self.ceiling) = (Some(Start::default()), None);
            self.window = LEAST * self.packet;
            self.restarted = Some(now);
        }
    }

    fn rate(&self) -> u64 {
        self.rates.front().map_or(0, |(_, rate)| *rate)
    }

    fn shortest(&self) -> Duration {
        self.shortest.map_or(Duration::ZERO, |(shortest, _)| shortest)
    }

    fn queue(&self) -> Duration {
        (self.shortest() / 2).clamp(QUEUE_LEAST, QUEUE_MOST)
    }

    fn note(&mut self, rate: u64, is_limited: bool) {
        if is_limited && rate < self.rate() {
            return;
        }
        while self.rates.back().is_some_and(|(_, slower)| *slower <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((self.round, rate));
    }

    /// Takes a round trip into account, and begins and ends looking for the shortest.
    fn see(&mut self, now: Instant, round_trip: Duration, is_limited: bool) {
        if let Some((until, seen)) = &mut self.draining {
            *seen = round_trip.min(*seen);
            if now >= *until {
                self.shortest = Some((*seen, now));
                self.draining = None;
            }
            return;
        }
        match self.shortest {
            Some((shortest, _)) if round_trip <= shortest + shortest / 16 => {
                self.shortest = Some((shortest.min(round_trip), now));
            }
            Some((_, at)) => {
                let is_old = now.saturating_duration_since(at) > OLD;
                if is_old && self.start.is_none() && !is_limited {
                    self.draining = Some((now + round_trip * 2, round_trip));
                }
            }
            None => self.shortest = Some((round_trip, now)),
        }
    }

    fn end_round(&mut self, is_limited: bool) {
        let (acked, lost) =
            (std::mem::take(&mut self.round_acked), std::mem::take(&mut self.round_lost));
        let is_lossy = lost > (acked + lost) / LOSS + LOSS_PACKETS * self.packet;
        let is_too_much = is_lossy | std::mem::take(&mut self.round_marked);
        if is_too_much {
            self.start = None;
            let line = bytes_in(self.rate(), self.shortest());
            self.ceiling = Some(line.max(self.window / 5 * 4));
        } else if let Some(ceiling) = self.ceiling {
            let higher = ceiling + ceiling / 32 + self.packet;
            self.ceiling = (higher < self.target().saturating_mul(2)).then_some(higher);
        }
        if is_limited {
            return;
        }
        self.round += 1;
        while self.rates.len() > 1
            && self.rates.front().is_some_and(|(round, _)| round + ROUNDS < self.round)
        {
            self.rates.pop_front();
        }
        let rate = self.rate();
        self.push(rate);
        if let Some(start) = &mut self.start {
            if rate > start.fastest.saturating_add(start.fastest / 4) {
                (start.fastest, start.stalled) = (rate, 0);
            } else {
                start.stalled += 1;
            }
            if start.stalled >= STALLED {
                self.start = None;
            }
        }
    }

    /// Begins, goes on with or ends a larger window, at the end of a round. What a larger window does is seen in the round
    /// after it, so that it takes two.
    fn push(&mut self, rate: u64) {
        if self.start.is_some() {
            self.push = Push { next: self.round + PUSHED, before: None };
        } else if self.round >= self.push.next {
            let is_over = self.push.before.is_some_and(|before| rate < before + before / 10);
            self.push.before = (!is_over).then_some(rate);
            self.push.next = self.round + if is_over { PUSHED } else { 2 };
        }
    }

    /// What fills the line and the queue.
    fn target(&self) -> u64 {
        let queue = bytes_in(self.rate(), self.queue()).max(QUEUE_PACKETS * self.packet);
        let full = bytes_in(self.rate(), self.shortest()).saturating_add(queue);
        let more = (full / 4).min(bytes_in(self.rate(), PUSHED_BY)).max(self.packet);
        if self.push.before.is_some() { full + more } else { full }
    }

    fn steer(&mut self, now: Instant, round_trip: Duration, acked: u64, is_limited: bool) {
        let queue = self.queue();
        let is_queued = round_trip > self.shortest() + queue;
        if let Some(start) = &mut self.start {
            start.queued = if is_queued { start.queued + 1 } else { 0 };
            let since = *start.since.get_or_insert(now);
            if !is_queued {
                start.since = None;
            } else if start.queued >= QUEUED && now.saturating_duration_since(since) >= queue {
                self.start = None;
            }
        }
        let wanted = match self.draining {
            Some(_) => bytes_in(self.rate(), self.shortest()) / 4 * 3,
            None if self.start.is_some() && is_limited => self.window,
            None if self.start.is_some() => self.window + acked,
            None => self.target().min(self.window + acked),
        };
        self.window = wanted.min(self.ceiling.unwrap_or(u64::MAX)).max(LEAST * self.packet);
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }
}

#[cfg(test)]
mod tests;
