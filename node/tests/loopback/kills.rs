//! Real processes that are killed in the middle of a job.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;

use super::{Peer, alone, demo, equals_one_process, lines, train, turn, up_with, wattle};

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

/// Returns how many peers of a network have measured themselves and a link.
fn measured(network: &str, ticket: &str) -> usize {
    let mut command = wattle();
    command.args(["peers", "--json", "--no-mdns", "--listen", "127.0.0.1:0"]);
    let output = command.args(["--network", network, "--join", ticket]).output().unwrap();
    let is_measured = |line: &Value| {
        let links = line["links"].as_array().map_or(0, Vec::len);
        line["schema"] == "wattle.peer.v1" && line["device"].is_string() && links > 0
    };
    lines(&output.stdout).iter().filter(|line| is_measured(line)).count()
}

/// Goal: a worker killed with `kill -9`, a replica or the owner, costs no step and changes no number. Method: a stage at
/// several peers of a tenth of a core each, so that they are worth while on any machine; against one process.
#[test]
fn a_killed_worker_changes_nothing() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("job.toml");
    let text =
        "[model]\nname = \"resnet-tiny\"\n[train]\nsteps = 40\n[swarm]\nstages = 1\nreplicas = 4\n";
    std::fs::write(&job, text).unwrap();
    let (_, expected) = alone(&job);
    for who in ["replica", "owner"] {
        let network = format!("{who}-{}", std::process::id());
        let (first, ticket) = up_with(&network, None, &["--share", "0.1"]);
        let mut peers = vec![first];
        peers.extend((0..2).map(|_| up_with(&network, Some(&ticket), &["--share", "0.1"]).0));
        while measured(&network, &ticket) < peers.len() {
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        let learnt = folder.path().join(who).with_extension("safetensors");
        let mut command = train(&job, &network, &ticket);
        command.arg("--save").arg(&learnt).stdout(Stdio::piped());
        let mut submitter = Peer { child: command.spawn().unwrap(), id: String::new(), rest: None };
        let heard = BufReader::new(submitter.child.stdout.take().unwrap()).lines();
        let (mut victim, mut plans): (Option<String>, Vec<bool>) = (None, Vec::new());
        for line in heard {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if line["schema"] == "wattle.adopted.v1" {
                let stage = &line["stages"][0];
                let id = if who == "owner" { &stage["owner"] } else { &stage["replicas"][0] };
                victim = victim.or(id.as_str().map(str::to_owned));
                plans.push(line["restart"].as_bool().unwrap());
            }
            if line["schema"] == "wattle.step.v1" && line["step"] == 12 {
                let name = victim.as_ref().expect("three equal peers are worth while");
                let is_victim = |p: &Peer| p.id.starts_with(name) || name.starts_with(&p.id);
                let at = peers.iter().position(is_victim).unwrap();
                drop(peers.remove(at));
            }
        }
        assert!(submitter.child.wait().unwrap().success());
        assert!(peers.len() == 2 && plans.len() > 1 && !plans.contains(&true), "{who}: {plans:?}");
        let tensors = wattle_models::weights::load(&learnt).unwrap();
        assert_eq!(tensors.len(), expected.len());
        for (name, _, values) in tensors {
            assert_eq!(values, expected[&name], "{who}: {name}");
        }
    }
}
