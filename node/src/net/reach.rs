//! Whether others reach this machine unasked, and under which address; without dialing anybody to find out.
//!
//! What others say they see is a hint, and a connection that comes in although nothing was sent there before is a proof:
//! no NAT and no firewall would have let it in. An address that is not one of our own interfaces' counts when two
//! observers name it, so that no single stranger makes us advertise somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// Addresses that may wait for a second observer.
const SEEN_MAX: usize = 16;
/// Addresses beyond our own interfaces' that are believed.
const EXTERNAL_MAX: usize = 4;
/// Observers of an address that make it true.
const OBSERVERS: usize = 2;

/// What is known of how this machine is reached.
#[derive(Debug, Default)]
pub(super) struct Reach {
    own: BTreeSet<Multiaddr>,
    external: BTreeSet<Multiaddr>,
    seen: BTreeMap<Multiaddr, BTreeSet<IpAddr>>,
    is_reached: bool,
}

/// Returns the address of the machine that a multiaddress begins with.
pub(super) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Says whether an address means the same machine everywhere.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // 100.64/10 lies between providers' NATs and their customers'.
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            let odd = ip.is_unspecified() || ip.is_loopback() || ip.is_link_local();
            !(odd || shared || ip.is_private() || ip.is_multicast() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => is_public(ip.into()),
            None => is_public_v6(ip),
        },
    }
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let odd = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    !(odd || ip.is_unique_local() || ip.is_unicast_link_local())
}

/// Takes the name of a peer off an address.
pub(super) fn nameless(address: &Multiaddr) -> Multiaddr {
    address.iter().take_while(|part| !matches!(part, Protocol::P2p(_))).collect()
}

impl Reach {
    /// Notes an address of one of our own interfaces.
    pub(super) fn listens(&mut self, address: &Multiaddr) {
        self.own.insert(nameless(address));
    }

    /// Believes the owner that others reach this machine under an address.
    pub(super) fn declare(&mut self, address: Multiaddr) {
        self.external.insert(address);
        self.is_reached = true;
    }

    /// Hears under which address a directly connected peer sees us. `unasked`: its connection came in although nothing
    /// had been sent to its machine. Returns an address that has become ours by that.
    pub(super) fn observed(
        &mut self,
        by: IpAddr,
        address: &Multiaddr,
        unasked: bool,
    ) -> Option<Multiaddr> {
        let address = nameless(address);
        if !ip(&address).is_some_and(is_public) {
            return None;
        }
        if self.own.contains(&address) {
            self.is_reached |= unasked;
        } else if !unasked || !self.agreed(by, &address) {
            return None;
        } else {
            self.is_reached = true;
        }
        let room = self.external.len() < EXTERNAL_MAX;
        (room && self.external.insert(address.clone())).then_some(address)
    }

    /// Counts observers of an address that is not an interface's.
    fn agreed(&mut self, by: IpAddr, address: &Multiaddr) -> bool {
        if self.seen.len() >= SEEN_MAX && !self.seen.contains_key(address) {
            // Whoever fills this with inventions delays the truth by some observers, no more.
            self.seen.clear();
        }
        let observers = self.seen.entry(address.clone()).or_default();
        observers.insert(by);
        observers.len() >= OBSERVERS
    }

    /// Says whether others are known to reach this machine unasked.
    pub(super) fn is_reached(&self) -> bool {
        self.is_reached
    }

    /// Returns the addresses under which this machine is reached from everywhere.
    pub(super) fn external(&self) -> impl Iterator<Item = &Multiaddr> {
        self.external.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: &str = "/ip4/198.51.100.1/udp/7/quic-v1";

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn observer(last: u8) -> IpAddr {
        IpAddr::from([203, 0, 113, last])
    }

    #[test]
    fn an_own_public_address_counts_at_once_and_is_reached_by_who_comes_unasked() {
        let mut reach = Reach::default();
        reach.listens(&address(MINE));
        let found = reach.observed(observer(1), &address(MINE), false);
        assert_eq!((found, reach.is_reached()), (Some(address(MINE)), false));
        assert_eq!(reach.observed(observer(1), &address(MINE), true), None);
        assert!(reach.is_reached());
    }

    #[test]
    fn what_a_nat_shows_is_no_address_of_ours() {
        let mut reach = Reach::default();
        reach.listens(&address("/ip4/192.168.1.2/udp/7/quic-v1"));
        for last in 0..9 {
            assert_eq!(reach.observed(observer(last), &address(MINE), false), None);
        }
        assert!(!reach.is_reached());
        let private = address("/ip4/192.168.1.2/udp/7/quic-v1");
        assert_eq!(reach.observed(observer(1), &private, true), None);
    }

    #[test]
    fn a_forwarded_port_needs_two_observers_and_lies_stay_bounded() {
        let mut reach = Reach::default();
        assert_eq!(reach.observed(observer(1), &address(MINE), true), None);
        assert_eq!(reach.observed(observer(1), &address(MINE), true), None);
        assert_eq!(reach.observed(observer(2), &address(MINE), true), Some(address(MINE)));
        for port in 1..100 {
            let lie = address(&format!("/ip4/198.51.100.9/udp/{port}/quic-v1"));
            reach.observed(observer(1), &lie, true);
            reach.observed(observer(2), &lie, true);
        }
        assert!(reach.seen.len() <= SEEN_MAX);
        assert_eq!(reach.external().count(), EXTERNAL_MAX);
    }

    #[test]
    fn private_shared_and_local_addresses_are_not_public() {
        for text in
            ["10.1.2.3", "192.168.0.1", "100.64.0.1", "127.0.0.1", "169.254.1.1", "fd00::1", "::1"]
        {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in ["203.0.113.9", "100.128.0.1", "2001:db8::1"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }
}
