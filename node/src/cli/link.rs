//! `wattle link`: what the link to a peer carries, and how long control messages take while it is full.

use std::time::Duration as StdDuration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;
use wattle_protocol::ids::PeerId;
use wattle_protocol::units::Duration;

use super::JoinArgs;
use super::table::Table;
use crate::net::{Net, NetEvent, Strained, Ticket, percentile};
use crate::output::Output;
use crate::up::hex;

/// A peer that has not answered by then is not there.
const CONNECT: StdDuration = StdDuration::from_secs(20);

/// Arguments of `wattle link`.
#[derive(Debug, Args)]
pub(super) struct LinkArgs {
    /// The peer at the other end, as `wattle up` prints it.
    ticket: String,
    /// How long the link is kept full.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    #[command(flatten)]
    join: JoinArgs,
}

/// Runs the command.
///
/// *Errors*: the ticket is damaged, the peer does not answer, or it goes away.
pub(super) async fn run(args: LinkArgs, output: &Output) -> anyhow::Result<()> {
    let ticket: Ticket = args
        .ticket
        .parse()
        .with_context(|| format!("while reading the ticket \"{}\"", args.ticket))?;
    let (net, mut events) = Net::start(args.join.options().node(None)?.net).await?;
    net.dial(Some(ticket.peer), ticket.addresses);
    let connected = timeout(CONNECT, connection(&mut events, ticket.peer)).await;
    let quic = connected.ok().flatten().with_context(|| {
        let seconds = CONNECT.as_secs();
        format!(
            "peer {} did not answer within {seconds} s; does it still run, in this network?",
            ticket.peer
        )
    })?;
    // Whatever the peer says is taken and forgotten, so that it does not wait.
    let listener = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let time = StdDuration::from_secs(args.seconds);
    output.progress(&format!("Filling the link to {} for {} s.", ticket.peer, args.seconds));
    let strained = net.strain(ticket.peer, time).await;
    net.shutdown().await;
    listener.abort();
    let strained = strained.with_context(|| {
        format!(
            "peer {} went away, or its link is too slow for --seconds {}",
            ticket.peer, args.seconds
        )
    })?;
    output.data(&line(ticket.peer, quic, &strained), &text(ticket.peer, quic, &strained));
    Ok(())
}

/// Waits for the connection; says whether tensors have streams of their own.
async fn connection(events: &mut mpsc::Receiver<NetEvent>, to: PeerId) -> Option<bool> {
    while let Some(event) = events.recv().await {
        if let NetEvent::Connected { peer, quic } = event
            && peer == to
        {
            return Some(quic);
        }
    }
    None
}

/// Processor seconds of this end for each gigabyte.
fn processor(seen: &Strained) -> f64 {
    seen.processor.seconds() * 1e9 / seen.bytes.count() as f64
}

fn line(peer: PeerId, quic: bool, seen: &Strained) -> serde_json::Value {
    let times = |times: &[Duration]| {
        let [median, most] = [50, 99].map(|percent| percentile(times, percent).seconds());
        json!({ "median": median, "p99": most, "answers": times.len() })
    };
    json!({
        "schema": "wattle.link.v1",
        "peer": hex(peer.bytes()),
        "transport": if quic { "quic" } else { "tcp" },
        "bytes_per_second": seen.rate.bytes_per_second(),
        "bytes": seen.bytes.count(),
        "quiet_seconds": times(&seen.quiet),
        "full_seconds": times(&seen.full),
        "processor_seconds_per_gigabyte": processor(seen),
        "packets_sent": seen.packets.map(|(sent, _)| sent),
        "packets_lost": seen.packets.map(|(_, lost)| lost),
    })
}

fn text(peer: PeerId, quic: bool, seen: &Strained) -> String {
    let mut table = Table::new(&["to", &peer.to_string()]);
    let mut row = |name: &str, value: String| table.row(vec![name.into(), value]);
    row("over", if quic { "QUIC".into() } else { "TCP".into() });
    row("arrived", format!("{} at {}", seen.bytes, seen.rate));
    let times = |times: &[Duration]| {
        format!("{} median, {} p99", percentile(times, 50), percentile(times, 99))
    };
    row("answers while quiet", times(&seen.quiet));
    row("answers while full", times(&seen.full));
    if let Some((sent, lost)) = seen.packets {
        let share = 100.0 * lost as f64 / sent.max(1) as f64;
        row("packets lost", format!("{lost} of {sent} ({share:.2} %)"));
    }
    row("processor, this end", format!("{:.2} s/GB", processor(seen)));
    table.to_string()
}
