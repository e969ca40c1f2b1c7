//! A ticket: what one peer tells another so that it can join, as one line of text.

use std::fmt;
use std::str::FromStr;

use wattle_protocol::ids::PeerId;

/// Most addresses that a ticket carries.
const ADDRESSES_MAX: usize = 16;
/// Most characters of a ticket.
const TEXT_MAX: usize = 4096;

/// Who to join through, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Who.
    pub peer: PeerId,
    /// Multiaddresses.
    pub addresses: Vec<String>,
}

/// Why a text is not a ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin like one.
    #[error("a ticket begins with \"wattle:\"; copy the whole line that `wattle up` prints")]
    Prefix,
    /// It is longer than any ticket.
    #[error("a ticket has at most {TEXT_MAX} characters")]
    TooLong,
    /// The peer is not 64 hexadecimal digits.
    #[error("the ticket's peer is damaged; copy the whole line that `wattle up` prints")]
    Peer,
    /// An address is not one.
    #[error("the ticket's address \"{0}\" is damaged")]
    Address(String),
    /// No or too many addresses.
    #[error("the ticket has {0} addresses; 1 to {ADDRESSES_MAX} are possible")]
    Count(usize),
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wattle:")?;
        for byte in self.peer.bytes() {
            write!(f, "{byte:02x}")?;
        }
        for address in &self.addresses {
            write!(f, ",{address}")?;
        }
        Ok(())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        if text.len() > TEXT_MAX {
            return Err(TicketError::TooLong);
        }
        let body = text.trim().strip_prefix("wattle:").ok_or(TicketError::Prefix)?;
        let mut parts = body.split(',');
        let peer = parts.next().and_then(unhex).ok_or(TicketError::Peer)?;
        let addresses: Vec<String> = parts.map(str::to_owned).collect();
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            return Err(TicketError::Count(addresses.len()));
        }
        for address in &addresses {
            if address.parse::<libp2p::Multiaddr>().is_err() {
                return Err(TicketError::Address(address.clone()));
            }
        }
        Ok(Self { peer: PeerId::new(peer), addresses })
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_survives_being_written_and_read() {
        let ticket = Ticket {
            peer: PeerId::new([0xa5; 32]),
            addresses: vec!["/ip4/127.0.0.1/udp/9/quic-v1".into(), "/ip4/127.0.0.1/tcp/9".into()],
        };
        assert_eq!(ticket.to_string().parse(), Ok(ticket));
    }

    #[test]
    fn damaged_tickets_say_what_is_wrong() {
        let parse = |t: &str| t.parse::<Ticket>().unwrap_err();
        assert_eq!(parse("hello"), TicketError::Prefix);
        assert_eq!(parse("wattle:zz,/ip4/1.2.3.4/tcp/1"), TicketError::Peer);
        let peer = "ab".repeat(32);
        assert_eq!(parse(&format!("wattle:{peer}")), TicketError::Count(0));
        assert_eq!(parse(&format!("wattle:{peer},x y")), TicketError::Address("x y".into()));
        assert_eq!(parse(&"w".repeat(5000)), TicketError::TooLong);
    }
}
