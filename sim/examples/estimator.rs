//! How far predicted step times lie from what simulated swarms then take: `estimator [N [FIRST SEED
//! [REPLICAS]]]` draws random swarms and jobs, lets the product's own code place and run them, and prints the errors; of
//! a single one the scenario. With REPLICAS, jobs allow up to so many workers a stage, and placements without are not
//! counted.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use wattle_sim::{Outcome, Scenario};

/// Steps of each job; what is measured begins with the decision on the first.
const STEPS: u64 = 6;
const MODELS: [&str; 5] = ["gpt2-nano", "gpt2-mini", "llama-nano", "resnet-tiny", "lstm-nano"];

struct Draw(ChaCha8Rng);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit
    }

    /// Uniform in the logarithm.
    #[expect(clippy::cast_precision_loss, reason = "a draw needs few digits")]
    fn log(&mut self, low: f64, high: f64) -> f64 {
        let share = (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        low * (high / low).powf(share)
    }
}

/// Returns a random scenario as text, of a job that allows up to `most` workers a stage.
fn scenario(seed: u64, most: u64) -> String {
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(seed));
    let count = 2 + draw.below(6);
    let mut text = String::from("limit_seconds = 100000\n");
    let base = draw.log(2.0, 500.0);
    for _ in 0..count {
        text.push_str(&format!("[[peers]]\ngflops = {:.2}\n", base * draw.log(0.2, 5.0)));
    }
    let (mbit, latency) = (draw.log(8.0, 10_000.0), draw.log(0.1, 50.0));
    text.push_str(&format!("[link]\nmbit = {mbit:.1}\nlatency_ms = {latency:.2}\n"));
    for from in 0..count {
        for to in from + 1..count {
            if draw.below(3) == 0 {
                let (mbit, latency) = (draw.log(8.0, 10_000.0), draw.log(0.1, 50.0));
                text.push_str(&format!(
                    "[[pairs]]\nbetween = [{from}, {to}]\nmbit = {mbit:.1}\nlatency_ms = {latency:.2}\n"
                ));
            }
        }
    }
    let model = MODELS[usize::try_from(draw.below(MODELS.len() as u64)).unwrap_or(0)];
    let (micro_batches, each) = (1 + draw.below(16), 1 + u64::from(draw.below(4) == 0));
    let mut stages = 1 + draw.below(count * each);
    let (backups, order, recompute) = (draw.below(2), draw.below(6), draw.below(4) == 0);
    let order =
        ["gpipe", "1f1b", "1f1b", "1f1b:2", "auto", "auto"][usize::try_from(order).unwrap_or(0)];
    let mut replicas = 1;
    if most > 1 {
        // Peers must be left over for replicas.
        (replicas, stages) = (2 + draw.below(most - 1), 1 + (stages - 1) / 2);
    }
    text.push_str(&format!(
        "[job]\nmodel = \"{model}\"\nsteps = {STEPS}\nmicro_batches = {micro_batches}\nstages = {stages}\n\
         backups = {backups}\norder = \"{order}\"\nrecompute = {recompute}\nreplicas = {replicas}\n\
         stages_per_peer = {each}\n"
    ));
    text
}

/// Returns predicted and measured seconds of a step.
fn times(outcome: &Outcome) -> Option<(f64, f64)> {
    outcome.step_seconds().map(|measured| (outcome.predicted_step, measured))
}

#[expect(clippy::print_stdout, reason = "an example prints")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize| arguments.get(place).and_then(|n| n.parse::<u64>().ok());
    let (count, first) = (number(0).unwrap_or(500), number(1).unwrap_or(0));
    let most = number(2).unwrap_or(1);
    let mut errors: Vec<(f64, u64)> = Vec::new();
    let mut without = 0;
    for seed in first..first + count {
        let text = scenario(seed, most);
        let scenario = Scenario::parse(&text).expect("a drawn scenario is a good one");
        let outcome = wattle_sim::run(&scenario, seed, false).expect("a drawn scenario runs");
        if most > 1 && outcome.workers.iter().all(|count| *count == 1) {
            continue;
        }
        match times(&outcome).filter(|_| outcome.finished && outcome.plans == 1) {
            Some((predicted, measured)) => {
                let error = predicted / measured - 1.0;
                if error.abs() > 0.15 {
                    let job = text.lines().skip_while(|line| *line != "[job]").skip(1);
                    let job = job.collect::<Vec<_>>().join(", ");
                    println!(
                        "seed {seed}: predicted {predicted:.4} s, measured {measured:.4} s: {job}"
                    );
                    if count == 1 {
                        println!("{text}");
                    }
                }
                errors.push((error, seed));
            }
            None => without += 1,
        }
    }
    errors.sort_by(|a, b| a.0.total_cmp(&b.0));
    let at = |permille: usize| 100.0 * errors[(errors.len() - 1) * permille / 1000].0;
    let near = errors.iter().filter(|(e, _)| e.abs() <= 0.15).count();
    println!("{} placements, {without} that did not run in one plan", errors.len());
    println!("within 15 %: {near} of {}", errors.len());
    println!("predicted against measured, percent: least, 5th percentile, median, 95th, most");
    println!("{:+.1} {:+.1} {:+.1} {:+.1} {:+.1}", at(0), at(50), at(500), at(950), at(1000));
}
