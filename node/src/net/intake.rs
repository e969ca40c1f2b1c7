//! A bundle's bytes as they arrive: hashed, and decoded chunk by chunk where they are a tensor of floats, so that little is
//! left to do when the last of them is here, and nothing on the thread that computes.
//!
//! Not here: what is read and when (`bulk`), the chunks themselves (`protocol/src/codec`). *Invariants*: memory grows with
//! bytes received, by what they decode to; nothing comes out unless the hash is right and, of a tensor, every byte is one
//! that an encoder writes.

use bytes::{Buf as _, Bytes, BytesMut};
use wattle_models::exec::store::Bundle;
use wattle_protocol::codec::{CHUNK, DecodeError, Form, decode_chunk};

/// Bytes of a hash.
pub(super) const HASH: usize = 32;
/// Bytes that are hashed and decoded at a time: of a packet's alone the hash would use one lane of the processor's vectors.
const STRIDE: usize = 64 << 10;

/// How a bundle is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// As it crosses the link.
    Packed,
    /// As a tensor, decoded while it arrives where the way allows.
    Unpacked {
        /// How it is encoded.
        form: Form,
        /// Its elements.
        elements: usize,
    },
}

/// Why a bundle is not taken after all.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub(super) enum Wrong {
    /// It goes on.
    #[error("it is longer than announced")]
    Long,
    /// It has ended.
    #[error("it is shorter than announced")]
    Short,
    /// It is not what was sent.
    #[error("its hash does not match")]
    Hash,
    /// It is no tensor of the form.
    #[error(transparent)]
    Value(#[from] DecodeError),
}

/// A bundle on its way in.
#[derive(Debug)]
pub(super) struct Intake {
    take: Take,
    /// Bytes of the payload that have not come.
    left: usize,
    /// What has come and is not decoded.
    packed: BytesMut,
    /// How much of that is hashed.
    hashed: usize,
    hasher: blake3::Hasher,
    /// What came behind the payload.
    hash: Vec<u8>,
    floats: Vec<f32>,
}

impl Intake {
    /// Begins with a payload of so many bytes, of which none is here.
    pub(super) fn new(take: Take, length: usize) -> Self {
        Self {
            take,
            left: length,
            packed: BytesMut::new(),
            hashed: 0,
            hasher: blake3::Hasher::new(),
            hash: Vec::with_capacity(HASH),
            floats: Vec::new(),
        }
    }

    /// Takes the bytes that have come next: of the payload, then of its hash.
    ///
    /// *Errors*: [`Wrong`]; nothing will come of the bundle.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let (payload, hash) = bytes.split_at(bytes.len().min(self.left));
        if self.hash.len() + hash.len() > HASH {
            return Err(Wrong::Long);
        }
        self.left -= payload.len();
        self.packed.extend_from_slice(payload);
        self.hash.extend_from_slice(hash);
        if self.packed.len() - self.hashed >= STRIDE { self.work() } else { Ok(()) }
    }

    /// Ends: returns what has come.
    ///
    /// *Errors*: [`Wrong`].
    pub(super) fn end(mut self) -> Result<Bundle, Wrong> {
        if self.left > 0 || self.hash.len() < HASH {
            return Err(Wrong::Short);
        }
        self.work()?;
        if self.hasher.finalize().as_bytes().as_slice() != self.hash {
            return Err(Wrong::Hash);
        }
        let Take::Unpacked { form, elements } = self.take else {
            return Ok(Bundle::Packed(self.packed.freeze()));
        };
        if self.floats.len() < elements {
            return Err(DecodeError::Short.into());
        }
        if !self.packed.is_empty() {
            return Err(DecodeError::Long { extra: self.packed.len() }.into());
        }
        // Each chunk may keep as many as the tensor; what is kept is seldom 0.
        if let Form::TopK { keep, .. } = form {
            let count = self.floats.iter().filter(|float| **float != 0.0).count();
            if count > keep {
                return Err(DecodeError::TooMany { count, most: keep }.into());
            }
        }
        Ok(Bundle::Unpacked(self.floats))
    }

    /// Hashes and decodes what has come.
    fn work(&mut self) -> Result<(), Wrong> {
        self.hasher.update(&self.packed[self.hashed..]);
        self.hashed = self.packed.len();
        if let Take::Unpacked { form, elements } = self.take {
            while self.floats.len() < elements && self.decode(form, elements)? {}
        }
        Ok(())
    }

    /// Decodes the next chunk; says whether it is all here.
    fn decode(&mut self, form: Form, elements: usize) -> Result<bool, Wrong> {
        let at = self.floats.len();
        let next = CHUNK.min(elements - at);
        let whole = form.bytes(next).count();
        if form.is_of_one_length() && (self.packed.len() as u64) < whole {
            return Ok(false);
        }
        self.floats.resize(at + next, 0.0);
        match decode_chunk(form, &self.packed, &mut self.floats[at..]) {
            Ok(used) => {
                self.packed.advance(used);
                self.hashed -= used;
                Ok(true)
            }
            Err(DecodeError::Short) if self.left > 0 => {
                self.floats.truncate(at);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns what a payload is hashed to, in parts.
pub(super) fn hash(payload: &[Bytes]) -> [u8; HASH] {
    let mut hasher = blake3::Hasher::new();
    for part in payload {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wattle_protocol::codec::{Floats, decode, encode};

    use super::*;

    fn form() -> impl Strategy<Value = Form> {
        let floats = prop_oneof![Just(Floats::F32), Just(Floats::F16), Just(Floats::Bf16)];
        let largest =
            (1..3000usize, floats.clone()).prop_map(|(keep, values)| Form::TopK { keep, values });
        let dense = floats.prop_map(Form::Dense);
        prop_oneof![dense, Just(Form::Int8), Just(Form::Int5), Just(Form::Int4), largest]
    }

    fn taken(take: Take, pieces: &[&[u8]], length: usize) -> Result<Bundle, Wrong> {
        let mut intake = Intake::new(take, length);
        for piece in pieces {
            intake.push(piece)?;
        }
        intake.end()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        /// Goal: a tensor comes out as if it were decoded when all of it is here, however its bytes are cut on the way. Method:
        /// tensors of up to three chunks in every form, in pieces of a few bytes to all of them.
        #[test]
        fn pieces_decode_to_what_the_whole_does(
            form in form(),
            elements in 1..3 * CHUNK,
            piece in prop_oneof![700..2000usize, 60_000..70_000usize, Just(usize::MAX)],
            seed in any::<u32>(),
        ) {
            let values: Vec<f32> = (0..u32::try_from(elements).unwrap())
                .map(|at| (at.wrapping_mul(2_654_435_761) ^ seed) as f32 / 4e9 - 0.5)
                .collect();
            let mut packed = Vec::new();
            encode(form, &values, &mut packed).unwrap();
            let mut whole = vec![0.0; elements];
            decode(form, &packed, &mut whole).unwrap();
            let mut sent = packed.clone();
            sent.extend_from_slice(blake3::hash(&packed).as_bytes());
            let pieces: Vec<&[u8]> = sent.chunks(piece).collect();
            let found = taken(Take::Unpacked { form, elements }, &pieces, packed.len());
            prop_assert_eq!(found, Ok(Bundle::Unpacked(whole)));
            let found = taken(Take::Packed, &pieces, packed.len());
            prop_assert_eq!(found, Ok(Bundle::Packed(packed.into())));
        }
    }

    /// Goal: nothing comes of what is wrong. Method: a tensor of the largest elements with a byte turned over, cut short, with
    /// more behind it, and one that is announced as another form.
    #[test]
    fn what_is_wrong_is_not_taken() {
        let values: Vec<f32> = (0..CHUNK + 5).map(|at| at as f32 / 1e6).collect();
        let form = Form::TopK { keep: 100, values: Floats::F16 };
        let unpacked = Take::Unpacked { form, elements: values.len() };
        let mut packed = Vec::new();
        encode(form, &values, &mut packed).unwrap();
        let hash = hash(&[packed.clone().into()]);
        let length = packed.len();
        assert!(taken(unpacked, &[&packed, &hash], length).is_ok());
        assert_eq!(taken(unpacked, &[&packed, &hash[1..]], length), Err(Wrong::Short));
        assert_eq!(taken(unpacked, &[&packed, &hash, &[0]], length), Err(Wrong::Long));
        assert_eq!(taken(Take::Packed, &[&packed, &[7; HASH]], length), Err(Wrong::Hash));
        let form = Form::TopK { keep: 99, values: Floats::F16 };
        let fewer = Take::Unpacked { form, elements: values.len() };
        assert!(matches!(taken(fewer, &[&packed, &hash], length), Err(Wrong::Value(_))));
        let other = Take::Unpacked { form: Form::Int8, elements: values.len() };
        let found = taken(other, &[&packed, &hash], length);
        assert_eq!(found, Err(Wrong::Value(DecodeError::Short)));
    }
}
