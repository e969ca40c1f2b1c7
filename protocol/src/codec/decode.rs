//! Bytes of a stranger into a tensor whose form and length were agreed on.
//!
//! Nothing is allocated, whatever the bytes say; all of them are looked over before the first element is written, so
//! that a failure leaves the output as it was. What an encoder would not write is refused.

use super::error::DecodeError;
use super::floats;
use super::form::{CHUNK, Floats, Form};
use super::topk::Chunk;
use super::{int4, int5, int8};

/// Decodes a whole tensor; elements that were not sent become zero.
///
/// *Errors*: [`DecodeError`], with the output as it was.
pub fn decode(form: Form, bytes: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
    check(form, bytes, out.len())?;
    if let Form::TopK { .. } = form {
        out.fill(0.0);
    }
    apply(form, bytes, out, set)
}

/// Adds a whole tensor to the output; elements that were not sent change nothing.
///
/// *Errors*: [`DecodeError`], with the output as it was.
pub fn decode_add(form: Form, bytes: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
    check(form, bytes, out.len())?;
    apply(form, bytes, out, add)
}

/// Decodes the next chunk off the front of some bytes, for a tensor that arrives in pieces; `out` is that chunk's part
/// of the tensor, of [`CHUNK`] elements or, at its end, what is left. Returns how many bytes it took.
///
/// Whoever decodes chunk by chunk holds the whole to [`Form::bytes`] and to the elements that are kept, and hears
/// [`DecodeError::Short`] where a chunk has not arrived yet.
///
/// *Errors*: [`DecodeError`], with the output as it was.
pub fn decode_chunk(form: Form, bytes: &[u8], out: &mut [f32]) -> Result<usize, DecodeError> {
    if out.len() > CHUNK {
        return Err(DecodeError::Chunk { asked: out.len(), most: CHUNK });
    }
    let Form::TopK { keep, values } = form else {
        let used = exact(form, out.len());
        decode(form, bytes.get(..used).ok_or(DecodeError::Short)?, out)?;
        return Ok(used);
    };
    let chunk = Chunk::open(bytes, values, out.len())?;
    let rest = chunk.check(out.len())?;
    if chunk.count() > keep {
        return Err(DecodeError::TooMany { count: chunk.count(), most: keep });
    }
    out.fill(0.0);
    chunk.read(out, set);
    Ok(bytes.len() - rest.len())
}

/// Returns the length of a form that has one.
fn exact(form: Form, elements: usize) -> usize {
    usize::try_from(form.bytes(elements).count()).unwrap_or(usize::MAX)
}

fn check(form: Form, bytes: &[u8], len: usize) -> Result<(), DecodeError> {
    let most = exact(form, len);
    if bytes.len() > most {
        return Err(DecodeError::Long { extra: bytes.len() - most });
    }
    match form {
        form if form.is_of_one_length() && bytes.len() < most => Err(DecodeError::Short),
        Form::Dense(Floats::F32) => Ok(()),
        Form::Dense(floats) => floats::check_finite(floats, bytes),
        Form::Int8 => int8::check(bytes),
        Form::Int5 => int5::check(bytes, len),
        Form::Int4 => int4::check(bytes, len),
        Form::TopK { keep, values } => check_largest(bytes, len, keep, values),
    }
}

fn check_largest(
    mut bytes: &[u8],
    len: usize,
    keep: usize,
    values: Floats,
) -> Result<(), DecodeError> {
    let mut count = 0;
    for start in (0..len).step_by(CHUNK) {
        let elements = CHUNK.min(len - start);
        let chunk = Chunk::open(bytes, values, elements)?;
        count += chunk.count();
        bytes = chunk.check(elements)?;
    }
    if count > keep {
        return Err(DecodeError::TooMany { count, most: keep });
    }
    if bytes.is_empty() { Ok(()) } else { Err(DecodeError::Long { extra: bytes.len() }) }
}

#[inline]
fn set(slot: &mut f32, value: f32) {
    *slot = value;
}

#[inline]
fn add(slot: &mut f32, value: f32) {
    *slot += value;
}

/// Puts each element of bytes that were checked.
#[inline]
fn apply(
    form: Form,
    bytes: &[u8],
    out: &mut [f32],
    put: impl Fn(&mut f32, f32) + Copy,
) -> Result<(), DecodeError> {
    match form {
        Form::Dense(floats) => floats::read(floats, bytes, out, put),
        Form::Int8 => int8::read(bytes, out, put),
        Form::Int5 => int5::read(bytes, out, put),
        Form::Int4 => int4::read(bytes, out, put),
        Form::TopK { values, .. } => {
            let mut bytes = bytes;
            for slots in out.chunks_mut(CHUNK) {
                bytes = Chunk::open(bytes, values, slots.len())?.read(slots, put);
            }
        }
    }
    Ok(())
}
