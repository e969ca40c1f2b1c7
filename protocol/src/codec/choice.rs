//! What a job asks for on its links: one form for all of them, or one that follows how fast each is.
//!
//! The forms of a plan's edges follow from it (`schedule::forms`). Not here: what a form looks like ([`Form`]).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::form::{Floats, Form};

/// Largest ratio of a selection.
pub const RATIO_MAX: u32 = 100_000;

/// How a job's activations and cotangents cross links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Codec {
    /// Every element, bit by bit.
    #[default]
    Dense,
    /// Every element, rounded to a float of 16 bits.
    Half(Half),
    /// Every element as an integer of 8 bits, times its block's scale.
    Int8,
    /// Every element as an integer of 5 bits, times its block's scale.
    Int5,
    /// Every element as an integer of 4 bits, times its block's scale.
    Int4,
    /// On every link the mildest form of dense, bf16, int8 and int5, or for cotangents int4, with which it is no slower
    /// than the slowest in the roughest of them that is worth it.
    Adaptive,
    /// On every link one element in so many, the largest ones.
    TopK(u32),
    /// On the slowest link so many times fewer bytes, on others as many times fewer as keeps them as quick; dense on
    /// those that are that much faster.
    AdaTopK(u32),
}

/// A float of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Half {
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
}

impl Half {
    /// Returns how it is written.
    pub const fn floats(self) -> Floats {
        match self {
            Self::F16 => Floats::F16,
            Self::Bf16 => Floats::Bf16,
        }
    }
}

impl Codec {
    /// Returns the form of every tensor of so many elements, where it does not depend on its link.
    pub fn form(self, elements: usize) -> Option<Form> {
        match self {
            Self::Dense => Some(Form::DENSE),
            Self::Half(half) => Some(Form::Dense(half.floats())),
            Self::Int8 => Some(Form::Int8),
            Self::Int5 => Some(Form::Int5),
            Self::Int4 => Some(Form::Int4),
            Self::TopK(ratio) => {
                let ratio = usize::try_from(ratio).unwrap_or(usize::MAX).max(1);
                // papers.md 1.9: k = max(1, floor(n / rho)).
                let form = Form::TopK { keep: (elements / ratio).max(1), values: Floats::F32 };
                Some(form.or_dense(elements))
            }
            Self::Adaptive | Self::AdaTopK(_) => None,
        }
    }

    /// Says whether a job may ask for it.
    pub fn is_legal(self) -> bool {
        match self {
            Self::Dense | Self::Half(_) | Self::Int8 | Self::Int5 | Self::Int4 | Self::Adaptive => {
                true
            }
            Self::TopK(ratio) | Self::AdaTopK(ratio) => (1..=RATIO_MAX).contains(&ratio),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => f.write_str("dense"),
            Self::Half(Half::F16) => f.write_str("f16"),
            Self::Half(Half::Bf16) => f.write_str("bf16"),
            Self::Int8 => f.write_str("int8"),
            Self::Int5 => f.write_str("int5"),
            Self::Int4 => f.write_str("int4"),
            Self::Adaptive => f.write_str("adaptive"),
            Self::TopK(ratio) => write!(f, "topk:{ratio}"),
            Self::AdaTopK(ratio) => write!(f, "adatopk:{ratio}"),
        }
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "there are dense, f16, bf16, int8, int5, int4, adaptive, topk:RATIO and adatopk:RATIO, with a ratio from 1 to {RATIO_MAX}"
            )
        };
        let codec = match text.split_once(':') {
            None => match text {
                "dense" => Self::Dense,
                "f16" => Self::Half(Half::F16),
                "bf16" => Self::Half(Half::Bf16),
                "int8" => Self::Int8,
                "int5" => Self::Int5,
                "int4" => Self::Int4,
                "adaptive" => Self::Adaptive,
                _ => return Err(wrong()),
            },
            Some((name, ratio)) => {
                let ratio = ratio.parse().map_err(|_| wrong())?;
                match name {
                    "topk" => Self::TopK(ratio),
                    "adatopk" => Self::AdaTopK(ratio),
                    _ => return Err(wrong()),
                }
            }
        };
        if codec.is_legal() { Ok(codec) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in
            ["dense", "f16", "bf16", "int8", "int5", "int4", "adaptive", "topk:10", "adatopk:100"]
        {
            assert_eq!(text.parse::<Codec>().unwrap().to_string(), text);
        }
        for text in ["", "fp16", "topk", "topk:", "topk:0", "adatopk:100001", "topk:-1", "int8:2"] {
            assert!(text.parse::<Codec>().unwrap_err().contains("there are dense"), "{text}");
        }
    }

    #[test]
    fn a_selection_that_is_larger_than_all_is_dense() {
        assert_eq!(Codec::TopK(1).form(1000), Some(Form::DENSE));
        let keep = Form::TopK { keep: 10, values: Floats::F32 };
        assert_eq!(Codec::TopK(100).form(1000), Some(keep));
        assert_eq!(Codec::AdaTopK(100).form(1000), None);
    }
}
