//! One process of the swarm: the network, the execution thread, the loop that joins them to the decisions, and the
//! commands. No decision of the swarm is taken in this room.

pub mod cli;
pub mod clock;
pub mod demo;
pub mod device;
pub mod driver;
pub mod follow;
pub mod identity;
pub mod interrupt;
pub mod jobfile;
pub mod lines;
pub mod net;
pub mod output;
pub mod probe;
pub mod report;
pub mod runlog;
mod sizes;
mod survey;
pub mod swarm_options;
pub mod testbed;
pub mod train;
pub mod up;
mod worker;
