//! Warm-up of the density: at first much of each gradient is sent, then less and less.
//!
//! *Source*: Lin et al. 2018, "Deep Gradient Compression", section 3.3: 25 %, 6.25 %, 1.5625 %, 0.4 %, 0.1 % over the
//! first epochs; in the authors' code of LAGS it is an option that is commented out (papers.md 3.9). That the stages are
//! of equal length, counted in steps, is our rule.

/// How much sparser each stage is than the one before, and the first than a dense gradient.
const FACTOR: usize = 4;

/// Returns of how many elements one is sent in a step (from 0), where in the end it is one of `ratio` and the warm-up
/// takes so many steps.
///
/// *Cost*: O(log ratio).
pub fn ratio_at(ratio: usize, steps: u64, step: u64) -> usize {
    let mut stages = Vec::new();
    let mut sparse = FACTOR;
    while sparse < ratio {
        stages.push(sparse);
        sparse = sparse.saturating_mul(FACTOR);
    }
    if step >= steps || stages.is_empty() {
        return ratio;
    }
    let stage = u128::from(step) * stages.len() as u128 / u128::from(steps);
    usize::try_from(stage).ok().and_then(|stage| stages.get(stage)).copied().unwrap_or(ratio)
}

/// Returns how many elements that is, at least one.
///
/// *Source*: authors' code, k = max(1, floor(rho n)), with rho = 1 / ratio.
pub fn keep(elements: usize, ratio: usize) -> usize {
    (elements / ratio.max(1)).max(1)
}
