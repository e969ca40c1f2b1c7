//! Gradients of data-parallel replicas, exchanged as values: docs/concepts/replica-gradients.md.
//!
//! Each worker has the whole network and samples of its own; what is exchanged is one gradient, or one change of the
//! parameters, a worker. Pure: gradients in, bytes out; bytes in, their mean out. When anything is sent and over what
//! is the caller's. No running job uses this: residuals die with their worker, and a job promises the bits of an
//! undisturbed run (docs/decisions/0014-replica-gradients.md).
//! *Laws*: what is sent plus what is left is the gradient plus what was left, exactly; whatever the order in which
//! messages arrive, every worker has the same bits; with nothing left out, they are those of the dense exchange.
//!
//! Reading order: [`merge`] (what goes together), [`ratio`] and [`warmup`] (how much of it), [`worker`] (one worker's
//! residuals and messages), [`gather`] and [`ring`] (the two ways to a mean), [`exchange`] (all workers at once),
//! [`outer`] (steps of their own between exchanges).

pub mod error;
pub mod exchange;
pub mod gather;
pub mod merge;
pub mod outer;
pub mod ratio;
pub mod ring;
pub mod warmup;
pub mod worker;

pub use error::ReplicaError;
pub use exchange::{Exchange, Exchanged};
pub use gather::Gather;
pub use merge::MergeGroups;
pub use outer::{Outer, OuterRule};
pub use worker::Worker;

#[cfg(test)]
mod tests;
