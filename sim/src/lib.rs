//! A swarm in one thread: the product's own decision code under a virtual clock.
//!
//! Reading order: [`scenario`] (what is simulated), [`world`] (the clock and the loop), [`network`] (links), [`device`]
//! (what tasks cost and compute), [`check`] (what must never happen), [`trace`] (what happened, as a hash), [`outcome`];
//! [`replicas`] stands by itself: gradients exchanged without a swarm.
//! The same scenario and seed give a byte-identical trace. Not here: any decision of a peer; those are `wattle_protocol::swarm`.

pub mod check;
pub mod device;
pub mod network;
pub mod outcome;
pub mod replicas;
pub mod scenario;
pub mod trace;
pub mod world;

pub use outcome::Outcome;
pub use scenario::{Arithmetic, Scenario, ScenarioError};
pub use world::run;
