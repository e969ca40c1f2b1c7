//! Bundles and probes for peers without QUIC: an offer, then chunk after chunk, each a request of its own.
//!
//! The receiving side takes an offer only if it has room for all of it, out of the budget that QUIC's bundles draw
//! from too, and lets go of what has stopped growing. The hub calls it; it looks at no clock.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use wattle_protocol::ids::PeerId;

use super::bulk::Kind;
use super::desk::{Desk, RATE_MIN};
use super::hub::{Order, REQUEST};
use super::intake::hash;
use super::rpc::{CHUNK, Request};

/// Bundles that may be in the middle of arriving over TCP, from all peers.
const INCOMING_MAX: usize = 64;

/// What a peer wants to send.
#[derive(Clone, Debug)]
pub(super) struct Offered {
    pub(super) nonce: u64,
    pub(super) length: u64,
    pub(super) hash: [u8; 32],
    pub(super) header: Vec<u8>,
}

/// A bundle that arrives.
#[derive(Debug)]
struct Incoming {
    offered: Offered,
    payload: BytesMut,
    /// Bytes since the last sweep; None: the offer is as young as that.
    grown: Option<u64>,
    _room: OwnedSemaphorePermit,
}

/// What a chunk has led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    /// More is to come.
    More,
    /// The bundle is here and its hash is right.
    Whole { header: Vec<u8>, payload: Bytes },
    /// Not awaited, too long, or not what was announced.
    Refused,
}

/// The bundles that arrive over TCP.
#[derive(Debug)]
pub(super) struct Inbox {
    desk: Desk,
    bundles: BTreeMap<(PeerId, u64), Incoming>,
}

impl Inbox {
    pub(super) fn new(desk: Desk) -> Self {
        Self { desk, bundles: BTreeMap::new() }
    }

    /// Keeps room for an offer that the driver wants. Returns whether there is any.
    pub(super) fn take(&mut self, from: PeerId, offered: Offered) -> bool {
        let key = (from, offered.nonce);
        if self.bundles.len() >= INCOMING_MAX || self.bundles.contains_key(&key) {
            return false;
        }
        let Some(room) = self.desk.room(offered.length) else {
            return false;
        };
        let incoming = Incoming { offered, payload: BytesMut::new(), grown: None, _room: room };
        self.bundles.insert(key, incoming);
        true
    }

    /// Adds bytes to a bundle.
    pub(super) fn chunk(&mut self, from: PeerId, nonce: u64, bytes: &[u8]) -> Chunked {
        let Some(incoming) = self.bundles.get_mut(&(from, nonce)) else {
            return Chunked::Refused;
        };
        let have = incoming.payload.len() as u64 + bytes.len() as u64;
        if have <= incoming.offered.length {
            incoming.payload.extend_from_slice(bytes);
            incoming.grown = incoming.grown.map(|grown| grown + bytes.len() as u64);
        }
        if have < incoming.offered.length {
            return Chunked::More;
        }
        match self.bundles.remove(&(from, nonce)) {
            Some(done) if have == done.offered.length => {
                let payload = done.payload.freeze();
                if blake3::hash(&payload).as_bytes() != &done.offered.hash {
                    return Chunked::Refused;
                }
                Chunked::Whole { header: done.offered.header, payload }
            }
            Some(_) | None => Chunked::Refused,
        }
    }

    /// Lets go of what a peer that is gone has begun.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.bundles.retain(|(from, _), _| *from != peer);
    }

    /// Lets go of what has not grown as it should since the last sweep. Call once every `REQUEST`: a sender that goes
    /// on brings a chunk in that time, or has given up by itself.
    pub(super) fn sweep(&mut self) {
        let least = RATE_MIN * REQUEST.as_secs();
        self.bundles.retain(|(from, _), bundle| {
            let stays = bundle.grown.is_none_or(|grown| grown >= least);
            if !stays {
                tracing::debug!(from = %from, "a bundle does not go on");
            }
            bundle.grown = Some(0);
            stays
        });
    }
}

/// Sends a bundle or a probe to a peer without QUIC: an offer, then chunk after chunk.
/// Safe to drop midway: the receiver lets go of the rest.
pub(super) async fn carry(
    orders: &mpsc::Sender<Order>,
    desk: &Desk,
    to: PeerId,
    kind: Kind,
    header: &[u8],
    payload: Vec<Bytes>,
) -> bool {
    let ask = async |request: Request| {
        let (reply, answer) = oneshot::channel();
        let sent = orders.send(Order::Request { to, request, reply }).await.is_ok();
        sent && answer.await.unwrap_or(false)
    };
    if kind == Kind::Probe {
        for part in payload {
            if part.is_empty() && !ask(Request::Probe(Vec::new())).await {
                return false;
            }
            for chunk in part.chunks(CHUNK) {
                if !ask(Request::Probe(chunk.to_vec())).await {
                    return false;
                }
            }
        }
        return true;
    }
    let length: u64 = payload.iter().map(|p| p.len() as u64).sum();
    let (nonce, hash) = (desk.nonce(), hash(&payload));
    let offered = Offered { nonce, length, hash, header: header.to_vec() };
    if !ask(Request::Offer(offered)).await {
        return false;
    }
    if length == 0 {
        return ask(Request::Chunk { nonce, bytes: Vec::new() }).await;
    }
    for part in payload {
        for chunk in part.chunks(CHUNK) {
            if !ask(Request::Chunk { nonce, bytes: chunk.to_vec() }).await {
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::desk::Patience;
    use super::*;

    const FROM: PeerId = PeerId::new([5; 32]);

    fn inbox() -> Inbox {
        Inbox::new(Desk::new(Patience::default()))
    }

    fn offered(nonce: u64, length: u64, bytes: &[u8]) -> Offered {
        Offered { nonce, length, hash: *blake3::hash(bytes).as_bytes(), header: vec![1] }
    }

    #[test]
    fn chunks_become_a_bundle_with_the_right_hash() {
        let mut inbox = inbox();
        assert!(inbox.take(FROM, offered(1, 4, b"abcd")));
        assert_eq!(inbox.chunk(FROM, 1, b"ab"), Chunked::More);
        let whole = Chunked::Whole { header: vec![1], payload: Bytes::from_static(b"abcd") };
        assert_eq!(inbox.chunk(FROM, 1, b"cd"), whole);
        assert_eq!(inbox.chunk(FROM, 1, b""), Chunked::Refused);
    }

    #[test]
    fn wrong_bytes_and_too_many_are_refused() {
        let mut inbox = inbox();
        assert!(inbox.take(FROM, offered(1, 4, b"abcd")));
        assert_eq!(inbox.chunk(FROM, 1, b"abce"), Chunked::Refused);
        assert!(inbox.take(FROM, offered(1, 4, b"abcd")));
        assert_eq!(inbox.chunk(FROM, 1, b"abcde"), Chunked::Refused);
        assert!(inbox.bundles.is_empty());
    }

    #[test]
    fn only_what_there_is_room_for_is_taken() {
        let mut inbox = inbox();
        let most = INCOMING_MAX as u64;
        assert!((0..most).all(|nonce| inbox.take(FROM, offered(nonce, 1, b""))));
        assert!(!inbox.take(FROM, offered(most, 1, b"")));
        inbox.forget(FROM);
        let large = super::super::BUNDLE_MAX;
        let taken = (0..most).filter(|nonce| inbox.take(FROM, offered(*nonce, large, b""))).count();
        assert_eq!(taken, 2);
        inbox.forget(FROM);
        assert!(inbox.take(FROM, offered(0, large, b"")));
    }

    #[test]
    fn a_bundle_that_does_not_grow_is_let_go() {
        let mut inbox = inbox();
        let large = 4 * CHUNK as u64;
        assert!((0..3).all(|nonce| inbox.take(FROM, offered(nonce, large, b""))));
        inbox.sweep();
        assert_eq!(inbox.bundles.len(), 3);
        assert_eq!(inbox.chunk(FROM, 0, &[0; CHUNK]), Chunked::More);
        assert_eq!(inbox.chunk(FROM, 1, b"drip"), Chunked::More);
        inbox.sweep();
        assert_eq!(inbox.bundles.keys().collect::<Vec<_>>(), [&(FROM, 0)]);
        inbox.sweep();
        assert!(inbox.bundles.is_empty());
    }
}
