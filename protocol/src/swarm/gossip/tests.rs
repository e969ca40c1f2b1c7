//! Gossip in large, hostile and changing swarms.

use rand_core::SeedableRng;

use super::budget::{FLOW, SAVED_MAX};
use super::view::{KNOWN_MAX, Known, LAST};
use super::*;
use crate::schedule::advert::{ADDRESSES_MAX, LINKS_MAX, TEXT_MAX};
use crate::schedule::kinds::Kinds;
use crate::units::{Rate, Speed};
use crate::wire::frame::encode;

fn key(n: u32) -> SigningKey {
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    SigningKey::from_bytes(&seed)
}

fn id(n: u32) -> PeerId {
    PeerId::new(key(n).verifying_key().to_bytes())
}

fn hardware() -> Hardware {
    let speed = Speed::from_flops_per_second(1);
    Hardware {
        device: "test".into(),
        speed,
        conv_speed: speed,
        vector_speed: speed,
        touch_rate: Rate::from_mbit(1.0),
        overhead: Duration::ZERO,
        kinds: Kinds::default(),
        memory: Bytes::new(1),
        host: 0,
        host_capacity: 0,
        demand: 0,
    }
}

fn advert(n: u32, sequence: u64, computes: bool) -> SignedAdvert {
    let hardware = computes.then(hardware);
    let advert = Advert { sequence, hardware, ..Advert::new(id(n)) };
    SignedAdvert::sign(advert, &key(n))
}

struct Place {
    gossip: Gossip,
    members: Membership,
    rng: ChaCha8Rng,
}

impl Place {
    /// A peer with two neighbours, 1 and 2.
    fn new() -> Self {
        let mut members = Membership::default();
        for n in [1, 2] {
            members.found(id(n), Instant::default());
        }
        let gossip = Gossip::new(key(0), vec![]);
        Self { gossip, members, rng: ChaCha8Rng::seed_from_u64(1) }
    }

    fn hears(&mut self, from: u32, signed: SignedAdvert, now: Instant) -> (Vec<PeerId>, Letters) {
        self.gossip.on_adverts(id(from), vec![signed], (&self.members, now), &mut self.rng)
    }

    /// Fills the list without paying for signatures.
    fn fill(&mut self, count: u32, heard: Instant) {
        let signed = Arc::new(advert(3, 1, true));
        for n in 0..count {
            let mut bytes = [7; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            let signed = signed.clone();
            self.gossip.view.known.insert(PeerId::new(bytes), Known { signed, heard });
        }
    }
}

#[test]
fn a_newcomer_takes_the_place_of_the_oldest_that_does_not_live() {
    let mut place = Place::new();
    place.hears(1, advert(1, 1, true), Instant::default());
    place.fill(u32::try_from(KNOWN_MAX).unwrap() - 1, Instant::from_micros(5));
    assert_eq!(place.gossip.view.known.len(), KNOWN_MAX);
    let (fresh, _) = place.hears(1, advert(4, 1, true), Instant::from_micros(9));
    assert_eq!(fresh, [id(4)]);
    assert_eq!(place.gossip.view.known.len(), KNOWN_MAX);
    assert!(place.gossip.advert(id(1)).is_some(), "a living peer's is older, but stays");
}

#[test]
fn an_advert_ages_and_its_echo_is_not_believed() {
    let mut place = Place::new();
    place.hears(1, advert(4, 3, true), Instant::default());
    place.hears(1, advert(1, 3, true), Instant::default());
    let late = Instant::default() + RENEW * 5;
    place.gossip.tick(&place.members, late, &mut place.rng);
    assert!(place.gossip.advert(id(4)).is_none() && place.gossip.advert(id(1)).is_some());
    assert!(place.hears(2, advert(4, 3, true), late).0.is_empty());
    assert_eq!(place.hears(2, advert(4, 4, true), late).0, [id(4)]);
}

#[test]
fn a_peer_says_the_same_again_after_a_while() {
    let mut place = Place::new();
    let own = |place: &Place| place.gossip.advert(id(0)).map(|s| s.advert.sequence);
    place.gossip.tick(&place.members, Instant::from_micros(1), &mut place.rng);
    assert_eq!(own(&place), Some(1));
    place.gossip.tick(&place.members, Instant::from_micros(2), &mut place.rng);
    assert_eq!(own(&place), Some(1));
    place.gossip.tick(&place.members, Instant::from_micros(2) + RENEW, &mut place.rng);
    assert_eq!(own(&place), Some(2));
}

#[test]
fn digests_take_turns_and_are_answered_within_their_span() {
    let mut place = Place::new();
    let count = STRETCH + 40;
    place.fill(u32::try_from(count).unwrap(), Instant::default());
    let (first, second) = (place.gossip.view.digest(), place.gossip.view.digest());
    assert_eq!((first.1.len(), second.1.len()), (STRETCH, 41));
    assert!(first.0.1 == second.0.0 && second.0.1 == LAST);
    assert_eq!(place.gossip.view.digest().0, first.0, "then from the start again");
    // Whoever knows the first stretch is sent nothing of the second.
    assert!(place.gossip.on_digest(id(1), first.0, &first.1, false).is_empty());
    assert_eq!(place.gossip.on_digest(id(1), WHOLE, &first.1, false).len(), 1);
}

#[test]
fn who_only_watches_stays_with_its_neighbours_and_a_withdrawn_device_is_told() {
    let mut place = Place::new();
    let now = Instant::from_micros(3);
    let (fresh, letters) = place.hears(1, advert(1, 1, false), now);
    assert_eq!((fresh.len(), letters.len()), (1, 0), "a neighbour's is kept, not forwarded");
    assert!(place.hears(1, advert(5, 1, false), now).0.is_empty(), "a stranger's is not kept");
    assert_eq!(place.hears(1, advert(5, 1, true), now).1.len(), 1);
    let (fresh, letters) = place.hears(1, advert(5, 2, false), now);
    assert_eq!((fresh, letters.len()), (vec![id(5)], 1), "it gives its device up");
    let told = |place: &mut Place, known: &[(u64, u64)]| {
        place.gossip.on_digest(id(2), WHOLE, known, false).len()
    };
    assert_eq!((told(&mut place, &[(short_id(id(5)), 1)]), told(&mut place, &[])), (1, 0));
}

#[test]
fn what_is_said_never_goes_beyond_the_budget() {
    let mut place = Place::new();
    for n in 0..200 {
        place.gossip.view.insert(Arc::new(advert(100 + n, 1, true)), Instant::default());
    }
    // A thousand hungry strangers within a second.
    let mut sent = 0;
    for n in 0..1000 {
        let now = Instant::from_micros(1000 * n);
        place.gossip.budget.fill(now);
        for (_, letter) in place.gossip.on_digest(id(1), WHOLE, &[], true) {
            sent += encode(&letter).unwrap().len();
        }
    }
    let most = usize::try_from(SAVED_MAX + FLOW).unwrap();
    assert!(sent <= most && sent > most / 2, "{sent} bytes of {most}");
}

#[test]
fn an_advert_is_counted_with_no_less_than_it_takes() {
    let full = Advert {
        sequence: u64::MAX,
        addresses: vec!["a".repeat(TEXT_MAX); ADDRESSES_MAX],
        hardware: Some(Hardware {
            device: "d".repeat(TEXT_MAX),
            speed: Speed::from_flops_per_second(u64::MAX),
            conv_speed: Speed::from_flops_per_second(u64::MAX),
            vector_speed: Speed::from_flops_per_second(u64::MAX),
            touch_rate: Rate::from_bytes_per_second(u64::MAX),
            overhead: Duration::MAX,
            kinds: Kinds::default(),
            memory: Bytes::new(u64::MAX),
            host: u64::MAX,
            host_capacity: u32::MAX,
            demand: u32::MAX,
        }),
        links: (0..LINKS_MAX)
            .map(|_| Link {
                peer: id(1),
                rate: Rate::from_bytes_per_second(u64::MAX),
                round_trip: Duration::MAX,
                loss: Some(u32::MAX),
            })
            .collect(),
        ..Advert::new(id(4))
    };
    for advert in [full, Advert::new(id(4))] {
        let signed = SignedAdvert::sign(advert, &key(4));
        let size = u64::try_from(encode(&signed).unwrap().len()).unwrap();
        assert!(weight(&signed).count() >= size, "{size} bytes");
    }
}

proptest::proptest! {
    /// Whatever a stranger's digest says, the answer is bounded and nothing panics.
    #[test]
    fn any_digest_is_answered_within_bounds(
        from in proptest::array::uniform32(0u8..),
        to in proptest::array::uniform32(0u8..),
        known in proptest::collection::vec(proptest::prelude::any::<(u64, u64)>(), 0..200),
    ) {
        let mut place = Place::new();
        place.fill(100, Instant::default());
        let span = (PeerId::new(from), PeerId::new(to));
        let letters = place.gossip.on_digest(id(1), span, &known, true);
        proptest::prop_assert!(letters.len() <= 2);
        for (_, letter) in letters {
            proptest::prop_assert!(encode(&letter).unwrap().len() <= 256 << 10);
        }
    }
}
