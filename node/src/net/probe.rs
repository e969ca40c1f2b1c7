//! Measuring links with probes: round trips with nothing in them, then bytes until the line is full and a while longer.
//!
//! Over QUIC the rate is what arrived in that while, as the congestion control counts it, so that neither the growth of its
//! window nor the way of the receipt is in it. Where there is none (TCP, emulated limits), growing sizes are timed until
//! the rate grows no more. Either leaves the connection's window as wide as the line, so that a job's first tensors do not
//! crawl. Not here: a link under load for longer (`strain`).

use std::sync::PoisonError;
use std::time::Duration as StdDuration;

use tokio::time::sleep;
use wattle_protocol::ids::PeerId;
use wattle_protocol::schedule::gauge::Packets;
use wattle_protocol::units::{Bytes as Size, Duration, Rate};

use super::congestion::{Progress, Seen};
use super::{Net, NetEvent, PROBE_MAX, bulk, hub};
use crate::clock::moment;

/// Bytes of the first timed probe of a link.
const PROBE_FIRST: u64 = 256 << 10;
/// How long the later timed probes should take.
const PROBE_TIME: StdDuration = StdDuration::from_millis(100);
/// A line is watched until it was so often no faster than before by this factor: the window may still have to grow.
const WATCHES: u32 = 4;
const FASTER: f64 = 1.1;
/// How long each time, or a round trip; for as many bytes at least, and not beyond so many.
const WATCH_TIME: StdDuration = StdDuration::from_millis(40);
const WATCHED_MIN: u64 = 32 << 10;
const WATCHED_MAX: u64 = 3 << 20;
/// How long a link may take to fill and to be watched.
const PATIENCE: StdDuration = StdDuration::from_secs(4);
/// From one look at the window to the next.
const LOOK: StdDuration = StdDuration::from_millis(2);
/// Tensor bytes of a full packet: what QUIC's and the cipher's frames leave of 1,452.
const PAYLOAD: f64 = 0.975;
/// Most timed probes with something in them: a connection that has carried little yet sends twice as much in each round
/// trip, until the line is full.
const ROUNDS: usize = 7;
/// A timed probe that is not faster than the one before by this factor has filled the line.
const GROWTH: f64 = 1.25;
/// Round trips of which the shortest counts.
const ROUND_TRIPS: usize = 4;
/// Attempts to measure a link; a connection that has just opened may still be replaced.
const PROBES: u32 = 5;

impl Net {
    /// Measures round trip and rate towards a peer; a `LinkMeasured` event brings the result.
    pub fn measure(&self, peer: PeerId) {
        let net = self.clone();
        tokio::spawn(async move {
            net.settled(peer).await;
            let Ok(_turn) = net.shared.probing.acquire().await else {
                return;
            };
            let Some((rate, round_trip)) = net.probe(peer).await else {
                tracing::warn!(%peer, "the link could not be measured");
                return;
            };
            let packets = net.packets_since(peer);
            let event = NetEvent::LinkMeasured { peer, rate, round_trip, packets };
            if net.events.send(event).await.is_err() {
                tracing::debug!("nobody listens to the network");
            }
        });
    }

    /// Measures rate and round trip towards a peer, again if the connection is replaced meanwhile.
    pub(super) async fn probe(&self, peer: PeerId) -> Option<(Rate, Duration)> {
        for attempt in 0..PROBES {
            if let Some(found) = self.probe_once(peer).await {
                return Some(found);
            }
            sleep(PROBE_TIME * (attempt + 1)).await;
        }
        None
    }

    async fn probe_once(&self, peer: PeerId) -> Option<(Rate, Duration)> {
        let mut shortest = StdDuration::MAX;
        for _ in 0..ROUND_TRIPS {
            shortest = shortest.min(self.timed(peer, 0).await?);
        }
        let connection = hub::library_id(&peer).and_then(|id| self.connections.best(&id));
        let rate = match connection.filter(|_| self.link(&peer).is_none()) {
            Some(connection) => self.flooded(&connection, shortest).await?,
            None => self.grown(peer, shortest).await?,
        };
        let round_trip = u64::try_from(shortest.as_micros()).unwrap_or(u64::MAX);
        Some((Rate::from_mbit(rate * 8.0 / 1e6), Duration::from_micros(round_trip)))
    }

    /// Returns the bytes a second of tensors that arrive once the line is full.
    async fn flooded(&self, connection: &quinn::Connection, shortest: StdDuration) -> Option<f64> {
        let seen = Seen::of(connection)?;
        let _leaves = self.leaves();
        bulk::flood(connection, &self.desk, watched(&seen, shortest))
            .await
            .inspect_err(|error| tracing::debug!(%error, "a probe has not come through"))
            .ok()?
    }

    /// Returns the packets of a link since it was asked for them last; none over TCP.
    fn packets_since(&self, peer: PeerId) -> Packets {
        let Some(connection) = hub::library_id(&peer).and_then(|id| self.connections.best(&id))
        else {
            return Packets::default();
        };
        let path = connection.stats().path;
        let now = Packets { sent: path.sent_packets, lost: path.lost_packets };
        let mut all = self.shared.packets.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is gone is forgotten, so that this holds no more than there are connections.
        all.retain(|known, _| {
            hub::library_id(known).is_some_and(|id| self.connections.best(&id).is_some())
        });
        let before = all.insert(peer, (connection.stable_id(), now));
        // Ids come again: counts that have shrunk are another connection's.
        let before = before.filter(|(id, p)| {
            *id == connection.stable_id() && p.sent <= now.sent && p.lost <= now.lost
        });
        let before = before.map_or(Packets::default(), |(_, packets)| packets);
        Packets { sent: now.sent - before.sent, lost: now.lost - before.lost }
    }

    /// Times probes of growing sizes.
    async fn grown(&self, peer: PeerId, shortest: StdDuration) -> Option<f64> {
        let mut size = PROBE_FIRST;
        let mut rate = 0.0f64;
        for round in 0..ROUNDS {
            let took = self.timed(peer, size).await?.saturating_sub(shortest);
            let seen = size as f64 / took.max(StdDuration::from_micros(10)).as_secs_f64();
            let is_settled = seen < rate * GROWTH;
            // The first probe of a connection fills it slowly and says little.
            rate = if round < 2 { seen } else { rate.max(seen) };
            if round > 0 && is_settled {
                break;
            }
            let next = Size::new(PROBE_MAX).count() as f64;
            let wanted = (rate * PROBE_TIME.as_secs_f64()).clamp(PROBE_FIRST as f64, next);
            size = Duration::from_seconds(wanted / 1e6).micros();
        }
        Some(rate)
    }
}

/// Waits until the line is full, then watches it until it grows no faster: the second fastest time counts, since others'
/// traffic and a busy machine make it slower, and acknowledgements that were held up together seem faster once. None if
/// nothing arrives.
async fn watched(seen: &Seen, shortest: StdDuration) -> Option<f64> {
    let end = moment() + PATIENCE;
    let began = seen.now();
    let look = async |is_done: &(dyn Fn(Progress) -> bool + Sync)| {
        let mut now = seen.now();
        while !is_done(now) && moment() < end {
            sleep(LOOK).await;
            now = seen.now();
        }
        now
    };
    let is_spent = |now: Progress| now.delivered - began.delivered > PROBE_MAX - WATCHED_MAX;
    look(&|now| !now.is_starting || is_spent(now)).await;
    // A window that was full before is so again a round trip after the first bytes; one that has just become full drains.
    sleep(shortest * 2).await;
    let mut from = look(&|now| now.delivered > began.delivered).await;
    let time = WATCH_TIME.max(shortest);
    let (mut fastest, mut second, mut settled) = (0.0, 0.0, 0);
    while settled < WATCHES && !is_spent(from) && moment() < end {
        let to = look(&|now| {
            let bytes = now.delivered - from.delivered;
            let is_long = now.at.saturating_duration_since(from.at) >= time;
            (is_long && bytes >= WATCHED_MIN) || bytes >= WATCHED_MAX
        })
        .await;
        let seconds = to.at.saturating_duration_since(from.at).as_secs_f64();
        let rate = (to.delivered - from.delivered) as f64 * PAYLOAD / seconds;
        settled = if rate > fastest * FASTER { 1 } else { settled + 1 };
        // No bytes in no time are no rate.
        let rate = if rate.is_normal() { rate } else { 0.0 };
        (fastest, second) = (f64::max(fastest, rate), f64::max(second, rate.min(fastest)));
        from = to;
    }
    let filling = from.at.saturating_duration_since(began.at).as_secs_f64();
    let found = concluded([second, fastest], from.delivered - began.delivered, filling);
    tracing::debug!(?found, fastest, ?shortest, is_full = !from.is_starting, "a line was watched");
    found
}

/// Returns the bytes a second of a line from what watches saw and what arrived since the first byte, in so many seconds.
fn concluded(watches: [f64; 2], delivered: u64, seconds: f64) -> Option<f64> {
    // A line that was away for that long is no line that slow; it is asked again.
    if delivered < WATCHED_MIN {
        return None;
    }
    // A line so slow that patience ended has been watched once; one so fast that a busy machine slept through its bytes,
    // never, and what it carried while it filled is what is known.
    let filled = delivered as f64 * PAYLOAD / seconds;
    watches.into_iter().chain([filled]).find(|rate| rate.is_normal())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_away_is_no_slow_line() {
        assert_eq!(concluded([0.0, 0.0], 20_000, 4.0), None);
        assert_eq!(concluded([0.0, 20_000.0], 80_000, 4.0), Some(20_000.0));
        assert_eq!(concluded([0.0, 0.0], 1 << 20, 0.5), Some(PAYLOAD * f64::from(2 << 20)));
        assert_eq!(concluded([3e6, 4e6], 1 << 20, 0.5), Some(3e6));
    }
}
