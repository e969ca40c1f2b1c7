//! The King James Bible as bytes: source and licence in `models/data/README.md`.

use std::sync::OnceLock;

use super::order::sample;
use super::{Place, unpack};

/// Name of the source.
pub const KJV: &str = "text:kjv";
/// The same without every twentieth window.
pub const KJV_TRAIN: &str = "text:kjv-train";
/// Every twentieth window alone: what a network that was trained on the others has not seen.
pub const KJV_HELD: &str = "text:kjv-held";
/// Of so many windows one is held out.
const HELD: u64 = 20;
/// Distinct token ids: all bytes.
pub const VOCABULARY: usize = 256;

/// Returns the whole text.
pub fn corpus() -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| unpack(include_bytes!("../../data/kjv.txt.zlib")))
}

/// Which windows are samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// All but those that are held out.
    Train,
    /// Those alone.
    Held,
}

impl Part {
    /// Returns the windows of a source by name.
    pub fn named(source: &str) -> Option<Self> {
        match source {
            KJV => Some(Self::Whole),
            KJV_TRAIN => Some(Self::Train),
            KJV_HELD => Some(Self::Held),
            _ => None,
        }
    }

    /// Returns how many of so many windows are samples.
    fn count(self, windows: u64) -> u64 {
        match self {
            Self::Whole => windows,
            Self::Train => windows - windows / HELD,
            Self::Held => windows / HELD,
        }
    }

    /// Returns which window a sample is.
    fn window(self, sample: u64) -> u64 {
        match self {
            Self::Whole => sample,
            Self::Train => sample + sample / (HELD - 1),
            Self::Held => sample * HELD + HELD - 1,
        }
    }
}

/// Returns `rows` windows of `length` bytes, each `shift` bytes on; none if the text is shorter than a window.
///
/// Windows do not overlap, and each is a sample.
pub fn windows(
    part: Part,
    seed: u64,
    place: Place,
    [rows, length]: [usize; 2],
    shift: usize,
) -> Option<Vec<i32>> {
    let text = corpus();
    let count = part.count(text.len().checked_sub(1)?.checked_div(length)? as u64);
    if count == 0 {
        return None;
    }
    let mut out = Vec::with_capacity(rows.checked_mul(length)?);
    for row in 0..rows as u64 {
        let window = part.window(sample(seed, sequence(place, rows, row), count));
        let start = usize::try_from(window).ok()? * length;
        out.extend(text[start + shift..start + shift + length].iter().map(|b| i32::from(*b)));
    }
    Some(out)
}

/// Place of a row in the endless sequence of samples.
pub(super) fn sequence(place: Place, rows: usize, row: u64) -> u64 {
    let batch =
        place.step.wrapping_mul(u64::from(place.micro_batches)) + u64::from(place.micro_batch);
    batch.wrapping_mul(rows as u64).wrapping_add(row)
}

/// Returns the entropy of single bytes of the text, in nats: what a model that knows only frequencies reaches.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub fn unigram_entropy() -> f64 {
    let mut counts = [0u64; VOCABULARY];
    for byte in corpus() {
        counts[usize::from(*byte)] += 1;
    }
    let total = corpus().len() as f64;
    let shares = counts.iter().filter(|c| **c > 0).map(|c| *c as f64 / total);
    shares.map(|p| -p * p.ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_is_trained_on_or_held_out() {
        let part = |part: Part| (0..part.count(1009)).map(move |sample| part.window(sample));
        let mut all: Vec<u64> = part(Part::Train).chain(part(Part::Held)).collect();
        all.sort_unstable();
        assert_eq!(all, part(Part::Whole).collect::<Vec<_>>());
        assert_eq!(part(Part::Held).count(), 50);
    }

    #[test]
    fn the_corpus_is_the_text_that_the_readme_names() {
        assert_eq!(corpus().len(), 4_137_850);
        assert!(corpus().starts_with(b"In the beginning God created the heaven and the earth.\n"));
        assert!(corpus().is_ascii());
        let entropy = unigram_entropy();
        assert!((2.8..3.3).contains(&entropy), "{entropy} nats a byte is not English");
    }
}
