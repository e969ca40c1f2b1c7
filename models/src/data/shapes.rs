//! Small color images of ten shapes, drawn as they are asked for: in the place of a set of photographs, which the
//! program does not carry.
//!
//! An image holds one shape, tilted, of some size and color, not far from its middle, before a darker color that fades
//! across the image, with spots of both colors about it and noise over all. Neither a color nor a pixel tells the class.
//! Every seed draws other images, and none twice, so that a seed that was not trained on is a held-out set.

use super::Place;
use super::text::sequence;
use crate::exec::host::activation::mix;
use crate::init::unit;

/// Name of the source.
pub const SHAPES: &str = "images:shapes";
/// Number of classes.
pub const CLASSES: usize = 10;

/// Side of the square in which shapes are laid out; images of other sizes are the same picture, finer or coarser.
const SIDE: f64 = 32.0;
/// Spots about the shape.
const SPOTS: u64 = 2;
/// Most that noise adds to or takes from a pixel of -1..=1.
const NOISE: f64 = 0.3;
/// Least and most of a channel of a shape.
const BRIGHT: [f64; 2] = [0.0, 0.9];
/// The same of what is behind it.
const DARK: [f64; 2] = [-0.8, 0.1];
/// Most that a shape is tilted, in radians.
const TILT: f64 = 0.5;

/// Uniform draws of one image, by number.
#[derive(Clone, Copy)]
struct Draws(u64);

impl Draws {
    fn between(self, number: u64, low: f64, high: f64) -> f64 {
        low + (high - low) * unit(self.0, number)
    }

    fn color(self, number: u64, [low, high]: [f64; 2]) -> [f64; 3] {
        [0, 1, 2].map(|channel| self.between(number + channel, low, high))
    }
}

/// Returns the draws of each row of a micro-batch.
fn rows(seed: u64, place: Place, rows: usize) -> impl Iterator<Item = Draws> {
    // The odd constant keeps seed and sequence apart.
    let key = mix(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5348_4150_4553);
    (0..rows as u64).map(move |row| Draws(mix(key.wrapping_add(sequence(place, rows, row)))))
}

fn class(draws: Draws) -> usize {
    let classes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let share = draws.between(0, 0.0, 10.0);
    classes
        .into_iter()
        .rfind(|class| f64::from(*class) <= share)
        .map_or(0, |class| usize::try_from(class).unwrap_or(0))
}

/// Returns the labels of the images of [`pixels`].
pub fn labels(seed: u64, place: Place, count: usize) -> Vec<i32> {
    rows(seed, place, count).map(|draws| i32::try_from(class(draws)).unwrap_or(0)).collect()
}

/// Says whether a point lies within a shape of radius 1.
fn holds(class: usize, u: f64, v: f64) -> bool {
    let (radius, across, along) = (u * u + v * v, u.abs(), v.abs());
    let square = across.max(along);
    match class {
        0 => radius < 1.0,
        1 => (0.4..1.0).contains(&radius),
        2 => square < 0.8,
        3 => (0.5..0.8).contains(&square),
        4 => (-v - 0.55).max(0.866 * across + 0.5 * v - 0.55) < 0.0,
        5 => (across < 0.3 && along < 1.0) || (along < 0.3 && across < 1.0),
        6 => across < 0.3 && along < 1.0,
        7 => radius < 1.2 && v > 0.0,
        8 => (across - 0.6) * (across - 0.6) + v * v < 0.16,
        _ => (u + 0.5).abs() < 0.28 && along < 0.9 || (v + 0.6).abs() < 0.28 && across < 0.8,
    }
}

/// Returns the pixels of `rows` images, about -1 to 1: `[rows, 3, height, width]`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "pixels are f32, and there are few of them"
)]
pub fn pixels(seed: u64, place: Place, count: usize, [height, width]: [usize; 2]) -> Vec<f32> {
    let mut out = Vec::with_capacity(count * 3 * height * width);
    for draws in rows(seed, place, count) {
        let class = class(draws);
        let (shape, ground) = (draws.color(1, BRIGHT), draws.color(4, DARK));
        let fade = [7, 8].map(|n| draws.between(n, -0.4, 0.4));
        let middle = [9, 10].map(|n| draws.between(n, 12.0, 20.0));
        let (size, angle) = (draws.between(11, 7.0, 12.0), draws.between(12, -TILT, TILT));
        let (sine, cosine) = (libm::sin(angle) / size, libm::cos(angle) / size);
        let spots = (0..SPOTS).map(|n| {
            let at = |number| draws.between(20 + 4 * n + number, 0.0, SIDE);
            (at(0), at(1), draws.between(22 + 4 * n, 0.8, 2.0), n % 2 == 0)
        });
        let spots: Vec<(f64, f64, f64, bool)> = spots.collect();
        let mut counter = 100;
        for channel in 0..3 {
            for row in 0..height {
                let y = (row as f64 + 0.5) * SIDE / height as f64;
                for column in 0..width {
                    let x = (column as f64 + 0.5) * SIDE / width as f64;
                    let (dx, dy) = (x - middle[0], y - middle[1]);
                    let mut inside = holds(class, cosine * dx + sine * dy, cosine * dy - sine * dx);
                    for (sx, sy, reach, is_shape) in &spots {
                        if (x - sx) * (x - sx) + (y - sy) * (y - sy) < reach * reach {
                            inside = *is_shape;
                        }
                    }
                    let fading = fade[0] * (x / SIDE - 0.5) + fade[1] * (y / SIDE - 0.5);
                    let color = if inside { shape[channel] } else { ground[channel] + fading };
                    counter += 1;
                    out.push((color + draws.between(counter, -NOISE, NOISE)) as f32);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { step: 3, micro_batch: 1, micro_batches: 2 };

    #[test]
    fn all_classes_come_about_as_often_and_seeds_draw_other_images() {
        let found = labels(1, PLACE, 5000);
        for class in 0..10 {
            let count = found.iter().filter(|label| **label == class).count();
            assert!((400..600).contains(&count), "{class}: {count}");
        }
        let draw = |seed, step| pixels(seed, Place { step, ..PLACE }, 2, [32, 32]);
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_ne!(draw(1, 0), draw(1, 1));
        assert_ne!(draw(1, 0), draw(2, 0));
        assert_ne!(draw(1, 0)[..3072], draw(1, 0)[3072..]);
        assert!(draw(1, 0).iter().all(|pixel| pixel.abs() < 2.0));
    }

    /// Goal: how bright an image is does not tell its class. Method: means of classes beside how far images of one lie apart.
    #[test]
    fn brightness_says_little_of_the_class() {
        let (labels, pixels) = (labels(5, PLACE, 3000), pixels(5, PLACE, 3000, [8, 8]));
        let images = |class: i32| {
            let own =
                labels.iter().zip(pixels.chunks(192)).filter(move |(label, _)| **label == class);
            own.map(|(_, image)| image.iter().sum::<f32>() / 192.0).collect::<Vec<_>>()
        };
        let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
        let means: Vec<f32> = (0..10).map(|class| mean(&images(class))).collect();
        let spread = images(0).iter().map(|value| (value - means[0]).powi(2)).collect::<Vec<_>>();
        let deviation = mean(&spread).sqrt();
        let apart = means.iter().fold(0.0f32, |most, value| most.max((value - mean(&means)).abs()));
        assert!(apart < 2.0 * deviation, "{apart} beside {deviation}");
    }
}
