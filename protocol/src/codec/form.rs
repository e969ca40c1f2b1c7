//! The forms, and how many bytes each takes.
//!
//! A form is agreed on before its bytes travel, as the tensor's length is: neither stands in the bytes. So a receiver
//! knows beforehand what a tensor takes exactly, or at most, and refuses more unread.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{int4, int5, int8, topk};
use crate::units::Bytes;

/// Elements of a chunk; the last chunk of a tensor may have fewer.
///
/// 256 KiB of floats: they stay in a core's cache between the passes over them, places fit 16 bits, and a tensor of a
/// few MiB is sent while the rest of it is encoded.
pub const CHUNK: usize = 1 << 16;

/// How one float is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Floats {
    /// Single precision: what tensors have in memory.
    F32,
    /// Half precision: 11 bits of significand, up to 65504.
    F16,
    /// The upper half of single precision: 8 bits of significand, all of its range.
    Bf16,
}

impl Floats {
    /// Returns the bytes of one.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// What a tensor looks like on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Form {
    /// Every element as a float.
    Dense(Floats),
    /// Every element as an integer of 8 bits, times its block's scale.
    Int8,
    /// Every element as an integer of 5 bits, times its block's scale.
    Int5,
    /// Every element as an integer of 4 bits, times its block's scale.
    Int4,
    /// The elements of largest magnitude.
    TopK {
        /// How many, of the whole tensor; zeros are never sent, so that it may be fewer.
        keep: usize,
        /// How their values are written.
        values: Floats,
    },
}

impl Form {
    /// What tensors have in memory.
    pub const DENSE: Self = Self::Dense(Floats::F32);

    /// Returns dense elements instead where this form may take more.
    #[must_use]
    pub fn or_dense(self, elements: usize) -> Self {
        if self.bytes(elements) < Self::DENSE.bytes(elements) { self } else { Self::DENSE }
    }

    /// Says whether all tensors of a size take the same bytes.
    pub const fn is_of_one_length(self) -> bool {
        match self {
            Self::Dense(_) | Self::Int8 | Self::Int5 | Self::Int4 => true,
            Self::TopK { .. } => false,
        }
    }

    /// Returns the bytes of a tensor of so many elements: exactly, or for `TopK` at most, whatever the elements are.
    pub const fn bytes(self, elements: usize) -> Bytes {
        let count = elements as u64;
        match self {
            Self::Dense(floats) => Bytes::new(count.saturating_mul(floats.size() as u64)),
            Self::Int8 => int8::bytes(count),
            Self::Int5 => int5::bytes(count),
            Self::Int4 => int4::bytes(count),
            Self::TopK { keep, values } => topk::bytes(count, keep as u64, values),
        }
    }

    /// Says whether every tensor arrives bit by bit as it was.
    pub const fn is_exact(self) -> bool {
        matches!(self, Self::Dense(Floats::F32))
    }
}

impl fmt::Display for Floats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense(floats) => write!(f, "dense {floats}"),
            Self::Int8 => f.write_str("int8"),
            Self::Int5 => f.write_str("int5"),
            Self::Int4 => f.write_str("int4"),
            Self::TopK { keep, values } => write!(f, "the largest {keep} ({values})"),
        }
    }
}
