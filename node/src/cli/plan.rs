//! `wattle plan`: where a job would be placed, how fast it would run, and why, without starting it.
//!
//! Reading order: the arguments and [`run`], `explain` (the text), `drawing` (the SVG).

mod drawing;
mod explain;

use std::path::PathBuf;
use std::time::Duration as StdDuration;

use anyhow::Context as _;
use clap::Args;
use wattle_models::Executor;
use wattle_protocol::ids::PeerId;
use wattle_protocol::schedule::account::account;
use wattle_protocol::schedule::advert::{Advert, Hardware, Link};
use wattle_protocol::schedule::codec::Codec;
use wattle_protocol::schedule::fence::place;
use wattle_protocol::units::{Duration, Rate};

use super::{DeviceArg, JoinArgs};
use crate::driver::Node;
use crate::output::Output;
use crate::sizes::{fastest, request};
use crate::survey::settle;
use crate::testbed::Testbed;
use crate::worker::WorkerConfig;

/// Arguments of `wattle plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The job file.
    job: PathBuf,
    #[command(flatten)]
    join: JoinArgs,
    /// Plan for the swarm that a file describes instead of looking for one; see testbeds/.
    #[arg(long, value_name = "FILE", conflicts_with = "like_this")]
    testbed: Option<PathBuf>,
    /// Most peers that run one stage at once; without it, as the job file says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: Option<u16>,
    /// How tensors cross links: dense, f16, bf16, int8, int5, int4, adaptive, topk:RATIO, adatopk:RATIO; without it, as the job file says.
    #[arg(long)]
    codec: Option<Codec>,
    /// Compare with placements that look at no link.
    #[arg(long)]
    compare: bool,
    /// Draw fences, placement and the predicted step into this SVG file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
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

/// Peers to plan for.
#[derive(Debug)]
struct Swarm {
    adverts: Vec<Advert>,
    /// Where they are from, for people; None for a swarm that was found.
    testbed: Option<Testbed>,
}

impl Swarm {
    /// Returns what people call a peer.
    fn name(&self, peer: PeerId) -> String {
        let advert = self.adverts.iter().find(|a| a.peer == peer);
        match (&self.testbed, advert.and_then(|a| a.hardware.as_ref())) {
            (Some(_), Some(hardware)) => hardware.device.clone(),
            _ => peer.to_string(),
        }
    }
}

/// Runs the command.
///
/// *Errors*: a job file with mistakes, no peers, or no placement.
pub(super) async fn run(args: PlanArgs, output: &Output) -> anyhow::Result<()> {
    let mut job = super::read_job(&args.job)?;
    for spec in job.divisions_mut() {
        spec.swarm.replicas = args.replicas.unwrap_or(spec.swarm.replicas);
        spec.swarm.codec = args.codec.unwrap_or(spec.swarm.codec);
    }
    let swarm = swarm(&args).await?;
    let adverts: Vec<&Advert> = swarm.adverts.iter().collect();
    let nobody = "no measured peer was found; pass --join TICKET, --testbed FILE, or --like-this N";
    anyhow::ensure!(adverts.iter().any(|advert| advert.hardware.is_some()), nobody);
    let mut tried = Vec::new();
    if !job.divided.is_empty() {
        let (size, all) = fastest(job.divisions(), &adverts)?;
        job.take(size);
        tried = all;
    }
    let spec = job.spec;
    let request = request(&spec, &adverts)?.context(nobody)?;
    let plan = place(request, &adverts).context("while placing the job")?;
    let account = account(request, &adverts, &plan).context("while accounting for the plan")?;
    let others = match args.compare {
        true => explain::others(request, &adverts),
        false => Vec::new(),
    };
    let text = explain::text(&swarm, &spec, (&plan, &account), (&tried, &others));
    output.data(&explain::line(&swarm, &spec, (&plan, &account), (&tried, &others)), &text);
    if let Some(path) = &args.svg {
        let drawing = drawing::draw(&swarm, &plan, &account);
        std::fs::write(path, drawing)
            .with_context(|| format!("while writing the drawing {}", path.display()))?;
    }
    Ok(())
}

async fn swarm(args: &PlanArgs) -> anyhow::Result<Swarm> {
    if let Some(path) = &args.testbed {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("while reading the testbed {}", path.display()))?;
        let testbed = Testbed::parse(&text)
            .with_context(|| format!("while reading the testbed {}", path.display()))?;
        return Ok(Swarm { adverts: testbed.adverts.clone(), testbed: Some(testbed) });
    }
    if let Some(count) = args.like_this {
        return Ok(Swarm { adverts: alike(count, args)?, testbed: None });
    }
    let limit = StdDuration::from_secs(args.wait);
    let (node, _events) = Node::start(args.join.clone().options().node(None)?).await?;
    let views = settle(&node, limit).await;
    node.stop().await;
    let adverts = views.into_iter().filter_map(|v| v.advert).collect();
    Ok(Swarm { adverts, testbed: None })
}

/// Adverts of machines like this one, each with a link to each other.
fn alike(count: u16, args: &PlanArgs) -> anyhow::Result<Vec<Advert>> {
    let device = crate::device::choice(args.device.name())?;
    let mut executor = Executor::new(device)?;
    let config = WorkerConfig { device, share: 1.0, memory: None, remember: true };
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
        loss: None,
    };
    let advert = |peer: &PeerId| Advert {
        // Machines of their own: they share nothing.
        hardware: Some(Hardware { host: 0, ..measured.clone() }),
        links: peers.iter().filter(|p| *p != peer).map(link).collect(),
        ..Advert::new(*peer)
    };
    Ok(peers.iter().map(advert).collect())
}
