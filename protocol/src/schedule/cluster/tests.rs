//! Fences of swarms whose fences are known.

use super::super::advert::{LINKS_MAX, Link};
use super::super::planted::Planted;
use super::*;
use crate::units::Duration;

const SEEDS: u64 = 200;
/// Share of seeds whose fences must come out exactly.
const EXACT: f64 = 0.95;

fn peer(n: u8) -> PeerId {
    PeerId::new([n; 32])
}

/// All pairs of these peers, at the rate that a function of their numbers says, in Mbit/s; none where it is 0.
fn network(count: u8, rate: impl Fn(u8, u8) -> f64) -> (Vec<PeerId>, Links) {
    let mut links = Links::default();
    for a in 0..count {
        for b in (0..count).filter(|b| *b != a && rate(a, *b) > 0.0) {
            let rate = Rate::from_mbit(rate(a, b));
            links.insert(
                peer(a),
                Link { peer: peer(b), rate, round_trip: Duration::ZERO, loss: None },
            );
        }
    }
    ((0..count).map(peer).collect(), links)
}

fn exact(lost: f64) -> f64 {
    let mut right = 0u32;
    for seed in 0..SEEDS {
        let mut planted = Planted::of_48(seed);
        let links = planted.links(lost);
        right += u32::from(fences(&planted.peers, &links) == planted.truth());
    }
    f64::from(right) / 200.0
}

#[test]
fn planted_fences_are_recovered_from_all_links() {
    let share = exact(0.0);
    println!("exact with all links: {share}");
    assert!(share >= EXACT, "{share} of {SEEDS} seeds");
}

#[test]
fn planted_fences_are_recovered_from_seventy_percent_of_the_links() {
    let share = exact(0.3);
    println!("exact with 30 % of links lost: {share}");
    assert!(share >= EXACT, "{share} of {SEEDS} seeds");
}

#[test]
fn an_equal_network_is_one_fence_whatever_the_noise() {
    for seed in 0..SEEDS {
        let mut planted = Planted::new(seed, 24, 1);
        let links = planted.links(0.1);
        assert_eq!(fences(&planted.peers, &links).len(), 1, "seed {seed}");
    }
}

#[test]
fn a_lone_slow_peer_is_a_fence_of_its_own() {
    let slow = |a, b| if a == 7 || b == 7 { 10.0 } else { 1000.0 };
    let (peers, links) = network(12, slow);
    let groups = fences(&peers, &links);
    assert_eq!(groups.len(), 2);
    assert!(groups.contains(&vec![peer(7)]));
}

#[test]
fn few_peers_and_unmeasured_ones_make_sane_fences() {
    let (peers, links) = network(2, |_, _| 8.0);
    assert_eq!(fences(&peers, &links), [vec![peer(0), peer(1)]], "no evidence of two kinds");
    let (peers, links) = network(4, |_, _| 0.0);
    assert_eq!(fences(&peers, &links).len(), 4, "nothing is known of anybody");
    assert!(fences(&[], &links).is_empty());
    assert_eq!(fences(&[peer(9), peer(9)], &links), [vec![peer(9)]]);
    // Two pairs, far from each other.
    let pairs = |a: u8, b: u8| if a / 2 == b / 2 { 1000.0 } else { 8.0 };
    let (peers, links) = network(4, pairs);
    assert_eq!(fences(&peers, &links).len(), 2);
}

#[test]
fn the_order_of_peers_changes_nothing() {
    for seed in 0..8 {
        let mut planted = Planted::of_48(seed);
        let links = planted.links(0.3);
        let mut turned = planted.peers.clone();
        turned.reverse();
        assert_eq!(fences(&planted.peers, &links), fences(&turned, &links));
    }
}

#[test]
fn a_claim_of_one_end_does_not_make_a_link_fast() {
    let honest = |a: u8, b: u8| if a / 6 == b / 6 { 1000.0 } else { 20.0 };
    let lies = |a: u8, b: u8| if a == 0 { 100.0 * honest(a, b) } else { honest(a, b) };
    let (peers, links) = network(12, lies);
    let (_, told) = network(12, honest);
    assert_eq!(fences(&peers, &links), fences(&peers, &told));
}

/// Goal: large swarms need no measurement of all pairs. Method: as many links as an advert lists, to anybody.
#[test]
fn a_thousand_peers_are_grouped_from_the_few_links_that_adverts_list() {
    for (seed, count) in [(1, 12), (2, 40)] {
        let mut planted = Planted::new(seed, 1000, count);
        let links = planted.links_few(LINKS_MAX);
        assert_eq!(fences(&planted.peers, &links), planted.truth(), "seed {seed}");
    }
}

/// Goal: fences change for a reason only. Method: measure everything again, with other noise; then move a peer.
#[test]
fn fences_that_hold_gain_nothing_and_a_move_gains_much() {
    let (mut least, mut most) = (f64::INFINITY, 0f64);
    for seed in 0..100 {
        let mut planted = Planted::of_48(seed);
        let links = planted.links(0.3);
        let before = fences(&planted.peers, &links);
        let links = planted.links(0.3);
        let again = regroup(&before, &planted.peers, &links);
        most = most.max(again.gain);
        assert_eq!(again.kept, before);
        let home = planted.fence[40];
        planted.fence[40] = (home + 1) % planted.rates.len();
        let links = planted.links(0.3);
        let moved = regroup(&before, &planted.peers, &links);
        least = least.min(moved.gain);
        assert!(moved.best == planted.truth() || moved.best != before, "seed {seed}");
    }
    println!("gain by noise up to {most:.2} nats, by a move at least {least:.2}");
    assert!(most < 1.0 && least > 10.0, "noise {most}, a move {least}");
}

#[test]
fn newcomers_join_and_leavers_go_without_moving_anybody() {
    let mut planted = Planted::of_48(3);
    let links = planted.links(0.0);
    let few = fences(&planted.peers[..40], &links);
    let more = regroup(&few, &planted.peers, &links);
    assert_eq!((more.kept == planted.truth(), more.gain.abs() < 1e-6), (true, true));
    let fewer = regroup(&planted.truth(), &planted.peers[..40], &links);
    assert_eq!(fewer.kept, few);
}
