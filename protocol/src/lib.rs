//! Every decision that a Wattle swarm takes, as a pure function of its inputs.
//!
//! No IO, clock, thread, lock, async or hash-ordered map lives here: time, randomness and completions come
//! in as values, effects go out as values, and a seed means one run.
//!
//! Reading order, which is also the order of allowed `use crate::`: [`ids`] and [`units`], [`dag`] (the OP-DAG),
//! [`codec`] (tensors as bytes), [`replica`] (gradients of replicas), [`job`], [`schedule`] (who runs what), [`wire`]
//! (messages), [`swarm`] (a peer's behaviour).

pub mod codec;
pub mod dag;
pub mod ids;
pub mod job;
pub mod replica;
pub mod schedule;
pub mod swarm;
pub mod units;
pub mod wire;
