//! The simulated execution threads: tasks one at a time in the order given, each for as long as the cost model says.

use std::sync::Arc;

use wattle_protocol::swarm::io::{Input, OpTimes, Task};
use wattle_protocol::units::Duration;

use super::{Happening, Order, World};
use crate::device;

impl World<'_> {
    pub(super) fn order(&mut self, me: usize, order: Order) {
        self.nodes[me].queue.push_back(order);
        if self.nodes[me].busy.is_none() {
            self.next_task(me);
        }
    }

    /// Forgets what may be forgotten, and begins the next task.
    fn next_task(&mut self, me: usize) {
        let node = &mut self.nodes[me];
        loop {
            match node.queue.front() {
                Some(Order::Forget(key)) => node.device.forget(&{ *key }),
                Some(Order::ForgetBefore(job, epoch, step)) => {
                    let (job, epoch, step) = (*job, *epoch, *step);
                    node.device.forget_before(job, epoch, step);
                }
                Some(Order::Task(_, task)) => {
                    let place = device::place(task);
                    if let Task::LoadStage { work, .. } = task {
                        node.works.insert(place, work.clone());
                    }
                    let work = node.works.get(&place).map(Arc::as_ref);
                    let takes = node
                        .hardware
                        .as_ref()
                        .map_or(Duration::ZERO, |h| device::duration(h, work, task));
                    let takes = Duration::from_seconds(takes.seconds() * node.slowness);
                    self.check.begins(me, task);
                    node.busy = Some(self.now);
                    return self.later(me, takes, Happening::TaskEnds);
                }
                None => return,
            }
            node.queue.pop_front();
        }
    }

    pub(super) fn task_ends(&mut self, me: usize) {
        let node = &mut self.nodes[me];
        let Some(Order::Task(id, task)) = node.queue.pop_front() else {
            return;
        };
        let began = node.busy.take().unwrap_or_default();
        let input = match node.device.run(&task) {
            Ok(outcome) => {
                let (job, stage) = device::place(&task);
                let changes = matches!(task, Task::LoadStage { .. } | Task::OptimizerStep { .. });
                let state = changes.then(|| node.device.fingerprint(job, stage)).flatten();
                self.check.ended(me, &task, state);
                Input::TaskDone {
                    task: id,
                    outcome,
                    began,
                    ended: self.now,
                    ops: OpTimes::default(),
                }
            }
            Err(error) => Input::TaskFailed { task: id, error },
        };
        self.next_task(me);
        self.input(me, input);
    }
}
