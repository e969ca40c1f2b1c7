//! Replicas that learn: every worker's passes run on the product's executor, one after another in one process.
//!
//! Each worker is a stage with a state of its own, so that equal bits are found and not assumed. Weight decay, clipping and,
//! unless the exchange says otherwise, momentum act on the mean (papers.md 3.2: after aggregation). Running statistics
//! are each worker's own.
//! Not here: which bytes cross (`wattle_protocol::replica`) and when (`timing`).

mod start;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use wattle_models::exec::store::{append, to_floats};
use wattle_models::single::whole_work;
use wattle_models::{DeviceChoice, DeviceError, Executor};
use wattle_protocol::ids::{MicroBatch, Step};
use wattle_protocol::job::DataSpec;
use wattle_protocol::replica::{Exchange, MergeGroups, Outer, OuterRule, ReplicaError};
use wattle_protocol::swarm::io::{
    GradientSource, Outcome, StageWork, StateSource, Task, TaskError,
};

use super::held::Held;
use super::outcome::Learnt;
use super::scenario::{ExchangePart, ReplicaScenario, TrainPart};
use super::timing::Clock;
use start::{STAGE, gradient_key, job, places, spec, state_key};

/// The only micro-batch of a worker's step.
const MICRO_BATCH: MicroBatch = MicroBatch::new(0);
/// Seed of what is held out, which no worker has.
const HELD_SEED: u64 = u64::MAX / 3;

/// Why a run does not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Nothing says how to train.
    #[error("the scenario has no [train]")]
    NoTraining,
    /// The network cannot be trained or measured.
    #[error("{0}")]
    Network(String),
    /// There is no device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A pass failed.
    #[error("worker {worker}, step {step}: {error:?}")]
    Task {
        /// Whose.
        worker: usize,
        /// In which step.
        step: u64,
        /// What went wrong.
        error: TaskError,
    },
    /// Gradients were not exchanged: most often they have become infinite, and a lower learning rate helps.
    #[error("step {step}: {source}")]
    Exchange {
        /// In which step.
        step: u64,
        /// Why.
        source: ReplicaError,
    },
}

/// A run under way.
#[derive(Debug)]
pub struct Training<'a> {
    executor: Executor,
    works: Vec<Arc<StageWork>>,
    scenario: &'a ReplicaScenario,
    train: &'a TrainPart,
    exchange: &'a ExchangePart,
    clock: &'a Clock,
    seed: u64,
    groups: MergeGroups,
    /// Where each parameter lies in a bundle, in floats, in backward order.
    places: Vec<Range<usize>>,
    replicas: Exchange,
    outer: Option<Outer>,
}

impl<'a> Training<'a> {
    /// Loads all workers with the same weights.
    ///
    /// *Errors*: [`TrainError`].
    pub fn begin(
        scenario: &'a ReplicaScenario,
        exchange: &'a ExchangePart,
        seed: u64,
        clock: &'a Clock,
    ) -> Result<Self, TrainError> {
        let train = scenario.train.as_ref().ok_or(TrainError::NoTraining)?;
        let workers = usize::try_from(scenario.workers).unwrap_or(usize::MAX);
        let mut executor = Executor::new(DeviceChoice::Cpu)?;
        let mut works = Vec::new();
        for worker in 0..workers {
            let work = whole_work(&spec(scenario, train, exchange, (seed, worker))?)
                .map_err(|error| TrainError::Network(error.to_string()))?;
            let id = job(worker);
            let failed = |error| TrainError::Task { worker, step: 0, error };
            let (source, step) = (StateSource::Initial, Step::new(0));
            let load = Task::LoadStage { job: id, work: work.clone(), source, step };
            executor.run(&load).map_err(failed)?;
            works.push(work);
        }
        let graph = &works[0].graph;
        let places = places(graph, clock.passes());
        let groups = clock.groups(exchange);
        let replicas = Exchange::new(groups.clone(), workers)
            .map_err(|source| TrainError::Exchange { step: 0, source })?;
        let replicas = match exchange.momentum_first {
            true => replicas.with_momentum(train.momentum),
            false => replicas,
        };
        let mut training = Self {
            executor,
            works,
            scenario,
            train,
            exchange,
            clock,
            seed,
            groups,
            places,
            replicas,
            outer: None,
        };
        if exchange.local_steps > 1 {
            let start = training.state(0, 0)?;
            let rule = exchange.outer;
            let rule =
                OuterRule { rate: rule.rate, momentum: rule.momentum, nesterov: rule.nesterov };
            training.outer = Some(Outer::new(rule, training.backward_order(&start)));
        }
        Ok(training)
    }

    /// Takes all steps, then measures what was learnt.
    ///
    /// *Errors*: [`TrainError`].
    pub fn run(mut self) -> Result<Learnt, TrainError> {
        let (mut losses, mut seconds) = (Vec::new(), Vec::new());
        let (mut now, mut bytes) = (0.0, 0);
        for step in 0..self.train.steps {
            let time = self.clock.time(self.exchange, &self.groups, step);
            losses.push(match self.outer {
                None => self.shared_step(step, &mut bytes)?,
                Some(_) => self.own_step(step, &mut bytes)?,
            });
            now += time.step.seconds();
            seconds.push(now);
        }
        let (held_loss, held_accuracy) = self.held()?;
        Ok(Learnt {
            name: self.exchange.name.clone(),
            seed: self.seed,
            losses,
            seconds,
            held_loss,
            held_accuracy,
            bytes,
            is_equal: self.is_equal()?,
        })
    }

    /// All workers' passes, one exchange of gradients, the same update at each.
    fn shared_step(&mut self, step: u64, bytes: &mut u64) -> Result<f64, TrainError> {
        let mut total = 0.0;
        let (mut bundles, mut gradients) = (Vec::new(), Vec::new());
        for worker in 0..self.works.len() {
            let (loss, _) = self.passes(worker, step, true)?;
            total += loss;
            let bundle = self.executor.store().take(&gradient_key(worker, step));
            let bundle = to_floats(&bundle.unwrap_or_default());
            gradients.push(self.backward_order(&bundle));
            bundles.push(bundle);
        }
        let mean = self.exchanged(&gradients, step, bytes)?;
        let scale = clip(self.train.clip_norm, &mean);
        for (worker, mut bundle) in bundles.into_iter().enumerate() {
            self.put_in_order(&mean, &mut bundle);
            let mut stored = Vec::new();
            append(&mut stored, &bundle);
            let key = gradient_key(worker, step);
            self.executor.store().accept(key, stored.into());
            self.update(worker, step, (scale, GradientSource::Stored(key)))?;
            self.executor.store().drop_key(&key);
        }
        Ok(total / as_f64(self.works.len()))
    }

    /// All workers' passes and updates of their own; now and then an exchange of what they have changed.
    fn own_step(&mut self, step: u64, bytes: &mut u64) -> Result<f64, TrainError> {
        let mut total = 0.0;
        for worker in 0..self.works.len() {
            let (loss, squares) = self.passes(worker, step, false)?;
            total += loss;
            let scale = factor(self.train.clip_norm, squares.sqrt());
            self.update(worker, step, (scale, GradientSource::Own))?;
        }
        let is_last = step + 1 == self.train.steps;
        if (step + 1).is_multiple_of(self.exchange.local_steps) || is_last {
            self.meet(step, bytes)?;
        }
        Ok(total / as_f64(self.works.len()))
    }

    /// Exchanges changes and sets every worker to the shared parameters; their optimizers keep their own state.
    fn meet(&mut self, step: u64, bytes: &mut u64) -> Result<(), TrainError> {
        let failed = |source| TrainError::Exchange { step, source };
        let Some(mut outer) = self.outer.take() else { return Ok(()) };
        let next = step + 1;
        let (mut states, mut changes) = (Vec::new(), Vec::new());
        for worker in 0..self.works.len() {
            let state = self.state(worker, next)?;
            changes.push(outer.change(&self.backward_order(&state)).map_err(failed)?);
            states.push(state);
        }
        let mean = self.exchanged(&changes, step, bytes)?;
        outer.apply(&mean).map_err(failed)?;
        for (worker, mut state) in states.into_iter().enumerate() {
            self.put_in_order(outer.parameters(), &mut state);
            self.load(worker, next, &state)?;
        }
        self.outer = Some(outer);
        Ok(())
    }

    fn exchanged(
        &mut self,
        each: &[Vec<f32>],
        step: u64,
        bytes: &mut u64,
    ) -> Result<Vec<f32>, TrainError> {
        let forms = self.clock.forms(self.exchange, &self.groups, step);
        let done = self.replicas.run(each, &forms);
        let done = done.map_err(|source| TrainError::Exchange { step, source })?;
        *bytes += done.bytes.count();
        Ok(done.mean)
    }

    fn task(&mut self, worker: usize, step: u64, task: &Task) -> Result<Outcome, TrainError> {
        let failed = |error| TrainError::Task { worker, step, error };
        self.executor.run(task).map_err(failed)
    }

    /// Returns the loss of a worker's passes and the sum of squares of its gradient.
    fn passes(
        &mut self,
        worker: usize,
        number: u64,
        publish: bool,
    ) -> Result<(f64, f64), TrainError> {
        let (job, stage, step) = (job(worker), STAGE, Step::new(number));
        let (mut found, micro_batch) = ((0.0, 0.0), MICRO_BATCH);
        let shared_from = Vec::new();
        for task in [
            Task::Forward { job, stage, step, micro_batch },
            Task::Backward { job, stage, step, micro_batch },
            Task::ReduceGradients { job, stage, step, shared_from, publish },
        ] {
            match self.task(worker, number, &task)? {
                Outcome::Forward { loss } => found.0 = loss.unwrap_or(0.0),
                Outcome::Gradients { sum_of_squares } => found.1 = sum_of_squares,
                Outcome::Done => {}
            }
        }
        Ok(found)
    }

    fn update(
        &mut self,
        worker: usize,
        number: u64,
        (scale, gradient): (f64, GradientSource),
    ) -> Result<(), TrainError> {
        let (job, stage, step) = (job(worker), STAGE, Step::new(number));
        let task = Task::OptimizerStep { job, stage, step, scale, gradient };
        self.task(worker, number, &task).map(|_| ())
    }

    /// Returns a worker's parameters, optimizer state and buffers after so many steps.
    fn state(&mut self, worker: usize, steps: u64) -> Result<Vec<f32>, TrainError> {
        let key = state_key(worker, steps);
        let task = Task::Snapshot { job: job(worker), stage: STAGE, key };
        self.task(worker, steps, &task)?;
        Ok(to_floats(&self.executor.store().take(&key).unwrap_or_default()))
    }

    fn load(&mut self, worker: usize, steps: u64, state: &[f32]) -> Result<(), TrainError> {
        let key = state_key(worker, steps);
        let mut bytes = Vec::new();
        append(&mut bytes, state);
        self.executor.store().accept(key, bytes.into());
        let (work, source) = (self.works[worker].clone(), StateSource::Stored(key));
        let task = Task::LoadStage { job: job(worker), work, source, step: Step::new(steps) };
        self.task(worker, steps, &task)?;
        self.executor.store().drop_key(&key);
        Ok(())
    }

    /// Returns what a bundle begins with, its parameters, in backward order.
    fn backward_order(&self, bundle: &[f32]) -> Vec<f32> {
        let mut flat = Vec::with_capacity(self.groups.total());
        for range in &self.places {
            flat.extend_from_slice(&bundle[range.clone()]);
        }
        flat
    }

    fn put_in_order(&self, flat: &[f32], bundle: &mut [f32]) {
        let mut rest = flat;
        for range in &self.places {
            let (head, tail) = rest.split_at(range.len());
            bundle[range.clone()].copy_from_slice(head);
            rest = tail;
        }
    }

    fn held(&mut self) -> Result<(f64, f64), TrainError> {
        let network = TrainError::Network;
        let [_, source] = self.scenario.sources(self.train);
        let data = DataSpec { source, seed: HELD_SEED };
        let dag = self.scenario.dag(Some(self.train.held_batch)).map_err(network)?;
        let held = Held::of(&dag, data, self.train.held_batches).map_err(network)?;
        held.measure(&self.named(0)?).map_err(network)
    }

    fn named(&mut self, worker: usize) -> Result<BTreeMap<String, Vec<f32>>, TrainError> {
        let failed = |error| TrainError::Task { worker, step: self.train.steps, error };
        self.executor.parameters(job(worker), STAGE).map_err(failed)
    }

    /// Says whether all workers' parameters have the same bits.
    fn is_equal(&mut self) -> Result<bool, TrainError> {
        let mut prints = Vec::new();
        for worker in 0..self.works.len() {
            let graph = &self.works[worker].graph;
            let parameters = graph.parameters.iter().map(|id| graph.values[id].name.clone());
            let names: Vec<String> = parameters.collect();
            let mut named = self.named(worker)?;
            named.retain(|name, _| names.contains(name));
            prints.push(crate::device::numeric::fingerprint(&named));
        }
        Ok(prints.iter().all(|print| *print == prints[0]))
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are few workers")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

fn clip(most: Option<f32>, mean: &[f32]) -> f64 {
    let squares: f64 = mean.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    factor(most, squares.sqrt())
}

/// Returns the factor that brings a norm down to the most that is allowed.
fn factor(most: Option<f32>, norm: f64) -> f64 {
    match most {
        Some(most) if norm > f64::from(most) => f64::from(most) / norm,
        Some(_) | None => 1.0,
    }
}
