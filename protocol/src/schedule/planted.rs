//! Swarms whose fences are known, drawn from a seed: what clustering is tried on.
//!
//! Inside a fence links reach 1 to 10 Gbit/s, between two fences 8 Mbit/s to 1 Gbit/s, one figure a fence and one a
//! pair of fences, spread evenly by octaves. A measurement is off by up to 30 % either way.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::advert::Link;
use super::links::Links;
use crate::ids::PeerId;
use crate::units::{Duration, Rate};

/// Slowest and fastest link inside a fence, in Mbit/s.
const INSIDE: (f64, f64) = (1e3, 1e4);
/// Slowest and fastest link between fences, in Mbit/s.
const ACROSS: (f64, f64) = (8.0, 1e3);
/// Round trips inside and between fences, in microseconds.
const ROUND_TRIPS: (u64, u64) = (400, 30_000);
/// How far a measurement may be off, as a share.
const NOISE: f64 = 0.3;
/// Fewest peers of a fence: one alone has no rate inside.
const FENCE_MIN: usize = 2;

/// Peers in fences, and what their links truly reach.
#[derive(Clone, Debug)]
pub struct Planted {
    /// All peers.
    pub peers: Vec<PeerId>,
    /// Fence of each peer, by place.
    pub fence: Vec<usize>,
    /// Rates between fences, and inside where both are the same, in Mbit/s.
    pub rates: Vec<Vec<f64>>,
    rng: ChaCha8Rng,
}

impl Planted {
    /// Draws a swarm of some peers in some fences.
    ///
    /// *Panics* if there are too few peers for two in each fence.
    pub fn new(seed: u64, peers: usize, fences: usize) -> Self {
        assert!(peers >= fences * FENCE_MIN, "each fence has two peers or more");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut fence: Vec<usize> = (0..fences).flat_map(|f| [f; FENCE_MIN]).collect();
        fence.extend((fence.len()..peers).map(|_| below(&mut rng, fences)));
        let mut rates = vec![vec![0.0; fences]; fences];
        for (a, b) in (0..fences).flat_map(|a| (0..=a).map(move |b| (a, b))) {
            rates[a][b] = octaves(&mut rng, if a == b { INSIDE } else { ACROSS });
            rates[b][a] = rates[a][b];
        }
        let mut id = || {
            let mut bytes = [0; 32];
            rng.fill_bytes(&mut bytes);
            PeerId::new(bytes)
        };
        Self { peers: (0..peers).map(|_| id()).collect(), fence, rates, rng }
    }

    /// Draws a swarm of 48 peers in two to six fences, as the seed says.
    pub fn of_48(seed: u64) -> Self {
        let fences = ChaCha8Rng::seed_from_u64(!seed).next_u64() % 5 + 2;
        Self::new(seed, 48, usize::try_from(fences).unwrap_or(2))
    }

    /// Measures the link from one place to another, with noise.
    pub fn measure(&mut self, from: usize, to: usize) -> Link {
        let (a, b) = (self.fence[from], self.fence[to]);
        let noise = 1.0 - NOISE + 2.0 * NOISE * share(&mut self.rng);
        let round_trip = if a == b { ROUND_TRIPS.0 } else { ROUND_TRIPS.1 };
        Link {
            peer: self.peers[to],
            rate: Rate::from_mbit(self.rates[a][b] * noise),
            round_trip: Duration::from_micros(round_trip),
            loss: None,
        }
    }

    /// Measures all links once in each direction; this share of them is lost.
    pub fn links(&mut self, lost: f64) -> Links {
        let mut links = Links::default();
        for from in 0..self.peers.len() {
            for to in (0..self.peers.len()).filter(|to| *to != from) {
                if share(&mut self.rng) >= lost {
                    links.insert(self.peers[from], self.measure(from, to));
                }
            }
        }
        links
    }

    /// Measures links from each peer to this many others, drawn anew for each.
    pub fn links_few(&mut self, count: usize) -> Links {
        let mut links = Links::default();
        for from in 0..self.peers.len() {
            for _ in 0..count {
                let to = below(&mut self.rng, self.peers.len());
                if to != from {
                    links.insert(self.peers[from], self.measure(from, to));
                }
            }
        }
        links
    }

    /// Returns the true fences, in the form of [`super::cluster::fences`].
    pub fn truth(&self) -> Vec<Vec<PeerId>> {
        let mut fences = vec![Vec::new(); self.rates.len()];
        for (peer, fence) in self.peers.iter().zip(&self.fence) {
            fences[*fence].push(*peer);
        }
        for fence in &mut fences {
            fence.sort_unstable();
        }
        fences.retain(|fence| !fence.is_empty());
        fences.sort();
        fences
    }
}

/// Draws from 0 up to, but not including, 1.
fn share(rng: &mut ChaCha8Rng) -> f64 {
    f64::from(rng.next_u32()) / (f64::from(u32::MAX) + 1.0)
}

/// Draws evenly by octaves.
fn octaves(rng: &mut ChaCha8Rng, (least, most): (f64, f64)) -> f64 {
    least * (most / least).powf(share(rng))
}

fn below(rng: &mut ChaCha8Rng, count: usize) -> usize {
    let span = u64::try_from(count.max(1)).unwrap_or(1);
    usize::try_from(rng.next_u64() % span).unwrap_or(0)
}
