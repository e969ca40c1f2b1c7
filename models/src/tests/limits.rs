//! What is predicted to fit runs under exactly that limit, and a byte below it is refused: the rule of
//! `protocol/src/schedule/footprint.rs` at the planner and at the executor.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;
use wattle_protocol::dag::Dag;
use wattle_protocol::dag::cut::CutEdge;
use wattle_protocol::ids::{EdgeId, Epoch, MicroBatch, PeerId, StageId, Step};
use wattle_protocol::job::{JobSpec, Optimizer, PipelineOrder};
use wattle_protocol::schedule::advert::{Advert, Hardware, Link};
use wattle_protocol::schedule::codec::Codec;
use wattle_protocol::schedule::fence::{Request, place, stage_graphs};
use wattle_protocol::schedule::footprint::Demand;
use wattle_protocol::schedule::kinds::Kinds;
use wattle_protocol::schedule::pipeline::{Pass, passes};
use wattle_protocol::schedule::{Plan, PlanError, StagePlan};
use wattle_protocol::swarm::io::{
    GradientSource, StageWork, StateSource, Task, TaskError, TensorKey, TensorName,
};
use wattle_protocol::units::{Bytes, Duration, Rate, Speed};

use super::replicas::{Gathering, gathers};
use super::{EPOCH, JOB, job, key, work};
use crate::data::{images, text};
use crate::exec::stage::footprint;
use crate::single::whole_work;
use crate::zoo::{gpt2, resnet};
use crate::{DeviceChoice, Executor, zoo};

/// A GPT-2 whose embedding is its last layer, too.
fn tied() -> (Dag, &'static str) {
    let config = gpt2::Config {
        vocabulary: 128,
        positions: 16,
        window: 16,
        width: 16,
        layers: 2,
        heads: 2,
        ..gpt2::Config::named("gpt2-nano").unwrap()
    };
    (gpt2::build(&config, 2).unwrap(), text::KJV)
}

/// A ResNet, which has buffers.
fn buffered() -> (Dag, &'static str) {
    let config = resnet::Config { width: 4, ..resnet::Config::named("resnet-tiny").unwrap() };
    (resnet::build(&config, 4).unwrap(), images::DIGITS)
}

fn spec((dag, source): (Dag, &str), order: PipelineOrder, micro_batches: u32) -> JobSpec {
    let mut spec = job(dag, source);
    spec.train.optimizer =
        Optimizer::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    spec.train.micro_batches = micro_batches;
    spec.swarm.order = Some(order);
    spec
}

/// The peers of a plan, each with a store that has a limit.
struct World<'a> {
    spec: &'a JobSpec,
    plan: &'a Plan,
    works: Vec<Arc<StageWork>>,
    peers: BTreeMap<PeerId, Executor>,
}

impl<'a> World<'a> {
    fn new(spec: &'a JobSpec, plan: &'a Plan, memory: impl Fn(PeerId) -> Bytes) -> Self {
        let cut = stage_graphs(spec, &plan.assignment, plan.recompute).unwrap();
        let works = cut.stages.into_iter().map(|graph| work(spec, graph)).collect();
        let parts = plan.stages.iter().flat_map(StagePlan::holders);
        let open = |peer: PeerId| {
            let executor = Executor::new(DeviceChoice::Cpu).unwrap();
            executor.store().limit(Some(memory(peer)));
            (peer, executor)
        };
        Self { spec, plan, works, peers: parts.map(open).collect() }
    }

    fn run(&mut self, peer: PeerId, task: Task) -> Result<(), TaskError> {
        self.peers.get_mut(&peer).unwrap().run(&task).map(|_| ())
    }

    fn owner(&self, stage: StageId) -> PeerId {
        self.plan.owner(stage).unwrap()
    }

    /// Moves a bundle to another peer's store, as a link does.
    fn ship(&self, key: TensorKey, from: PeerId, to: PeerId) {
        if from != to {
            let bytes = self.peers[&from].store().take(&key).unwrap();
            self.peers[&to].store().accept(key, bytes);
        }
    }

    fn load(&mut self) -> Result<(), TaskError> {
        let (plan, step) = (self.plan, Step::new(0));
        for (stage, work) in plan.stage_ids().zip(self.works.clone()) {
            let roles = &plan.stages[stage.index()];
            for peer in roles.holders() {
                let (work, source) = (work.clone(), StateSource::Initial);
                self.run(peer, Task::LoadStage { job: JOB, work, source, step })?;
                self.run(peer, Task::ResetStep { job: JOB, stage, epoch: EPOCH })?;
            }
        }
        Ok(())
    }

    /// What a pass waits for, and what it makes for whom.
    fn bundles(&self, stage: StageId, pass: Pass) -> (Vec<TensorName>, Vec<(TensorName, StageId)>) {
        let graph = &self.works[stage.index()].graph;
        let back = |edges: &[(EdgeId, CutEdge)]| -> Vec<(EdgeId, CutEdge)> {
            edges.iter().filter(|(_, e)| e.cotangent.is_some()).cloned().collect()
        };
        match pass {
            Pass::Forward(micro_batch) => {
                let name = |edge| TensorName::Activation { edge, micro_batch };
                let needs = graph.receives.iter().map(|(edge, _)| name(*edge)).collect();
                (needs, graph.sends.iter().map(|(edge, e)| (name(*edge), e.to)).collect())
            }
            Pass::Backward(micro_batch) => {
                let name = |edge| TensorName::Cotangent { edge, micro_batch };
                let needs = back(&graph.sends).iter().map(|(edge, _)| name(*edge)).collect();
                let makes = back(&graph.receives).iter().map(|(e, c)| (name(*e), c.from)).collect();
                (needs, makes)
            }
        }
    }

    /// Runs all passes of a step, the earliest worker that can go on first, so that bundles pile up behind it.
    fn passes(&mut self, step: u64) -> Result<(), TaskError> {
        let (count, micro_batches) = (self.plan.stages.len(), self.spec.train.micro_batches);
        let mut lines: Vec<(StageId, PeerId, VecDeque<Pass>)> = Vec::new();
        for (stage, roles) in self.plan.stage_ids().zip(&self.plan.stages) {
            let all = passes(self.plan.order, stage.index(), count, micro_batches);
            for (place, peer) in (0..).zip(roles.workers()) {
                let own = all.iter().copied().filter(|p| roles.turn(micro_batch(*p)) == place);
                lines.push((stage, peer, own.collect()));
            }
        }
        while lines.iter().any(|(.., passes)| !passes.is_empty()) {
            let is_ready = |(stage, peer, passes): &(StageId, PeerId, VecDeque<Pass>)| {
                let Some(pass) = passes.front() else { return false };
                let store = self.peers[peer].store();
                self.bundles(*stage, *pass).0.iter().all(|n| store.bytes(&key(step, *n)).is_some())
            };
            let at = lines.iter().position(is_ready).expect("some worker can go on");
            let (stage, worker) = (lines[at].0, lines[at].1);
            let pass = lines[at].2.pop_front().unwrap();
            let at = Step::new(step);
            let task = match pass {
                Pass::Forward(micro_batch) => {
                    Task::Forward { job: JOB, stage, step: at, micro_batch }
                }
                Pass::Backward(micro_batch) => {
                    Task::Backward { job: JOB, stage, step: at, micro_batch }
                }
            };
            self.run(worker, task)?;
            for (name, to) in self.bundles(stage, pass).1 {
                let to = self.plan.worker(to, micro_batch(pass)).unwrap();
                self.ship(key(step, name), worker, to);
            }
        }
        Ok(())
    }

    /// Gathers the sums of all workers at the owners.
    fn gather(&mut self, step: u64) -> Result<(), TaskError> {
        for (roles, work) in self.plan.stages.iter().zip(self.works.clone()) {
            let peers: Vec<PeerId> = roles.workers().collect();
            for Gathering { worker, task, made } in gathers(roles, &work, step) {
                let from = peers[usize::from(worker)];
                self.run(from, task)?;
                if let Some((name, sink)) = made {
                    self.ship(key(step, name), from, peers[usize::from(sink)]);
                }
            }
        }
        Ok(())
    }

    /// Reduces, hands gradients to followers, updates, and pulls every stage's state.
    fn commit(&mut self, number: u64) -> Result<(), TaskError> {
        let (plan, step) = (self.plan, Step::new(number));
        let sharers = |work: &StageWork| -> Vec<StageId> {
            let all = work.graph.shared.iter().flat_map(|s| s.stages.iter().copied());
            let all: std::collections::BTreeSet<StageId> = all.collect();
            all.into_iter().filter(|s| *s != work.graph.stage).collect()
        };
        let works = self.works.clone();
        for (stage, work) in plan.stage_ids().zip(&works) {
            let owner = self.owner(stage);
            self.run(owner, Task::ShareGradients { job: JOB, stage, step })?;
            for to in sharers(work) {
                let key = key(number, TensorName::SharedGradient { stage, to });
                self.ship(key, owner, self.owner(to));
            }
        }
        for (stage, work) in plan.stage_ids().zip(&works) {
            let followers: Vec<PeerId> = plan.stages[stage.index()].followers().collect();
            let (owner, publish) = (self.owner(stage), !followers.is_empty());
            let shared_from = sharers(work);
            self.run(owner, Task::ReduceGradients { job: JOB, stage, step, shared_from, publish })?;
            let key = key(number, TensorName::StageGradient { stage });
            let bundle = self.peers[&owner].store().take(&key);
            for follower in &followers {
                self.peers[follower].store().accept(key, bundle.clone().unwrap());
            }
            let update =
                |gradient| Task::OptimizerStep { job: JOB, stage, step, scale: 1.0, gradient };
            self.run(owner, update(GradientSource::Own))?;
            for follower in &followers {
                self.run(*follower, update(GradientSource::Stored(key)))?;
                self.peers[follower].store().drop_key(&key);
            }
        }
        for executor in self.peers.values() {
            executor.store().drop_before(JOB, EPOCH, step.next());
        }
        for stage in plan.stage_ids() {
            let (owner, key) =
                (self.owner(stage), key(number + 1, TensorName::StageState { stage }));
            self.run(owner, Task::Snapshot { job: JOB, stage, key })?;
            self.peers[&owner].store().drop_key(&key);
        }
        Ok(())
    }

    fn two_steps(&mut self) -> Result<(), TaskError> {
        self.load()?;
        for step in 0..2 {
            self.passes(step)?;
            self.gather(step)?;
            self.commit(step)?;
        }
        Ok(())
    }
}

fn micro_batch(pass: Pass) -> MicroBatch {
    match pass {
        Pass::Forward(micro_batch) | Pass::Backward(micro_batch) => micro_batch,
    }
}

fn peer(number: u8) -> PeerId {
    PeerId::new([number + 1; 32])
}

fn adverts(memory: &[u64]) -> Vec<Advert> {
    let threads = u32::try_from(rayon::current_num_threads() * 1000).unwrap();
    let peers: Vec<PeerId> = (0u8..).map(peer).take(memory.len()).collect();
    let link = |to: &PeerId| Link {
        peer: *to,
        rate: Rate::from_mbit(1000.0),
        round_trip: Duration::from_millis(1),
        loss: None,
    };
    let speed = Speed::from_flops_per_second(1_000_000_000);
    let one = |(at, memory): (&PeerId, &u64)| Advert {
        hardware: Some(Hardware {
            device: "test".into(),
            speed,
            conv_speed: speed,
            vector_speed: speed,
            touch_rate: Rate::from_mbit(80_000.0),
            overhead: Duration::from_micros(1),
            kinds: Kinds::default(),
            memory: Bytes::new(*memory),
            host: 0,
            host_capacity: threads,
            demand: threads,
        }),
        links: peers.iter().filter(|other| *other != at).map(link).collect(),
        ..Advert::new(*at)
    };
    peers.iter().zip(memory).map(one).collect()
}

fn placed(spec: &JobSpec, memory: &[u64]) -> Result<Plan, PlanError> {
    let adverts = adverts(memory);
    let (job, epoch) = (JOB, Epoch::new(1));
    let (submitter, leader, codec) = (peer(90), peer(0), Codec::Dense);
    let request = Request { spec, job, epoch, submitter, leader, codec };
    place(request, &adverts.iter().collect::<Vec<_>>())
}

/// Goal: the limit is exact. Method: one micro-batch in flight, so that the second one's passes take what is predicted
/// to the byte.
#[test]
fn a_stage_runs_under_the_limit_that_it_is_said_to_need_and_not_a_byte_below() {
    let dag = zoo::by_name("gpt2-nano", Some(4)).unwrap().unwrap();
    for recompute in [false, true] {
        let mut spec = spec((dag.clone(), text::KJV), PipelineOrder::OneFOneB, 2);
        (spec.swarm.recompute, spec.swarm.stages) = (Some(recompute), Some(1));
        let most = footprint::of(&whole_work(&spec).unwrap());
        let needed = Demand::of_owner(&most, (1, 2), false, 1).peak.count();
        let plan = placed(&spec, &[needed]).unwrap();
        assert_eq!(plan.prediction.memory, [Bytes::new(needed)]);
        World::new(&spec, &plan, |_| Bytes::new(needed)).two_steps().unwrap();
        let error = World::new(&spec, &plan, |_| Bytes::new(needed - 1)).two_steps().unwrap_err();
        let TaskError::OutOfMemory(text) = error else { panic!("{error:?}") };
        assert!(text.contains("needs") && text.contains("are taken"), "{text}");
        let error = placed(&spec, &[needed - 1]).unwrap_err();
        assert!(matches!(error, PlanError::OutOfMemory(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains("in one stage needs") && text.contains("with most room"), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_the_planner_lets_through_is_never_refused(
        shares in proptest::collection::vec(20u64..120, 1..4),
        micro_batches in 1u32..5,
        (backups, replicas) in (0u8..3, 1u16..4),
        is_tied: bool,
        is_gpipe: bool,
        recompute: bool,
    ) {
        let order = if is_gpipe { PipelineOrder::GPipe } else { PipelineOrder::OneFOneB };
        let mut spec = spec(if is_tied { tied() } else { buffered() }, order, micro_batches);
        (spec.swarm.recompute, spec.swarm.backups) = (Some(recompute), backups);
        spec.swarm.replicas = replicas;
        let mut alone = spec.clone();
        alone.swarm.stages = Some(1);
        let whole = placed(&alone, &[1 << 40; 3]).unwrap().prediction.memory[0].count();
        let memory: Vec<u64> = shares.iter().map(|share| whole * share / 100).collect();
        match placed(&spec, &memory) {
            Ok(plan) => {
                let of = |at: PeerId| (0u8..).zip(&memory).find(|(n, _)| peer(*n) == at).unwrap().1;
                let done = World::new(&spec, &plan, |at| Bytes::new(*of(at))).two_steps();
                prop_assert_eq!(done, Ok(()), "{:?} of {}", memory, whole);
            }
            // Whoever has room for all of it can have it.
            Err(PlanError::OutOfMemory(short)) => {
                prop_assert!(memory.iter().all(|m| *m < whole), "{}", short);
                prop_assert!(short.needed > short.room, "{}", short);
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
    }
}
