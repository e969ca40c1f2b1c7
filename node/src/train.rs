//! `wattle train`: submits a job to a swarm, follows it, keeps what it learnt.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration as StdDuration;

use anyhow::{Context as _, bail};
use serde_json::json;
use wattle_models::huggingface::copy_tokenizer;
use wattle_models::weights::given::Given;
use wattle_models::weights::{self, Named, WeightsError};
use wattle_protocol::job::{JobSpec, SwarmSpec};
use wattle_protocol::schedule::advert::Advert;
use wattle_protocol::wire::frame::job_id;

use crate::driver::PeerView;
use crate::follow::{Follower, missing_peers};
use crate::jobfile::{Job, samples};
use crate::output::Output;
use crate::runlog::End;
use crate::sizes::{Tried, fastest};
use crate::swarm_options::JoinOptions;
use crate::up::hex;

/// How long a swarm may take to be found.
const GATHER: StdDuration = StdDuration::from_secs(60);
/// After so long without a peer for each stage, peers run several.
const FEWER: StdDuration = StdDuration::from_secs(5);
/// How long what peers say of themselves may take to settle.
const SURVEY: StdDuration = StdDuration::from_secs(10);
/// How long the final state may take to arrive.
const PULL: StdDuration = StdDuration::from_secs(600);

/// Options of `wattle train`.
#[derive(Debug)]
pub struct TrainOptions {
    /// How to join.
    pub join: JoinOptions,
    /// The job.
    pub job: Job,
    /// Where the learnt parameters go: a safetensors file, or a folder that other tools read.
    pub save: Option<PathBuf>,
}

/// Submits a job and follows it to its end.
///
/// *Errors*: no swarm, a job that fails, a checkpoint that cannot be written.
pub async fn train(mut options: TrainOptions, output: Arc<Output>) -> anyhow::Result<()> {
    let end = crate::interrupt::asked_to_end().context("while listening to signals")?;
    if let Some(path) = options.save.as_ref().filter(|path| !is_file(path)) {
        let known = options.job.layout.is_some();
        let what = "a network of this kind has no folder that other tools read; end the name in .safetensors";
        anyhow::ensure!(known, "--save {}: {what}", path.display());
    }
    let given = options.job.given.take().map(Arc::new);
    let mut follower = Follower::join(&options.join).await?;
    let ran = tokio::select! {
        ran = run(&mut options, given, &mut follower, &output) => ran,
        () = end => {
            output.progress(match follower.job() {
                Some(_) => "Interrupted: the job goes on in the swarm without this terminal.",
                None => "Interrupted: no job was handed in.",
            });
            follower.node().stop().await;
            return Err(anyhow::Error::new(crate::demo::Interrupted));
        }
    };
    follower.leave().await;
    ran
}

async fn run(
    options: &mut TrainOptions,
    given: Option<Arc<Given>>,
    follower: &mut Follower,
    output: &Output,
) -> anyhow::Result<()> {
    // Somebody may be at work on the same job already, beyond the peers that the tickets name.
    for spec in options.job.divisions() {
        follower.node().seek(job_id(spec).context("while naming the job")?).await;
    }
    let peers = gather(&options.job.spec.swarm, follower).await?;
    output.progress(&format!("Found {} measured peers.", peers.len()));
    if !options.job.divided.is_empty() {
        divide(&mut options.job, follower, output).await?;
    }
    let spec = &options.job.spec;
    let job = follower.submit(spec, given).await?;
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
        let tensors: Vec<Named> = learnt.into_iter().map(|(n, t)| (n, t.shape, t.data)).collect();
        keep(&options.job, path, tensors)
            .with_context(|| format!("while writing {}", path.display()))?;
        output.progress(&format!("The learnt parameters are in {}.", path.display()));
    }
    let curve = follower.log.loss_curve();
    let steps = spec.train.steps;
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
        "micro_batch": samples(&spec.dag),
        "micro_batches": spec.train.micro_batches,
        "steps_followed": curve.len(),
        "first_loss": curve.first(),
        "last_loss": curve.last(),
        "bytes_sent": follower.log.bytes().count(),
        "epochs": follower.log.plans.len(),
    });
    output.data(&line, &text);
    Ok(())
}

/// Waits for as many measured peers as a job can run on: best one for each stage, after a while as few as may run them.
async fn gather(swarm: &SwarmSpec, follower: &mut Follower) -> anyhow::Result<Vec<PeerView>> {
    let stages = usize::from(swarm.stages.unwrap_or(1));
    let least = stages.div_ceil(usize::from(swarm.stages_per_peer).max(1));
    if least < stages {
        let each = follower.wait_for_peers(FEWER, |peers| missing_peers(peers, stages)).await;
        if each.is_ok() {
            return each;
        }
    }
    follower.wait_for_peers(GATHER, |peers| missing_peers(peers, least)).await
}

/// Divides the steps of a job whose file leaves that open: as they are where the swarm works on it already, else such that
/// a step is predicted to be the fastest.
async fn divide(job: &mut Job, follower: &mut Follower, output: &Output) -> anyhow::Result<()> {
    let (views, runs) = follower.survey(SURVEY).await;
    let runs = |spec: &&JobSpec| job_id(spec).is_ok_and(|id| runs.contains_key(&id));
    let known = job.divisions().find(runs).map(|spec| samples(&spec.dag));
    let (size, tried) = match known {
        Some(size) => (size, Vec::new()),
        None => {
            let divisions: Vec<JobSpec> = job.divisions().cloned().collect();
            // A placement takes a while; the node answers its peers in it.
            let placing = tokio::task::spawn_blocking(move || {
                let adverts: Vec<&Advert> =
                    views.iter().filter_map(|v| v.advert.as_ref()).collect();
                fastest(divisions.iter(), &adverts)
            });
            placing.await.context("while placing the job")??
        }
    };
    job.take(size);
    let count = job.spec.train.micro_batches;
    let text = match known {
        Some(_) => "the swarm is at work on this job already".to_owned(),
        None => format!("predicted to be the fastest of: {}", told(&tried)),
    };
    let text = format!("A step is {count} micro-batches of {size} samples, {text}.");
    output.progress(&text);
    let line = json!({
        "schema": "wattle.divided.v1",
        "micro_batch": size,
        "micro_batches": count,
        "tried": tried.iter().map(Tried::line).collect::<Vec<_>>(),
    });
    if output.is_json() {
        output.data(&line, "");
    }
    Ok(())
}

fn told(tried: &[Tried]) -> String {
    let one = |Tried { samples, micro_batches, step }: &Tried| match step {
        Ok(step) => format!("{micro_batches} of {samples} in {step}"),
        Err(why) => format!("{micro_batches} of {samples} not at all ({why})"),
    };
    tried.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Says whether a path names a safetensors file; others name folders.
fn is_file(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "safetensors")
}

/// Writes what was learnt: a file of tensors, or a folder with a tokenizer if the weights came with one.
fn keep(job: &Job, path: &Path, tensors: Vec<Named>) -> Result<(), WeightsError> {
    match &job.layout {
        Some(layout) if !is_file(path) => {
            layout.write(path, tensors)?;
            match &job.folder {
                Some(folder) => copy_tokenizer(folder, path).map(drop),
                None => Ok(()),
            }
        }
        Some(_) | None => weights::save(path, &tensors),
    }
}
