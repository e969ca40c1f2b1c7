//! What a peer that only looks on learns of a swarm: who is there, and what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration as StdDuration;

use tokio::sync::mpsc;
use tokio::time::Instant as TokioInstant;
use wattle_protocol::ids::{JobId, PeerId};
use wattle_protocol::swarm::io::{Command, Event};
use wattle_protocol::wire::message::JobBrief;

use crate::driver::{Node, PeerView};

/// How long answers are waited for once everybody known has been asked.
const ANSWERS: StdDuration = StdDuration::from_millis(1500);
/// Adverts have settled when nothing new was heard for so long.
const SETTLED: StdDuration = StdDuration::from_millis(1500);
const LOOK: StdDuration = StdDuration::from_millis(100);

/// Waits until the adverts of the peers do not change any more.
pub(crate) async fn settle(node: &Node, limit: StdDuration) -> Vec<PeerView> {
    let end = TokioInstant::now() + limit;
    let mut changed = TokioInstant::now();
    let mut known = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let views: Vec<PeerView> =
            node.peers().await.into_iter().filter(|v| v.peer != node.id()).collect();
        let versions: BTreeMap<PeerId, Option<u64>> =
            views.iter().map(|v| (v.peer, v.advert.as_ref().map(|a| a.sequence))).collect();
        if versions != known {
            known = versions;
            changed = TokioInstant::now();
        }
        let measured =
            views.iter().any(|v| v.advert.as_ref().is_some_and(|a| a.hardware.is_some()));
        let now = TokioInstant::now();
        if now >= end || (measured && now.duration_since(changed) >= SETTLED) {
            return views;
        }
    }
}

/// Asks everybody what they run: each job as who knows most of it tells, and how many peers have answered.
///
/// Waits for so many peers, or until the time for answers has passed.
pub(crate) async fn runs(
    node: &Node,
    events: &mut mpsc::Receiver<Event>,
    peers: usize,
) -> (BTreeMap<JobId, JobBrief>, usize) {
    node.command(Command::AskRuns).await;
    let end = TokioInstant::now() + ANSWERS;
    let mut jobs: BTreeMap<JobId, JobBrief> = BTreeMap::new();
    let mut heard = BTreeSet::new();
    while heard.len() < peers
        && let Ok(Some(event)) = tokio::time::timeout_at(end, events.recv()).await
    {
        if let Event::Runs { from, briefs } = event {
            heard.insert(from);
            for brief in briefs {
                let known = jobs.entry(brief.job).or_insert_with(|| brief.clone());
                if (brief.epoch, brief.done) > (known.epoch, known.done) {
                    *known = brief;
                }
            }
        }
    }
    (jobs, heard.len())
}
