//! What a peer says about itself: measured hardware, measured links, where it listens. Signed.
//!
//! An advert is a hint that OP-Fence starts from; what a peer then does is the truth.

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::coordinate::Coordinate;
use super::kinds::{Kinds, stretched, stretched_by};
use super::load::Load;
use crate::ids::PeerId;
use crate::units::{Bytes, Duration, Rate, Speed};

/// Most links that one advert lists; the rest are the reader's to estimate.
pub const LINKS_MAX: usize = 32;
/// Most addresses that one advert lists.
pub const ADDRESSES_MAX: usize = 8;
/// Most characters of a text field of an advert.
pub const TEXT_MAX: usize = 128;

/// Prefix of what is signed, so that a signature means nothing elsewhere.
const DOMAIN: &[u8] = b"wattle-advert-v5\0";

/// A machine's measured speed and memory, at the share that its owner gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Name of the device for people.
    pub device: String,
    /// Achieved speed of f32 matrix products in a transformer's training.
    pub speed: Speed,
    /// Achieved speed of f32 convolutions in a residual network's training.
    pub conv_speed: Speed,
    /// Achieved speed of element-wise arithmetic.
    pub vector_speed: Speed,
    /// Achieved rate of reading and writing in element-wise operators.
    pub touch_rate: Rate,
    /// Time that an operator takes however small it is.
    pub overhead: Duration,
    /// How kinds of operators compare with these, and what a pass costs.
    pub kinds: Kinds,
    /// Memory that a job may use.
    pub memory: Bytes,
    /// Which machine this is part of, for peers that share one; 0 where that is not said.
    pub host: u64,
    /// Threads that the machine runs at once, in thousandths.
    pub host_capacity: u32,
    /// Threads that this peer keeps busy when it computes, in thousandths.
    pub demand: u32,
}

impl Hardware {
    /// Predicts how long some work takes here.
    ///
    /// Our rule: a sum of measured coefficients (arithmetic or memory traffic by kind, launches, passes), no overlap
    /// assumed.
    pub fn time(&self, load: Load) -> Duration {
        let kinds = &self.kinds;
        load.products / self.speed
            + stretched(load.attention / self.speed, kinds.attention)
            + stretched(load.attention_grads / self.speed, kinds.attention_grads)
            + stretched(load.recurrences / self.speed, kinds.recurrences)
            + load.convolutions / self.conv_speed
            + stretched(load.convolution_grads / self.conv_speed, kinds.convolution_grads)
            + load.elements / self.vector_speed
            + load.bytes / self.touch_rate
            + stretched(load.norms / self.touch_rate, kinds.norms)
            + stretched(load.channel_norms / self.touch_rate, kinds.channel_norms)
            + stretched(load.moves / self.touch_rate, kinds.moves)
            + stretched_by(self.overhead, load.launches.weighed(&kinds.starts))
            + kinds.pass * load.passes
    }
}

/// A link as its sending end has measured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The receiving end.
    pub peer: PeerId,
    /// Achieved one-way throughput.
    pub rate: Rate,
    /// Round-trip time.
    pub round_trip: Duration,
    /// Packets lost of a million sent; None where too few were counted, or none can be.
    pub loss: Option<u32>,
}

/// What one peer says about itself; a higher sequence replaces a lower one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// Who.
    pub peer: PeerId,
    /// Grows with each version.
    pub sequence: u64,
    /// Where it listens, as multiaddresses.
    pub addresses: Vec<String>,
    /// What it can do; None for a peer that only watches and submits.
    pub hardware: Option<Hardware>,
    /// Links that it has measured, in the order of their peers.
    pub links: Vec<Link>,
    /// Where it lies in the network, for round trips that nobody has measured.
    pub coordinate: Coordinate,
}

impl Advert {
    /// Returns the advert of a peer that has said nothing yet.
    pub fn new(peer: PeerId) -> Self {
        Self {
            peer,
            sequence: 0,
            addresses: vec![],
            hardware: None,
            links: vec![],
            coordinate: Coordinate::default(),
        }
    }
}

/// An advert with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedAdvert {
    /// What is said.
    pub advert: Advert,
    /// ed25519 over the domain and the advert's bytes, in two halves.
    signature: ([u8; 32], [u8; 32]),
}

/// Why an advert is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdvertError {
    /// Too many or too long parts.
    #[error("the advert of {0} is larger than an honest one")]
    TooLarge(PeerId),
    /// The signature does not match the peer's key.
    #[error("the advert of {0} is not signed by it")]
    Signature(PeerId),
}

impl SignedAdvert {
    /// Signs an advert with the key of its peer.
    ///
    /// *Panics* if the advert speaks for another peer than the key's.
    pub fn sign(advert: Advert, key: &SigningKey) -> Self {
        assert_eq!(advert.peer.bytes(), &key.verifying_key().to_bytes(), "a peer signs for itself");
        let bytes = key.sign(&signed_bytes(&advert)).to_bytes();
        let mut halves = ([0; 32], [0; 32]);
        halves.0.copy_from_slice(&bytes[..32]);
        halves.1.copy_from_slice(&bytes[32..]);
        Self { advert, signature: halves }
    }

    /// Checks sizes and the signature.
    ///
    /// *Errors*: [`AdvertError`].
    pub fn check(&self) -> Result<(), AdvertError> {
        let advert = &self.advert;
        let long = advert.addresses.iter().any(|a| a.len() > TEXT_MAX)
            || advert.hardware.as_ref().is_some_and(|h| h.device.len() > TEXT_MAX);
        if long || advert.addresses.len() > ADDRESSES_MAX || advert.links.len() > LINKS_MAX {
            return Err(AdvertError::TooLarge(advert.peer));
        }
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.signature.0);
        bytes[32..].copy_from_slice(&self.signature.1);
        VerifyingKey::from_bytes(advert.peer.bytes())
            .and_then(|key| key.verify(&signed_bytes(advert), &Signature::from_bytes(&bytes)))
            .map_err(|_| AdvertError::Signature(advert.peer))
    }
}

/// The bytes that are signed: fixed-width fields in order, texts with their lengths.
fn signed_bytes(advert: &Advert) -> Vec<u8> {
    let mut bytes = DOMAIN.to_vec();
    bytes.extend_from_slice(advert.peer.bytes());
    bytes.extend_from_slice(&advert.sequence.to_le_bytes());
    bytes.extend_from_slice(&(advert.addresses.len() as u64).to_le_bytes());
    for address in &advert.addresses {
        push_text(&mut bytes, address);
    }
    match &advert.hardware {
        None => bytes.push(0),
        Some(hardware) => {
            bytes.push(1);
            push_text(&mut bytes, &hardware.device);
            bytes.extend_from_slice(&hardware.speed.flops_per_second().to_le_bytes());
            bytes.extend_from_slice(&hardware.conv_speed.flops_per_second().to_le_bytes());
            bytes.extend_from_slice(&hardware.vector_speed.flops_per_second().to_le_bytes());
            bytes.extend_from_slice(&hardware.touch_rate.bytes_per_second().to_le_bytes());
            bytes.extend_from_slice(&hardware.overhead.micros().to_le_bytes());
            for number in hardware.kinds.numbers() {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(&hardware.memory.count().to_le_bytes());
            bytes.extend_from_slice(&hardware.host.to_le_bytes());
            bytes.extend_from_slice(&hardware.host_capacity.to_le_bytes());
            bytes.extend_from_slice(&hardware.demand.to_le_bytes());
        }
    }
    bytes.extend_from_slice(&(advert.links.len() as u64).to_le_bytes());
    for link in &advert.links {
        bytes.extend_from_slice(link.peer.bytes());
        bytes.extend_from_slice(&link.rate.bytes_per_second().to_le_bytes());
        bytes.extend_from_slice(&link.round_trip.micros().to_le_bytes());
        bytes.extend_from_slice(&link.loss.unwrap_or(u32::MAX).to_le_bytes());
    }
    bytes.extend_from_slice(&advert.coordinate.bytes());
    bytes
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advert(key: &SigningKey) -> Advert {
        Advert {
            sequence: 3,
            addresses: vec!["/ip4/127.0.0.1/udp/1/quic-v1".into()],
            hardware: Some(Hardware {
                device: "cpu".into(),
                speed: Speed::from_flops_per_second(1),
                conv_speed: Speed::from_flops_per_second(1),
                vector_speed: Speed::from_flops_per_second(1),
                touch_rate: Rate::from_mbit(1.0),
                overhead: Duration::from_micros(2),
                kinds: Kinds::default(),
                memory: Bytes::new(4),
                host: 0,
                host_capacity: 0,
                demand: 0,
            }),
            ..Advert::new(PeerId::new(key.verifying_key().to_bytes()))
        }
    }

    #[test]
    fn a_changed_advert_is_refused() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let good = SignedAdvert::sign(advert(&key), &key);
        assert_eq!(good.check(), Ok(()));
        let mut faster = good.clone();
        faster.advert.hardware.as_mut().unwrap().speed = Speed::from_flops_per_second(100);
        assert!(matches!(faster.check(), Err(AdvertError::Signature(_))));
        let mut moved = good.clone();
        moved.advert.addresses.push(String::new());
        assert!(moved.check().is_err());
        let mut long = good;
        long.advert.addresses = vec![String::new(); ADDRESSES_MAX + 1];
        assert!(matches!(long.check(), Err(AdvertError::TooLarge(_))));
    }
}
