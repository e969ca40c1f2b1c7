//! What the planner chooses beside the placement: codecs' layouts, several stages a peer.

use super::*;

/// Goal: fewer bytes never make a slower plan. Method: random problems, dense and with AdaTopK at two ratios.
#[test]
fn a_codec_is_never_behind_its_own_dense_placement() {
    let mut compared = 0;
    for seed in 0..40 {
        let problem = crate::schedule::sample::problem(500 + seed, 7, 14);
        let refs: Vec<&Advert> = problem.adverts.iter().collect();
        let leader = problem.adverts[0].peer;
        let with = |codec| {
            let request = Request { spec: &problem.spec, leader, codec, ..request(&problem.spec) };
            place(request, &refs).ok().map(|plan| plan.prediction.step)
        };
        let Some(dense) = with(Codec::Dense) else { continue };
        for ratio in [4, 100] {
            let sparse = with(Codec::AdaTopK(ratio)).unwrap();
            assert!(sparse <= dense, "seed {seed}, ratio {ratio}: {sparse} against {dense}");
        }
        compared += 1;
    }
    assert!(compared >= 30, "{compared}");
}

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
