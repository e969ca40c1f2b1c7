//! Links that simulated peers measure.

use wattle_protocol::ids::PeerId;
use wattle_protocol::schedule::gauge::Packets;
use wattle_protocol::swarm::io::Input;

use super::{Happening, World};

impl World<'_> {
    /// Measures a link exactly; it takes a round trip and the bytes of a probe, which no tensor waits for.
    pub(super) fn probe(&mut self, me: usize, peer: PeerId) {
        let Some(&to) = self.places.get(&peer) else {
            return;
        };
        let link = self.network.link(me, to);
        let back = self.network.link(to, me);
        let (rate, round_trip) = (link.rate, link.latency + back.latency);
        let measured = Input::LinkMeasured { peer, rate, round_trip, packets: Packets::default() };
        self.later(me, round_trip + round_trip, Happening::Input(measured));
    }
}
