//! Measuring links with probes: round trips with nothing in them, then growing sizes until the rate grows no more.
//!
//! They also leave the connection's window as wide as the line, so that a job's first tensors do not crawl.

use std::time::Duration as StdDuration;

use wattle_protocol::ids::PeerId;
use wattle_protocol::units::{Bytes as Size, Duration, Rate};

use super::{Net, NetEvent, PROBE_MAX};

/// Bytes of the first probe of a link.
const PROBE_FIRST: u64 = 256 << 10;
/// How long the later probes of a link should take.
const PROBE_TIME: StdDuration = StdDuration::from_millis(100);
/// Most probes with something in them: a connection that has carried little yet sends twice as much in each round trip,
/// until the line is full.
const ROUNDS: usize = 7;
/// A probe that is not faster than the one before by this factor has filled the line.
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
            let mut found = None;
            for attempt in 0..PROBES {
                found = net.probe(peer).await;
                if found.is_some() {
                    break;
                }
                tokio::time::sleep(PROBE_TIME * (attempt + 1)).await;
            }
            let Some((rate, round_trip)) = found else {
                tracing::warn!(%peer, "the link could not be measured");
                return;
            };
            let event = NetEvent::LinkMeasured { peer, rate, round_trip };
            if net.events.send(event).await.is_err() {
                tracing::debug!("nobody listens to the network");
            }
        });
    }

    pub(super) async fn probe(&self, peer: PeerId) -> Option<(Rate, Duration)> {
        let mut shortest = StdDuration::MAX;
        for _ in 0..ROUND_TRIPS {
            shortest = shortest.min(self.timed(peer, 0).await?);
        }
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
        let round_trip = u64::try_from(shortest.as_micros()).unwrap_or(u64::MAX);
        Some((Rate::from_mbit(rate * 8.0 / 1e6), Duration::from_micros(round_trip)))
    }
}
