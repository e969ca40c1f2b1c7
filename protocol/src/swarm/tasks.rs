//! Which task was for what: completions find their way back to a job's stage by task id.

use std::collections::BTreeMap;

use super::io::{Effect, Outbox, Task, TensorKey};
use crate::ids::{JobId, StageId, TaskId};
use crate::schedule::pipeline::Pass;

/// What a task was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A stage's state is loaded.
    Load,
    /// In-flight work was forgotten.
    Reset,
    /// A pass of the pipeline.
    Pass(Pass),
    /// Parts of shared gradients are in the store.
    Share,
    /// Gradients are reduced.
    Reduce,
    /// An update was applied.
    Update,
    /// A stage's state is in the store.
    Snapshot(TensorKey),
    /// A stage was freed.
    Unload,
}

/// Tasks that are not finished.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    next: u64,
    open: BTreeMap<TaskId, (JobId, StageId, Purpose)>,
}

impl Tasks {
    /// Hands a task to the execution thread.
    pub(super) fn run(
        &mut self,
        out: &mut Outbox,
        at: (JobId, StageId),
        purpose: Purpose,
        task: Task,
    ) -> TaskId {
        let id = TaskId::new(self.next);
        self.next += 1;
        self.open.insert(id, (at.0, at.1, purpose));
        out.push(Effect::Run { id, task });
        id
    }

    /// Takes a finished task off the list.
    pub(super) fn finish(&mut self, id: TaskId) -> Option<(JobId, StageId, Purpose)> {
        self.open.remove(&id)
    }
}
