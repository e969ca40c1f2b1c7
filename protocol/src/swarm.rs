//! One peer's whole behaviour. Reading order: [`io`] (the border).

pub mod io;
