//! What the simulated submitter gives: the weights that stages start from.

use wattle_protocol::dag::bundle::start_bytes;
use wattle_protocol::ids::PeerId;
use wattle_protocol::swarm::io::{Input, StageWork, TensorKey};
use wattle_protocol::units::Duration;

use super::{Happening, World};

impl World<'_> {
    /// A submitter gives what a stage starts from: it holds the weights and has them ready.
    pub(super) fn give(&mut self, me: usize, key: TensorKey, work: &StageWork, to: PeerId) {
        let device = &mut self.nodes[me].device;
        match device.start(key.job, work) {
            Ok(bundle) => device.put(key, bundle),
            Err(error) => return self.trace.line(self.now, &format!("peer {me}: {error}")),
        }
        let (Some(&place), sender) = (self.places.get(&to), self.nodes[me].life) else {
            return;
        };
        let (latency, happening) = match place == me {
            true => {
                let size = start_bytes(&work.graph);
                (Duration::ZERO, Happening::Input(Input::TensorArrived { key, from: to, size }))
            }
            false => {
                let latency = self.network.link(me, place).latency;
                (latency, Happening::Offer { from: me, sender, key })
            }
        };
        self.later(place, latency, happening);
    }
}
