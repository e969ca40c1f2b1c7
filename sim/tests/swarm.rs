//! Simulated swarms by seed: what must hold whatever is killed and whenever. A failure names scenario and seed; replay
//! it with `wattle sim run`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "outcomes/sound.rs"]
mod outcomes;

use outcomes::{bits, sound};
use wattle_models::DeviceChoice;
use wattle_sim::scenario::PeersSpec;
use wattle_sim::{Arithmetic, Scenario, run};

/// Seeds of each kind of fault; every seed is a run of its own.
const SEEDS: u64 = 60;

fn scenario(steps: u64, faults: &str) -> Scenario {
    let text = format!(
        "limit_seconds = 200\n[[peers]]\ncount = 5\ngflops = 40.0\n[link]\nmbit = 200.0\nlatency_ms = 2.0\njitter_ms = 4.0\n\
         [job]\nmodel = \"resnet-tiny\"\nsteps = {steps}\nstages = 3\n{faults}"
    );
    Scenario::parse(&text).unwrap()
}

fn fault(kill: &str) -> String {
    format!("[[faults]]\nkill = \"{kill}\"\n")
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let scenario = scenario(10, &fault("random"));
    let (one, two) = (run(&scenario, 7, true).unwrap(), run(&scenario, 7, true).unwrap());
    assert_eq!(one, two);
    assert!(one.lines.len() > 1000);
    assert_ne!(one.trace, run(&scenario, 8, false).unwrap().trace);
}

/// Goal: no single kill changes a loss or loses a step. Method: fingerprints in place of numbers, a random moment a seed.
#[test]
fn no_single_kill_changes_what_is_learnt() {
    let calm = sound(&scenario(24, ""), 0);
    assert_eq!((calm.plans, calm.losses.len()), (1, 24));
    for who in ["stage 0", "stage 1", "stage 2", "leader", "random"] {
        let scenario = scenario(24, &fault(who));
        for seed in 0..SEEDS {
            let outcome = sound(&scenario, seed);
            assert_eq!(outcome.kills.len(), 1, "seed {seed}");
            assert_eq!(outcome.restarts, 0, "seed {seed} of {who} began anew");
            assert_eq!(bits(&outcome.losses), bits(&calm.losses), "seed {seed} of {who}");
        }
    }
}

/// Goal: whatever dies and comes back, the job ends. Method: a random peer dies every few seconds and comes back, some
/// sooner than their death is noticed. (Most of a council dying at once is beyond what a majority can survive.)
#[test]
fn a_swarm_that_keeps_losing_peers_still_ends() {
    let faults: String = (0..4)
        .map(|n| {
            let (at, back) = (500 + 5_000 * n, 1_000 + 700 * n);
            format!("[[faults]]\nat_ms = {at}\nkill = \"random\"\nrejoin_after_ms = {back}\n")
        })
        .collect();
    let slow = scenario(24, &faults);
    let slow = Scenario {
        peers: slow.peers.iter().map(|p| PeersSpec { gflops: 0.5, ..p.clone() }).collect(),
        ..slow
    };
    for seed in 0..SEEDS {
        let outcome = sound(&slow, seed);
        assert_eq!((outcome.losses.len(), outcome.kills.len()), (24, 4), "seed {seed}");
    }
}

#[test]
fn an_owner_that_comes_back_does_not_disturb() {
    let calm = sound(&scenario(40, ""), 0);
    let faults = "[[faults]]\nafter_step = 5\nkill = \"stage 1\"\nrejoin_after_ms = 2500\n";
    for seed in 0..10 {
        let outcome = sound(&scenario(40, faults), seed);
        assert_eq!(bits(&outcome.losses), bits(&calm.losses), "seed {seed}");
    }
}

/// Goal: the simulator computes what the product computes. Method: real numbers, with and without a kill, against one
/// process; equal to the bit.
#[test]
fn real_numbers_in_the_simulator_equal_one_process() {
    let text = include_str!("../scenarios/calm.toml");
    let calm = Scenario::parse(text).unwrap();
    let killed =
        Scenario::parse(&format!("{text}\n[[faults]]\nafter_step = 3\nkill = \"stage 1\"\n"))
            .unwrap();
    let mut alone = Vec::new();
    wattle_models::run_single(&calm.spec().unwrap(), DeviceChoice::Cpu, |_, loss| {
        alone.push(loss.to_bits());
    })
    .unwrap();
    assert_eq!(alone.len(), 8);
    assert_eq!(bits(&sound(&calm, 1).losses), alone);
    let killed = sound(&killed, 1);
    assert_eq!((bits(&killed.losses), killed.plans), (alone, 2));
}

/// Goal: what a planner may choose changes nothing that is learnt. Method: real numbers in every order of passes, with and
/// without recomputation, with one and with two stages a peer; equal to the bit.
#[test]
fn neither_order_nor_recomputation_nor_several_stages_a_peer_change_what_is_learnt() {
    let calm = Scenario::parse(include_str!("../scenarios/calm.toml")).unwrap();
    let plain = bits(&sound(&calm, 1).losses);
    for (order, recompute) in
        [("gpipe", false), ("1f1b:2", true), ("1f1b:8", false), ("auto", true)]
    {
        let mut other = calm.clone();
        (other.job.order, other.job.recompute) = (order.into(), recompute);
        assert_eq!(bits(&sound(&other, 1).losses), plain, "{order}");
        (other.job.stages, other.job.stages_per_peer) = (Some(8), 2);
        assert_eq!(bits(&sound(&other, 1).losses), plain, "{order}, two stages a peer");
    }
}

#[test]
fn the_shipped_scenarios_run() {
    for text in [include_str!("../scenarios/calm.toml"), include_str!("../scenarios/churn.toml")] {
        sound(&Scenario::parse(text).unwrap(), 3);
    }
}

/// Goal: a leader that dies in the middle of a repair leaves no two plans of one epoch. Method: long delays, an owner's
/// death, the leader's at every tenth of a second around the repair.
#[test]
fn a_leader_may_die_in_the_middle_of_a_repair() {
    for at in (2_000..4_200).step_by(100) {
        let text = format!(
            "limit_seconds = 60\n[[peers]]\ncount = 6\ngflops = 40.0\n[link]\nmbit = 200.0\nlatency_ms = 10.0\njitter_ms = 120.0\n\
             [job]\nmodel = \"resnet-tiny\"\nsteps = 24\nstages = 3\n\
             [[faults]]\nat_ms = 300\nkill = \"stage 1\"\n[[faults]]\nat_ms = {at}\nkill = \"leader\"\n"
        );
        let scenario = Scenario::parse(&text).unwrap();
        for seed in 0..2 {
            sound(&scenario, seed);
        }
    }
}

fn from_weights(text: &str) -> Scenario {
    let scenario = Scenario::parse(text).unwrap();
    Scenario {
        job: wattle_sim::scenario::JobPart { given: true, ..scenario.job.clone() },
        ..scenario
    }
}

/// Goal: a job from given weights learns what the same job from the same numbers learns, and a kill at any moment from
/// the first plan on changes nothing. Method: real numbers against one process; then fingerprints, an owner or anybody
/// killed within the first steps, and the submitter once step 0 is decided.
#[test]
fn jobs_from_given_weights_equal_jobs_from_the_seed() {
    let calm = from_weights(include_str!("../scenarios/calm.toml"));
    let mut seeded =
        Scenario::parse(include_str!("../scenarios/calm.toml")).unwrap().spec().unwrap();
    seeded.train.seed = 1;
    let mut alone = Vec::new();
    wattle_models::run_single(&seeded, DeviceChoice::Cpu, |_, loss| alone.push(loss.to_bits()))
        .unwrap();
    assert_eq!(bits(&sound(&calm, 1).losses), alone);

    let few = |faults: &str| {
        let scenario = scenario(6, faults);
        Scenario {
            job: wattle_sim::scenario::JobPart { given: true, ..scenario.job.clone() },
            ..scenario
        }
    };
    let numeric = |scenario: Scenario| Scenario { arithmetic: Arithmetic::Numeric, ..scenario };
    let expected = bits(&sound(&few(""), 0).losses);
    let numbers = bits(&sound(&numeric(few("")), 0).losses);
    for who in ["stage 0", "stage 1", "stage 2", "leader", "random"] {
        for at in (0..300).step_by(15) {
            let fault = format!("[[faults]]\nat_ms = {at}\nkill = \"{who}\"\n");
            let outcome = sound(&few(&fault), at);
            if outcome.restarts == 0 {
                assert_eq!(bits(&outcome.losses), expected, "{who} at {at} ms");
                continue;
            }
            // Lost before step 0 was decided: the job began anew on fewer peers, cut elsewhere perhaps. Fingerprints know
            // where; numbers do not.
            let anew = sound(&numeric(few(&fault)), at);
            assert_eq!(bits(&anew.losses), numbers, "{who} at {at} ms, in numbers");
        }
    }
}

/// Goal: a job that fixes more stages than one peer may run is not scattered over slow links. Method: three equal peers whose
/// links take 2 or 31 ms and carry 9 to 300 Mbit/s; resnet-tiny in three stages, two a peer, beside two stages, which one
/// peer runs. The third need not cost more than a way there and back, 62 ms, and a little.
#[test]
fn a_third_stage_crosses_a_slow_link_where_little_flows() {
    let links = [
        (0, 1, 300, 34),
        (1, 0, 300, 34),
        (0, 2, 9, 2),
        (2, 0, 106, 2),
        (1, 2, 185, 31),
        (2, 1, 127, 31),
    ];
    let links: String = links
        .map(|(from, to, mbit, ms)| {
            format!("[[links]]\nfrom = {from}\nto = {to}\nmbit = {mbit}\nlatency_ms = {ms}\n")
        })
        .concat();
    let step = |gflops: u32, stages: u16| {
        let text = format!(
            "limit_seconds = 60\n[[peers]]\ncount = 3\ngflops = {gflops}\n[link]\nmbit = 1000.0\nlatency_ms = 1.0\n{links}\
             [job]\nmodel = \"resnet-tiny\"\nsteps = 4\nmicro_batches = 8\nstages = {stages}\nstages_per_peer = 2\n"
        );
        sound(&Scenario::parse(&text).unwrap(), 1).predicted_step
    };
    for gflops in [15, 20, 30] {
        let (two, three) = (step(gflops, 2), step(gflops, 3));
        assert!(three < two + 0.08, "{gflops}: {three} s, and {two} s in two stages");
    }
}
