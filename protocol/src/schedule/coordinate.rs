//! Where a peer lies in the network: a point such that distances predict round trips that nobody has measured.
//!
//! Vivaldi with height (Dabek et al., "Vivaldi: A Decentralized Network Coordinate System", SIGCOMM 2004, sections 3.4
//! and 5.4): three dimensions, and a height for what every path of a peer has in common. Departure: a sample
//! pulls no further than a few times the usual misfit, so that a peer that lies about its place or delays its answers
//! moves nobody far. What a peer says of itself is whole microseconds within fixed bounds: it is the same everywhere.
//! Concept: `docs/concepts/links-and-fences.md`.

use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// Dimensions besides the height.
const DIMENSIONS: usize = 3;
/// Furthest from the origin in any dimension, and largest height: ten seconds.
const REACH: f64 = 1e7;
/// Step of the error estimate (ce of the paper).
const ERROR_STEP: f64 = 0.25;
/// Step of the place (cc of the paper).
const PLACE_STEP: f64 = 0.25;
/// No peer is believed to be surer of its place than this.
const ERROR_MIN: f64 = 0.05;
/// Relative error, in thousandths, up to which a prediction is better than none.
const ERROR_SURE: u32 = 500;
/// A sample pulls no further than this many times the usual misfit.
const PULL: f64 = 3.0;
/// Usual misfit before any sample, in microseconds.
const MISFIT_START: f64 = 1e5;
/// The usual misfit does not fall below this, in microseconds.
const MISFIT_MIN: f64 = 100.0;
/// How fast the usual misfit follows; it goes up and down by this share, and so stays at the median.
const MISFIT_STEP: f64 = 0.1;
/// Least height, in microseconds.
const HEIGHT_MIN: f64 = 10.0;
/// The shortest round trip that is told apart from none, in microseconds.
const ROUND_TRIP_MIN: f64 = 10.0;

/// A peer's place, as it says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinate {
    /// The point, in microseconds.
    point: [i32; DIMENSIONS],
    /// What every path has in common, in microseconds.
    height: u32,
    /// Expected relative error of predictions, in thousandths.
    error: u32,
}

impl Default for Coordinate {
    /// At the origin, and sure of nothing.
    fn default() -> Self {
        Vivaldi::default().coordinate()
    }
}

impl Coordinate {
    /// Predicts the round trip between two places.
    pub fn round_trip(&self, other: &Self) -> Duration {
        Duration::from_seconds(Place::from(*self).distance(&Place::from(*other)) / 1e6)
    }

    /// Says whether predictions from this place are worth something.
    pub fn is_sure(&self) -> bool {
        self.error <= ERROR_SURE
    }

    /// Returns the fields in order, as they are signed.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.point.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes.extend_from_slice(&self.height.to_le_bytes());
        bytes.extend_from_slice(&self.error.to_le_bytes());
        bytes
    }
}

/// A point and a height, in microseconds, within bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    point: [f64; DIMENSIONS],
    height: f64,
}

impl From<Coordinate> for Place {
    fn from(said: Coordinate) -> Self {
        Self {
            point: said.point.map(|x| f64::from(x).clamp(-REACH, REACH)),
            height: f64::from(said.height).clamp(HEIGHT_MIN, REACH),
        }
    }
}

impl Place {
    fn distance(&self, other: &Self) -> f64 {
        let squares = self.point.iter().zip(&other.point).map(|(x, y)| (x - y) * (x - y));
        squares.sum::<f64>().sqrt() + self.height + other.height
    }
}

/// A peer's own place as it finds it.
#[derive(Clone, Copy, Debug)]
pub struct Vivaldi {
    place: Place,
    error: f64,
    misfit: f64,
}

impl Default for Vivaldi {
    fn default() -> Self {
        let place = Place { point: [0.0; DIMENSIONS], height: HEIGHT_MIN };
        Self { place, error: 1.0, misfit: MISFIT_START }
    }
}

impl Vivaldi {
    /// Takes a measured round trip to a peer that says it is at `other`; `direction` breaks the tie of equal places.
    pub fn sample(&mut self, other: &Coordinate, round_trip: Duration, direction: u64) {
        let measured = (round_trip.seconds() * 1e6).clamp(ROUND_TRIP_MIN, REACH);
        let there = Place::from(*other);
        let doubt = (f64::from(other.error) / 1e3).clamp(ERROR_MIN, 1.0);
        let predicted = self.place.distance(&there);
        let weight = self.error / (self.error + doubt);
        // A relative error beyond 1 says nothing more than that.
        let missed = ((predicted - measured).abs() / measured).min(1.0);
        let step = ERROR_STEP * weight;
        self.error = (missed * step + self.error * (1.0 - step)).clamp(ERROR_MIN, 1.0);
        let residual = measured - predicted;
        let pull = residual.clamp(-PULL * self.misfit, PULL * self.misfit);
        let share = if residual.abs() > self.misfit { MISFIT_STEP } else { -MISFIT_STEP };
        self.misfit = (self.misfit * (1.0 + share)).clamp(MISFIT_MIN, REACH);
        self.move_by(PLACE_STEP * weight * pull, &there, direction);
    }

    /// Moves away from (or, if negative, towards) another place, in the plane and in height by their shares.
    fn move_by(&mut self, force: f64, there: &Place, direction: u64) {
        let mut away = [0.0; DIMENSIONS];
        for (axis, (x, y)) in away.iter_mut().zip(self.place.point.iter().zip(&there.point)) {
            *axis = x - y;
        }
        let flat = away.iter().map(|x| x * x).sum::<f64>().sqrt();
        let heights = self.place.height + there.height;
        if flat < 1.0 {
            let axis = usize::try_from(direction % 3).unwrap_or(0);
            away = [0.0; DIMENSIONS];
            away[axis] = if direction & 4 == 0 { 1.0 } else { -1.0 };
        } else {
            away = away.map(|x| x / flat);
        }
        let length = flat.max(1.0) + heights;
        for (x, axis) in self.place.point.iter_mut().zip(away) {
            *x = (*x + force * axis * flat.max(1.0) / length).clamp(-REACH, REACH);
        }
        // The height takes its own share of the misfit.
        let height = self.place.height + force * self.place.height.max(1.0) / length;
        self.place.height = height.clamp(HEIGHT_MIN, REACH);
    }

    /// Returns the place to advertise.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "places are kept within ten seconds of the origin, in microseconds"
    )]
    pub fn coordinate(&self) -> Coordinate {
        Coordinate {
            point: self.place.point.map(|x| x.round() as i32),
            height: self.place.height.round() as u32,
            error: (self.error * 1e3).round() as u32,
        }
    }
}

#[cfg(test)]
mod tests;
