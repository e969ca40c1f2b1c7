//! Replicas that exchange gradients, with real numbers: the laws of the exchange hold in training.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use wattle_sim::replicas::{self, Learnt, ReplicaScenario};

const STEPS: usize = 4;

/// Four workers of a small recurrent network.
fn scenario(exchanges: &str) -> ReplicaScenario {
    let text = format!(
        "model = \"lstm-nano\"\nmicro_batch = 1\nworkers = 4\n[link]\nmbit = 1000.0\nlatency_ms = 0.01\n\
         [compute]\ngflops = 400.0\nselect_ps = 200.0\n{exchanges}\n\
         [train]\nsteps = {STEPS}\nseeds = [1]\ndata = \"text:kjv-train\"\nheld = \"text:kjv-held\"\n\
         learning_rate = 2.0\nlearning_rate_warmup = 2\nmomentum = 0.9\nclip_norm = 0.5\n\
         held_batches = 1\nheld_batch = 4\n"
    );
    ReplicaScenario::parse(&text).unwrap()
}

fn learn(exchange: &str) -> Learnt {
    let scenario = scenario(&format!("[[exchanges]]\nname = \"one\"\n{exchange}"));
    replicas::learn(&scenario, &scenario.exchanges[0], 1).unwrap()
}

fn bits(losses: &[f64]) -> Vec<u64> {
    losses.iter().map(|loss| loss.to_bits()).collect()
}

/// Goal: nothing that is learnt depends on how everything is sent. Method: every ratio of 1 beside the dense exchange, with
/// one merge group each, so that sums have one order; all else in the same bits.
#[test]
fn a_ratio_of_one_learns_what_the_dense_exchange_learns_bit_for_bit() {
    let dense = learn("way = \"dense\"\nmerge = 1000000000");
    assert!(dense.is_equal && dense.losses.len() == STEPS);
    assert!(dense.losses[STEPS - 1] < dense.losses[0], "{:?}", dense.losses);
    for exchange in
        ["way = \"whole\"\nratio = 1", "way = \"layers\"\nratio = 1\nmerge = 1000000000"]
    {
        let found = learn(exchange);
        assert!(found.is_equal);
        assert_eq!(bits(&found.losses), bits(&dense.losses), "{exchange}");
        assert_eq!(found.held_loss.to_bits(), dense.held_loss.to_bits(), "{exchange}");
        assert_eq!(found.bytes, dense.bytes, "{exchange}");
    }
}

/// Goal: every exchange leaves all workers with the same bits, and is the same again. Method: each way, alone and with
/// steps of the workers' own, twice.
#[test]
fn workers_are_bit_equal_after_every_exchange() {
    let dense = learn("way = \"dense\"");
    for exchange in [
        "way = \"whole\"\nratio = 50",
        "way = \"layers\"\nratio = 50\nwarmup = 3",
        "way = \"adaptive\"\nmomentum_first = true",
        "way = \"dense\"\nlocal_steps = 3",
        "way = \"layers\"\nratio = 20\nlocal_steps = 2\nouter = { rate = 1.0, momentum = 0.5 }",
    ] {
        let [first, second] = [learn(exchange), learn(exchange)];
        assert_eq!(first, second, "{exchange}");
        assert!(first.is_equal, "{exchange}");
        assert!(first.losses.iter().all(|loss| loss.is_finite() && *loss < 6.0), "{exchange}");
        assert_ne!(bits(&first.losses), bits(&dense.losses), "{exchange}");
        assert!(first.seconds.last() < dense.seconds.last(), "{exchange}");
    }
}

/// The outer loop with a rate of 1, no momentum and plain SGD averages parameters: one step of each worker's own is then a step
/// on the mean gradient, but for rounding.
#[test]
fn an_outer_loop_of_one_step_is_the_dense_exchange_but_for_rounding() {
    let plain = |exchange: &str| {
        let mut scenario = scenario(&format!("[[exchanges]]\nname = \"one\"\n{exchange}"));
        let train = scenario.train.as_mut().unwrap();
        (train.momentum, train.clip_norm, train.steps) = (0.0, None, 2);
        replicas::learn(&scenario, &scenario.exchanges[0], 1).unwrap()
    };
    let dense = plain("way = \"dense\"");
    // Two steps of a worker's own are cut short by the end of the run: the second exchange comes after the last step.
    let outer = plain(
        "way = \"dense\"\nlocal_steps = 2\nouter = { rate = 1.0, momentum = 0.0, nesterov = false }",
    );
    assert_eq!(outer.losses[0].to_bits(), dense.losses[0].to_bits());
    assert!((outer.held_loss / dense.held_loss - 1.0).abs() < 0.05, "{outer:?} {dense:?}");
    assert!(outer.is_equal);
}

#[test]
fn gradients_that_blow_up_are_refused_with_their_step() {
    let mut scenario = scenario("[[exchanges]]\nname = \"one\"\nway = \"layers\"\nratio = 10");
    let train = scenario.train.as_mut().unwrap();
    (train.learning_rate, train.clip_norm, train.learning_rate_warmup) = (1e30, None, 0);
    let error = replicas::learn(&scenario, &scenario.exchanges[0], 1).unwrap_err().to_string();
    assert!(error.contains("step "), "{error}");
}

#[test]
fn scenarios_that_are_shipped_are_right() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/replicas");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let scenario = ReplicaScenario::parse(&std::fs::read_to_string(&path).unwrap());
        let scenario = scenario.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let times = replicas::times(&scenario).unwrap();
        assert_eq!(times.len(), scenario.exchanges.len());
        assert!(times.iter().all(|timed| timed.time.gain <= timed.time.gain_max + 1e-9));
        count += 1;
    }
    assert!(count >= 4);
}
