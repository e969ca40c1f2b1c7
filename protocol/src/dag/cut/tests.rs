//! Laws of cuts.
