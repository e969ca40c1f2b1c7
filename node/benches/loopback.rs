//! What a swarm of real processes on this machine must show, as tables: equal losses over any number of processes,
//! kills of every role at random moments, and how near the pipeline comes to its ideal.
//!
//! `cargo bench -p wattle-node --bench loopback -- [equal] [kills] [efficiency] [ROLE..] [--seed N] [--runs N]`; without
//! names, all three. The seed draws the moments of the kills. Not a test: it takes minutes, and its seconds are measurements.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use wattle_models::DeviceChoice;

/// Steps of a run with a kill; the kill falls into the middle half.
const KILL_STEPS: u64 = 40;
/// The same where the submitter is killed: whoever hands the job in again must find it at work.
const SUBMITTER_STEPS: u64 = 400;

struct Options {
    names: Vec<String>,
    roles: Vec<String>,
    seed: u64,
    runs: u64,
}

fn options() -> anyhow::Result<Options> {
    let mut found = Options { names: Vec::new(), roles: Vec::new(), seed: 1, runs: 10 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || -> anyhow::Result<u64> {
            let text = args.next().with_context(|| format!("{arg} takes a number"))?;
            text.parse().with_context(|| format!("{arg} {text} is no number"))
        };
        match arg.as_str() {
            "--seed" => found.seed = number()?,
            "--runs" => found.runs = number()?,
            // cargo says that this is a benchmark.
            "--bench" => {}
            role if ROLES.contains(&role) => found.roles.push(arg),
            _ => found.names.push(arg),
        }
    }
    if found.names.is_empty() {
        found.names = ["equal", "kills", "efficiency"].map(str::to_owned).to_vec();
    }
    Ok(found)
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    for name in &options.names {
        match name.as_str() {
            "equal" => equal()?,
            "kills" => kills(&options)?,
            "efficiency" => efficiency()?,
            _ => anyhow::bail!("there is no table {name}; there are equal, kills and efficiency"),
        }
    }
    Ok(())
}

fn wattle() -> Command {
    Command::new(env!("CARGO_BIN_EXE_wattle"))
}

fn say(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{text}").unwrap_or_default();
}

/// Runs a demonstration; returns its JSON lines.
fn demo(args: &[String]) -> anyhow::Result<Vec<Value>> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report.html");
    let output = wattle()
        .args(["demo", "--json", "--no-limits", "--report"])
        .arg(&report)
        .args(args)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {said}");
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn losses(lines: &[Value]) -> Vec<f64> {
    let steps = lines.iter().filter(|l| l["schema"] == "wattle.step.v1");
    steps.filter_map(|l| l["loss"].as_f64()).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The same job in one process and over 2, 3, 4 and 8 peers, each with a stage: losses side by side.
fn equal() -> anyhow::Result<()> {
    const STEPS: u64 = 20;
    let spec = wattle_node::demo::job::spec("gpt2-nano", Some(STEPS), 1)?;
    let mut columns: Vec<(String, Vec<f64>)> = Vec::new();
    let mut alone = Vec::new();
    wattle_models::run_single(&spec, DeviceChoice::Cpu, |_, loss| alone.push(loss))?;
    columns.push(("one process".into(), alone));
    let mut tensors = Vec::new();
    for peers in [2, 3, 4, 8] {
        let args = format!("--steps {STEPS} --kill nobody --peers {peers} --stages {peers}");
        let lines = demo(&words(&args))?;
        let last = lines.last().context("a last line")?;
        tensors.push(format!(
            "{peers} peers: {} of {} final tensors bit-equal, largest relative difference {}",
            last["tensors_equal"], last["tensors_compared"], last["max_relative_tensor_difference"]
        ));
        columns.push((format!("{peers} peers"), losses(&lines)));
    }
    say("gpt2-nano, losses by step");
    let names: Vec<String> = columns.iter().map(|(n, _)| format!("{n:>18}")).collect();
    say(&format!("step{}", names.concat()));
    let mut largest = 0.0f64;
    for step in 0..usize::try_from(STEPS)? {
        let row: Vec<f64> = columns.iter().map(|(_, l)| l[step]).collect();
        largest = row.iter().map(|l| (l - row[0]).abs() / row[0]).fold(largest, f64::max);
        let cells: Vec<String> = row.iter().map(|l| format!("{l:>18.12}")).collect();
        say(&format!("{step:>4}{}", cells.concat()));
    }
    say(&format!("largest relative difference of a loss: {largest:.2e}"));
    for line in tensors {
        say(&line);
    }
    Ok(())
}

/// A number drawn from the seed and a name, below `limit`.
fn draw(seed: u64, name: &str, limit: u64) -> u64 {
    let hash = blake3::hash(format!("{seed} {name}").as_bytes());
    let first: [u8; 8] = hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes");
    u64::from_le_bytes(first) % limit
}

/// Who is killed.
const ROLES: [&str; 5] = ["first", "middle", "last", "leader", "submitter"];

/// What one run with a kill showed.
struct Killed {
    equal: bool,
    seconds: f64,
    steps: Option<u64>,
}

/// `kill -9` of each role at random moments: every loss and tensor must equal the undisturbed run's.
fn kills(options: &Options) -> anyhow::Result<()> {
    let seed = options.seed;
    say(&format!("kill -9 at random moments, {} runs a role, seed {seed}", options.runs));
    say(
        "role       runs  equal  steps begun again  seconds to the next step (least, median, most)",
    );
    for role in ROLES
        .into_iter()
        .filter(|r| options.roles.is_empty() || options.roles.iter().any(|o| o == r))
    {
        let mut runs = Vec::new();
        for run in 0..options.runs {
            let name = format!("{role} {run}");
            let steps = if role == "submitter" { SUBMITTER_STEPS } else { KILL_STEPS };
            let after = steps / 8 + draw(seed, &format!("{name} step"), steps / 4);
            let pause = draw(seed, &format!("{name} pause"), 60);
            let killed = match role {
                "submitter" => kill_submitter(after, Duration::from_millis(pause))?,
                _ => kill_peer(role, after, pause)?,
            };
            runs.push(killed);
        }
        let mut seconds: Vec<f64> = runs.iter().map(|r| r.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let equal = runs.iter().filter(|r| r.equal).count();
        let steps = runs.iter().map(|r| r.steps);
        let steps: Vec<String> = steps.map(|s| s.map_or("-".into(), |s| s.to_string())).collect();
        say(&format!(
            "{role:<9}  {:>4}  {equal:>5}  {:>17}  {:.2}, {:.2}, {:.2}",
            runs.len(),
            steps.join(" "),
            seconds[0],
            seconds[seconds.len() / 2],
            seconds[seconds.len() - 1],
        ));
        ensure!(equal == runs.len(), "a run with a killed {role} differs from the undisturbed one");
    }
    Ok(())
}

fn kill_peer(role: &str, after: u64, pause: u64) -> anyhow::Result<Killed> {
    let args = format!(
        "--model resnet-tiny --steps {KILL_STEPS} --kill {role} --kill-after {after} --kill-pause {pause}"
    );
    let lines = demo(&words(&args))?;
    let last = lines.last().context("a last line")?;
    let all =
        last["steps"] == KILL_STEPS && last["faults"].as_array().is_some_and(|f| f.len() == 1);
    let same = last["max_relative_loss_difference"] == 0.0;
    Ok(Killed {
        equal: all && same && last["tensors_equal"] == last["tensors_compared"],
        seconds: last["recovery_seconds"].as_f64().unwrap_or(f64::NAN),
        steps: last["recovery_steps"].as_u64(),
    })
}

/// A process that ends with this value.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Three peers by hand; whoever submits is killed, the job goes on, and a second submitter gets its end.
fn kill_submitter(after: u64, pause: Duration) -> anyhow::Result<Killed> {
    let folder = tempfile::tempdir()?;
    let job = folder.path().join("job.toml");
    let network = format!("bench-{}-{after}-{}", std::process::id(), pause.as_micros());
    std::fs::write(
        &job,
        format!(
            "[model]\nname = \"resnet-tiny\"\n[train]\nsteps = {SUBMITTER_STEPS}\n[swarm]\nstages = 2\n"
        ),
    )?;
    let local = ["--json", "--no-mdns", "--listen", "127.0.0.1:0", "--network", &network];
    let mut peers = Vec::new();
    let mut ticket: Option<String> = None;
    for _ in 0..3 {
        let mut up = wattle();
        up.arg("up").args(local).args(["--device", "cpu"]).env("RAYON_NUM_THREADS", "1");
        up.args(ticket.iter().flat_map(|t| ["--join", t.as_str()]));
        let mut child = up.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
        let first: Value = serde_json::from_str(&lines.next().context("a first line")??)?;
        ticket = ticket.or_else(|| first["ticket"].as_str().map(str::to_owned));
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        peers.push(Ends(child));
    }
    let ticket = ticket.context("a ticket")?;
    let train = || {
        let mut train = wattle();
        train.arg("train").arg(&job).args(local).args(["--join", &ticket]);
        train.stdout(Stdio::piped()).stderr(Stdio::null());
        train
    };
    let mut first = Ends(train().spawn()?);
    let heard = BufReader::new(first.0.stdout.take().context("a pipe")?).lines();
    for line in heard {
        let line: Value = serde_json::from_str(&line?)?;
        if line["step"].as_u64().is_some_and(|step| step >= after) {
            break;
        }
    }
    std::thread::sleep(pause);
    drop(first);
    let began = std::time::Instant::now();
    let mut again = train().spawn()?;
    let mut seen = BTreeMap::new();
    let mut seconds = f64::NAN;
    for line in BufReader::new(again.stdout.take().context("a pipe")?).lines() {
        let line: Value = serde_json::from_str(&line?)?;
        if let (Some(step), Some(loss)) = (line["step"].as_u64(), line["loss"].as_f64()) {
            seen.insert(step, loss);
        }
        if seconds.is_nan() && !seen.is_empty() {
            seconds = began.elapsed().as_secs_f64();
        }
    }
    ensure!(again.wait()?.success(), "the job did not reach its end without its submitter");
    let mut alone = BTreeMap::new();
    let spec = wattle_node::jobfile::parse(&std::fs::read_to_string(&job)?)?;
    wattle_models::run_single(&spec, DeviceChoice::Cpu, |step, loss| {
        // Through the same text, since reading a decimal may round its last bit.
        let printed = serde_json::json!(loss).to_string();
        alone.insert(step, printed.parse::<Value>().ok().and_then(|v| v.as_f64()));
    })?;
    let equal = seen.iter().all(|(step, loss)| alone.get(step) == Some(&Some(*loss)));
    let ends = seen.contains_key(&(SUBMITTER_STEPS - 1));
    Ok(Killed { equal: equal && ends, seconds, steps: None })
}

/// Measured, predicted and ideal step time of four peers without emulated limits.
fn efficiency() -> anyhow::Result<()> {
    say("4 peers on loopback, one thread each, no emulated limits; seconds a step");
    say(
        "model        measured  predicted  one process  one thread  ideal (one thread / cores)  measured / ideal",
    );
    for (model, steps) in [("gpt2-nano", 60), ("gpt2-mini", 16), ("resnet-tiny", 60)] {
        let args = format!("--model {model} --steps {steps} --kill nobody --peers 4 --stages 4");
        let lines = demo(&words(&args))?;
        let last = lines.last().context("a last line")?;
        let number = |key: &str| last[key].as_f64().unwrap_or(f64::NAN);
        let (measured, ideal) = (number("measured_step_seconds"), number("ideal_step_seconds"));
        say(&format!(
            "{model:<11}  {measured:>8.4}  {:>9.4}  {:>11.4}  {:>10.4}  {ideal:>26.4}  {:>16.2}",
            number("predicted_step_seconds"),
            number("reference_step_seconds"),
            number("one_thread_step_seconds"),
            measured / ideal,
        ));
    }
    Ok(())
}
