//! Stages that several peers run, in simulated swarms: who runs what, and who dies, changes nothing that is learnt.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "outcomes/sound.rs"]
mod outcomes;

use outcomes::{bits, sound};
use wattle_models::DeviceChoice;
use wattle_models::single::Steps;
use wattle_sim::device::numeric::fingerprint;
use wattle_sim::{Arithmetic, Scenario};

/// Seeds of each kind of fault.
const SEEDS: u64 = 40;

/// Slow peers on fast links, so that replicas are worth while.
fn scenario(model: &str, peers: usize, job: &str, faults: &str) -> Scenario {
    let text = format!(
        "limit_seconds = 400\n[[peers]]\ncount = {peers}\ngflops = 4.0\n[link]\nmbit = 2000.0\nlatency_ms = 1.0\n\
         [job]\nmodel = \"{model}\"\n{job}\n{faults}"
    );
    Scenario::parse(&text).unwrap()
}

/// Goal: no single kill changes a loss, loses a step, or begins the job anew, whether it hits an owner, a replica, or the
/// leader. Method: fingerprints, a random moment a seed; no backups but the replicas.
#[test]
fn no_single_kill_changes_what_replicas_learn() {
    let job = "steps = 16\nmicro_batches = 8\nstages = 2\nreplicas = 2";
    let calm = sound(&scenario("resnet-tiny", 4, job, ""), 0);
    assert_eq!((calm.plans, calm.losses.len(), calm.workers), (1, 16, vec![2, 2]));
    for who in ["stage 0", "replica 0", "stage 1", "replica 1", "leader", "random"] {
        let fault = format!("[[faults]]\nkill = \"{who}\"\n");
        let scenario = scenario("resnet-tiny", 4, job, &fault);
        let mut kills = 0;
        for seed in 0..SEEDS {
            let outcome = sound(&scenario, seed);
            // A few come when the job is over, since it ends sooner than predicted.
            kills += outcome.kills.len();
            assert_eq!(outcome.restarts, 0, "seed {seed} of {who}");
            assert_eq!(bits(&outcome.losses), bits(&calm.losses), "seed {seed} of {who}");
        }
        assert!(kills as u64 * 10 >= SEEDS * 9, "{kills} kills of {who}");
    }
}

/// Goal: a stage outlives all its workers but one. Method: two of three workers die, one after the other.
#[test]
fn one_worker_of_three_is_enough() {
    let job = "steps = 16\nmicro_batches = 6\nstages = 1\nreplicas = 3\nbackups = 0";
    let calm = sound(&scenario("resnet-tiny", 3, job, ""), 0);
    assert_eq!((calm.plans, calm.workers.as_slice()), (1, &[3][..]));
    let faults = "[[faults]]\nafter_step = 3\nkill = \"stage 0\"\n\
                  [[faults]]\nafter_step = 9\nkill = \"stage 0\"\n";
    for seed in 0..10 {
        let outcome = sound(&scenario("resnet-tiny", 3, job, faults), seed);
        assert_eq!((outcome.kills.len(), outcome.restarts), (2, 0), "seed {seed}");
        assert_eq!(bits(&outcome.losses), bits(&calm.losses), "seed {seed}");
    }
}

/// Goal: real numbers of one to four workers are those of one process, to the bit: losses, and all tensors. Method: a
/// transformer and a network with batch norm, undisturbed and with a kill.
fn check_numbers(model: &str) {
    for replicas in 1..=4u64 {
        let job =
            format!("steps = 6\nmicro_batches = 7\nstages = 1\nreplicas = {replicas}\nbackups = 1");
        let numeric = |peers, faults: &str| Scenario {
            arithmetic: Arithmetic::Numeric,
            ..scenario(model, peers, &job, faults)
        };
        let calm = numeric(4, "");
        let spec = calm.spec().unwrap();
        let mut alone = Steps::begin(&spec, DeviceChoice::Cpu).unwrap();
        let mut losses: Vec<u64> = (0..5).map(|_| alone.next_loss().unwrap().to_bits()).collect();
        // The last update is applied after the submitter has heard the last loss.
        let tensors = fingerprint(&alone.parameters().unwrap());
        losses.push(alone.next_loss().unwrap().to_bits());
        let fault = |who| format!("[[faults]]\nafter_step = 2\nkill = \"{who}\"\n");
        for (scenario, kills) in [
            (calm, 0),
            (numeric(1, ""), 0),
            (numeric(4, &fault("stage 0")), 1),
            // An owner that works alone has no replica to lose.
            (numeric(4, &fault("replica 0")), usize::from(replicas > 1)),
        ] {
            let outcome = sound(&scenario, 1);
            assert_eq!(outcome.kills.len(), kills, "{model}, {replicas} replicas");
            let workers = replicas.min(u64::try_from(scenario.peer_count()).unwrap());
            assert_eq!(outcome.workers, [usize::try_from(workers).unwrap()]);
            let what = format!("{model}, {replicas} replicas, {:?}", scenario.faults);
            assert_eq!(bits(&outcome.losses), losses, "{what}");
            assert_eq!(outcome.states.get(&(0, 5)), Some(&tensors), "{what}");
        }
    }
}

#[test]
fn a_transformer_equals_one_process() {
    check_numbers("gpt2-nano");
}

#[test]
fn batch_norm_equals_one_process() {
    check_numbers("resnet-tiny");
}
