//! Lines of peers along which a network may be laid: orders by speed and along fast links, with neighbours in groups.
//!
//! Each line is a list of groups; a group runs one stage together, its first peer owns it. Whoever lays a network along
//! a line may leave groups out.

use std::rc::Rc;

use super::super::ground::Ground;
use super::layout::Team;
use crate::units::Bytes;

/// Up to so many peers all orders are tried.
const PERMUTED_MAX: usize = 5;
/// Most chains of fast links that are followed.
const CHAINS_MAX: usize = 8;
/// The transfer by which links are compared.
const TYPICAL: Bytes = Bytes::new(1 << 20);

/// Returns lines of the peers below `able`, by number, each group at most `replicas` large. Peers come fastest first.
pub(super) fn lines(ground: &Ground<'_>, able: usize, replicas: usize) -> Vec<Vec<Team>> {
    let orders = orders(ground, able);
    let mut found: Vec<Vec<Team>> = Vec::new();
    for size in sizes(replicas.min(able)) {
        for order in &orders {
            let line: Vec<Team> = order.chunks(size).map(|team| Rc::new(team.to_vec())).collect();
            found.push(line);
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Returns sizes of groups: one, and then ever larger steps up to `most`.
fn sizes(most: usize) -> Vec<usize> {
    let mut list = Vec::new();
    let mut size = 1;
    while size < most {
        list.push(size);
        size += size.div_ceil(3);
    }
    list.push(most.max(1));
    list
}

fn orders(ground: &Ground<'_>, able: usize) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..able).collect();
    if able <= PERMUTED_MAX {
        return permutations(&all);
    }
    let mut list = vec![all];
    let starts = able.min(CHAINS_MAX);
    for start in 0..starts {
        list.push(chain(ground, able, start * able / starts));
    }
    let reversed: Vec<Vec<usize>> =
        list.iter().map(|order| order.iter().rev().copied().collect()).collect();
    list.extend(reversed);
    list
}

/// From one peer always on to the peer that is reached fastest.
fn chain(ground: &Ground<'_>, able: usize, first: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..able).filter(|peer| *peer != first).collect();
    let mut order = vec![first];
    let mut last = first;
    while !left.is_empty() {
        let near = |peer: usize| {
            let (busy, travel) = ground.transfer(last, peer, TYPICAL);
            (busy + travel, peer)
        };
        let place = (0..left.len()).min_by_key(|place| near(left[*place])).unwrap_or(0);
        last = left.remove(place);
        order.push(last);
    }
    order
}

fn permutations(list: &[usize]) -> Vec<Vec<usize>> {
    if list.is_empty() {
        return vec![Vec::new()];
    }
    let mut found = Vec::new();
    for (place, first) in list.iter().enumerate() {
        let rest = [&list[..place], &list[place + 1..]].concat();
        for mut tail in permutations(&rest) {
            tail.insert(0, *first);
            found.push(tail);
        }
    }
    found
}
