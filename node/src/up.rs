//! `wattle up`: runs this machine's peer until it is told to stop.

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use wattle_protocol::swarm::io::Event;

use crate::driver::Node;
use crate::lines;
use crate::net::{Path, Paths, Ticket};
use crate::output::Output;
use crate::swarm_options::{ComputeOptions, JoinOptions};

/// Options of `wattle up`.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// How to join.
    pub join: JoinOptions,
    /// How to compute.
    pub compute: ComputeOptions,
    /// End when standard input closes: a child that must not outlive its parent.
    pub until_stdin_closes: bool,
}

/// Runs a peer until it is asked to end (or until the end of standard input, where that is wanted).
///
/// *Errors*: what `Node::start` says.
pub async fn up(options: UpOptions, output: Arc<Output>) -> anyhow::Result<()> {
    // Whoever reads the ticket may ask at once.
    let end = crate::interrupt::asked_to_end().context("while listening to signals")?;
    let config = options.join.node(Some(&options.compute))?;
    let (node, mut events) = Node::start(config).await?;
    let ticket = Ticket { peer: node.id(), addresses: node.net().local_addresses() };
    output.data(
        &json!({
            "schema": "wattle.up.v1",
            "peer": hex(node.id().bytes()),
            "short": node.id().short(),
            "ticket": ticket.to_string(),
        }),
        &format!(
            "This peer is {}. Others join with:\n  wattle up --join {ticket}\nPress Ctrl-C to leave the swarm.",
            node.id()
        ),
    );
    let stdin_closed = async {
        if !options.until_stdin_closes {
            return std::future::pending::<()>().await;
        }
        stdin_end().await;
    };
    tokio::pin!(stdin_closed, end);
    let (mut paths, mut addresses) = (node.net().watch_paths(), node.net().watch_addresses());
    let mut shown = Paths::new();
    let mut told = ticket;
    loop {
        tokio::select! {
            Ok(()) = paths.changed() => {
                let now = paths.borrow_and_update().clone();
                show_paths(&shown, &now, &output);
                shown = now;
            }
            Ok(()) = addresses.changed() => {
                let now = addresses.borrow_and_update().clone();
                let is_news = now.iter().any(|a| !told.addresses.contains(a));
                told.addresses = now;
                if is_news {
                    show_ticket(&told, &output);
                }
            }
            event = events.recv() => match event {
                Some(event) => report(&event, &output),
                None => anyhow::bail!("the node has stopped by itself; run with -v to see why"),
            },
            () = &mut stdin_closed => break,
            () = &mut end => break,
        }
    }
    node.stop().await;
    output.progress("Left the swarm.");
    Ok(())
}

/// Says which paths to peers are other ones than before.
fn show_paths(before: &Paths, now: &Paths, output: &Output) {
    for (peer, path) in now {
        // Whether punching goes on is nobody's business.
        let told = |path: &Path| (path.is_direct(), path.via(), path.transport());
        if before.get(peer).map(told) == Some(told(path)) {
            continue;
        }
        if output.is_json() {
            let line = json!({
                    "schema": "wattle.path.v1",
                    "peer": hex(peer.bytes()),
                    "path": if path.is_direct() { "direct" } else { "relayed" },
                    "via": path.via().map(|via| hex(via.bytes())),
                    "transport": path.transport(),
            });
            output.data(&line, "");
        } else {
            output.progress(&format!("peer {peer}: {path}"));
        }
    }
}

/// Says how others join by now: through a relay, or an address that has been found out.
fn show_ticket(ticket: &Ticket, output: &Output) {
    output.data(
        &json!({ "schema": "wattle.ticket.v1", "ticket": ticket.to_string() }),
        &format!("Others also join with:\n  wattle up --join {ticket}"),
    );
}

/// Waits for the end of standard input. A thread of its own reads, since such a read cannot be cancelled.
async fn stdin_end() {
    let (ended, end) = tokio::sync::oneshot::channel();
    let reading = std::thread::Builder::new().name("wattle-stdin".into()).spawn(move || {
        let copied = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        // Nobody waits once the peer stops for another reason.
        ended.send(copied.is_ok()).unwrap_or_default();
    });
    if reading.is_ok() {
        end.await.unwrap_or_default();
    }
}

/// Says what has happened: lines of data for programs, progress for people.
fn report(event: &Event, output: &Output) {
    if output.is_json() {
        if let Some(line) = lines::event(event) {
            output.data(&line, "");
        }
        return;
    }
    match event {
        Event::PeerAlive(peer) => output.progress(&format!("peer {peer} is here")),
        Event::PeerLost(peer) => output.progress(&format!("peer {peer} is gone")),
        Event::Job { job, news } => output.progress(&format!("job {job}: {}", lines::text(news))),
        Event::Runs { .. } | Event::Pulled { .. } | Event::Traces(_) | Event::MayStop => {}
    }
}

/// Writes bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
