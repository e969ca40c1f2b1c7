//! What peers say to each other: [`frame`] (bytes, versions, limits) and [`message`] (meaning).

pub mod frame;
pub mod message;
mod name;
