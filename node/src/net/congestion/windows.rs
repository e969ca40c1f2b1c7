//! Windows as quinn asks for them: one for each connection.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

use super::{FIRST, Steady};

/// Makes a window for each connection.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::net) struct Windows;

impl ControllerFactory for Windows {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Steady::new(now, current_mtu.into()))
    }
}

impl Controller for Steady {
    fn on_sent(&mut self, now: Instant, _: u64, _: u64) {
        self.sent(now);
    }

    fn on_ack(&mut self, _: Instant, sent: Instant, bytes: u64, _: bool, _: &RttEstimator) {
        self.arrived(sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        // The time that comes along was taken before the packets were read; a thread that was held up in between would
        // make round trips shorter than they are.
        self.told(crate::clock::moment().max(now), in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_all: bool, lost: u64) {
        self.lost(now, sent, lost, is_all);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.packet = new_mtu.into();
    }

    fn window(&self) -> u64 {
        self.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        FIRST * self.packet
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
