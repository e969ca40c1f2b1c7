//! Jobs in Kademlia: who takes part says so, and who looks for a job dials whom its record names.
//!
//! A search goes on until somebody who takes part is connected: the record may be written later than it is looked for,
//! and the table of peers fills as peers come. Records of peers that are gone run out by themselves.
//! Not here: addresses (`hub` feeds them from identify; Kademlia keeps them with its table and its searches).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use libp2p::PeerId;
use libp2p::kad::{self, store::MemoryStore};
use wattle_protocol::ids::JobId;

/// Jobs that may be looked for at once.
const SOUGHT_MAX: usize = 64;
/// Rounds after which a search is given up: five minutes of the hub's ticks.
const ROUNDS: u32 = 60;

type Kad = kad::Behaviour<MemoryStore>;

/// A job that is looked for.
#[derive(Debug, Default)]
struct Search {
    rounds: u32,
    found: BTreeSet<PeerId>,
}

/// What is announced and what is looked for.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    announced: BTreeSet<JobId>,
    /// Somebody has come who may not have heard the announcements.
    stale: bool,
    sought: BTreeMap<JobId, Search>,
    queries: HashMap<kad::QueryId, JobId>,
}

fn key(job: JobId) -> kad::RecordKey {
    kad::RecordKey::new(&[b"wattle-job:", job.bytes().as_slice()].concat())
}

impl Lookup {
    /// Says that this peer takes part in a job.
    pub(super) fn announce(&mut self, job: JobId, kad: &mut Kad) {
        self.announced.insert(job);
        if let Err(error) = kad.start_providing(key(job)) {
            tracing::warn!(%error, "the job cannot be announced");
        }
    }

    /// Takes that back.
    pub(super) fn withdraw(&mut self, job: JobId, kad: &mut Kad) {
        self.announced.remove(&job);
        self.sought.remove(&job);
        kad.stop_providing(&key(job));
    }

    /// Looks for whoever takes part in a job.
    pub(super) fn seek(&mut self, job: JobId, kad: &mut Kad) {
        if self.sought.len() >= SOUGHT_MAX {
            tracing::warn!(%job, "too many jobs are looked for at once");
            return;
        }
        self.sought.insert(job, Search::default());
        self.search(kad);
    }

    /// Notes that a peer has come: it may know more than those before.
    pub(super) fn came(&mut self, kad: &mut Kad) {
        self.stale = true;
        self.search(kad);
    }

    /// Lets time pass; searches end that have led to a connected peer.
    pub(super) fn tick(&mut self, kad: &mut Kad, is_connected: impl Fn(&PeerId) -> bool) {
        self.sought.retain(|job, search| {
            search.rounds += 1;
            let here = search.found.iter().any(&is_connected);
            if here || search.rounds > ROUNDS {
                tracing::debug!(%job, here, "a search ends");
            }
            !here && search.rounds <= ROUNDS
        });
        self.search(kad);
        if std::mem::take(&mut self.stale) {
            for job in self.announced.clone() {
                self.announce(job, kad);
            }
        }
    }

    /// Reads an answer; returns whom to dial.
    pub(super) fn on_event(&mut self, event: kad::Event, me: &PeerId) -> Vec<PeerId> {
        let kad::Event::OutboundQueryProgressed { id, result, step, .. } = event else {
            return Vec::new();
        };
        let job = self.queries.get(&id).copied();
        if step.last {
            self.queries.remove(&id);
        }
        let kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders {
            providers,
            ..
        })) = result
        else {
            return Vec::new();
        };
        let Some(search) = job.and_then(|job| self.sought.get_mut(&job)) else {
            return Vec::new();
        };
        let others: Vec<PeerId> = providers.into_iter().filter(|p| p != me).collect();
        search.found.extend(&others);
        others
    }

    /// Asks for each job that no question is out for.
    fn search(&mut self, kad: &mut Kad) {
        for job in self.sought.keys() {
            if !self.queries.values().any(|j| j == job) {
                self.queries.insert(kad.get_providers(key(*job)), *job);
            }
        }
    }
}
