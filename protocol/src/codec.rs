//! What a tensor of floats looks like on a link: dense in three widths, blockwise int8, int5 or int4, or its largest elements.
//!
//! Pure: slices in, bytes out, and back. The bytes are those of `docs/decisions/0011-codecs.md`; sizes and speeds are
//! measured in `docs/concepts/codecs.md`. *Invariants*: an [`Encoder`] that was made cannot fail; what was sent and
//! what is left in the residual add up to what was to be sent, exactly; a decoder given a stranger's bytes either fails
//! and leaves its output alone, or succeeds. Whoever sends tensors calls it; placement asks for sizes and [`adatopk`].
//!
//! Reading order: [`form`] (what there is, and how long it gets), [`encode`], [`decode`]; inside, `floats`,
//! `int8`, `int5` and `int4` (every element), `select` (which are largest), `topk` and `places` (those alone).
//! [`adaptive`], [`adatopk`] and [`lags`] say how a tensor is sent, how much of it a link, a layer may send; [`subspace`] is an experiment.

pub mod adaptive;
pub mod adatopk;
pub mod choice;
pub mod decode;
pub mod encode;
pub mod error;
pub mod form;
pub mod lags;
pub mod subspace;

mod bits;
mod floats;
mod int4;
mod int5;
mod int8;
mod places;
mod select;
mod source;
mod topk;

pub use choice::{Codec, Half};
pub use decode::{decode, decode_add, decode_chunk};
pub use encode::{Encoder, encode, encode_with};
pub use error::{DecodeError, EncodeError};
pub use form::{CHUNK, Floats, Form};

#[cfg(test)]
mod tests;
