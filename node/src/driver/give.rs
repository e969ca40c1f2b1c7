//! Giving what a stage starts from: made of the weights that this machine's user holds, off the loop, then sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use wattle_models::weights::given::Given;
use wattle_protocol::ids::{JobId, PeerId};
use wattle_protocol::job::STAGES_MAX;
use wattle_protocol::swarm::io::{Input, StageWork, TensorKey};
use wattle_protocol::units::Bytes;

use super::Driver;

/// A bundle that is ready, or why it is not.
pub(super) struct Made {
    key: TensorKey,
    to: PeerId,
    bundle: Result<bytes::Bytes, String>,
}

/// The weights of jobs that were submitted here.
pub(super) struct Giver {
    given: BTreeMap<JobId, Arc<Given>>,
    ready: mpsc::Sender<Made>,
    made: mpsc::Receiver<Made>,
}

impl Default for Giver {
    fn default() -> Self {
        // No job has more bundles under way than stages; a full queue only makes their makers wait.
        let (ready, made) = mpsc::channel(usize::from(STAGES_MAX));
        Self { given: BTreeMap::new(), ready, made }
    }
}

impl Giver {
    /// Holds the weights of a job.
    pub(super) fn hold(&mut self, job: JobId, given: Arc<Given>) {
        self.given.insert(job, given);
    }

    /// Makes a bundle on a thread of its own: files may have to be read.
    pub(super) fn make(&self, key: TensorKey, work: Arc<StageWork>, to: PeerId) {
        let (given, ready) = (self.given.get(&key.job).cloned(), self.ready.clone());
        tokio::task::spawn_blocking(move || {
            let bundle = match given {
                Some(given) => given.bundle(&work.graph).map_err(|error| error.to_string()),
                None => Err("this node does not hold the job's weights".into()),
            };
            if ready.blocking_send(Made { key, to, bundle }).is_err() {
                tracing::debug!("the node has stopped");
            }
        });
    }

    /// Waits for the next bundle. Safe to drop midway.
    pub(super) async fn made(&mut self) -> Option<Made> {
        self.made.recv().await
    }
}

impl Driver {
    /// Sends a bundle, or puts it before this node's own peer.
    pub(super) fn on_made(&mut self, Made { key, to, bundle }: Made) {
        let size = bundle.as_ref().map_or(Bytes::ZERO, |b| Bytes::of_len(b.len()));
        match bundle {
            Ok(bundle) => self.store.accept(key, bundle),
            Err(error) => {
                tracing::error!(%error, "what a stage starts from cannot be given");
                return self.input(Input::Shipped { key, to, size, delivered: false });
            }
        }
        if to == self.peer.id() {
            return self.input(Input::TensorArrived { key, from: to, size });
        }
        if let Some(failed) = self.ship(key, to) {
            self.input(failed);
        }
    }
}
