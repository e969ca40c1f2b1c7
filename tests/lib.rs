//! Only test targets.
