//! Real processes on loopback: the binary as its users run it. One test at a time, since each is a whole swarm.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "loopback/batch.rs"]
mod batch;
#[path = "loopback/kills.rs"]
mod kills;
#[path = "loopback/link.rs"]
mod link;
#[path = "loopback/operators.rs"]
mod operators;
#[path = "loopback/why.rs"]
mod why;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;
use wattle_models::single::run_single_from;

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

/// A process of the test: ends with it.
struct Peer {
    child: Child,
    /// What it calls itself; empty if it is no peer.
    id: String,
    /// Reads what it prints after its ticket, so that its pipe does not fill up.
    rest: Option<JoinHandle<Vec<u8>>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn up(network: &str, ticket: Option<&str>) -> (Peer, String) {
    up_with(network, ticket, &[])
}

fn up_with(network: &str, ticket: Option<&str>, args: &[&str]) -> (Peer, String) {
    let mut command = wattle();
    command.args(["up"]).args(args);
    command.args(["--json", "--device", "cpu", "--no-mdns", "--listen", "127.0.0.1:0"]);
    command.args(["--network", network]).env("RAYON_NUM_THREADS", "1");
    if let Some(ticket) = ticket {
        command.args(["--join", ticket]);
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    let rest = std::thread::spawn(move || {
        let mut rest = Vec::new();
        out.read_to_end(&mut rest).unwrap();
        rest
    });
    let line: Value = serde_json::from_str(&first).unwrap();
    let id = line["peer"].as_str().unwrap().to_owned();
    (Peer { child, id, rest: Some(rest) }, line["ticket"].as_str().unwrap().to_owned())
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
    let text = "[model]\nname = \"resnet-tiny\"\n[train]\nsteps = 600\n[swarm]\nstages = 2\n";
    std::fs::write(&job, text).unwrap();
    let (_one, ticket) = up(&network, None);
    let (_two, _) = up(&network, Some(&ticket));
    let (_three, _) = up(&network, Some(&ticket));

    let calm = train(&job, &network, &ticket).output().unwrap();
    assert!(calm.status.success(), "{}", said(&calm));
    let calm = lines(&calm.stdout).pop().unwrap();
    assert_eq!(
        (calm["schema"].as_str(), calm["steps"].as_u64()),
        (Some("wattle.train.v1"), Some(600))
    );

    let mut killed = train(&job, &network, &ticket)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let heard = BufReader::new(killed.stdout.take().unwrap()).lines();
    let steps = heard.filter(|line| line.as_ref().unwrap().contains("wattle.step.v1"));
    assert_eq!(steps.take(40).count(), 40);
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

    let export = |model: &str, out: &str| {
        let mut command = wattle();
        command.args(["export", "--json"]).arg(&learnt).args(["--model", model, "--out"]);
        command.arg(folder.path().join(out)).output().unwrap()
    };
    let written = export("resnet-tiny", "theirs");
    assert!(written.status.success(), "{}", said(&written));
    assert_eq!(lines(&written.stdout)[0]["schema"], "wattle.export.v1");
    let file = folder.path().join("theirs").join("model.safetensors");
    let tensors = wattle_models::weights::checkpoint::Checkpoint::open(&file).unwrap();
    assert_eq!(tensors.shape("bn1.num_batches_tracked"), Some(&[][..]));
    let wrong = export("gpt2-nano", "wrong");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(said(&wrong).contains("h.0.attn.c_attn.weight: there is no such"), "{}", said(&wrong));
}

/// Trains a job file in this process; returns the last loss as it is printed, and what was learnt.
fn alone(job: &std::path::Path) -> (Value, BTreeMap<String, Vec<f32>>) {
    let text = std::fs::read_to_string(job).unwrap();
    let job = wattle_node::jobfile::parse_in(&text, job.parent().unwrap()).unwrap();
    let mut last = f64::NAN;
    let (given, cpu) = (job.given.as_ref(), wattle_models::DeviceChoice::Cpu);
    let ran = run_single_from(&job.spec, given, cpu, |_, loss| last = loss);
    let learnt = ran.unwrap();
    (serde_json::from_str(&serde_json::json!(last).to_string()).unwrap(), learnt)
}

/// Goal: a job starts from weights that only its submitter holds; an owner that is killed in step 0 costs nothing, and
/// after step 0 the submitter may go. Method: a folder that an earlier job left, with a tokenizer beside it; an owner is
/// killed as soon as there is a plan, the submitter once step 0 is decided; whoever hands the job in again gets the very
/// numbers of a run in one process.
#[test]
fn a_job_from_given_weights_outlives_an_owner_and_its_submitter() {
    let _turn = turn();
    let network = format!("given-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let (first, job) = (folder.path().join("first.toml"), folder.path().join("job.toml"));
    std::fs::write(&first, "[model]\nname = \"gpt2-nano\"\n[train]\nsteps = 2\n").unwrap();
    let text = "[model]\nweights = \"learnt\"\n[train]\nsteps = 60\nmicro_batches = 4\n[swarm]\nstages = 2\n";
    std::fs::write(&job, text).unwrap();
    let (one, ticket) = up(&network, None);
    let more: Vec<Peer> = (0..3).map(|_| up(&network, Some(&ticket)).0).collect();
    let mut peers = vec![one];
    peers.extend(more);

    let learnt = folder.path().join("learnt");
    let saved = train(&first, &network, &ticket).arg("--save").arg(&learnt).output().unwrap();
    assert!(saved.status.success(), "{}", said(&saved));
    assert!(learnt.join("config.json").is_file());
    std::fs::write(learnt.join("tokenizer.json"), "{}").unwrap();
    let (_, expected) = alone(&job);

    let submitter = train(&job, &network, &ticket).stdout(Stdio::piped()).spawn().unwrap();
    let mut submitter = Peer { child: submitter, id: String::new(), rest: None };
    let heard = BufReader::new(submitter.child.stdout.take().unwrap()).lines();
    let mut killed = false;
    for line in heard {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if line["schema"] == "wattle.adopted.v1" && !killed {
            // Not the peer that the ticket names: the submitter and whoever comes next need it.
            let owners =
                line["stages"].as_array().unwrap().iter().map(|s| s["owner"].as_str().unwrap());
            let owners: Vec<&str> = owners.collect();
            let is_owner = |peer: &Peer| {
                owners.iter().any(|o| peer.id.starts_with(o) || o.starts_with(&peer.id))
            };
            let at = 1 + peers[1..].iter().position(is_owner).unwrap();
            drop(peers.remove(at));
            killed = true;
        }
        if line["schema"] == "wattle.step.v1" {
            assert_eq!(line["step"], 0);
            break;
        }
    }
    assert!(killed);
    drop(submitter);
    let again = folder.path().join("again");
    let ended = train(&job, &network, &ticket).arg("--save").arg(&again).output().unwrap();
    assert!(ended.status.success(), "{}", said(&ended));
    assert!(again.join("tokenizer.json").is_file());
    let tensors = wattle_models::weights::load(&again.join("model.safetensors")).unwrap();
    assert_eq!(tensors.len(), expected.len());
    for (name, _, values) in tensors {
        assert_eq!(values, expected[name.strip_prefix("transformer.").unwrap()], "{name}");
    }
}

/// Goal: a network of another tool's file trains in a swarm. Method: an exported network in three stages over three
/// processes, against one process; its weights come back under the file's names.
#[test]
fn an_onnx_file_trains_in_a_swarm() {
    let _turn = turn();
    let network = format!("onnx-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let model =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../models/src/tests/reference/digits-net.onnx");
    std::fs::copy(model, folder.path().join("net.onnx")).unwrap();
    let job = folder.path().join("job.toml");
    let text = "[model]\nonnx = \"net.onnx\"\nloss = \"cross_entropy\"\nmicro_batch = 8\nfreeze = [\"two.bias\"]\n\
                [data]\nsource = \"images:digits\"\n[train]\nsteps = 20\n[swarm]\nstages = 3\n";
    std::fs::write(&job, text).unwrap();
    let (_one, ticket) = up(&network, None);
    let (_two, _) = up(&network, Some(&ticket));
    let (_three, _) = up(&network, Some(&ticket));
    let learnt = folder.path().join("learnt.safetensors");
    let ran = train(&job, &network, &ticket).arg("--save").arg(&learnt).output().unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    let last = lines(&ran.stdout).pop().unwrap();
    assert_eq!(last["last_loss"], alone(&job).0);
    assert!(last["last_loss"].as_f64() < last["first_loss"].as_f64(), "{last}");
    let tensors = wattle_models::weights::load(&learnt).unwrap();
    let names: Vec<&str> = tensors.iter().map(|(name, ..)| name.as_str()).collect();
    assert!(names.contains(&"outer.weight") && names.contains(&"two.bias"), "{names:?}");
}

fn signal(name: &str, child: &Child) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_peer_leaves_in_good_order_when_it_is_asked_to_end() {
    let _turn = turn();
    for name in ["-INT", "-TERM"] {
        let (mut peer, _) = up("signals", None);
        signal(name, &peer.child);
        assert!(peer.child.wait().unwrap().success(), "{name}");
    }
}

/// Goal: a demonstration that is ended while its peers start leaves nothing behind. Method: a folder for temporary
/// files of its own, which must be empty afterwards.
#[test]
fn a_demonstration_that_is_ended_early_leaves_nothing_behind() {
    let _turn = turn();
    for name in ["-INT", "-TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = wattle();
        demo.args(["demo", "--peers", "3"]).env("TMPDIR", folder.path()).env_remove("WATTLE_LOG");
        let child = demo.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut demo = Peer { child, id: String::new(), rest: None };
        let mut said = BufReader::new(demo.child.stderr.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        assert!(first.contains("Wattle demo"), "{first}");
        signal(name, &demo.child);
        // Until its end, so that it never writes into a closed pipe.
        std::io::copy(&mut said, &mut std::io::sink()).unwrap();
        assert_eq!(demo.child.wait().unwrap().code(), Some(130), "{name}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{name}");
    }
}

/// Goal: everything that a swarm's programs read is JSON with a schema, and the job's course can be read from it.
/// Method: a member's and a submitter's lines of one job, of two stages that one peer runs; a status before it.
#[test]
fn a_swarm_tells_programs_what_happens() {
    let _turn = turn();
    let network = format!("lines-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("job.toml");
    let text = "[model]\nname = \"resnet-tiny\"\n[train]\nsteps = 3\n[swarm]\nstages = 2\n";
    std::fs::write(&job, text).unwrap();
    let (mut peer, ticket) = up(&network, None);
    let status = wattle()
        .args(["status", "--json", "--no-mdns", "--listen", "127.0.0.1:0"])
        .args(["--network", &network, "--join", &ticket])
        .output()
        .unwrap();
    let idle = lines(&status.stdout).pop().unwrap();
    assert_eq!(
        (idle["schema"].as_str(), idle["jobs"].as_u64()),
        (Some("wattle.status.v1"), Some(0))
    );
    let trained = train(&job, &network, &ticket).output().unwrap();
    assert!(trained.status.success(), "{}", said(&trained));
    signal("-TERM", &peer.child);
    let rest = peer.rest.take().unwrap().join().unwrap();
    let schemas = |lines: Vec<Value>| -> Vec<String> {
        lines.iter().map(|l| l["schema"].as_str().unwrap().to_owned()).collect()
    };
    let (submitter, member) = (schemas(lines(&trained.stdout)), schemas(lines(&rest)));
    for schema in ["wattle.adopted.v1", "wattle.step.v1", "wattle.finished.v1", "wattle.train.v1"] {
        assert!(submitter.iter().any(|s| s == schema), "{schema} is not in {submitter:?}");
    }
    assert!(member.iter().any(|s| s == "wattle.membership.v1"), "{member:?}");
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
    let (code, text) = run(&["sim", "run", job.to_str().unwrap()]);
    assert_eq!((code, text.contains("in the scenario")), (Some(65), true), "{text}");
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
