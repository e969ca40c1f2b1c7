//! Two and three nodes in one process, over loopback, with QUIC and with TCP alone.

use libp2p::identity::Keypair;

use super::fallback::Offered;
use super::rpc::Request;
use super::*;

/// A test that waits longer has failed.
const LIMIT: StdDuration = StdDuration::from_secs(60);

/// A node and what it hears; offers are taken unless it is told otherwise.
struct End {
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    id: PeerId,
    takes: bool,
}

impl End {
    async fn start(seed: u8, network: &str, quic: bool) -> Self {
        Self::with(seed, |config| (config.network, config.quic) = (network.into(), quic)).await
    }

    async fn with(seed: u8, change: impl FnOnce(&mut NetConfig)) -> Self {
        let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap().public();
        let mut config = NetConfig {
            identity: [seed; 32],
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            mdns: false,
            network: "test".into(),
            quic: true,
            relay: false,
            external: None,
            links: EmulatedLinks::default(),
        };
        change(&mut config);
        let (net, events) = Net::start(config).await.unwrap();
        let id = PeerId::new(key.try_into_ed25519().unwrap().to_bytes());
        Self { net, events, id, takes: true }
    }

    fn dial(&self, to: &Self) {
        self.net.dial(Some(to.id), to.net.local_addresses());
    }

    /// Waits for an event; answers offers on the way.
    async fn until<T>(&mut self, mut pick: impl FnMut(&NetEvent) -> Option<T>) -> T {
        let picked = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if let Some(picked) = pick(&event) {
                    return picked;
                }
                if let NetEvent::Offer { reply, .. } = event {
                    reply.send(self.takes.then_some(Take::Packed)).unwrap();
                }
            }
        };
        tokio::time::timeout(LIMIT, picked).await.unwrap()
    }

    async fn connected(&mut self) -> (PeerId, bool) {
        self.until(|event| match event {
            NetEvent::Connected { peer, quic } => Some((*peer, *quic)),
            _ => None,
        })
        .await
    }

    async fn arrived(&mut self) -> (PeerId, Vec<u8>, Bytes) {
        self.until(|event| match event {
            NetEvent::Arrived { from, header, payload: Bundle::Packed(payload), .. } => {
                Some((*from, header.clone(), payload.clone()))
            }
            _ => None,
        })
        .await
    }

    async fn shipped(&mut self) -> bool {
        self.until(|event| match event {
            NetEvent::Shipped { delivered, .. } => Some(*delivered),
            _ => None,
        })
        .await
    }

    async fn answer(&self, to: PeerId, request: Request) -> bool {
        let (reply, answer) = oneshot::channel();
        let order = Order::Request { to, request, reply };
        self.net.orders.send(order).await.unwrap();
        tokio::time::timeout(LIMIT, answer).await.unwrap().unwrap_or(false)
    }
}

async fn two(quic: bool) -> (End, End) {
    let (mut one, mut two) = (End::start(1, "test", quic).await, End::start(2, "test", quic).await);
    one.dial(&two);
    assert_eq!(one.connected().await, (two.id, quic));
    assert_eq!(two.connected().await, (one.id, quic));
    (one, two)
}

#[tokio::test]
async fn frames_and_bundles_arrive_over_both_transports() {
    for quic in [true, false] {
        let (mut one, mut two) = two(quic).await;
        one.net.send(two.id, b"a frame".to_vec());
        let frame = two.until(|event| match event {
            NetEvent::Frame { from, bytes } => Some((*from, bytes.clone())),
            _ => None,
        });
        assert_eq!(frame.await, (one.id, b"a frame".to_vec()));

        let parts = vec![Bytes::from(vec![6; 3 << 20]), Bytes::from_static(b"the end")];
        one.net.ship(two.id, (4, Haste::Step), b"header".to_vec(), parts.clone());
        let expected = (one.id, b"header".to_vec(), Bytes::from(parts.concat()));
        assert_eq!(two.arrived().await, expected);
        assert!(one.shipped().await);

        two.takes = false;
        one.net.ship(two.id, (5, Haste::State), b"header".to_vec(), parts);
        let delivered = tokio::select! {
            delivered = one.shipped() => delivered,
            _ = two.arrived() => true,
        };
        assert!(!delivered);
    }
}

#[tokio::test]
async fn links_are_measured_over_both_transports() {
    for quic in [true, false] {
        let (mut one, two) = two(quic).await;
        one.net.measure(two.id);
        let rate = one.until(|event| match event {
            NetEvent::LinkMeasured { peer, rate, .. } => Some((*peer, *rate)),
            _ => None,
        });
        let (peer, rate) = rate.await;
        assert_eq!(peer, two.id);
        assert!(rate > Rate::default());
    }
}

/// Goal: a peer that comes back is served like a stranger: what it sends arrives. Method: one end restarts several
/// times, so that connections come to lie where older ones lay.
#[tokio::test]
async fn tensors_arrive_after_the_other_end_has_restarted() {
    for quic in [true, false] {
        let mut stays = End::start(1, "test", quic).await;
        for round in 0..5_u8 {
            let mut comes = End::start(2, "test", quic).await;
            comes.dial(&stays);
            comes.connected().await;
            stays.connected().await;
            comes.net.ship(
                stays.id,
                (0, Haste::Step),
                vec![round],
                vec![Bytes::from(vec![round; 100_000])],
            );
            let expected = (comes.id, vec![round], Bytes::from(vec![round; 100_000]));
            assert_eq!(stays.arrived().await, expected);
            assert!(comes.shipped().await);
            comes.net.shutdown().await;
            stays.until(|e| matches!(e, NetEvent::Disconnected { .. }).then_some(())).await;
        }
    }
}

/// Goal: a connection is served once, and one that has the stable id of an earlier one is served too. Method: the same
/// connection comes, goes and comes, since ids are those of memory and cannot be forced to come again.
#[tokio::test]
async fn a_connection_with_the_id_of_an_earlier_one_is_served() {
    let (_endpoints, [near, _far]) = transport::pair().await;
    let peer = Keypair::generate_ed25519().public().to_peer_id();
    let connections = Connections::default();
    for _ in 0..2 {
        connections.add(peer, near.clone());
        assert_eq!(connections.unserved(&peer).len(), 1);
        assert_eq!(connections.unserved(&peer).len(), 0);
        connections.remove(&peer, near.stable_id());
    }
    assert_eq!(connections.all(&peer).len(), 0);
}

#[tokio::test]
async fn what_breaks_the_rules_of_the_fallback_is_refused() {
    let (one, mut two) = two(false).await;
    let offered = |nonce, length, header: usize| {
        Request::Offer(Offered { nonce, length, hash: [0; 32], header: vec![0; header] })
    };
    let to = two.id;
    let served = two.until(|event| matches!(event, NetEvent::Frame { .. }).then_some(()));
    let asked = async {
        assert!(!one.answer(to, offered(1, BUNDLE_MAX + 1, 1)).await);
        assert!(!one.answer(to, offered(2, 1, HEADER_MAX + 1)).await);
        assert!(!one.answer(to, Request::Chunk { nonce: 3, bytes: vec![0] }).await);
        assert!(one.answer(to, offered(4, 1, 1)).await);
        // The hash does not match.
        assert!(!one.answer(to, Request::Chunk { nonce: 4, bytes: vec![0] }).await);
        one.net.send(to, Vec::new());
    };
    tokio::join!(served, asked);
}

#[tokio::test]
async fn peers_of_another_network_are_sent_away() {
    for quic in [true, false] {
        let mut one = End::start(1, "north", quic).await;
        let south = End::start(2, "south", quic).await;
        let mut friend = End::start(3, "north", quic).await;
        south.dial(&one);
        one.dial(&south);
        friend.dial(&one);
        assert_eq!(one.connected().await.0, friend.id);
        assert_eq!(friend.connected().await.0, one.id);
        // Whoever had let the stranger in would have said so before these frames.
        friend.net.send(one.id, b"north".to_vec());
        let first = one.until(|event| match event {
            NetEvent::Frame { from, .. } => Some(*from),
            NetEvent::Connected { peer, .. } => panic!("{peer} is let in"),
            _ => None,
        });
        assert_eq!(first.await, friend.id);
    }
}

/// Goal: who takes part in a job is found by the job alone. Method: two peers know only a third, which takes no part.
#[tokio::test]
async fn peers_find_each_other_through_a_job() {
    let job = JobId::new([9; 16]);
    let mut member = End::start(1, "test", true).await;
    let mut middle = End::start(2, "test", true).await;
    let mut seeker = End::start(3, "test", true).await;
    member.net.announce(job);
    member.dial(&middle);
    assert_eq!(member.connected().await.0, middle.id);
    middle.connected().await;
    seeker.net.seek(job);
    seeker.dial(&middle);
    assert_eq!(seeker.connected().await.0, middle.id);
    let found = seeker.until(|event| match event {
        NetEvent::Connected { peer, .. } => Some(*peer),
        _ => None,
    });
    assert_eq!(found.await, member.id);
    assert_eq!(member.connected().await.0, seeker.id);
}

/// Goal: a peer that nobody reaches keeps a place on a relay, is reached through it, and then straight. Method: the relay
/// is told where it is reached; the caller knows of the other's circuit alone. Loopback lets both punch.
#[tokio::test]
async fn a_peer_is_reached_through_a_relay_and_then_straight() {
    let free = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let volunteer = |config: &mut NetConfig| {
        (config.relay, config.listen, config.external) = (true, free, Some(free));
    };
    let mut relay = End::with(1, volunteer).await;
    let mut hidden = End::start(2, "test", true).await;
    let mut caller = End::start(3, "test", true).await;
    hidden.dial(&relay);
    assert_eq!(hidden.connected().await.0, relay.id);
    assert_eq!(relay.connected().await.0, hidden.id);
    let mut addresses = hidden.net.watch_addresses();
    let is_circuit = |address: &&String| address.contains("p2p-circuit");
    let placed = addresses.wait_for(|list| list.iter().any(|a| is_circuit(&a)));
    let list = tokio::time::timeout(LIMIT, placed).await.unwrap().unwrap().clone();
    let circuits: Vec<String> = list.iter().filter(is_circuit).cloned().collect();
    assert!(circuits.iter().all(|a| a.len() <= wattle_protocol::schedule::advert::TEXT_MAX));

    caller.net.dial(Some(hidden.id), circuits);
    let met = caller.until(|event| match event {
        NetEvent::Connected { peer, .. } => Some(*peer),
        _ => None,
    });
    let first = met.await;
    assert!(first == hidden.id || first == relay.id);
    caller.net.send(hidden.id, b"hello".to_vec());
    let heard = hidden.until(|event| match event {
        NetEvent::Frame { from, bytes } => Some((*from, bytes.clone())),
        _ => None,
    });
    assert_eq!(heard.await, (caller.id, b"hello".to_vec()));
    let mut paths = caller.net.watch_paths();
    let straight =
        paths.wait_for(|paths| paths.get(&hidden.id).is_some_and(|p| p.is_direct() && p.quic));
    tokio::time::timeout(LIMIT, straight).await.unwrap().unwrap();
}
