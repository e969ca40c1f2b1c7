//! How the samples of a step are divided into micro-batches, as far as a job file says.
//!
//! `train.batch` names the samples of a step, `train.micro_batches` and `model.micro_batch` how they are divided. What
//! two of them leave open follows; what one leaves open is for the planner ([`crate::sizes`]).
//!
//! Not here: which size is the fastest.

use wattle_protocol::job::MICRO_BATCHES_MAX;

use super::model::{Asked, MICRO_BATCH_MAX};
use super::table::Keys;

/// Micro-batches of a step where a file says nothing.
const USUAL: u64 = 8;
/// Most samples in a step.
const BATCH_MAX: u64 = MICRO_BATCH_MAX * MICRO_BATCHES_MAX as u64;

/// How a step is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Division {
    /// So many micro-batches.
    Said(u32),
    /// A batch of so many samples is divided as is best for the swarm.
    Open(u64),
}

impl Division {
    /// Returns how many micro-batches there are if each has so many samples; none where they do not fill the batch.
    pub(super) fn count(&self, samples: usize) -> Option<u32> {
        match self {
            Self::Said(count) => Some(*count),
            Self::Open(batch) => {
                let samples = samples as u64;
                let count = batch.checked_div(samples).filter(|count| count * samples == *batch)?;
                u32::try_from(count).ok().filter(|count| *count <= MICRO_BATCHES_MAX)
            }
        }
    }
}

/// Reads the keys; the network's size of micro-batches is set where it follows. None where something is wrong.
pub(super) fn divided(keys: &mut Keys, asked: &mut Asked) -> Option<Division> {
    let at = keys.section("train");
    let said = keys.has(&at, "micro_batches");
    let count = keys.whole_or(&at, "micro_batches", "auto", (1, u64::from(MICRO_BATCHES_MAX)))?;
    let batch = keys.whole(&at, "batch", (1, BATCH_MAX), None);
    let size = asked.micro_batch.map(|size| size as u64);
    let (batch, count) = match (batch, count) {
        (None, None) if said => {
            let remedy = "train.batch is missing, the samples of a step that are to be divided";
            keys.wrong("train.micro_batches", "\"auto\"", remedy);
            return None;
        }
        (None, count) => return u32::try_from(count.unwrap_or(USUAL)).ok().map(Division::Said),
        (Some(batch), count) => (batch, count),
    };
    let of = |parts: u64| batch.is_multiple_of(parts).then_some(batch / parts);
    let shown = batch.to_string();
    match (count, size) {
        (Some(count), size) => {
            let share = of(count).filter(|share| size.is_none_or(|size| size == *share));
            let Some(share) = share.filter(|share| *share <= MICRO_BATCH_MAX) else {
                let wanted = size.map_or(String::new(), |size| format!(" of {size} samples"));
                let remedy = format!(
                    "it does not divide into {count} micro-batches{wanted}; leave train.micro_batches out, and it follows"
                );
                keys.wrong("train.batch", &shown, &remedy);
                return None;
            };
            asked.micro_batch = usize::try_from(share).ok();
            u32::try_from(count).ok().map(Division::Said)
        }
        (None, Some(size)) => {
            let count = of(size).filter(|count| *count <= u64::from(MICRO_BATCHES_MAX));
            let Some(count) = count else {
                let remedy = format!(
                    "it does not divide into 1 to {MICRO_BATCHES_MAX} micro-batches of {size} samples; leave model.micro_batch out, and it follows"
                );
                keys.wrong("train.batch", &shown, &remedy);
                return None;
            };
            u32::try_from(count).ok().map(Division::Said)
        }
        (None, None) => {
            let mut sizes = sizes(batch);
            let near = |size: &u64| (batch / size).abs_diff(USUAL);
            let Some(usual) = sizes.iter().copied().min_by_key(near) else {
                let remedy = format!(
                    "it does not divide into 1 to {MICRO_BATCHES_MAX} micro-batches of at most {MICRO_BATCH_MAX} samples; take a number with small factors"
                );
                keys.wrong("train.batch", &shown, &remedy);
                return None;
            };
            sizes.retain(|size| *size != usual);
            asked.micro_batch = usize::try_from(usual).ok();
            asked.sizes = sizes.into_iter().filter_map(|size| usize::try_from(size).ok()).collect();
            Some(Division::Open(batch))
        }
    }
}

/// Returns sizes of micro-batches that a batch can be divided into, each at least twice the one before: 17 at most.
fn sizes(batch: u64) -> Vec<u64> {
    let least = batch.div_ceil(u64::from(MICRO_BATCHES_MAX));
    let mut sizes: Vec<u64> = Vec::new();
    for size in (least..=batch.min(MICRO_BATCH_MAX)).filter(|size| batch.is_multiple_of(*size)) {
        if sizes.last().is_none_or(|last| size >= 2 * last) {
            sizes.push(size);
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_divide_the_batch_and_lie_apart() {
        assert_eq!(sizes(64), [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(sizes(60), [1, 2, 4, 10, 20, 60]);
        assert_eq!(sizes(7), [1, 7]);
        assert_eq!(sizes(BATCH_MAX), [65_536]);
        // A prime that is too large to be one micro-batch, and to be as many as it has samples.
        assert_eq!(sizes(65_537), [0; 0]);
        assert!((1..5000).all(|batch| sizes(batch).len() <= 17));
    }
}
