//! Data sources that every peer carries, and which samples make up a micro-batch.
//!
//! A micro-batch is named by (seed, step, micro-batch): every stage draws its own inputs, all stages draw the same
//! samples, and a redone step repeats them. Each pass over a source visits each sample once, in an order of its own.

pub mod images;
pub mod order;
pub mod shapes;
pub mod text;

use wattle_protocol::dag::{Dtype, Fact, Init, Source, Value};
use wattle_protocol::job::DataSpec;

use crate::init;

/// Name of the source of independent standard normal draws: any f32 input by any name, for tests and measurements.
pub const NOISE: &str = "noise:normal";

/// Elements of one input.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// Token ids or class labels.
    Ints(Vec<i32>),
    /// Pixels.
    Floats(Vec<f32>),
}

/// Which micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The step.
    pub step: u64,
    /// The micro-batch.
    pub micro_batch: u32,
    /// Micro-batches in a step.
    pub micro_batches: u32,
}

/// Why there is no data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// No such source on this machine.
    #[error("there is no data source {name}; there are {}", names().join(", "))]
    Source {
        /// What was asked for.
        name: String,
    },
    /// The source has no such input.
    #[error("{source_name} has no input {input} of {fact}")]
    Input {
        /// The source.
        source_name: String,
        /// The input that the network wants.
        input: String,
        /// Its dtype and shape.
        fact: String,
    },
}

/// Returns the names of all sources.
pub fn names() -> Vec<&'static str> {
    vec![text::KJV, text::KJV_TRAIN, text::KJV_HELD, images::DIGITS, shapes::SHAPES, NOISE]
}

/// Returns what a source calls its samples and their targets; none where it fills any input by any name.
pub fn fields(source: &str) -> Option<[&'static str; 2]> {
    match source {
        text::KJV | text::KJV_TRAIN | text::KJV_HELD => Some(["tokens", "targets"]),
        images::DIGITS | shapes::SHAPES => Some(["images", "labels"]),
        _ => None,
    }
}

/// Draws one input of one micro-batch.
///
/// *Errors*: [`DataError`] if the source or its input is unknown.
pub fn batch(
    spec: &DataSpec,
    place: Place,
    input: &str,
    fact: &Fact,
) -> Result<Elements, DataError> {
    let unknown = || DataError::Input {
        source_name: spec.source.clone(),
        input: input.into(),
        fact: format!("{:?} {:?}", fact.dtype, fact.shape),
    };
    if let Some(part) = text::Part::named(&spec.source) {
        let shift = match input {
            "tokens" => 0,
            "targets" => 1,
            _ => return Err(unknown()),
        };
        return match (fact.dtype, fact.shape.as_slice()) {
            (Dtype::I32, &[rows, length]) => {
                let windows = text::windows(part, spec.seed, place, [rows, length], shift);
                windows.map(Elements::Ints).ok_or_else(unknown)
            }
            _ => Err(unknown()),
        };
    }
    match (spec.source.as_str(), input, fact.dtype, fact.shape.as_slice()) {
        (images::DIGITS, "images", Dtype::F32, &[rows, channels, height, width]) => {
            Ok(Elements::Floats(images::pixels(spec.seed, place, rows, [channels, height, width])))
        }
        (images::DIGITS, "labels", Dtype::I32, &[rows]) => {
            Ok(Elements::Ints(images::labels(spec.seed, place, rows)))
        }
        (shapes::SHAPES, "images", Dtype::F32, &[rows, 3, height, width]) => {
            Ok(Elements::Floats(shapes::pixels(spec.seed, place, rows, [height, width])))
        }
        (shapes::SHAPES, "labels", Dtype::I32, &[rows]) => {
            Ok(Elements::Ints(shapes::labels(spec.seed, place, rows)))
        }
        (NOISE, _, Dtype::F32, _) => Ok(Elements::Floats(noise(spec.seed, place, input, fact))),
        (images::DIGITS | shapes::SHAPES | NOISE, ..) => Err(unknown()),
        _ => Err(DataError::Source { name: spec.source.clone() }),
    }
}

/// Returns the entropy of single tokens of a source in nats, where its samples are tokens.
pub fn unigram_entropy(source: &str) -> Option<f64> {
    text::Part::named(source).map(|_| text::unigram_entropy())
}

fn noise(seed: u64, place: Place, input: &str, fact: &Fact) -> Vec<f32> {
    let name = format!("{input}\0{}\0{}", place.step, place.micro_batch);
    let source = Source::Input;
    let value = Value { name, fact: fact.clone(), source };
    init::draw(seed, &value, Init::Normal(1.0))
}

/// Unpacks a file that is part of the program.
fn unpack(packed: &[u8]) -> Vec<u8> {
    miniz_oxide::inflate::decompress_to_vec_zlib(packed)
        .expect("the packed file is part of the program")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(source: &str) -> DataSpec {
        DataSpec { source: source.into(), seed: 11 }
    }

    fn place(step: u64, micro_batch: u32) -> Place {
        Place { step, micro_batch, micro_batches: 4 }
    }

    #[test]
    fn targets_are_the_tokens_one_place_on() {
        let fact = Fact::i32(&[3, 50]);
        let Ok(Elements::Ints(tokens)) = batch(&spec(text::KJV), place(5, 2), "tokens", &fact)
        else {
            panic!("tokens are integers");
        };
        let Ok(Elements::Ints(targets)) = batch(&spec(text::KJV), place(5, 2), "targets", &fact)
        else {
            panic!("targets are integers");
        };
        for row in 0..3 {
            assert_eq!(tokens[row * 50 + 1..(row + 1) * 50], targets[row * 50..(row + 1) * 50 - 1]);
        }
    }

    #[test]
    fn a_micro_batch_is_named_by_seed_step_and_place() {
        let fact = Fact::i32(&[2, 16]);
        let draw = |s: &DataSpec, p| batch(s, p, "tokens", &fact).unwrap();
        let s = spec(text::KJV);
        assert_eq!(draw(&s, place(3, 1)), draw(&s, place(3, 1)));
        assert_ne!(draw(&s, place(3, 1)), draw(&s, place(3, 2)));
        assert_ne!(draw(&s, place(3, 1)), draw(&s, place(4, 1)));
        assert_ne!(draw(&s, place(3, 1)), draw(&DataSpec { seed: 12, ..s.clone() }, place(3, 1)));
    }

    #[test]
    fn every_image_is_seen_once_in_a_pass() {
        // 599 micro-batches of 3 are the 1797 images.
        let one = |step| Place { step, micro_batch: 0, micro_batches: 1 };
        let mut seen: Vec<i32> = Vec::new();
        let mut pixels = std::collections::BTreeSet::new();
        for step in 0..599 {
            seen.extend(images::labels(7, one(step), 3));
            for image in images::pixels(7, one(step), 3, [1, 8, 8]).chunks(64) {
                pixels.insert(image.iter().map(|p| p.to_bits()).collect::<Vec<_>>());
            }
        }
        let all = images::all_labels();
        for class in 0..10 {
            let count = |list: &[i32]| list.iter().filter(|l| **l == class).count();
            assert_eq!(count(&seen), count(&all));
        }
        assert_eq!(pixels.len(), 1797);
    }

    #[test]
    fn larger_images_repeat_the_pixels_of_small_ones() {
        let small = images::pixels(7, place(0, 0), 1, [1, 8, 8]);
        let large = images::pixels(7, place(0, 0), 1, [3, 16, 16]);
        for (at, pixel) in large.iter().enumerate() {
            let (y, x) = (at / 16 % 16 / 2, at % 16 / 2);
            assert_eq!(pixel.to_bits(), small[y * 8 + x].to_bits());
        }
    }

    #[test]
    fn unknown_sources_and_inputs_are_named() {
        let fact = Fact::i32(&[2, 16]);
        let error = batch(&spec("text:none"), place(0, 0), "tokens", &fact).unwrap_err();
        assert!(error.to_string().contains("text:kjv"), "{error}");
        let error = batch(&spec(text::KJV), place(0, 0), "labels", &fact).unwrap_err();
        assert!(error.to_string().contains("labels"), "{error}");
        assert!(
            batch(&spec(text::KJV), place(0, 0), "tokens", &Fact::i32(&[1, 5_000_000])).is_err()
        );
    }
}
