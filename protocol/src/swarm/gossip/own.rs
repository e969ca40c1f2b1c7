//! What this peer says of itself, and when it is time to say it again.
//!
//! What others wait for (a device, an address, the first links) is said at the next round; further ones and a figure that has
//! moved wait a little for the next ones; the same is said again after a while, so that silence means something.

use ed25519_dalek::SigningKey;

use crate::ids::PeerId;
use crate::schedule::advert::{
    ADDRESSES_MAX, Advert, Hardware, LINKS_MAX, Link, SignedAdvert, TEXT_MAX,
};
use crate::schedule::coordinate::Coordinate;
use crate::units::{Duration, Instant, Rate};

/// A link's figure is told at once when it has grown or shrunk by half or more: less is within the noise of single
/// samples, and told with the next advert.
const CHANGE: (u64, u64) = (3, 2);
/// Figures that have moved are told no more often than this.
const PAUSE: Duration = Duration::from_millis(5_000);

/// The own advert in the making.
#[derive(Debug)]
pub(super) struct Own {
    key: SigningKey,
    advert: Advert,
    /// Others wait for what has changed.
    is_urgent: bool,
    /// Figures have moved since the advert was signed.
    has_moved: bool,
    /// Links as they were signed last.
    said: Vec<Link>,
    /// When the advert was signed last.
    signed: Instant,
}

impl Own {
    pub(super) fn new(key: SigningKey, mut addresses: Vec<String>) -> Self {
        addresses.truncate(ADDRESSES_MAX);
        let peer = PeerId::new(key.verifying_key().to_bytes());
        let advert = Advert { addresses, ..Advert::new(peer) };
        let signed = Instant::default();
        Self { key, advert, is_urgent: true, has_moved: false, said: vec![], signed }
    }

    pub(super) fn peer(&self) -> PeerId {
        self.advert.peer
    }

    /// Sets or takes back what this machine can do.
    pub(super) fn set_hardware(&mut self, hardware: Option<Hardware>) {
        // Others wait for a device; how much faster or slower it has turned out to be can wait for other figures.
        let is_first = hardware.is_some() != self.advert.hardware.is_some();
        self.is_urgent |= is_first;
        self.has_moved |= self.advert.hardware != hardware;
        self.advert.hardware = hardware;
    }

    pub(super) fn has_device(&self) -> bool {
        self.advert.hardware.is_some()
    }

    /// Takes where this machine is reached, in place of what was said before.
    pub(super) fn listens(&mut self, mut addresses: Vec<String>) {
        addresses.retain(|address| address.len() <= TEXT_MAX);
        addresses.truncate(ADDRESSES_MAX);
        if self.advert.addresses != addresses {
            self.advert.addresses = addresses;
            self.is_urgent = true;
        }
    }

    /// Takes the links to list, in the order of their peers, and where this peer lies.
    pub(super) fn set_links(&mut self, mut links: Vec<Link>, coordinate: Coordinate) {
        links.truncate(LINKS_MAX);
        for link in &links {
            match self.said.binary_search_by_key(&link.peer, |l| l.peer) {
                // Others wait for the first links; more come one after another, and wait for each other.
                Err(_) if self.said.is_empty() => self.is_urgent = true,
                Err(_) => self.has_moved = true,
                Ok(place) => {
                    let rates = [self.said[place].rate, link.rate].map(Rate::bytes_per_second);
                    let (slow, fast) = (rates[0].min(rates[1]), rates[0].max(rates[1]));
                    self.has_moved |= fast >= slow.saturating_mul(CHANGE.0) / CHANGE.1;
                }
            }
        }
        self.advert.links = links;
        self.advert.coordinate = coordinate;
    }

    /// Notes that an earlier life of this peer has said more than this one.
    pub(super) fn outdo(&mut self, sequence: u64) -> bool {
        let behind = sequence > self.advert.sequence;
        if behind {
            self.advert.sequence = sequence;
            self.is_urgent = true;
        }
        behind
    }

    pub(super) fn sequence(&self) -> u64 {
        self.advert.sequence
    }

    /// Says whether it is time to speak.
    pub(super) fn is_due(&self, now: Instant, renew: Duration) -> bool {
        let since = now.since(self.signed);
        self.is_urgent || (self.has_moved && since >= PAUSE) || since >= renew
    }

    /// Signs what this peer says of itself by now.
    pub(super) fn sign(&mut self, now: Instant) -> SignedAdvert {
        (self.is_urgent, self.has_moved, self.signed) = (false, false, now);
        self.said.clone_from(&self.advert.links);
        self.advert.sequence = self.advert.sequence.saturating_add(1);
        SignedAdvert::sign(self.advert.clone(), &self.key)
    }
}
