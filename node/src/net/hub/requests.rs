//! Requests: control frames, and bundles of peers that have no QUIC connection with us.

use libp2p::request_response::{self, ResponseChannel};
use tokio::sync::oneshot;
use wattle_models::exec::store::Bundle;
use wattle_protocol::ids::PeerId;

use super::{Hub, Order, our_id};
use crate::net::fallback::Chunked;
use crate::net::rpc::Request;
use crate::net::{BUNDLE_MAX, NetEvent};

impl Hub {
    pub(super) fn answer(&mut self, channel: ResponseChannel<bool>, answer: bool) {
        // Who asked may be gone.
        self.swarm.behaviour_mut().rpc.send_response(channel, answer).unwrap_or_default();
    }

    pub(super) async fn on_rpc(&mut self, event: request_response::Event<Request, bool>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    if let Some(from) = our_id(&peer) {
                        self.ways.carried(&peer, request.size());
                        // The name of the protocol is the network's: identify may take longer than this.
                        self.admit(peer, from).await;
                        self.on_request(from, request, channel).await;
                    }
                }
                request_response::Message::Response { request_id, response } => {
                    self.sent.remove(&request_id);
                    if let Some(reply) = self.asked.remove(&request_id) {
                        reply.send(response).unwrap_or_default();
                    }
                }
            },
            request_response::Event::OutboundFailure { request_id, error, peer, .. } => {
                tracing::debug!(%peer, %error, "a request failed");
                self.sent.remove(&request_id);
                // Dropping the reply tells the one who waits.
                drop(self.asked.remove(&request_id));
            }
            request_response::Event::InboundFailure { .. }
            | request_response::Event::ResponseSent { .. } => {}
        }
    }

    async fn on_request(&mut self, from: PeerId, request: Request, channel: ResponseChannel<bool>) {
        match request {
            Request::Frame(bytes) => {
                self.tell(NetEvent::Frame { from, bytes }).await;
                self.answer(channel, true);
            }
            Request::Offer(offered) => {
                let length = offered.length;
                let Some(orders) = self.orders.upgrade().filter(|_| length <= BUNDLE_MAX) else {
                    self.answer(channel, false);
                    return;
                };
                let (reply, answer) = oneshot::channel();
                let header = offered.header.clone();
                self.tell(NetEvent::Offer { from, header, length, reply }).await;
                tokio::spawn(async move {
                    let take = answer.await.unwrap_or(None).is_some();
                    let order = Order::Answer { from, offered, channel, take };
                    if orders.send(order).await.is_err() {
                        tracing::debug!("the network is closed");
                    }
                });
            }
            Request::Probe(_) => self.answer(channel, true),
            Request::Chunk { nonce, bytes } => {
                let good = match self.inbox.chunk(from, nonce, &bytes) {
                    Chunked::More => true,
                    Chunked::Refused => false,
                    Chunked::Whole { header, payload } => {
                        let (length, payload) = (payload.len() as u64, Bundle::Packed(payload));
                        self.tell(NetEvent::Arrived { from, header, length, payload }).await;
                        true
                    }
                };
                self.answer(channel, good);
            }
        }
    }
}
