//! What peers say to each other: [`frame`] (bytes, versions, limits), [`message`] (meaning) and [`trace`] (what members
//! remember of the last steps).

pub mod frame;
pub mod message;
mod name;
pub mod trace;
