//! `wattle plan`: where a job would be placed, and how fast it would run, without starting it.

use std::path::PathBuf;
use std::time::Duration as StdDuration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use wattle_models::Executor;
use wattle_protocol::ids::{Epoch, JobId, PeerId};
use wattle_protocol::job::JobSpec;
use wattle_protocol::schedule::Plan;
use wattle_protocol::schedule::advert::{Advert, Hardware, Link};
use wattle_protocol::schedule::fence::{Request, place};
use wattle_protocol::units::{Duration, Rate};
use wattle_protocol::wire::frame::job_id;

use super::{DeviceArg, JoinArgs, look};
use crate::driver::Node;
use crate::output::Output;
use crate::up::hex;
use crate::worker::WorkerConfig;

/// Arguments of `wattle plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The job file.
    job: PathBuf,
    #[command(flatten)]
    join: JoinArgs,
    /// Plan for so many machines like this one instead of looking for a swarm.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    like_this: Option<u16>,
    /// Rate of the links between such machines, in Mbit/s.
    #[arg(long, default_value_t = 1000.0, value_parser = rate, requires = "like_this")]
    mbit: f64,
    /// Round-trip time between them, in milliseconds.
    #[arg(long, default_value_t = 1, requires = "like_this")]
    round_trip: u64,
    /// What such machines compute with.
    #[arg(long, value_enum, default_value = "auto", requires = "like_this")]
    device: DeviceArg,
    /// Longest time to look for peers, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait: u64,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e6 => Ok(rate),
        _ => Err("a rate lies above 0 and up to 1000000 Mbit/s".into()),
    }
}

/// Runs the command.
///
/// *Errors*: a job file with mistakes, no peers, or no placement.
pub(super) async fn run(args: PlanArgs, output: &Output) -> anyhow::Result<()> {
    let spec = super::read_job(&args.job)?.spec;
    let adverts = match args.like_this {
        Some(count) => alike(count, &args)?,
        None => {
            let limit = StdDuration::from_secs(args.wait);
            let (node, _events) = Node::start(args.join.options().node(None)?).await?;
            let views = look::settle(&node, limit).await;
            node.stop().await;
            views.into_iter().filter_map(|v| v.advert).collect::<Vec<_>>()
        }
    };
    let able = adverts.iter().filter(|a| a.hardware.is_some());
    let Some(leader) = able.max_by_key(|a| a.hardware.as_ref().map(|h| h.speed)) else {
        bail!("no measured peer was found; pass --join TICKET, or --like-this N");
    };
    let job = job_id(&spec).context("while naming the job")?;
    let plan = plan(&spec, job, leader.peer, &adverts)?;
    output.data(&line(&plan), &crate::demo::show::plan_text(&plan, leader.peer, 0, false));
    Ok(())
}

fn plan(spec: &JobSpec, job: JobId, leader: PeerId, adverts: &[Advert]) -> anyhow::Result<Plan> {
    let adverts: Vec<&Advert> = adverts.iter().collect();
    let epoch = Epoch::default().next();
    let request = Request { spec, job, epoch, submitter: leader, leader };
    place(request, &adverts).context("while placing the job")
}

/// Adverts of machines like this one, each with a link to each other.
fn alike(count: u16, args: &PlanArgs) -> anyhow::Result<Vec<Advert>> {
    let device = crate::device::choice(args.device.name())?;
    let mut executor = Executor::new(device)?;
    let config = WorkerConfig { device, share: 1.0, memory: None };
    let measured = crate::probe::hardware(&mut executor, &config);
    let peers: Vec<PeerId> = (1..=count)
        .map(|n| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            PeerId::new(bytes)
        })
        .collect();
    let link = |to: &PeerId| Link {
        peer: *to,
        rate: Rate::from_mbit(args.mbit),
        round_trip: Duration::from_millis(args.round_trip),
    };
    let advert = |peer: &PeerId| Advert {
        // Machines of their own: they share nothing.
        hardware: Some(Hardware { host: 0, ..measured.clone() }),
        links: peers.iter().filter(|p| *p != peer).map(link).collect(),
        ..Advert::new(*peer)
    };
    Ok(peers.iter().map(advert).collect())
}

fn line(plan: &Plan) -> serde_json::Value {
    let prediction = &plan.prediction;
    let stages: Vec<_> = plan
        .stage_ids()
        .map(|stage| {
            let roles = &plan.stages[stage.index()];
            json!({
                "stage": stage.index(),
                "owner": hex(roles.owner.bytes()),
                "backups": roles.backups.iter().map(|b| hex(b.bytes())).collect::<Vec<_>>(),
                "operators": plan.assignment.iter().filter(|s| **s == stage).count(),
                "compute_seconds": prediction.stage_compute.get(stage.index()).map(|d| d.seconds()),
                "memory_bytes": prediction.memory.get(stage.index()).map(|m| m.count()),
            })
        })
        .collect();
    json!({
        "schema": "wattle.plan.v1",
        "job": hex(plan.job.bytes()),
        "stages": stages,
        "predicted_step_seconds": prediction.step.seconds(),
        "slowest_stage_seconds": prediction.compute.seconds(),
        "busiest_link_seconds": prediction.transfer.seconds(),
        "commit_seconds": prediction.commit.seconds(),
        "bubble": f64::from(prediction.bubble_permille) / 1000.0,
    })
}
