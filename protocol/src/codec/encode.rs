//! A tensor into bytes, a chunk at a time.
//!
//! What a form cannot hold is refused before the first byte is written or the residual touched; from then on nothing
//! fails. A residual belongs to whoever owns the stage: it is passed in, added to the tensor, and takes what was not
//! sent. *Law*: each element as it is decoded plus its residual is the sum that was to be sent, exactly, whatever the
//! form: what is not sent of a float is a float again (proved in decision 0011, held by tests).

use super::error::EncodeError;
use super::floats::{self, least_infinite};
use super::form::{CHUNK, Floats, Form};
use super::select::Bound;
use super::source::Source;
use super::topk::{Chunk, Room};
use super::{int4, int5, int8};

/// One tensor on its way out.
#[derive(Debug)]
pub struct Encoder<'a> {
    form: Form,
    source: Source<'a>,
    /// Where the largest elements are cut off; for other forms unused.
    bound: Bound,
    room: Room,
    next: usize,
}

impl<'a> Encoder<'a> {
    /// Looks the tensor over: with `TopK`, finds what is largest in all of it.
    ///
    /// If there is a residual, it is added; each chunk that is encoded leaves in it what was not sent. An encoder that
    /// is dropped early leaves the residual of later chunks without the tensor.
    ///
    /// *Errors*: all of [`EncodeError`]; the residual is as it was.
    pub fn new(
        form: Form,
        tensor: &'a [f32],
        residual: Option<&'a mut [f32]>,
    ) -> Result<Self, EncodeError> {
        let source = Source::new(tensor, residual)?;
        let mut bound = Bound { magnitude: 0, until: 0 };
        match form {
            Form::Dense(Floats::F32) => {}
            Form::Dense(floats) => source.refuse(least_infinite(floats))?,
            Form::Int8 | Form::Int5 | Form::Int4 => source.refuse(int8::TOO_LARGE)?,
            Form::TopK { keep, values } => {
                source.refuse(least_infinite(values))?;
                bound = Bound::of(&source, keep);
            }
        }
        Ok(Self { form, source, bound, room: Room::default(), next: 0 })
    }

    /// Appends the next chunk; says whether there was one.
    pub fn next_chunk(&mut self, out: &mut Vec<u8>) -> bool {
        let (start, end) = (self.next, (self.next + CHUNK).min(self.source.len()));
        if start == end {
            return false;
        }
        self.next = end;
        let values = self.source.take(start..end);
        let head = out.len();
        if let Form::TopK { values: floats, .. } = self.form {
            self.room.write(self.bound, floats, (start, values), out);
        } else {
            let size = self.form.bytes(end - start).count();
            out.resize(head + usize::try_from(size).unwrap_or(usize::MAX), 0);
            match self.form {
                Form::Dense(floats) => floats::write(floats, values, &mut out[head..]),
                Form::Int4 => int4::write(values, &mut out[head..]),
                Form::Int5 => int5::write(values, &mut out[head..]),
                Form::Int8 | Form::TopK { .. } => int8::write(values, &mut out[head..]),
            }
        }
        if let Some(residual) = self.source.residual(start..end) {
            subtract(self.form, &out[head..], residual);
        }
        true
    }
}

#[inline]
fn take(slot: &mut f32, value: f32) {
    *slot -= value;
}

/// Takes off a chunk what its receiver will see of it.
fn subtract(form: Form, bytes: &[u8], residual: &mut [f32]) {
    match form {
        // Infinite elements too were sent.
        Form::Dense(Floats::F32) => residual.fill(0.0),
        Form::Dense(floats) => floats::read(floats, bytes, residual, take),
        Form::Int8 => int8::read(bytes, residual, take),
        Form::Int5 => int5::read(bytes, residual, take),
        Form::Int4 => int4::read(bytes, residual, take),
        Form::TopK { values, .. } => {
            if let Ok(chunk) = Chunk::open(bytes, values, residual.len()) {
                chunk.read(residual, take);
            }
        }
    }
}

/// Appends a whole tensor.
///
/// *Errors*: [`EncodeError::NotFinite`] and [`EncodeError::TooLarge`]; nothing is appended.
pub fn encode(form: Form, tensor: &[f32], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut encoder = Encoder::new(form, tensor, None)?;
    out.reserve(usize::try_from(form.bytes(tensor.len()).count()).unwrap_or(0));
    while encoder.next_chunk(out) {}
    Ok(())
}

/// Appends a whole tensor with what earlier ones left unsent, and leaves in the residual what this one does.
///
/// *Errors*: [`EncodeError`]; nothing is appended, and the residual is as it was.
pub fn encode_with(
    form: Form,
    tensor: &[f32],
    residual: &mut [f32],
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let mut encoder = Encoder::new(form, tensor, Some(residual))?;
    while encoder.next_chunk(out) {}
    Ok(())
}
