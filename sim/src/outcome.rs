//! What a run of the simulator came to: for tests, for people, for comparison with real swarms.

use std::collections::BTreeMap;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Whether all steps were done in time.
    pub finished: bool,
    /// Why the job failed, if it did.
    pub failed: Option<String>,
    /// Loss of each step, as the submitter heard it.
    pub losses: BTreeMap<u64, f64>,
    /// When the submitter heard of each of those steps, in virtual seconds.
    pub heard: BTreeMap<u64, f64>,
    /// Number of plans.
    pub plans: usize,
    /// Workers of each stage under the first plan.
    pub workers: Vec<usize>,
    /// How often the job began anew.
    pub restarts: usize,
    /// Virtual seconds from the first plan to the end.
    pub seconds: f64,
    /// Predicted step time of the first plan in seconds.
    pub predicted_step: f64,
    /// Peers killed, with the step in work.
    pub kills: Vec<(usize, u64)>,
    /// Peers slowed down, with the step in work.
    pub slowed: Vec<(usize, u64)>,
    /// Owner of each stage under the last plan.
    pub owners: Vec<usize>,
    /// Seconds from each kill to the next decided step.
    pub recoveries: Vec<f64>,
    /// Bytes of tensors that crossed each link.
    pub bytes: BTreeMap<(usize, usize), u64>,
    /// Happenings.
    pub events: u64,
    /// Hash of the trace.
    pub trace: String,
    /// The trace's lines, where they were kept.
    pub lines: Vec<String>,
    /// Fingerprint of each stage's state after so many updates.
    pub states: BTreeMap<(u16, u64), [u8; 32]>,
    /// What was violated.
    pub violations: Vec<String>,
}

impl Outcome {
    /// Returns virtual seconds of a step: from the first decision that the submitter heard to the last.
    pub fn step_seconds(&self) -> Option<f64> {
        let (first, last) = (self.heard.first_key_value()?, self.heard.last_key_value()?);
        let steps = u32::try_from(last.0 - first.0).ok().filter(|steps| *steps > 0)?;
        Some((last.1 - first.1) / f64::from(steps))
    }
}
