//! Gossip in large, hostile and changing swarms.

use rand_core::SeedableRng;

use super::*;

fn key(n: u32) -> SigningKey {
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    SigningKey::from_bytes(&seed)
}

fn id(n: u32) -> PeerId {
    PeerId::new(key(n).verifying_key().to_bytes())
}

fn hardware() -> Hardware {
    let speed = crate::units::Speed::from_flops_per_second(1);
    Hardware {
        device: "test".into(),
        speed,
        conv_speed: speed,
        vector_speed: speed,
        touch_rate: Rate::from_mbit(1.0),
        overhead: Duration::ZERO,
        memory: crate::units::Bytes::new(1),
        host: 0,
        host_capacity: 0,
        demand: 0,
    }
}

fn advert(n: u32, sequence: u64, computes: bool) -> SignedAdvert {
    let hardware = computes.then(hardware);
    let advert = Advert { peer: id(n), sequence, addresses: vec![], hardware, links: vec![] };
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
        for n in 0..count {
            let mut bytes = [7; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            let signed = advert(3, 1, true);
            self.gossip.known.insert(PeerId::new(bytes), Known { signed, heard });
        }
    }
}

#[test]
fn a_newcomer_takes_the_place_of_the_oldest_that_does_not_live() {
    let mut place = Place::new();
    place.hears(1, advert(1, 1, true), Instant::default());
    place.fill(u32::try_from(KNOWN_MAX).unwrap() - 1, Instant::from_micros(5));
    assert_eq!(place.gossip.known.len(), KNOWN_MAX);
    let (fresh, _) = place.hears(1, advert(4, 1, true), Instant::from_micros(9));
    assert_eq!(fresh, [id(4)]);
    assert_eq!(place.gossip.known.len(), KNOWN_MAX);
    assert!(place.gossip.advert(id(1)).is_some(), "a living peer's is older, but stays");
}

#[test]
fn an_advert_ages_and_its_echo_is_not_believed() {
    let mut place = Place::new();
    place.hears(1, advert(4, 3, true), Instant::default());
    place.hears(1, advert(1, 3, true), Instant::default());
    let late = Instant::default() + KEPT;
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
    let count = DIGEST_MAX + 100;
    place.fill(u32::try_from(count).unwrap(), Instant::default());
    let (first, second) = (place.gossip.digest(), place.gossip.digest());
    assert_eq!((first.1.len(), second.1.len()), (DIGEST_MAX, 101));
    assert!(first.0.1 == second.0.0 && second.0.1 == LAST);
    assert_eq!(place.gossip.digest().0, first.0, "then from the start again");
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
    let told = |place: &mut Place, known: &[(PeerId, u64)]| {
        place.gossip.on_digest(id(2), WHOLE, known, false).len()
    };
    assert_eq!((told(&mut place, &[(id(5), 1)]), told(&mut place, &[])), (1, 0));
}
