//! What operators of one kind take: a start each, and a time in proportion to their work.
//!
//! Least squares of relative errors, since a tensor of a kilobyte and one of a megabyte should be predicted equally well.

/// Work for a start must differ by this factor between points, or they tell nothing of starts.
const SPREAD: f64 = 3.0;

/// What operators of one name took in one network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) launches: f64,
    /// Arithmetic or bytes.
    pub(super) work: f64,
    pub(super) seconds: f64,
    /// How much its error counts.
    pub(super) weight: f64,
}

/// Seconds of a start and of a unit of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) start: f64,
    pub(super) slope: f64,
}

impl Line {
    /// Returns the line that fits points best, with a start of zero where it would be less; the usual start where they do
    /// not tell. None where their work seems to take nothing, whatever their start.
    pub(super) fn through(points: &[Point], usual: f64) -> Option<Self> {
        let sizes = || points.iter().map(|p| p.work / p.launches);
        let (least, most) =
            sizes().fold((f64::MAX, 0.0), |(least, most), size| (size.min(least), size.max(most)));
        if most < least * SPREAD {
            return Some(Self { start: usual, slope: slope(points, usual)? });
        }
        // seconds = start launches + slope work, over seconds: 1 = start x + slope y.
        let (mut xx, mut xy, mut yy, mut x, mut y) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for p in points {
            let (of_start, of_work) = (p.launches / p.seconds, p.work / p.seconds);
            xx += p.weight * of_start * of_start;
            xy += p.weight * of_start * of_work;
            yy += p.weight * of_work * of_work;
            x += p.weight * of_start;
            y += p.weight * of_work;
        }
        let determinant = xx * yy - xy * xy;
        let found =
            Self { start: (x * yy - y * xy) / determinant, slope: (y * xx - x * xy) / determinant };
        let without = Self { start: 0.0, slope: y / yy };
        let found = if found.start >= 0.0 { found } else { without };
        (found.slope.is_finite() && found.slope > 0.0).then_some(found)
    }
}

/// Returns the seconds of a unit of work where starts are known: all that is left beside them over all work. None where less
/// than a tenth is left.
pub(super) fn slope(points: &[Point], start: f64) -> Option<f64> {
    let (mut left, mut work, mut all) = (0.0, 0.0, 0.0);
    for p in points {
        // Each network counts alike: a weight is a share of its network's time.
        let times = p.weight / p.seconds;
        left += (p.seconds - start * p.launches) * times;
        work += p.work * times;
        all += p.weight;
    }
    (work > 0.0 && left > super::WORK_MIN * all).then_some(left / work)
}
