//! `wattle peers`, `wattle status`: looking at a swarm from outside, as a peer that only watches.

use std::collections::BTreeMap;
use std::time::Duration as StdDuration;

use clap::Args;
use serde_json::json;
use wattle_protocol::ids::{JobId, PeerId};
use wattle_protocol::schedule::advert::Advert;
use wattle_protocol::schedule::cluster::fences;
use wattle_protocol::schedule::links::Links;
use wattle_protocol::swarm::Life;
use wattle_protocol::units::Rate;
use wattle_protocol::wire::message::JobBrief;

use super::JoinArgs;
use super::table::Table;
use crate::driver::{Node, PeerView};
use crate::net::Path;
use crate::output::Output;
use crate::survey::{runs, settle};
use crate::up::hex;

/// Arguments of `wattle peers` and `wattle status`.
#[derive(Debug, Args)]
pub(super) struct LookArgs {
    #[command(flatten)]
    pub(super) join: JoinArgs,
    /// Longest time to look for peers, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) wait: u64,
}

/// Arguments of `wattle status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    look: LookArgs,
    /// A job whose members are looked for beyond the peers that the tickets name, as 32 hexadecimal digits.
    #[arg(long, value_name = "JOB", value_parser = job)]
    job: Option<JobId>,
}

/// Reads a job's name.
pub(super) fn job(text: &str) -> Result<JobId, String> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let bytes = digits.filter(|digits| digits.len() == 32).and_then(|digits| {
        let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).ok();
        digits.chunks_exact(2).map(byte).collect::<Option<Vec<u8>>>()
    });
    let id: Option<[u8; 16]> = bytes.and_then(|bytes| bytes.try_into().ok());
    id.map(JobId::new)
        .ok_or_else(|| "a job has 32 hexadecimal digits, as `train --json` says".into())
}

/// Prints who takes part in the swarm.
///
/// *Errors*: nobody is found.
pub(super) async fn peers(args: LookArgs, output: &Output) -> anyhow::Result<()> {
    let limit = StdDuration::from_secs(args.wait);
    let (node, _events) = Node::start(args.join.options().node(None)?).await?;
    let found = settle(&node, limit).await;
    let paths = node.net().paths();
    node.stop().await;
    anyhow::ensure!(
        !found.is_empty(),
        "no peer was found within {} s; pass --join TICKET, or start one with `wattle up`",
        args.wait
    );
    let mut table = Table::new(&[
        "peer",
        "state",
        "path",
        "device",
        "matrix products",
        "memory",
        "fence",
        "sends",
        "receives",
        "links",
    ]);
    let network = NetworkView::of(&found);
    for view in &found {
        let path = paths.get(&view.peer);
        if output.is_json() {
            output.data(&peer_line(view, path, &network), "");
        }
        table.row(peer_row(view, path, &network));
    }
    output.text(&table.to_string());
    Ok(())
}

/// What the peers' adverts say together: who is near whom, and what each one's line has shown.
struct NetworkView {
    /// Number of each computing peer's fence, from 1.
    fence: BTreeMap<PeerId, usize>,
    sends: BTreeMap<PeerId, Rate>,
    receives: BTreeMap<PeerId, Rate>,
}

impl NetworkView {
    fn of(found: &[PeerView]) -> Self {
        let adverts: Vec<&Advert> = found.iter().filter_map(|v| v.advert.as_ref()).collect();
        let links = Links::measured_by(&adverts);
        let able = adverts.iter().filter(|a| a.hardware.is_some());
        let fences = fences(&able.map(|a| a.peer).collect::<Vec<_>>(), &links);
        let mut network =
            Self { fence: BTreeMap::new(), sends: BTreeMap::new(), receives: BTreeMap::new() };
        for (number, peers) in (1..).zip(fences) {
            network.fence.extend(peers.into_iter().map(|peer| (peer, number)));
        }
        for ((from, to), (rate, _)) in links.measured() {
            let most = |seen: &mut Rate| *seen = (*seen).max(rate);
            most(network.sends.entry(from).or_default());
            most(network.receives.entry(to).or_default());
        }
        network
    }
}

fn life(view: &PeerView) -> &'static str {
    match view.life {
        Life::Alive => "alive",
        Life::Suspect => "suspect",
        Life::Lost => "lost",
    }
}

fn peer_line(view: &PeerView, path: Option<&Path>, network: &NetworkView) -> serde_json::Value {
    let hardware = view.advert.as_ref().and_then(|a| a.hardware.as_ref());
    let links = view.advert.iter().flat_map(|a| &a.links);
    json!({
        "schema": "wattle.peer.v1",
        "peer": hex(view.peer.bytes()),
        "state": life(view),
        "path": path.map(|p| if p.is_direct() { "direct" } else { "relayed" }),
        "via": path.and_then(Path::via).map(|via| hex(via.bytes())),
        "transport": path.map(Path::transport),
        "device": hardware.map(|h| h.device.as_str()),
        "flops_per_second": hardware.map(|h| h.speed.flops_per_second()),
        "conv_flops_per_second": hardware.map(|h| h.conv_speed.flops_per_second()),
        "vector_flops_per_second": hardware.map(|h| h.vector_speed.flops_per_second()),
        "touch_bytes_per_second": hardware.map(|h| h.touch_rate.bytes_per_second()),
        "memory_bytes": hardware.map(|h| h.memory.count()),
        "hardware": hardware,
        "fence": network.fence.get(&view.peer),
        "sends_bytes_per_second": network.sends.get(&view.peer).map(|r| r.bytes_per_second()),
        "receives_bytes_per_second": network.receives.get(&view.peer).map(|r| r.bytes_per_second()),
        "addresses": view.advert.as_ref().map(|a| a.addresses.clone()).unwrap_or_default(),
        "links": links.map(|l| json!({
            "to": hex(l.peer.bytes()),
            "bytes_per_second": l.rate.bytes_per_second(),
            "round_trip_seconds": l.round_trip.seconds(),
            "loss": l.loss.map(|l| f64::from(l) / 1e6),
        })).collect::<Vec<_>>(),
    })
}

fn peer_row(view: &PeerView, path: Option<&Path>, network: &NetworkView) -> Vec<String> {
    let hardware = view.advert.as_ref().and_then(|a| a.hardware.as_ref());
    let links: Vec<String> = view
        .advert
        .iter()
        .flat_map(|a| &a.links)
        .map(|l| format!("{} {} {}", l.peer, l.rate, l.round_trip))
        .collect();
    vec![
        view.peer.to_string(),
        life(view).into(),
        path.map_or("-".into(), ToString::to_string),
        hardware.map_or("watches only".into(), |h| h.device.clone()),
        hardware.map_or("-".into(), |h| h.speed.to_string()),
        hardware.map_or("-".into(), |h| h.memory.to_string()),
        network.fence.get(&view.peer).map_or("-".into(), ToString::to_string),
        network.sends.get(&view.peer).map_or("-".into(), ToString::to_string),
        network.receives.get(&view.peer).map_or("-".into(), ToString::to_string),
        links.join(", "),
    ]
}

/// Prints which jobs run.
///
/// *Errors*: nobody is found.
pub(super) async fn status(args: StatusArgs, output: &Output) -> anyhow::Result<()> {
    let (job, args) = (args.job, args.look);
    let limit = StdDuration::from_secs(args.wait);
    let (node, mut events) = Node::start(args.join.options().node(None)?).await?;
    if let Some(job) = job {
        node.seek(job).await;
    }
    let found = settle(&node, limit).await;
    let (jobs, heard) = runs(&node, &mut events, found.len()).await;
    node.stop().await;
    anyhow::ensure!(
        heard > 0,
        "no peer answered within {} s; pass --join TICKET, or start one with `wattle up`",
        args.wait
    );
    let mut table = Table::new(&["job", "name", "steps", "loss", "epoch", "leader", "stages"]);
    if output.is_json() {
        let line = json!({
            "schema": "wattle.status.v1",
            "peers_answered": heard,
            "jobs": jobs.len(),
        });
        output.data(&line, "");
    }
    for brief in jobs.values() {
        if output.is_json() {
            output.data(&job_line(brief), "");
        }
        table.row(vec![
            brief.job.to_string(),
            brief.name.clone(),
            format!("{} of {}", brief.done, brief.steps),
            brief.loss.map_or("-".into(), |l| format!("{l:.4}")),
            brief.epoch.number().to_string(),
            brief.leader.map_or("-".into(), |l| l.to_string()),
            brief.owners.iter().map(ToString::to_string).collect::<Vec<_>>().join(" -> "),
        ]);
    }
    if table.is_empty() {
        output.progress(&format!("{heard} peers answered; no job runs."));
    } else {
        output.text(&table.to_string());
    }
    Ok(())
}

fn job_line(brief: &JobBrief) -> serde_json::Value {
    json!({
        "schema": "wattle.job.v1",
        "job": hex(brief.job.bytes()),
        "name": brief.name,
        "steps_done": brief.done.number(),
        "steps": brief.steps.number(),
        "loss": brief.loss,
        "epoch": brief.epoch.number(),
        "leader": brief.leader.map(|l| hex(l.bytes())),
        "owners": brief.owners.iter().map(|o| hex(o.bytes())).collect::<Vec<_>>(),
    })
}
