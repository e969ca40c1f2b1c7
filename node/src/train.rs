//! `wattle train`: submits a job to a swarm, follows it, keeps what it learnt.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use anyhow::{Context as _, bail};
use serde_json::json;
use wattle_protocol::job::JobSpec;
use wattle_protocol::wire::frame::job_id;

use crate::follow::{Follower, missing_peers};
use crate::output::Output;
use crate::runlog::End;
use crate::swarm_options::JoinOptions;
use crate::up::hex;

/// How long a swarm may take to be found.
const GATHER: StdDuration = StdDuration::from_secs(60);
/// How long the final state may take to arrive.
const PULL: StdDuration = StdDuration::from_secs(600);

/// Options of `wattle train`.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// How to join.
    pub join: JoinOptions,
    /// The job.
    pub spec: JobSpec,
    /// Where the learnt parameters go, as safetensors.
    pub save: Option<PathBuf>,
}

/// Submits a job and follows it to its end.
///
/// *Errors*: no swarm, a job that fails, a checkpoint that cannot be written.
pub async fn train(options: TrainOptions, output: Arc<Output>) -> anyhow::Result<()> {
    let end = crate::interrupt::asked_to_end().context("while listening to signals")?;
    let mut follower = Follower::join(&options.join).await?;
    let ran = tokio::select! {
        ran = run(&options, &mut follower, &output) => ran,
        () = end => {
            output.progress("Interrupted: the job goes on in the swarm without this terminal.");
            follower.node().stop().await;
            return Err(anyhow::Error::new(crate::demo::Interrupted));
        }
    };
    follower.leave().await;
    ran
}

async fn run(
    options: &TrainOptions,
    follower: &mut Follower,
    output: &Output,
) -> anyhow::Result<()> {
    // Somebody may be at work on the same job already, beyond the peers that the tickets name.
    follower.node().seek(job_id(&options.spec).context("while naming the job")?).await;
    let wanted = usize::from(options.spec.swarm.stages.unwrap_or(1));
    let peers = follower.wait_for_peers(GATHER, |peers| missing_peers(peers, wanted)).await?;
    output.progress(&format!("Found {} measured peers.", peers.len()));
    let job = follower.submit(&options.spec, None).await?;
    loop {
        let news = follower.next().await?;
        crate::demo::show::news(&news, follower, output);
        match follower.log.end.clone() {
            Some(End::Finished) => break,
            Some(End::Failed(reason)) => bail!("the job failed: {reason}"),
            None => {}
        }
    }
    let learnt = follower.pull(PULL).await?;
    if let Some(path) = &options.save {
        let list = learnt.into_iter().map(|(name, t)| (name, t.shape, t.data)).collect::<Vec<_>>();
        wattle_models::weights::save(path, &list)
            .map_err(|error| anyhow::anyhow!("{error}"))
            .with_context(|| format!("while writing {}", path.display()))?;
        output.progress(&format!("The learnt parameters are in {}.", path.display()));
    }
    let curve = follower.log.loss_curve();
    let steps = options.spec.train.steps;
    let text = match (curve.first(), curve.last()) {
        (Some(first), Some(last)) => {
            format!("{steps} steps: loss {first:.4} -> {last:.4}")
        }
        // Whoever hands in a job that is done gets what it has learnt.
        _ => format!("{steps} steps; all of them were done before this command followed the job"),
    };
    let line = json!({
        "schema": "wattle.train.v1",
        "job": hex(job.bytes()),
        "steps": steps,
        "steps_followed": curve.len(),
        "first_loss": curve.first(),
        "last_loss": curve.last(),
        "bytes_sent": follower.log.bytes().count(),
        "epochs": follower.log.plans.len(),
    });
    output.data(&line, &text);
    Ok(())
}
