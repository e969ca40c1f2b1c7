//! What one end of a connection does when the other keeps the rules, breaks them, or falls silent.

use super::*;
use crate::net::desk::Patience;
use crate::net::intake::HASH;
use crate::net::transport::pair;

const FROM: PeerId = PeerId::new([7; 32]);

fn hasty() -> Desk {
    let short = Duration::from_millis(200);
    Desk::new(Patience { stall: short, receipt: short, probe: short })
}

/// A connection whose far end serves streams and says what it makes of them; offers are taken or not.
struct Served {
    near: quinn::Connection,
    desk: Desk,
    arrived: mpsc::Receiver<(Vec<u8>, Bytes)>,
    _endpoints: [quinn::Endpoint; 2],
}

async fn served(desk: Desk, take: bool) -> Served {
    let (endpoints, [near, far]) = pair().await;
    let (events, mut out) = mpsc::channel(16);
    let (arrivals, arrived) = mpsc::channel(16);
    for end in [&near, &far] {
        end.set_max_concurrent_uni_streams(64u32.into());
    }
    // Receipts come back to the near end.
    tokio::spawn(serve(near.clone(), FROM, desk.clone(), events.clone()));
    tokio::spawn(serve(far, FROM, desk.clone(), events));
    tokio::spawn(async move {
        while let Some(event) = out.recv().await {
            match event {
                NetEvent::Offer { reply, .. } => reply.send(take.then_some(Take::Packed)).unwrap(),
                NetEvent::Arrived { header, payload, .. } => {
                    let Bundle::Packed(payload) = payload else { panic!("{payload:?}") };
                    arrivals.send((header, payload)).await.unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
    });
    Served { near, desk, arrived, _endpoints: endpoints }
}

impl Served {
    async fn send(&self, kind: Kind, payload: Vec<Bytes>) -> bool {
        send((&self.near, FROM), &self.desk, kind, b"header", payload).await
    }

    /// Sends bytes as they are and returns the code with which the far end stops the stream.
    async fn stopped(&self, start: &[u8], payload: &[u8]) -> u64 {
        let mut stream = self.near.open_uni().await.unwrap();
        stream.write_all(start).await.unwrap();
        // The far end may have stopped the stream already.
        stream.write_all(payload).await.unwrap_or_default();
        stream.stopped().await.unwrap().unwrap().into_inner()
    }
}

#[tokio::test]
async fn a_bundle_arrives_in_one_piece() {
    let mut served = served(Desk::new(Patience::default()), true).await;
    let parts = vec![Bytes::from(vec![3; 200_000]), Bytes::new(), Bytes::from(vec![4; 1])];
    assert!(served.send(Kind::Bundle, parts.clone()).await);
    let (header, payload) = served.arrived.recv().await.unwrap();
    assert_eq!((header.as_slice(), payload), (b"header".as_slice(), Bytes::from(parts.concat())));
}

#[tokio::test]
async fn a_refused_offer_is_not_delivered() {
    let mut served = served(Desk::new(Patience::default()), false).await;
    assert!(!served.send(Kind::Bundle, vec![Bytes::from_static(b"unwanted")]).await);
    assert!(served.arrived.try_recv().is_err());
}

#[tokio::test]
async fn bytes_that_do_not_match_their_hash_are_refused() {
    let mut served = served(Desk::new(Patience::default()), true).await;
    let answer = served.desk.expect(FROM, 77);
    let mut stream = served.near.open_uni().await.unwrap();
    stream.write_all(&prefix(Kind::Bundle, 77, b"h", 4).unwrap()).await.unwrap();
    stream.write_all(b"1234").await.unwrap();
    stream.write_all(&[9; HASH]).await.unwrap();
    stream.finish().unwrap();
    assert!(!answer.await.unwrap());
    assert!(served.arrived.try_recv().is_err());
}

#[tokio::test]
async fn a_stream_that_breaks_the_rules_is_stopped() {
    let served = served(Desk::new(Patience::default()), true).await;
    let start = |kind, header: &[u8], length| prefix(kind, 0, header, length).unwrap();
    let too_long = start(Kind::Bundle, b"h", BUNDLE_MAX + 1);
    assert_eq!(served.stopped(&too_long, b"").await, u64::from(MALFORMED));
    let header_too_long = start(Kind::Bundle, &[0; HEADER_MAX + 1], 0);
    assert_eq!(served.stopped(&header_too_long, b"").await, u64::from(MALFORMED));
    let more_than_announced = start(Kind::Bundle, b"h", 3);
    assert_eq!(served.stopped(&more_than_announced, &[b'1'; 4 + HASH]).await, u64::from(MALFORMED));
    let long_probe = start(Kind::Probe, b"", PROBE_MAX + 1);
    assert_eq!(served.stopped(&long_probe, b"").await, u64::from(REFUSED));
    assert_eq!(served.stopped(&[0; PREFIX], b"").await, u64::from(MALFORMED));
}

/// Goal: a peer that lives but stops reading does not hold a shipment for ever. Method: one end that grants no stream,
/// and one that grants streams and reads none, each longer than its window.
#[tokio::test]
async fn a_peer_that_stops_reading_ends_the_shipment() {
    let payload = || vec![Bytes::from(vec![1; 40 << 20])];
    let (_endpoints, [near, far]) = pair().await;
    assert!(!send((&near, FROM), &hasty(), Kind::Bundle, b"h", payload()).await);
    far.set_max_concurrent_uni_streams(8u32.into());
    assert!(!send((&near, FROM), &hasty(), Kind::Bundle, b"h", payload()).await);
    assert!(
        !send((&near, FROM), &hasty(), Kind::Bundle, b"h", vec![Bytes::from_static(b"short")])
            .await
    );
}

#[tokio::test]
async fn probes_are_counted_outside_the_budget_of_bundles() {
    let served = served(Desk::new(Patience::default()), true).await;
    let _all = served.desk.budget.clone().acquire_many_owned(2 << 10).await.unwrap();
    assert!(served.send(Kind::Probe, vec![Bytes::from(vec![0; 1 << 20])]).await);
}

/// Goal: whoever drips bytes of probes takes neither room nor turns for long. Method: as many
/// as are taken at once stop midway; a whole one is taken once they have run out.
#[tokio::test]
async fn dripping_probes_end_by_themselves() {
    let served = served(hasty(), true).await;
    let start = prefix(Kind::Probe, 0, &[], 10).unwrap();
    let mut dripping = Vec::new();
    for _ in 0..PROBES {
        let mut stream = served.near.open_uni().await.unwrap();
        stream.write_all(&start).await.unwrap();
        dripping.push(stream);
    }
    for stream in &dripping {
        // Stopped when its time is over.
        assert_eq!(stream.stopped().await.unwrap(), Some(0u32.into()));
    }
    assert!(served.send(Kind::Probe, vec![Bytes::from_static(b"whole")]).await);
}

/// Goal: what steps wait for goes one after another, not all at once. Method: three bundles at once; what the connection
/// had sent in all when the first had arrived. Shared out among them it would be more than two and a half.
#[tokio::test]
async fn bundles_go_in_turn() {
    const BUNDLE: usize = 32 << 20;
    let mut served = served(Desk::new(Patience::default()), true).await;
    let (near, desk) = (served.near.clone(), served.desk.clone());
    let begun = near.stats().udp_tx.bytes;
    let send = |name: &'static [u8]| {
        let (near, desk) = (near.clone(), desk.clone());
        let payload = vec![Bytes::from(vec![1; BUNDLE])];
        tokio::spawn(async move { send((&near, FROM), &desk, Kind::Bundle, name, payload).await })
    };
    let sent = [b"0".as_slice(), b"1", b"2"].map(send);
    served.arrived.recv().await.unwrap();
    let share = (near.stats().udp_tx.bytes - begun) as f64 / BUNDLE as f64;
    assert!(share < 1.6, "{share}");
    for one in sent {
        assert!(one.await.unwrap());
    }
}
