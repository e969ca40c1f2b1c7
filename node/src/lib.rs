//! Room of Wattle.
