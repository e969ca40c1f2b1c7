//! Handwritten digits of 8 x 8 pixels in 10 classes: source and licence in `models/data/README.md`.

use std::sync::OnceLock;

use super::order::sample;
use super::text::sequence;
use super::{Place, unpack};

/// Name of the source.
pub const DIGITS: &str = "images:digits";
/// Width and height of an image.
pub const SIDE: usize = 8;
/// Number of classes.
pub const CLASSES: usize = 10;

const PIXELS: usize = SIDE * SIDE;
/// One label byte, then the pixels.
const RECORD: usize = 1 + PIXELS;

fn records() -> &'static [[u8; RECORD]] {
    static RECORDS: OnceLock<Vec<u8>> = OnceLock::new();
    RECORDS.get_or_init(|| unpack(include_bytes!("../../data/digits.zlib"))).as_chunks::<RECORD>().0
}

fn chosen(seed: u64, place: Place, rows: usize) -> impl Iterator<Item = &'static [u8; RECORD]> {
    let records = records();
    (0..rows as u64).map(move |row| {
        let at = sample(seed, sequence(place, rows, row), records.len() as u64);
        &records[usize::try_from(at).expect("a place below the number of records")]
    })
}

/// Returns the pixels of `rows` images, scaled from 0..=16 to -1..=1, stretched to `[channels, height, width]` by
/// repeating pixels.
pub fn pixels(
    seed: u64,
    place: Place,
    rows: usize,
    [channels, height, width]: [usize; 3],
) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * channels * height * width);
    for record in chosen(seed, place, rows) {
        for _ in 0..channels {
            for y in 0..height {
                let line = &record[1 + y * SIDE / height * SIDE..];
                out.extend((0..width).map(|x| f32::from(line[x * SIDE / width]) / 8.0 - 1.0));
            }
        }
    }
    out
}

/// Returns the labels of the images of [`pixels`].
pub fn labels(seed: u64, place: Place, rows: usize) -> Vec<i32> {
    chosen(seed, place, rows).map(|r| i32::from(r[0])).collect()
}

/// Returns the labels of all images in file order.
pub fn all_labels() -> Vec<i32> {
    records().iter().map(|r| i32::from(r[0])).collect()
}
