//! What a link carries while it is full: the rate of bytes that have arrived, and how long a question in a control frame's
//! place takes to be answered meanwhile.
//!
//! Bytes go on streams as tensors do, questions as control frames do, over the one connection of both. Not here: the short
//! probes that adverts are made of (`probe`).

use std::time::Duration as StdDuration;

use bytes::Bytes;
use cpu_time::ProcessTime;
use tokio::sync::oneshot;
use tokio::time::Instant;
use wattle_protocol::ids::PeerId;
use wattle_protocol::units::{Bytes as Size, Duration, Rate};

use super::hub::{self, Order};
use super::rpc::Request;
use super::{Net, PROBE_MAX, std};

/// From one question to the next.
const EVERY: StdDuration = StdDuration::from_millis(50);
/// Questions on the empty link.
const QUIET: usize = 40;
/// Shipments under way at once: the line stays full while a receipt travels.
const AT_ONCE: usize = 2;
/// How long a shipment should take, and the least it has.
const SHIPMENT: StdDuration = StdDuration::from_millis(400);
const SHIPMENT_MIN: u64 = 256 << 10;

/// What was seen. Times are sorted.
#[derive(Clone, Debug)]
pub struct Strained {
    /// Bytes that arrived over time, from the first receipt to the last.
    pub rate: Rate,
    /// Bytes that arrived in all.
    pub bytes: Size,
    /// How long answers took before the link was full.
    pub quiet: Vec<Duration>,
    /// How long answers took while it was.
    pub full: Vec<Duration>,
    /// Processor time of this process while it was full.
    pub processor: Duration,
    /// Packets sent and of these lost while it was full; None over TCP, and if the connection was replaced.
    pub packets: Option<(u64, u64)>,
}

/// Returns the element below which a share lies, of sorted ones.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(Duration::ZERO)
}

impl Net {
    /// Fills the link towards a connected peer for so long.
    ///
    /// *Errors*: None if the peer is gone, or nothing arrived twice in that time.
    pub async fn strain(&self, peer: PeerId, time: StdDuration) -> Option<Strained> {
        let mut quiet = Vec::new();
        for _ in 0..QUIET {
            quiet.push(self.asked(peer).await?);
            tokio::time::sleep(EVERY).await;
        }
        quiet.sort();
        let (rate, _) = self.probe(peer).await?;
        let wanted = rate.bytes_per_second() as f64 * SHIPMENT.as_secs_f64();
        let wanted = wanted.clamp(SHIPMENT_MIN as f64, PROBE_MAX as f64);
        let size = Duration::from_seconds(wanted / 1e6).micros();
        let (before, began) = (self.packets(&peer), ProcessTime::now());
        let end = Instant::now() + time;
        let (mut full, arrivals) =
            tokio::join!(self.questions(peer, end), self.fill(peer, size, end));
        full.sort();
        let processor = began.elapsed();
        let packets = before.zip(self.packets(&peer));
        // From the first arrival to the last; the bytes of the first came before.
        let (first, last) = (arrivals.first()?, arrivals.last()?);
        let seconds = (*last - *first).as_secs_f64();
        let bytes = size * (arrivals.len() as u64 - 1);
        (seconds > 0.0).then(|| Strained {
            rate: Rate::from_mbit(bytes as f64 * 8.0 / 1e6 / seconds),
            bytes: Size::new(size * arrivals.len() as u64),
            quiet,
            full,
            processor: Duration::from_seconds(processor.as_secs_f64()),
            packets: packets.and_then(|(before, after)| {
                Some((after.0.checked_sub(before.0)?, after.1.checked_sub(before.1)?))
            }),
        })
    }

    /// Ships until the end; returns when each shipment had arrived, in order.
    async fn fill(&self, peer: PeerId, size: u64, end: Instant) -> Vec<Instant> {
        let payload = Bytes::from(vec![0x5a; usize::try_from(size).unwrap_or_default()]);
        let lane = || async {
            let mut arrivals = Vec::new();
            while Instant::now() < end {
                if !self.carry(peer, super::Kind::Probe, &[], vec![payload.clone()]).await {
                    break;
                }
                arrivals.push(Instant::now());
            }
            arrivals
        };
        let lanes = futures::future::join_all((0..AT_ONCE).map(|_| lane())).await;
        let mut arrivals: Vec<Instant> = lanes.into_iter().flatten().collect();
        arrivals.sort();
        arrivals
    }

    /// Asks at even distances until the end; no question waits for the answer to the one before.
    async fn questions(&self, peer: PeerId, end: Instant) -> Vec<Duration> {
        let mut answers = tokio::task::JoinSet::new();
        let mut ticks = tokio::time::interval(EVERY);
        while Instant::now() < end {
            ticks.tick().await;
            let net = self.clone();
            answers.spawn(async move { net.asked(peer).await });
        }
        answers.join_all().await.into_iter().flatten().collect()
    }

    /// Says how long a question takes to be answered.
    async fn asked(&self, peer: PeerId) -> Option<Duration> {
        let (reply, answer) = oneshot::channel();
        let began = Instant::now();
        if let Some(link) = self.link(&peer) {
            tokio::time::sleep(std(link.latency)).await;
        }
        self.order(Order::Request { to: peer, request: Request::Probe(Vec::new()), reply });
        answer.await.ok()?;
        Some(Duration::from_seconds(began.elapsed().as_secs_f64()))
    }

    /// Packets sent to a peer over its best connection, and of these lost.
    fn packets(&self, peer: &PeerId) -> Option<(u64, u64)> {
        let path = self.connections.best(&hub::library_id(peer)?)?.stats().path;
        Some((path.sent_packets, path.lost_packets))
    }
}
