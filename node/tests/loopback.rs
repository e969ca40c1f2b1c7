//! Real processes on loopback: the binary as its users run it. One test at a time, since each is a whole swarm.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// The machine carries one swarm at a time.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wattle() -> Command {
    Command::new(env!("CARGO_BIN_EXE_wattle"))
}

fn lines(output: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(output);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a demonstration and returns its last line; `args` come on top of a short job.
fn demo(args: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.html");
    let mut command = wattle();
    command.args(["demo", "--json", "--no-limits", "--report"]).arg(&report).args(args);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    let page = std::fs::read_to_string(&report).unwrap();
    assert!(page.contains("<svg") && page.contains("The pipeline"));
    lines(&output.stdout).pop().unwrap()
}

fn equals_one_process(last: &Value) {
    assert_eq!(last["schema"], "wattle.demo.v1");
    // One device and the same order of sums: not merely close, but equal.
    assert_eq!(last["max_relative_loss_difference"], 0.0, "{last}");
    assert_eq!(last["tensors_equal"], last["tensors_compared"], "{last}");
}

/// Goal: an owner or the leader killed with `kill -9` costs no step and changes no number. Method: each role in turn,
/// real processes, against one process.
#[test]
fn a_killed_process_changes_nothing() {
    let _turn = turn();
    for who in ["first", "middle", "last", "leader"] {
        let last = demo(&["--model", "resnet-tiny", "--steps", "30", "--kill", who]);
        equals_one_process(&last);
        assert_eq!(last["steps"], 30);
        assert_eq!(last["faults"].as_array().unwrap().len(), 1);
        assert!(last["recovery_seconds"].as_f64().unwrap() > 0.0, "{last}");
    }
}

#[test]
fn two_peers_and_more_stages_than_cores_learn_the_same() {
    let _turn = turn();
    for (peers, stages) in [("2", "2"), ("6", "5")] {
        let args = ["--steps", "4", "--kill", "nobody", "--peers", peers, "--stages", stages];
        let last = demo(&args);
        equals_one_process(&last);
        assert!(last["bytes_sent"].as_u64().unwrap() > 0);
    }
}

/// A peer of the test: ends with it.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn up(network: &str, ticket: Option<&str>) -> (Peer, String) {
    let mut command = wattle();
    command.args(["up", "--json", "--device", "cpu", "--no-mdns", "--listen", "127.0.0.1:0"]);
    command.args(["--network", network]).env("RAYON_NUM_THREADS", "1");
    if let Some(ticket) = ticket {
        command.args(["--join", ticket]);
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    let line: Value = serde_json::from_str(&first).unwrap();
    (Peer(child), line["ticket"].as_str().unwrap().to_owned())
}

fn train(job: &std::path::Path, network: &str, ticket: &str) -> Command {
    let mut command = wattle();
    command.arg("train").arg(job).args(["--json", "--no-mdns", "--listen", "127.0.0.1:0"]);
    command.args(["--network", network, "--join", ticket]);
    command
}

/// Goal: a job outlives its submitter. Method: three peers by hand; the submitter is killed after some steps; whoever
/// hands the job in again gets the end of an undisturbed run.
#[test]
fn a_job_goes_on_without_its_submitter() {
    let _turn = turn();
    let network = format!("test-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("job.toml");
    let text = "[model]\nname = \"resnet-tiny\"\n[train]\nsteps = 150\n[swarm]\nstages = 2\n";
    std::fs::write(&job, text).unwrap();
    let (_one, ticket) = up(&network, None);
    let (_two, _) = up(&network, Some(&ticket));
    let (_three, _) = up(&network, Some(&ticket));

    let calm = train(&job, &network, &ticket).output().unwrap();
    assert!(calm.status.success(), "{}", said(&calm));
    let calm = lines(&calm.stdout).pop().unwrap();
    assert_eq!(
        (calm["schema"].as_str(), calm["steps"].as_u64()),
        (Some("wattle.train.v1"), Some(150))
    );

    let mut killed = train(&job, &network, &ticket)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut heard = BufReader::new(killed.stdout.take().unwrap()).lines();
    assert!(heard.by_ref().take(40).all(|line| line.is_ok()));
    killed.kill().unwrap();
    killed.wait().unwrap();

    let status = wattle()
        .args(["status", "--json", "--no-mdns", "--listen", "127.0.0.1:0"])
        .args(["--network", &network, "--join", &ticket])
        .output()
        .unwrap();
    let brief = lines(&status.stdout).pop().unwrap();
    assert!(brief["steps_done"].as_u64().unwrap() >= 40, "{brief}");

    let learnt = folder.path().join("learnt.safetensors");
    let again = train(&job, &network, &ticket).arg("--save").arg(&learnt).output().unwrap();
    assert!(again.status.success(), "{}", said(&again));
    let again = lines(&again.stdout).pop().unwrap();
    assert_eq!(again["last_loss"], calm["last_loss"]);
    assert!(std::fs::metadata(&learnt).unwrap().len() > 10_000);
}

#[test]
fn a_peer_leaves_on_ctrl_c() {
    let _turn = turn();
    let (mut peer, _) = up("ctrl-c", None);
    let id = peer.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert!(peer.0.wait().unwrap().success());
}

#[test]
fn mistakes_end_with_their_own_codes_and_say_what_to_do() {
    let run = |args: &[&str]| {
        let output = wattle().args(args).output().unwrap();
        (output.status.code(), said(&output))
    };
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("job.toml");
    std::fs::write(&job, "[model]\nname = \"gpt2-nan\"\n[train]\nsteps = -1\n").unwrap();
    let (code, text) = run(&["train", job.to_str().unwrap()]);
    assert_eq!(code, Some(65));
    assert!(text.contains("gpt2-nano") && text.contains("train.steps = -1"), "{text}");
    let (code, text) = run(&["inspect", "gpt5"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("gpt2-nano"), "{text}");
    let (code, text) = run(&["up", "--join", "nonsense"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("wattle:"), "{text}");
    assert_eq!(run(&["demo", "--peers", "99"]).0, Some(2));
    assert_eq!(run(&["demo", "--peers", "2", "--stages", "4"]).0, Some(1));
    assert_eq!(run(&["fly"]).0, Some(2));
}

#[test]
fn what_is_printed_as_json_is_json() {
    for args in [["inspect", "gpt2-nano"], ["inspect", "resnet18"]] {
        let output = wattle().arg("--json").args(args).output().unwrap();
        assert!(output.status.success());
        let lines = lines(&output.stdout);
        assert!(lines.iter().all(|l| l["schema"].is_string()));
        assert!(lines.last().unwrap()["parameters"].as_u64().unwrap() > 0);
    }
}
