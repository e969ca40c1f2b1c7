//! How many micro-batches a step has, where the job's file leaves that open: as many as a step is predicted to be the
//! fastest with, on the peers that are known.
//!
//! Larger micro-batches use a device better, smaller ones fill a pipeline sooner and need less memory. The samples of a
//! step are the same, and so is what is learnt, but for the order of sums, what batch normalisation sees, and dropout.
//!
//! Not here: which sizes there are (`jobfile/sizes.rs`), nor how a job is placed.

use anyhow::Context as _;
use serde_json::json;
use wattle_protocol::ids::Epoch;
use wattle_protocol::job::JobSpec;
use wattle_protocol::schedule::Plan;
use wattle_protocol::schedule::advert::Advert;
use wattle_protocol::schedule::fence::{Request, place};
use wattle_protocol::units::Duration;
use wattle_protocol::wire::frame::job_id;

use crate::jobfile::samples;

/// A way to divide a step, and its predicted time or why there is none.
#[derive(Clone, Debug)]
pub(crate) struct Tried {
    /// Samples of a micro-batch.
    pub(crate) samples: usize,
    /// Micro-batches of a step.
    pub(crate) micro_batches: u32,
    /// The predicted step.
    pub(crate) step: Result<Duration, String>,
}

impl Tried {
    /// Returns it for programs.
    pub(crate) fn line(&self) -> serde_json::Value {
        json!({
            "micro_batch": self.samples,
            "micro_batches": self.micro_batches,
            "step_seconds": self.step.as_ref().ok().map(|step| step.seconds()),
            "why_not": self.step.as_ref().err(),
        })
    }
}

/// Returns the first plan's request for a job, as the fastest peer would make it. None where nobody is measured.
///
/// *Errors*: the job cannot be named.
pub(crate) fn request<'a>(
    spec: &'a JobSpec,
    adverts: &[&Advert],
) -> anyhow::Result<Option<Request<'a>>> {
    let speed = |advert: &&&Advert| advert.hardware.as_ref().map(|hardware| hardware.speed);
    let able = adverts.iter().filter(|advert| advert.hardware.is_some());
    let Some(leader) = able.max_by_key(speed).map(|advert| advert.peer) else {
        return Ok(None);
    };
    let job = job_id(spec).context("while naming the job")?;
    let epoch = Epoch::default().next();
    Ok(Some(Request { spec, job, epoch, submitter: leader, leader, codec: spec.swarm.codec }))
}

/// Places each division of a job, and returns the samples of a micro-batch of the fastest, and all that were tried,
/// small micro-batches first.
///
/// *Errors*: none of them can be placed; the first one's reason.
pub(crate) fn fastest<'a>(
    divisions: impl Iterator<Item = &'a JobSpec>,
    adverts: &[&Advert],
) -> anyhow::Result<(usize, Vec<Tried>)> {
    let placed = |spec: &JobSpec| -> anyhow::Result<Plan> {
        let request = request(spec, adverts)?.context("no measured peer is known")?;
        Ok(place(request, adverts)?)
    };
    let mut tried: Vec<Tried> = divisions
        .map(|spec| Tried {
            samples: samples(&spec.dag),
            micro_batches: spec.train.micro_batches,
            step: placed(spec).map(|plan| plan.prediction.step).map_err(|e| format!("{e:#}")),
        })
        .collect();
    tried.sort_by_key(|t| t.samples);
    // Of equals the one with fewer messages: larger micro-batches.
    let steps = tried.iter().rev().filter_map(|t| Some((*t.step.as_ref().ok()?, t.samples)));
    let Some((_, best)) = steps.min_by_key(|(step, _)| *step) else {
        let why = tried.iter().find_map(|t| t.step.as_ref().err());
        let why = why.map_or("", String::as_str);
        anyhow::bail!("no size of micro-batches can be placed: {why}");
    };
    Ok((best, tried))
}
