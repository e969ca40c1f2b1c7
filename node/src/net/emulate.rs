//! Emulated links, for demonstrations and tests on one machine: a rate and a latency towards each peer.
//!
//! A tensor arrives when its last byte would: tensors to one peer follow one another at the link's rate, then travel
//! for the latency. Control frames travel for the latency only. Whoever emulates says so in its output.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use wattle_protocol::ids::PeerId;
use wattle_protocol::units::{Bytes, Duration, Rate};

/// An emulated link, as its sending end sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmulatedLink {
    /// Bytes per second; None: as fast as it goes.
    pub rate: Option<Rate>,
    /// One-way latency.
    pub latency: Duration,
}

/// Emulated links by receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmulatedLinks {
    /// Towards peers that are not named.
    pub default: Option<EmulatedLink>,
    /// Towards named peers.
    pub to: BTreeMap<PeerId, EmulatedLink>,
}

impl EmulatedLinks {
    /// Returns the link towards a peer, where one is emulated.
    pub fn link(&self, to: &PeerId) -> Option<EmulatedLink> {
        self.to.get(to).copied().or(self.default)
    }
}

/// The file form: peers as hexadecimal digits, since keys of JSON objects are texts.
#[derive(Serialize, Deserialize)]
struct File {
    default: Option<EmulatedLink>,
    to: Vec<(PeerId, EmulatedLink)>,
}

impl Serialize for EmulatedLinks {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let to = self.to.iter().map(|(peer, link)| (*peer, *link)).collect();
        File { default: self.default, to }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EmulatedLinks {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let file = File::deserialize(deserializer)?;
        Ok(Self { default: file.default, to: file.to.into_iter().collect() })
    }
}

/// When each emulated link is free again.
#[derive(Debug, Default)]
pub(super) struct Lines {
    free: BTreeMap<PeerId, Instant>,
}

impl Lines {
    /// Books a tensor; returns when its last byte arrives.
    pub(super) fn book(
        &mut self,
        to: PeerId,
        link: EmulatedLink,
        size: Bytes,
        now: Instant,
    ) -> Instant {
        let busy = link.rate.map_or(Duration::ZERO, |rate| size / rate);
        let free = self.free.entry(to).or_insert(now);
        *free = (*free).max(now) + std::time::Duration::from_micros(busy.micros());
        *free + std::time::Duration::from_micros(link.latency.micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tensors_follow_one_another_and_travel_at_once() {
        let mut lines = Lines::default();
        let now = Instant::now();
        let link =
            EmulatedLink { rate: Some(Rate::from_mbit(8.0)), latency: Duration::from_millis(10) };
        let to = PeerId::new([1; 32]);
        let first = lines.book(to, link, Bytes::new(100_000), now);
        let second = lines.book(to, link, Bytes::new(100_000), now);
        assert_eq!((first - now).as_millis(), 110);
        assert_eq!((second - now).as_millis(), 210);
    }

    #[test]
    fn links_survive_their_file() {
        let link = EmulatedLink { rate: None, latency: Duration::from_millis(3) };
        let links =
            EmulatedLinks { default: Some(link), to: [(PeerId::new([2; 32]), link)].into() };
        let text = serde_json::to_string(&links).unwrap();
        assert_eq!(serde_json::from_str::<EmulatedLinks>(&text).unwrap(), links);
    }
}
