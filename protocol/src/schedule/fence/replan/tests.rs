//! What a re-plan must never do, and what it must.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::*;
use crate::ids::{Epoch, JobId};
use crate::schedule::codec::Codec;
use crate::schedule::estimate::parameter_bytes;
use crate::schedule::fence::{place, stage_graphs};
use crate::schedule::sample::{Problem, problem};
use crate::units::{Rate, Speed};

const BOTH: [Freedom; 2] = [Freedom::Owners, Freedom::Everything];
/// Steps that are left, where there are many.
const LONG: u64 = 100_000;

fn request(problem: &Problem) -> Request<'_> {
    let leader = problem.adverts[0].peer;
    let (job, epoch) = (JobId::new([1; 16]), Epoch::new(1));
    Request { spec: &problem.spec, job, epoch, submitter: leader, leader, codec: Codec::Dense }
}

fn placed(problem: &Problem) -> Option<Plan> {
    place(request(problem), &problem.adverts.iter().collect::<Vec<_>>()).ok()
}

fn replanned(problem: &Problem, plan: &Plan, left: u64, freedom: Freedom) -> Option<Replan> {
    let adverts: Vec<&Advert> = problem.adverts.iter().collect();
    replan(request(problem), plan, &adverts, (left, freedom)).unwrap()
}

/// Makes a peer so many thousandths as fast.
fn speed_up(advert: &mut Advert, permille: u64) {
    let hardware = advert.hardware.as_mut().unwrap();
    let times =
        |speed: Speed| Speed::from_flops_per_second(speed.flops_per_second() * permille / 1000);
    hardware.speed = times(hardware.speed);
    hardware.conv_speed = times(hardware.conv_speed);
    hardware.vector_speed = times(hardware.vector_speed);
    let rate = hardware.touch_rate.bytes_per_second() * permille / 1000;
    hardware.touch_rate = Rate::from_bytes_per_second(rate);
    let overhead = hardware.overhead.micros() * 1000 / permille;
    hardware.overhead = Duration::from_micros(overhead);
}

fn between(rng: &mut ChaCha8Rng, low: u64, high: u64) -> u64 {
    low + rng.next_u64() % (high - low + 1)
}

/// The same swarm, measured anew: everything off by up to ten percent.
fn noisy(problem: &Problem, seed: u64) -> Problem {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut other = problem.clone();
    for advert in &mut other.adverts {
        speed_up(advert, between(&mut rng, 900, 1100));
        for link in &mut advert.links {
            let rate = link.rate.bytes_per_second() * between(&mut rng, 900, 1100) / 1000;
            link.rate = Rate::from_bytes_per_second(rate);
        }
    }
    other
}

/// Says whether a running plan can be weighed against others at all: else it stays whatever is better.
fn is_weighed(problem: &Problem, plan: &Plan) -> bool {
    let adverts: Vec<&Advert> = problem.adverts.iter().collect();
    let desk = Desk::of(request(problem), &adverts).unwrap();
    let judge = desk.judge(super::super::SHARES[0], Codec::Dense);
    layout_of(&desk, &judge, plan).is_some_and(|layout| judge.cost(&layout).is_some())
}

/// Predicts a step of a plan by what peers say of themselves.
fn step(problem: &Problem, plan: &Plan) -> Duration {
    let adverts: Vec<&Advert> = problem.adverts.iter().collect();
    Desk::of(request(problem), &adverts).unwrap().predict(plan).unwrap().step
}

/// Returns how long a stage's state takes from one peer to another at least.
fn carried(problem: &Problem, plan: &Plan, stage: StageId, (from, to): (PeerId, PeerId)) -> f64 {
    let cut = stage_graphs(&problem.spec, &plan.assignment, plan.recompute).unwrap();
    let copies = 1 + optimizer_slots(&problem.spec.train.optimizer) as u64;
    let bytes = parameter_bytes(&cut.stages[stage.index()]) * copies;
    let giver = problem.adverts.iter().find(|advert| advert.peer == from).unwrap();
    let link = giver.links.iter().find(|link| link.peer == to).unwrap();
    (bytes / link.rate).seconds()
}

#[test]
fn nothing_moves_where_nothing_changed() {
    let mut asked = 0;
    for seed in 0..40 {
        let problem = problem(seed, 6, 12);
        let Some(plan) = placed(&problem).filter(|plan| is_weighed(&problem, plan)) else {
            continue;
        };
        for freedom in BOTH {
            assert_eq!(replanned(&problem, &plan, LONG, freedom), None, "seed {seed}, {freedom:?}");
        }
        asked += 1;
    }
    assert!(asked >= 30, "{asked}");
}

/// Goal: noise moves nothing, however long the job. Method: 500 measurements of swarms, each figure off by up to a tenth; in
/// many of them the plan that would be made anew is another one, and seems faster.
#[test]
fn noise_of_a_tenth_moves_nothing_in_500_rounds() {
    let (mut weighed, mut tempted) = (0, 0);
    let problems: Vec<(Problem, Option<Plan>)> =
        (0..10).map(|seed| problem(seed, 5, 10)).map(|p| (p.clone(), placed(&p))).collect();
    for (round, (problem, plan)) in (0..500).zip(problems.iter().cycle()) {
        let Some(plan) = plan else { continue };
        let noisy = noisy(problem, round);
        let freedom = BOTH[usize::try_from(round / 10 % 2).unwrap()];
        let found = replanned(&noisy, plan, LONG, freedom);
        assert_eq!(found, None, "round {round}, {freedom:?}");
        weighed += usize::from(is_weighed(&noisy, plan));
        // A placement takes as long as a round.
        let other = if round % 5 == 0 { placed(&noisy) } else { None };
        let other = other.filter(|other| other.stages != plan.stages);
        tempted += usize::from(other.is_some_and(|o| o.prediction.step < step(&noisy, plan)));
    }
    assert!(weighed >= 400 && tempted >= 15, "{weighed} weighed, {tempted} tempted");
}

/// Goal: no move costs more than it saves, an end that is near keeps everything where it is, and what is worth it moves.
/// Method: swarms in which every peer changed by up to a factor of five; both plans are predicted anew here, and state is
/// carried by hand.
#[test]
fn a_move_never_costs_more_than_it_saves() {
    let (mut moved, mut carries, mut better, mut missed) = (0, 0, 0, 0);
    for seed in 0..60 {
        let problem = problem(seed, 6, 12);
        let Some(plan) = placed(&problem) else { continue };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut other = problem.clone();
        for advert in &mut other.adverts {
            speed_up(advert, between(&mut rng, 200, 5000));
        }
        if !is_weighed(&other, &plan) {
            continue;
        }
        let before = step(&other, &plan).seconds();
        for (freedom, left) in BOTH.into_iter().flat_map(|f| [1, 20, LONG].map(|left| (f, left))) {
            let found = replanned(&other, &plan, left, freedom);
            if freedom == Freedom::Everything && left == LONG {
                // Made anew it would be twice as fast, and there is all the time to get there.
                let fresh = placed(&other).map(|fresh| fresh.prediction.step.seconds());
                if fresh.is_some_and(|fresh| fresh * 2.0 < before) {
                    better += 1;
                    missed += usize::from(found.is_none());
                }
            }
            let Some(found) = found else { continue };
            assert!(left > 1, "seed {seed}: one step is left, and moving repeats one");
            let after = step(&other, &found.plan).seconds();
            let saved = (before - after) * left as f64;
            assert!(after * 1.24 < before, "seed {seed}: {after} for {before}");
            assert!(saved >= 1.99 * before, "seed {seed}: the step in work is done anew");
            if freedom == Freedom::Owners {
                assert_eq!(found.plan.assignment, plan.assignment);
                for (stage, peer) in &found.moves {
                    let held = plan.stages[stage.index()].workers().any(|worker| worker == *peer);
                    assert!(!held, "seed {seed}: {peer} runs it");
                    let ends = (plan.stages[stage.index()].owner, *peer);
                    let time = carried(&other, &plan, *stage, ends);
                    assert!(saved >= 1.99 * (before + time), "seed {seed}: {found:?}");
                    carries += 1;
                }
            }
            moved += 1;
        }
    }
    assert!(moved >= 20 && carries >= 10, "{moved}, {carries}");
    // One of thirteen is missed.
    assert!(better >= 5 && missed * 10 <= better, "{missed} of {better}");
}

/// Equal peers of which the last stands by, on a network that several of them share.
fn even(peers: usize) -> Problem {
    let mut problem = crate::schedule::sample::large(peers, 60, 1).unwrap();
    problem.spec.swarm.backups = 0;
    let first = problem.adverts[0].hardware.clone();
    for advert in &mut problem.adverts {
        advert.hardware.clone_from(&first);
        for link in &mut advert.links {
            link.rate = Rate::from_mbit(1000.0);
        }
    }
    problem
}

#[test]
fn an_owner_that_slows_down_is_relieved_by_an_idle_peer_and_nobody_else_moves() {
    let mut problem = even(5);
    problem.spec.swarm.stages = Some(4);
    let plan = placed(&problem).unwrap();
    let slow = plan.stages[1].owner;
    let idle = problem.adverts.iter().map(|a| a.peer);
    let idle = idle.into_iter().find(|p| plan.stages.iter().all(|s| s.owner != *p)).unwrap();
    let advert = problem.adverts.iter_mut().find(|a| a.peer == slow).unwrap();
    speed_up(advert, 250);
    let found = replanned(&problem, &plan, LONG, Freedom::Owners).unwrap();
    assert_eq!(found.moves, [(StageId::new(1), idle)]);
    assert_eq!(found.plan.stages[1].owner, idle);
    // Moved once, it stays.
    assert_eq!(replanned(&problem, &found.plan, LONG, Freedom::Owners), None);
}

#[test]
fn a_joiner_four_times_as_fast_is_taken_in_and_few_stages_move() {
    let mut problem = even(5);
    let joiner = problem.adverts[4].clone();
    let mut before = problem.clone();
    before.adverts.truncate(4);
    let plan = placed(&before).unwrap();
    assert!(plan.stages.len() >= 3, "{}", plan.stages.len());
    speed_up(&mut problem.adverts[4], 4000);
    let found = replanned(&problem, &plan, LONG, Freedom::Everything).unwrap();
    assert!(found.plan.stages.iter().any(|s| s.workers().any(|w| w == joiner.peer)));
    let share = found.plan.prediction.step.seconds() / found.now.seconds();
    assert!(share < 0.75, "{share}");
    assert!(found.moves.len() <= found.plan.stages.len(), "{:?}", found.moves);
    assert_eq!(replanned(&problem, &found.plan, LONG, Freedom::Everything), None);
    // For two steps more it is not worth it.
    assert_eq!(replanned(&problem, &plan, 2, Freedom::Everything), None);
}
