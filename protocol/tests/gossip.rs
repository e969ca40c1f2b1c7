//! Whole swarms that do nothing but gossip and measure: fences form, hold and follow, within a budget of bytes.
//!
//! A round is half a second; a message takes one and may be lost. Figures for `docs/concepts/links-and-fences.md` are
//! printed by the tests that are left out of ordinary runs (`--ignored --nocapture`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![expect(clippy::print_stdout, reason = "figures are printed for a page")]

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use wattle_protocol::ids::PeerId;
use wattle_protocol::schedule::advert::{Advert, Hardware, LINKS_MAX, SignedAdvert};
use wattle_protocol::schedule::gauge::Packets;
use wattle_protocol::schedule::kinds::Kinds;
use wattle_protocol::schedule::planted::Planted;
use wattle_protocol::swarm::io::{Effect, Input, Outbox, Timer};
use wattle_protocol::swarm::{Config, Peer};
use wattle_protocol::units::{Bytes, Duration, Instant, Rate, Speed};
use wattle_protocol::wire::frame::encode;
use wattle_protocol::wire::message::Message;

const ROUND: Duration = Duration::from_millis(500);
/// Share of messages that are lost, in percent.
const LOST: u64 = 30;
/// Transfers of a peer in a round: what a pipeline keeps it busy with.
const TRANSFERS: usize = 4;
const TRANSFER: Bytes = Bytes::new(4 << 20);
/// Rounds within which fences form, and within which one peer's change is followed.
const FORM: usize = 100;
const FOLLOW: usize = 240;

fn hardware() -> Hardware {
    let speed = Speed::from_flops_per_second(1_000_000_000);
    Hardware {
        device: "a device with a name of usual length".into(),
        speed,
        conv_speed: speed,
        vector_speed: speed,
        touch_rate: Rate::from_mbit(80_000.0),
        overhead: Duration::from_micros(3),
        kinds: Kinds::default(),
        memory: Bytes::new(8 << 30),
        host: 1,
        host_capacity: 8000,
        demand: 8000,
    }
}

fn key(n: usize) -> [u8; 32] {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

struct World {
    now: Instant,
    rng: ChaCha8Rng,
    planted: Planted,
    peers: Vec<Peer>,
    place: BTreeMap<PeerId, usize>,
    neighbours: Vec<Vec<usize>>,
    arriving: Vec<(usize, Input)>,
    transfers: usize,
    lost: u64,
    /// Bytes of gossip.
    sent: u64,
}

impl World {
    /// A swarm where each peer is connected with this many others or more.
    fn new(seed: u64, mut planted: Planted, degree: usize) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let config = |n: usize| Config {
            seed: seed + u64::try_from(n).unwrap(),
            // Who lives is not what this is about.
            lost_after: Duration::MAX,
            addresses: vec!["/ip4/198.51.100.200/udp/48123/quic-v1".into()],
            ..Config::default()
        };
        let peers: Vec<Peer> =
            (0..planted.peers.len()).map(|n| Peer::new(&key(n), config(n))).collect();
        planted.peers = peers.iter().map(Peer::id).collect();
        let place = planted.peers.iter().enumerate().map(|(n, id)| (*id, n)).collect();
        let neighbours = vec![Vec::new(); peers.len()];
        let mut world = Self {
            now: Instant::from_micros(1),
            rng,
            planted,
            peers,
            place,
            neighbours,
            arriving: vec![],
            transfers: 0,
            lost: LOST,
            sent: 0,
        };
        for n in 0..world.peers.len() {
            world.hears(n, Input::Measured(hardware()));
            while world.neighbours[n].len() < degree.min(world.peers.len() - 1) {
                let other = world.draw(world.peers.len());
                if other != n && !world.neighbours[n].contains(&other) {
                    world.connect(n, other);
                }
            }
        }
        world
    }

    fn draw(&mut self, count: usize) -> usize {
        usize::try_from(self.rng.next_u64() % u64::try_from(count).unwrap()).unwrap()
    }

    fn connect(&mut self, a: usize, b: usize) {
        for (one, other) in [(a, b), (b, a)] {
            self.neighbours[one].push(other);
            self.hears(one, Input::PeerFound(self.planted.peers[other]));
        }
    }

    fn hears(&mut self, n: usize, input: Input) {
        let mut out = Outbox::new();
        self.peers[n].handle(self.now, input, &mut out);
        let effects: Vec<Effect> = out.drain().collect();
        for effect in effects {
            match effect {
                Effect::Send { to, message } => {
                    if matches!(*message, Message::Adverts(_) | Message::Digest { .. }) {
                        self.sent += u64::try_from(encode(&*message).unwrap().len()).unwrap();
                    }
                    if self.rng.next_u64() % 100 >= self.lost {
                        let from = self.planted.peers[n];
                        self.arriving.push((self.place[&to], Input::Received { from, message }));
                    }
                }
                Effect::Probe(peer) => {
                    let link = self.planted.measure(n, self.place[&peer]);
                    let (rate, round_trip) = (link.rate, link.round_trip);
                    self.arriving.push((
                        n,
                        Input::LinkMeasured { peer, rate, round_trip, packets: Packets::default() },
                    ));
                }
                _ => {}
            }
        }
    }

    fn round(&mut self) {
        self.now = self.now + ROUND;
        for (to, input) in std::mem::take(&mut self.arriving) {
            self.hears(to, input);
        }
        for n in 0..self.peers.len() {
            for _ in 0..self.transfers {
                let count = self.neighbours[n].len();
                let other = self.draw(count);
                let link = self.planted.measure(n, self.neighbours[n][other]);
                let took = TRANSFER / link.rate + link.round_trip;
                self.hears(n, Input::LinkUsed { peer: link.peer, size: TRANSFER, took });
            }
            self.hears(n, Input::TimerFired(Timer::Gossip));
        }
    }

    /// Lets rounds pass until something holds; returns how many.
    fn rounds_until(&mut self, limit: usize, done: impl Fn(&Self) -> bool) -> Option<usize> {
        (1..=limit).find(|_| {
            self.round();
            done(self)
        })
    }

    /// Every peer sees the true fences.
    fn is_exact(&self) -> bool {
        let truth = self.planted.truth();
        self.peers.iter().all(|peer| peer.fences() == truth)
    }

    /// Lets rounds pass and returns bytes a peer sent in a second.
    fn bytes_a_second(&mut self, rounds: usize) -> u64 {
        let before = self.sent;
        for _ in 0..rounds {
            self.round();
        }
        let seconds = u64::try_from(rounds).unwrap() / 2;
        (self.sent - before) / u64::try_from(self.peers.len()).unwrap() / seconds
    }
}

/// Returns in how many rounds each seed's swarm of 48 found its fences, where it did, sorted.
fn form(seeds: u64) -> Vec<usize> {
    let mut rounds = Vec::new();
    for seed in 0..seeds {
        let mut world = World::new(seed, Planted::of_48(seed), 47);
        let found = world.rounds_until(FORM, World::is_exact);
        println!("seed {seed}: formed after {found:?} rounds");
        rounds.extend(found);
    }
    rounds.sort_unstable();
    rounds
}

/// Returns in how many rounds a swarm of 48 under load follows the change of one peer, and how often any peer's fences
/// changed in so many rounds before that.
fn follow(seed: u64, quiet: usize, change: impl Fn(&mut Planted)) -> (Option<usize>, usize) {
    let mut world = World::new(seed, Planted::of_48(seed), 47);
    world.transfers = TRANSFERS;
    world.rounds_until(FORM, World::is_exact).expect("fences form");
    let mut changes = 0;
    let seen = |world: &World| -> Vec<Vec<Vec<PeerId>>> {
        world.peers.iter().map(|peer| peer.fences().to_vec()).collect()
    };
    let mut before = seen(&world);
    for _ in 0..quiet {
        world.round();
        let after = seen(&world);
        changes += before.iter().zip(&after).filter(|(b, a)| b != a).count();
        before = after;
    }
    change(&mut world.planted);
    let rounds = world.rounds_until(FOLLOW, World::is_exact);
    let exact = world.peers.iter().filter(|p| p.fences() == world.planted.truth()).count();
    let rate = (world.sent / 48) / (world.now.micros() / 1_000_000);
    println!("seed {seed}: {rounds:?} rounds, {changes} changes before, {exact} exact, {rate} B/s");
    (rounds, changes)
}

/// The first peer moves to another fence.
fn moved(planted: &mut Planted) {
    planted.fence[0] = (planted.fence[0] + 1) % planted.rates.len();
}

/// The first peer's line falls to a tenth, and so to a fence of its own.
fn slowed(planted: &mut Planted) {
    let alone = planted.rates.len();
    let mut own: Vec<f64> = planted.rates[planted.fence[0]].iter().map(|r| r / 10.0).collect();
    for (row, rate) in planted.rates.iter_mut().zip(&own) {
        row.push(*rate);
    }
    own.push(1000.0);
    planted.rates.push(own);
    planted.fence[0] = alone;
}

#[test]
fn fences_form_by_gossip_alone_with_a_third_of_it_lost() {
    let rounds = form(6);
    assert_eq!(rounds.len(), 6, "seeds within {FORM} rounds");
}

#[test]
fn a_peer_that_moves_or_slows_changes_fence_and_nobody_flaps_before() {
    for (seed, change) in [(1, moved as fn(&mut Planted)), (2, slowed)] {
        let (rounds, changes) = follow(seed, 100, change);
        assert_eq!(changes, 0, "seed {seed}: fences changed without a cause");
        assert!(rounds.is_some(), "seed {seed}: not followed within {FOLLOW} rounds");
    }
}

#[test]
#[ignore = "figures for the page on links and fences: minutes"]
fn figures_of_fences() {
    let rounds = form(200);
    let (count, middle) = (rounds.len(), rounds[rounds.len() / 2]);
    println!(
        "exact at all 48 peers: {count} of 200 seeds; rounds: median {middle}, most {:?}",
        rounds.last()
    );
    for (name, change) in [("moved", moved as fn(&mut Planted)), ("slowed", slowed)] {
        let found: Vec<(Option<usize>, usize)> =
            (0..20).map(|seed| follow(seed, 500, change)).collect();
        let mut rounds: Vec<usize> = found.iter().filter_map(|(rounds, _)| *rounds).collect();
        rounds.sort_unstable();
        let changes: usize = found.iter().map(|(_, changes)| changes).sum();
        let (count, middle) = (rounds.len(), rounds[rounds.len() / 2]);
        println!(
            "{name}: {count} of 20 seeds followed; rounds: median {middle}, most {:?}; {changes} changes in 20 x 500 rounds before",
            rounds.last()
        );
    }
}

#[test]
fn gossip_of_a_hundred_peers_stays_within_its_budget() {
    let mut world = World::new(7, Planted::new(7, 100, 5), 16);
    let all = |world: &World| world.peers.iter().all(|peer| peer.adverts_known() == 100);
    assert!(world.rounds_until(60, all).is_some(), "everybody knows everybody in half a minute");
    // What was saved up at the start is gone by now, or never was needed.
    let rate = world.bytes_a_second(240);
    assert!(rate <= 16 << 10, "{rate} bytes a second");
}

#[test]
#[ignore = "figures for the page on links and fences: minutes"]
fn figures_of_gossip() {
    let mut world = World::new(7, Planted::new(7, 100, 10), 32);
    let all = |world: &World| world.peers.iter().all(|peer| peer.adverts_known() == 100);
    let rounds = world.rounds_until(1000, all);
    world.rounds_until(240, |_| false);
    let rate = world.bytes_a_second(480);
    println!("100 peers: all know all after {rounds:?} rounds; {rate} B/s a peer later");
    large(1000, 16);
    large(10_000, 8);
}

/// Goal: what gossip costs each of many peers. Method: a few of them are simulated and know the adverts of all; those
/// of the others are renewed in their time, and reach the few at one of them.
fn large(count: usize, here: usize) {
    let mut world = World::new(7, Planted::new(7, here, 2), here - 1);
    world.rounds_until(40, |_| false);
    let mut planted = Planted::new(8, count, 10);
    let keys: Vec<SigningKey> =
        (0..count).map(|n| SigningKey::from_bytes(&key(here + 1 + n))).collect();
    planted.peers = keys.iter().map(|k| PeerId::new(k.verifying_key().to_bytes())).collect();
    let mut advert = |n: usize, sequence: u64| {
        let links =
            (1..=LINKS_MAX).map(|step| planted.measure(n, (n + step * 311) % count)).collect();
        let peer = planted.peers[n];
        let advert = Advert { sequence, hardware: Some(hardware()), links, ..Advert::new(peer) };
        SignedAdvert::sign(advert, &keys[n])
    };
    let others: Vec<SignedAdvert> = (0..count - here).map(|n| advert(n, 1)).collect();
    for n in 0..here {
        let from = world.planted.peers[world.neighbours[n][0]];
        for part in others.chunks(64) {
            let message = Box::new(Message::Adverts(part.to_vec()));
            // What is forwarded meanwhile is not what is measured.
            let input = Input::Received { from, message };
            world.peers[n].handle(world.now, input, &mut Outbox::new());
        }
    }
    world.rounds_until(120, |_| false);
    assert!(world.peers.iter().all(|peer| peer.adverts_known() == count));
    // A hundred adverts are renewed in two minutes, more in proportion: always one in 2.4 rounds.
    let (before, rounds) = (world.sent, 480);
    let mut renewed = 0;
    for round in 0..rounds {
        while renewed * 24 < round * 10 {
            renewed += 1;
            let to = world.draw(here);
            let from = world.planted.peers[world.neighbours[to][0]];
            let message = Box::new(Message::Adverts(vec![advert(renewed, 2)]));
            world.hears(to, Input::Received { from, message });
        }
        world.round();
    }
    let rate = (world.sent - before) / u64::try_from(here * rounds / 2).unwrap();
    println!("{count} peers, {here} of them simulated: {rate} B/s a peer");
    newcomer(&mut world, count);
}

/// One more peer comes, connected with those that know all.
fn newcomer(world: &mut World, all: usize) {
    let n = world.peers.len();
    let peer = Peer::new(&key(n), Config { lost_after: Duration::MAX, ..Config::default() });
    world.planted.peers.push(peer.id());
    world.planted.fence.push(0);
    world.place.insert(peer.id(), n);
    world.peers.push(peer);
    world.neighbours.push(vec![]);
    world.hears(n, Input::Measured(hardware()));
    for other in 0..n {
        world.connect(n, other);
    }
    let rounds = world.rounds_until(2000, |world| world.peers[n].adverts_known() >= all);
    println!("a newcomer knows {} adverts after {rounds:?} rounds", world.peers[n].adverts_known());
}
