//! Tensors that cross links in fewer bytes: what is lost is lost alike whoever dies, and little is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "outcomes/sound.rs"]
mod outcomes;

use outcomes::{bits, sound};
use wattle_sim::{Outcome, Scenario};

const STEPS: u64 = 8;

/// Three uneven peers, one of them behind a slow link, and one that stands by; real numbers.
fn scenario(codec: &str, faults: &str) -> Scenario {
    let text = format!(
        "limit_seconds = 4000\narithmetic = \"numeric\"\n[[peers]]\ncount = 4\ngflops = 50.0\n\
         [link]\nmbit = 200.0\nlatency_ms = 1.0\njitter_ms = 1.0\n\
         [[pairs]]\nbetween = [0, 1]\nmbit = 8.0\nlatency_ms = 10.0\n\
         [[pairs]]\nbetween = [1, 2]\nmbit = 8.0\nlatency_ms = 10.0\n\
         [job]\nmodel = \"gpt2-nano\"\nsteps = {STEPS}\nstages = 3\ncodec = \"{codec}\"\n{faults}"
    );
    Scenario::parse(&text).unwrap()
}

fn bytes(outcome: &Outcome) -> u64 {
    outcome.bytes.values().sum()
}

/// Goal: a codec changes what is learnt by as much as it rounds, sends fewer bytes, and loses the same bits whether or not
/// somebody dies. Method: real numbers with each codec, undisturbed and with the owner of a stage killed, beside dense ones.
#[test]
fn codecs_save_bytes_and_learn_the_same_through_a_kill() {
    let dense = sound(&scenario("dense", ""), 1);
    let last = dense.losses[&(STEPS - 1)];
    let kill = "[[faults]]\nafter_step = 2\nkill = \"stage 1\"\n";
    // Largest difference of the last loss, relative, and share of the dense run's bytes; gradients and state are dense.
    for (codec, off, share) in [
        ("f16", 1e-3, 0.8),
        ("bf16", 1e-2, 0.8),
        ("int8", 1e-2, 0.7),
        ("int5", 3e-2, 0.67),
        ("int4", 5e-2, 0.65),
        ("adaptive", 5e-2, 0.8),
        ("topk:4", 0.2, 0.8),
        ("adatopk:10", 0.2, 0.8),
    ] {
        let calm = sound(&scenario(codec, ""), 1);
        let found = calm.losses[&(STEPS - 1)];
        let apart = (found / last - 1.0).abs();
        assert!(apart > 0.0 && apart < off, "{codec}: {found} beside {last}");
        let part = bytes(&calm) as f64 / bytes(&dense) as f64;
        assert!(part < share, "{codec}: {part} of the bytes");
        let disturbed = sound(&scenario(codec, kill), 1);
        assert_eq!((disturbed.kills.len(), disturbed.restarts), (1, 0), "{codec}");
        assert_eq!(bits(&disturbed.losses), bits(&calm.losses), "{codec}");
    }
}
