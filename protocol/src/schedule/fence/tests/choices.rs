//! What the planner chooses beside the placement: several stages a peer, orders, workers. Codecs: `tests/codecs.rs`.

use super::*;

/// Goal: several stages on a peer shorten the step of few micro-batches on fast links, fit together into its memory, and
/// are asked for. Method: four equal peers, as many micro-batches, a long network.
#[test]
fn few_micro_batches_are_interleaved_where_the_job_allows_it() {
    let (mut spec, _) = largest();
    (spec.train.micro_batches, spec.swarm.backups) = (4, 0);
    let list = adverts(&[500; 4], &[100_000], 8 << 20);
    let refs: Vec<&Advert> = list.iter().collect();
    let one = place(request(&spec), &refs).unwrap();
    spec.swarm.stages_per_peer = 4;
    let several = place(request(&spec), &refs).unwrap();
    let parts = |plan: &Plan, peer| plan.stages.iter().filter(|s| s.owner == peer).count();
    println!(
        "{} {} {:?} {}",
        one.prediction.step, one.order, one.prediction.memory, several.prediction.step
    );
    assert!((0..4).all(|n| parts(&one, peer(n)) <= 1));
    assert!((0..4).any(|n| parts(&several, peer(n)) > 1), "{} stages", several.stages.len());
    let share = several.prediction.step.seconds() / one.prediction.step.seconds();
    assert!(share < 0.9, "{share}");
    let memory = |n: usize| -> u64 {
        let own = several.stages.iter().zip(&several.prediction.memory);
        own.filter(|(stage, _)| stage.owner == peer(n)).map(|(_, bytes)| bytes.count()).sum()
    };
    assert!((0..4).all(|n| memory(n) <= 8 << 20), "{:?}", (0..4).map(memory).collect::<Vec<_>>());
    // A fixed number of stages may be more than there are peers.
    spec.swarm.stages = Some(8);
    assert_eq!(place(request(&spec), &refs).unwrap().stages.len(), 8);
}

/// Goal: no change is left untried that helps. Method: the layouts of baselines on random problems, in all ways; none takes
/// less than its bound, and for many the bound says something.
#[test]
fn no_step_is_shorter_than_its_bound() {
    let (mut compared, mut close) = (0, 0);
    for seed in 0..40 {
        let problem = crate::schedule::sample::problem(seed, 8, 14);
        let refs: Vec<&Advert> = problem.adverts.iter().collect();
        let leader = problem.adverts[0].peer;
        let request = Request { spec: &problem.spec, leader, ..request(&problem.spec) };
        let desk = Desk::of(request, &refs).unwrap();
        let judge = desk.judge(SHARES[0], Codec::Dense);
        let plain = desk.plain(&refs);
        let found = finalists(&judge, desk.able.len(), &plain);
        for layout in plain.iter().chain(&found) {
            for way in (0..).take(judge.ways.len()) {
                let layout = Layout { way, ..layout.clone() };
                let Some(verdict) = judge.run(&layout) else { continue };
                let bound = judge.bound(&layout).unwrap();
                assert!(bound <= verdict.step, "seed {seed}: {bound}, {verdict:?}, {layout:?}");
                compared += 1;
                close += usize::from(bound * 10 >= verdict.step * 9);
            }
        }
    }
    assert!(compared >= 1000 && close * 4 >= compared, "{close} of {compared}");
}

/// Goal: a stage of one worker reserves nothing for sums that replicas gather. Method: so little memory on eight peers that
/// each has room for a share of a network of even layers with its sums of sixteen groups, and for no bundles of them; an
/// even share for each is the fastest, since links are.
#[test]
fn allowing_replicas_reserves_nothing_where_a_stage_has_one_worker() {
    let mut spec = spec(chain(&[256; 17]), None, 0);
    spec.train.micro_batches = 16;
    // Two layers a peer, their state and sixteen sums.
    let layer = 256 * 256 * 4;
    let list = adverts(&[1000; 8], &[100_000], 2 * layer * 17 * 114 / 100);
    let refs: Vec<&Advert> = list.iter().collect();
    let alone = place(request(&spec), &refs).unwrap();
    spec.swarm.replicas = 16;
    let plan = place(request(&spec), &refs).unwrap();
    assert_eq!(plan.stages.len(), 8, "{:?}", plan.prediction);
    let share = plan.prediction.step.seconds() / alone.prediction.step.seconds();
    assert!(share < 1.1, "{share}");
}

/// Goal: what a plan says that owners need is what room was made for. Method: replicas without backups on random problems;
/// owners of a single stage.
#[test]
fn a_plan_tells_the_memory_that_was_found_free() {
    let mut compared = 0;
    for seed in 0..60 {
        let problem = crate::schedule::sample::problem(seed, 6, 14);
        let refs: Vec<&Advert> = problem.adverts.iter().collect();
        let leader = problem.adverts[0].peer;
        let request = Request { spec: &problem.spec, leader, ..request(&problem.spec) };
        let Ok(plan) = place(request, &refs) else { continue };
        let cut = stage_graphs(&problem.spec, &plan.assignment, plan.recompute).unwrap();
        let ground = ground_of(&able_peers(&refs), [], &refs, &Links::of(&refs));
        let room = |peer| ground.number(peer).map(|number| ground.room(number));
        let demands = Footprints::of(&problem.spec, &cut, plan.order).of_plan(&plan.stages, room);
        for (stage, told) in plan.stages.iter().zip(&plan.prediction.memory) {
            let parts = plan.stages.iter().filter(|s| {
                s.workers().chain(s.backups.iter().copied()).any(|peer| peer == stage.owner)
            });
            if parts.count() == 1 {
                assert_eq!(*told, demands[&stage.owner].peak, "seed {seed}");
                compared += usize::from(!stage.replicas.is_empty() && stage.backups.is_empty());
            }
        }
    }
    assert!(compared >= 5, "{compared} stages with replicas alone");
}

/// Goal: a job that allows more workers a stage is never placed worse than the same with one. Method: random problems with
/// room for all sums; what is found with one worker a stage, with sums of as many groups, is no faster.
#[test]
fn allowing_more_workers_a_stage_never_makes_a_plan_slower() {
    let mut faster = 0;
    for seed in 0..40 {
        let mut problem = crate::schedule::sample::problem(seed, 6, 12);
        for hardware in problem.adverts.iter_mut().filter_map(|a| a.hardware.as_mut()) {
            hardware.memory = Bytes::new(1 << 30);
        }
        let refs: Vec<&Advert> = problem.adverts.iter().collect();
        let found = |replicas| {
            let mut spec = problem.spec.clone();
            spec.swarm.replicas = replicas;
            let leader = problem.adverts[0].peer;
            let desk = Desk::of(Request { spec: &spec, leader, ..request(&spec) }, &refs).unwrap();
            let found = desk.finalists(SHARES[0], &desk.plain(&refs));
            let judge = desk.judge(SHARES[0], Codec::Dense);
            let of = |layout: &Layout| judge.cost(layout).map(|verdict| verdict.step);
            let alone = |layout: &&Layout| layout.stages.iter().all(|peers| peers.len() == 1);
            (found.iter().filter(alone).cloned().collect::<Vec<_>>(), of(&found[0]).unwrap())
        };
        let (one, _) = found(1);
        let (_, four) = found(4);
        let mut spec = problem.spec.clone();
        spec.swarm.replicas = 4;
        let leader = problem.adverts[0].peer;
        let desk = Desk::of(Request { spec: &spec, leader, ..request(&spec) }, &refs).unwrap();
        let judge = desk.judge(SHARES[0], Codec::Dense);
        let one = judge.cost(&one[0]).unwrap().step;
        assert!(four <= one, "seed {seed}: {four} against {one}");
        faster += usize::from(four * 20 < one * 19);
    }
    assert!(faster >= 12, "{faster}");
}

/// Goal: a network that fits only in more pieces than there are peers is placed where the job lets a peer have several.
/// Method: the even cut that is the last resort, for a fixed number of stages.
#[test]
fn an_even_cut_gives_peers_as_many_stages_as_the_job_allows() {
    let mut spec = spec(chain(&[64; 13]), Some(6), 0);
    let list = adverts(&[100, 100], &[100], 1 << 30);
    let refs: Vec<&Advert> = list.iter().collect();
    spec.swarm.stages_per_peer = 3;
    let plan = Desk::of(request(&spec), &refs).unwrap().even().unwrap();
    assert_eq!(plan.stages.len(), 6);
    let own = |n| plan.stages.iter().filter(|s| s.owner == peer(n)).count();
    assert_eq!((own(0), own(1)), (3, 3));
    let whole: u64 = plan.prediction.memory.iter().map(|m| m.count()).sum();
    let tight = adverts(&[100, 100], &[100], whole / 4);
    let tight: Vec<&Advert> = tight.iter().collect();
    let error = Desk::of(request(&spec), &tight).unwrap().even().unwrap_err();
    assert!(
        matches!(&error, PlanError::OutOfMemory(s) if s.needed > s.room && s.stages == 6),
        "{error}"
    );
}

/// Goal: the ends of a network that share a large parameter run on one peer where links are slow, between stages that others
/// run. Method: a tied matrix of 4 MB, of which a gradient takes 4 s on a link; what flows between takes a few milliseconds.
#[test]
fn ends_that_share_a_parameter_share_a_peer() {
    let mut b = DagBuilder::new("ring");
    let tied = b.parameter("tied", &[1024, 1024], Init::Normal(0.1), true);
    let narrow = b.parameter("narrow", &[1024, 32], Init::Normal(0.1), true);
    let wide = b.parameter("wide", &[32, 1024], Init::Normal(0.1), true);
    let mut x = b.input("x", Fact::f32(&[16, 1024]));
    for (name, weight) in [("first", tied), ("down", narrow)] {
        x = b.op(name, Op::Linear, &[x, weight]).unwrap();
    }
    for layer in 0..8 {
        let (up, down) = (format!("up{layer}"), format!("down{layer}"));
        let near = b.parameter(format!("{up}.w"), &[32, 16384], Init::Normal(0.1), true);
        let far = b.parameter(format!("{down}.w"), &[16384, 32], Init::Normal(0.1), true);
        x = b.op(up, Op::Linear, &[x, near]).unwrap();
        x = b.op(down, Op::Linear, &[x, far]).unwrap();
    }
    for (name, weight) in [("up", wide), ("last", tied)] {
        x = b.op(name, Op::Linear, &[x, weight]).unwrap();
    }
    let mean = Op::ReduceMean { axes: vec![0, 1], keep: false };
    let loss = b.op("loss", mean, &[x]).unwrap();
    b.output(loss);
    let mut spec = spec(b.finish().unwrap(), None, 0);
    spec.train.micro_batches = 16;
    let list = adverts(&[1000; 8], &[8], 1 << 30);
    let refs: Vec<&Advert> = list.iter().collect();
    let alone = place(request(&spec), &refs).unwrap().prediction.step;
    spec.swarm.stages_per_peer = 2;
    let ring = place(request(&spec), &refs).unwrap();
    let owner = |name: &str| {
        let node = spec.dag.nodes().iter().position(|node| node.name == name).unwrap();
        ring.stages[ring.assignment[node].index()].owner
    };
    assert_eq!(owner("first"), owner("last"));
    assert_ne!(owner("first"), owner("up4"));
    let times = alone.seconds() / ring.prediction.step.seconds();
    assert!(times > 1.5, "{times}: {alone} {}", ring.prediction.step);
}
