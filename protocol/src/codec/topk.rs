//! A chunk of a tensor's largest elements: how many, how their places are written, their values, their places.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 to 3 | how many, in groups of 7 bits; nothing follows zero |
//! | 1 | low bits of a gap, see [`places`](super::places) |
//! | 2 or 4 each | values, in their order in the tensor |
//! | the rest | places, the last byte filled up with zeros |

use super::bits::{number, push_number};
use super::error::DecodeError;
use super::floats;
use super::form::{CHUNK, Floats};
use super::places::{self, SHIFT_MAX};
use super::select::Bound;
use crate::units::Bytes;

/// Returns the most that the `keep` largest of so many elements take, whichever they are: what a receiver allows, and
/// what placement counts with.
///
/// Exact for one chunk whose last element is kept and whose gaps are alike; see the invariant of `places`.
pub(super) const fn bytes(elements: u64, keep: u64, values: Floats) -> Bytes {
    let keep = if keep < elements { keep } else { elements };
    let chunks = elements.div_ceil(CHUNK as u64);
    let filled = least(chunks, keep);
    // So many chunks can have a count of two bytes, and of three.
    let counts = chunks + least(chunks, keep >> 7) + least(chunks, keep >> 14);
    let (mut bits, mut shift) = (elements, 1);
    while shift <= SHIFT_MAX {
        let unary = (elements - keep) >> shift;
        bits = least(bits, keep.saturating_mul(1 + shift as u64).saturating_add(unary));
        shift += 1;
    }
    // A chunk's last byte is filled up.
    let places = bits.saturating_add(7 * filled) / 8;
    let size = keep.saturating_mul(values.size() as u64);
    Bytes::new(size.saturating_add(places).saturating_add(counts + filled))
}

const fn least(left: u64, right: u64) -> u64 {
    if left < right { left } else { right }
}

/// What a chunk is encoded in, kept from chunk to chunk.
#[derive(Debug, Default)]
pub(super) struct Room {
    gaps: Vec<u16>,
    values: Vec<f32>,
    words: Vec<u64>,
}

impl Room {
    /// Lists the gaps and values of what is kept of a chunk that starts at `start` in its tensor.
    fn gather(&mut self, bound: Bound, start: usize, chunk: &[f32]) {
        self.gaps.resize(chunk.len(), 0);
        self.values.resize(chunk.len(), 0.0);
        let mut slots = self.gaps.iter_mut().zip(&mut self.values);
        let (mut next, mut count) = (0, 0);
        for (place, part) in chunk.chunks(64).enumerate() {
            let offset = 64 * place;
            let mut kept = match part.as_array::<64>() {
                Some(whole) => bound.mask(start + offset, whole),
                None => {
                    let mut padded = [0.0; 64];
                    padded[..part.len()].copy_from_slice(part);
                    bound.mask(start + offset, &padded)
                }
            };
            count += usize::try_from(kept.count_ones()).unwrap_or(64);
            while kept != 0 {
                let bit = usize::try_from(kept.trailing_zeros()).unwrap_or(64);
                kept &= kept - 1;
                if let Some((gap, value)) = slots.next() {
                    *gap = u16::try_from(offset + bit - next).unwrap_or(u16::MAX);
                    *value = part[bit];
                }
                next = offset + bit + 1;
            }
        }
        self.gaps.truncate(count);
        self.values.truncate(count);
    }

    /// Appends what is kept of a chunk that starts at `start` in its tensor.
    pub(super) fn write(
        &mut self,
        bound: Bound,
        values: Floats,
        (start, chunk): (usize, &[f32]),
        out: &mut Vec<u8>,
    ) {
        self.gather(bound, start, chunk);
        push_number(self.gaps.len(), out);
        if self.gaps.is_empty() {
            return;
        }
        let (shift, bits) = places::best(&self.gaps);
        push_number(shift, out);
        let head = out.len();
        out.resize(head + self.values.len() * values.size(), 0);
        floats::write(values, &self.values, &mut out[head..]);
        places::write(&self.gaps, (shift, bits), &mut self.words, out);
    }
}

/// A chunk's bytes, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk<'a> {
    floats: Floats,
    count: usize,
    shift: usize,
    values: &'a [u8],
    /// Places, and what follows the chunk.
    rest: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Takes apart what begins with a chunk of `len` elements.
    pub(super) fn open(bytes: &'a [u8], floats: Floats, len: usize) -> Result<Self, DecodeError> {
        let fault = if bytes.len() < 3 { DecodeError::Short } else { DecodeError::Layout };
        let (count, head) = number(bytes).ok_or(fault)?;
        let bytes = &bytes[head..];
        if count > len {
            return Err(DecodeError::TooMany { count, most: len });
        }
        if count == 0 {
            return Ok(Self { floats, count, shift: 0, values: &[], rest: bytes });
        }
        let (shift, bytes) = bytes.split_first().ok_or(DecodeError::Short)?;
        let shift = usize::from(*shift);
        if shift > SHIFT_MAX {
            return Err(DecodeError::Layout);
        }
        let size = count * floats.size();
        let (values, rest) = bytes.split_at_checked(size).ok_or(DecodeError::Short)?;
        Ok(Self { floats, count, shift, values, rest })
    }

    /// Returns what follows a chunk of `len` elements, if it is as an encoder writes it.
    pub(super) fn check(&self, len: usize) -> Result<&'a [u8], DecodeError> {
        if self.count == 0 {
            return Ok(self.rest);
        }
        floats::check_finite(self.floats, self.values)?;
        let used = places::check(self.rest, self.count, self.shift, len)?;
        self.rest.get(used..).ok_or(DecodeError::Short)
    }

    /// Returns how many elements there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Puts each element of a chunk that was checked in its slot; returns what follows.
    pub(super) fn read(&self, out: &mut [f32], put: impl Fn(&mut f32, f32) + Copy) -> &'a [u8] {
        if self.count == 0 {
            return self.rest;
        }
        match self.floats {
            Floats::F32 => self.each(out, f32::from_le_bytes, put),
            Floats::F16 => self.each(out, floats::from_f16, put),
            Floats::Bf16 => self.each(out, floats::from_bf16, put),
        }
    }

    fn each<const N: usize>(
        &self,
        out: &mut [f32],
        convert: impl Fn([u8; N]) -> f32,
        put: impl Fn(&mut f32, f32),
    ) -> &'a [u8] {
        let mut values = self.values.as_chunks::<N>().0.iter();
        let used = places::each(self.rest, self.count, self.shift, |place| {
            if let (Some(value), Some(slot)) = (values.next(), out.get_mut(place)) {
                put(slot, convert(*value));
            }
        });
        self.rest.get(used..).unwrap_or_default()
    }
}
