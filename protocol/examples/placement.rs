//! How good and how fast placements are: `quality [N [FIRST]]` against all layouts of small problems, `large
//! [PEERS [OPERATORS [REPLICAS]]]` on a large one, to be timed from outside.

use wattle_protocol::ids::{Epoch, JobId};
use wattle_protocol::schedule::advert::Advert;
use wattle_protocol::schedule::codec::Codec;
use wattle_protocol::schedule::fence::{Request, place, quality};
use wattle_protocol::schedule::sample::{Problem, large, problem};

/// Branches that the exhaustive search may visit for one problem.
const BRANCHES: u64 = 3_000_000;

fn request(problem: &Problem) -> Request<'_> {
    let leader = problem.adverts[0].peer;
    let (job, epoch) = (JobId::new([1; 16]), Epoch::new(1));
    Request { spec: &problem.spec, job, epoch, submitter: leader, leader, codec: Codec::Dense }
}

#[expect(clippy::print_stdout, reason = "an example prints")]
#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn show_quality(count: u64, first: u64) {
    let (mut shares, mut open, mut nothing) = (Vec::new(), 0, 0);
    for seed in first.. {
        if shares.len() as u64 == count || seed > first + 4 * count {
            break;
        }
        let problem = problem(seed, 8, 14);
        let adverts: Vec<&Advert> = problem.adverts.iter().collect();
        match quality(request(&problem), &adverts, BRANCHES) {
            Ok(Some(found)) if found.settled => {
                let share = found.best as f64 / found.found as f64;
                if share < 0.95 {
                    println!("seed {seed}: {share:.4}: {found:?}");
                }
                shares.push(share);
            }
            Ok(Some(_)) => open += 1,
            Ok(None) => nothing += 1,
            Err(error) => println!("seed {seed}: {error}"),
        }
    }
    shares.sort_by(f64::total_cmp);
    let at = |permille: usize| shares[(shares.len() - 1) * permille / 1000];
    println!("settled {}, not settled {open}, nothing fits {nothing}", shares.len());
    println!(
        "optimum / found: worst {:.4}, 1st percentile {:.4}, median {:.4}",
        at(0),
        at(10),
        at(500)
    );
}

#[expect(clippy::print_stdout, reason = "an example prints")]
fn place_large(peers: usize, operators: usize, replicas: u16) {
    let problem = large(peers, operators, replicas).expect("the sample is a network");
    let adverts: Vec<&Advert> = problem.adverts.iter().collect();
    match place(request(&problem), &adverts) {
        Ok(plan) => println!("{} stages, {} a step", plan.stages.len(), plan.prediction.step),
        Err(error) => println!("{error}"),
    }
}

#[expect(clippy::print_stderr, reason = "an example says how it is called")]
#[expect(clippy::disallowed_methods, reason = "an example is told by its arguments what to do")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("quality") => {
            let number = |place: usize| arguments.get(place).and_then(|n| n.parse().ok());
            show_quality(number(1).unwrap_or(300), number(2).unwrap_or(0));
        }
        Some("large") => {
            let number = |place: usize, other: usize| {
                arguments.get(place).and_then(|n| n.parse().ok()).unwrap_or(other)
            };
            let replicas = u16::try_from(number(3, 1)).unwrap_or(1);
            place_large(number(1, 1000), number(2, 10_000), replicas);
        }
        _ => eprintln!(
            "usage: placement quality [N [FIRST SEED]] | placement large [PEERS [OPERATORS [REPLICAS]]]"
        ),
    }
}
