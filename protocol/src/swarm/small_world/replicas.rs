//! Stages that several workers run: undisturbed, with doubled messages and refused shipments, and with kills.

use super::job::heavy;
use super::runs::LIMIT;
use super::*;
use crate::schedule::StagePlan;

/// What a job of one worker a stage has for losses.
fn alone(steps: u64) -> Vec<u64> {
    let mut world = World::new(3);
    world.submit(heavy((2, 1, 1), steps));
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    world.learnt()
}

fn started(peers: u8, shape: (u16, u16, u8), steps: u64) -> (World, Plan) {
    let mut world = World::new(peers);
    world.submit(heavy(shape, steps));
    assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
    let plan = world.plan.clone().unwrap();
    (world, plan)
}

fn workers(plan: &Plan) -> Vec<usize> {
    plan.stages.iter().map(|stage| stage.workers().count()).collect()
}

#[test]
fn several_workers_a_stage_run_a_job_to_its_end() {
    for (peers, shape, wanted) in [
        (4, (2, 2, 1), vec![2, 2]),
        (3, (1, 3, 0), vec![3]),
        (6, (2, 3, 3), vec![3, 2]),
        (5, (1, 8, 0), vec![4]),
    ] {
        let (mut world, plan) = started(peers, shape, 8);
        assert_eq!(workers(&plan), wanted, "{shape:?}");
        assert!(world.run_until(LIMIT, |w| w.finished), "{shape:?}: {:?}", world.trace);
        assert_eq!((world.learnt(), world.epochs), (alone(8), 1), "{shape:?}");
        // Each pass has one worker.
        let passes: BTreeSet<_> = world.begun.iter().map(|(_, s, n, m, b)| (s, n, m, b)).collect();
        assert_eq!((passes.len(), world.begun.len()), (wanted.len() * 128, wanted.len() * 128));
        let (job, to) = (plan.job, world.submitter);
        world.later(to, Duration::ZERO, Happening::Input(Input::Command(Command::Pull(job))));
        assert!(world.run_until(LIMIT, |w| w.pulled == wanted.len()));
    }
}

#[test]
fn doubled_messages_and_refused_shipments_change_nothing() {
    let (mut world, _) = started(4, (2, 2, 1), 12);
    world.doubles = true;
    world.refusals = 40;
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!((world.learnt(), world.epochs, world.refusals), (alone(12), 1, 0));
}

/// Who may be killed, by number: owners, replicas, backups of each stage, then the leader.
fn victims(plan: &Plan, leader: PeerId) -> Vec<PeerId> {
    let mut list: Vec<PeerId> = plan.stages.iter().flat_map(StagePlan::holders).collect();
    list.push(leader);
    list
}

/// Goal: whichever member dies at whatever moment, no loss changes, no step is lost, and one repair is enough. Method:
/// kill each holder of each stage, and the leader, at many moments; of every stage at least one holder is left.
fn check_kills(peers: u8, shape: (u16, u16, u8), moments: u64) {
    let expected = alone(12);
    let (world, plan) = started(peers, shape, 12);
    let count = victims(&plan, world.leader.unwrap()).len();
    for moment in 0..moments {
        for who in 0..count {
            let (mut world, plan) = started(peers, shape, 12);
            world.pass(Duration::from_micros(moment * 11_300));
            let victim = victims(&plan, world.leader.unwrap())[who];
            world.kill(victim);
            let what = format!("moment {moment}, victim {who} of {shape:?}");
            assert!(world.run_until(LIMIT, |w| w.finished), "{what}: {:?}", world.trace);
            assert_eq!(world.learnt(), expected, "{what}");
            assert_eq!(world.epochs, 2, "{what}: {:?}", world.trace);
            let restarted = world.trace.iter().any(|line| line.ends_with("true"));
            assert!(!restarted, "{what}: {:?}", world.trace);
            let after = world.plan.clone().unwrap();
            let left = after.stages.iter().zip(&plan.stages).all(|(new, old)| {
                let kept: Vec<PeerId> = old.workers().filter(|p| *p != victim).collect();
                kept.iter().all(|p| new.workers().any(|q| q == *p))
            });
            assert!(left, "{what}: a worker that lives goes on");
        }
    }
}

#[test]
fn killing_any_worker_at_any_moment_changes_no_loss() {
    check_kills(4, (2, 2, 1), 20);
}

#[test]
fn nor_does_it_with_more_workers_and_backups() {
    check_kills(7, (2, 3, 3), 6);
}

#[test]
fn nor_does_it_where_all_run_one_stage() {
    check_kills(3, (1, 3, 0), 12);
}

/// Goal: a worker whose device fails leaves the stage to the others and costs no loss. Method: every task of an owner, or
/// of a replica, fails from some moment on.
#[test]
fn a_worker_whose_device_fails_leaves_its_stage() {
    let expected = alone(12);
    for moment in 0..10u64 {
        for place in 0..2 {
            let (mut world, plan) = started(4, (2, 2, 1), 12);
            world.pass(Duration::from_micros(moment * 23_300));
            let stage = &plan.stages[usize::try_from(moment % 2).unwrap()];
            let victim = stage.workers().nth(place).unwrap();
            let error = TaskError::DeviceLost("it fell off the bus".into());
            world.broken.insert(victim, (None, error));
            let what = format!("moment {moment}, worker {place}");
            assert!(world.run_until(LIMIT, |w| w.finished), "{what}: {:?}", world.trace);
            assert_eq!((world.learnt(), world.epochs), (expected.clone(), 2), "{what}");
            let plan = world.plan.unwrap();
            assert!(!plan.stages.iter().any(|s| s.holders().any(|p| p == victim)), "{what}");
        }
    }
}

/// Goal: a member that works on a stage and is cut off for a while costs no loss. Method: each worker hears nobody for ten
/// seconds; the others go on meanwhile.
#[test]
fn a_worker_that_was_cut_off_disturbs_nobody() {
    for who in 0..4 {
        let (mut world, plan) = started(4, (2, 2, 1), 150);
        world.pass(Duration::from_millis(500));
        let lone = victims(&plan, world.leader.unwrap())[who];
        world.apart.insert(lone);
        world.pass(Duration::from_millis(10_000));
        world.apart.clear();
        assert!(!world.finished && world.epochs > 1, "{who}: {:?}", world.trace);
        assert!(world.run_until(LIMIT, |w| w.finished), "{who}: {:?}", world.trace);
        assert_eq!(world.learnt(), alone(150), "{who}");
    }
}

/// Goal: weights that are given reach replicas through the owner, and a kill in step 0 changes nothing. Method: the same
/// job from given weights, undisturbed and with each holder killed early.
#[test]
fn replicas_take_given_weights_from_their_owner() {
    let given = |steps| {
        let mut spec = heavy((2, 2, 1), steps);
        let count = spec.dag.parameters().count() + spec.dag.buffers().count();
        let hash = |n: usize| crate::ids::TensorHash::of(&n.to_le_bytes());
        spec.start = crate::job::Start::Given((0..count).map(hash).collect());
        spec
    };
    let expected = alone(6);
    for moment in 0..12u64 {
        for who in 0..4 {
            let mut world = World::new(4);
            world.submit(given(6));
            assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
            let plan = world.plan.clone().unwrap();
            assert_eq!(workers(&plan), [2, 2]);
            world.pass(Duration::from_micros(moment * 7_300));
            if moment > 0 {
                world.kill(victims(&plan, world.leader.unwrap())[who]);
            }
            let what = format!("moment {moment}, victim {who}");
            assert!(world.run_until(LIMIT, |w| w.finished), "{what}: {:?}", world.trace);
            assert_eq!(world.learnt(), expected, "{what}");
        }
    }
}

/// Goal: however many work, each hears decisions, is missed when it is gone, and is asked what it holds. Method: twelve
/// workers of one stage, and eleven owners; the one that came last in the council, or has no seat there, is killed.
#[test]
fn a_dozen_workers_run_a_job() {
    let mut many = heavy((1, 12, 1), 12);
    many.train.micro_batches = 12;
    let mut chain = heavy((11, 1, 1), 12);
    chain.train.micro_batches = 12;
    let mut losses_of = Vec::new();
    for (spec, wanted) in [(many, 12), (chain, 11)] {
        for is_killed in [false, true] {
            let mut world = World::new(13);
            world.submit(spec.clone());
            assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
            let plan = world.plan.clone().unwrap();
            assert_eq!(workers(&plan).iter().sum::<usize>(), wanted);
            world.pass(Duration::from_millis(200));
            if is_killed {
                let works = |p: &&PeerId| plan.stages.iter().any(|s| s.place(**p).is_some());
                let members = plan.members();
                world.kill(*members.iter().rfind(works).unwrap());
            }
            assert!(world.run_until(LIMIT, |w| w.finished), "{wanted}: {:?}", world.trace);
            assert_eq!(world.epochs, 1 + usize::from(is_killed), "{wanted}: {:?}", world.trace);
            assert!(world.trace.iter().all(|line| !line.ends_with("true")), "{:?}", world.trace);
            losses_of.push(world.learnt());
        }
    }
    assert!(losses_of.windows(2).all(|pair| pair[0] == pair[1] && pair[0].len() == 12));
}
