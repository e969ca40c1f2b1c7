//! What the manifests say: directions between the rooms, dependency lists, versions that must not sink.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::exceptions::{Offence, judge};
use crate::source::{Source, read, root};

/// What `wattle-protocol` may depend on: no IO, no threads, no clock among them.
const PROTOCOL: [&str; 9] = [
    "bincode",
    "blake3",
    "ed25519-dalek",
    "rand_chacha",
    "rand_core",
    "serde",
    "serde_bytes",
    "thiserror",
    "tracing",
];
/// Which rooms a room may depend on.
const DIRECTIONS: [(&str, &[&str]); 5] = [
    ("wattle-protocol", &[]),
    ("wattle-models", &["wattle-protocol"]),
    ("wattle-sim", &["wattle-protocol", "wattle-models"]),
    ("wattle-node", &["wattle-protocol", "wattle-models", "wattle-sim"]),
    ("wattle-tests", &["wattle-protocol", "wattle-models", "wattle-sim", "wattle-node"]),
];
/// Crates that only one room may name.
const OWNED: [(&str, &str); 8] = [
    ("burn", "wattle-models"),
    ("burn-backend", "wattle-models"),
    ("burn-std", "wattle-models"),
    ("tokio", "wattle-node"),
    ("libp2p", "wattle-node"),
    ("libp2p-tls", "wattle-node"),
    ("quinn", "wattle-node"),
    ("clap", "wattle-node"),
];
/// Lowest versions that are safe; the advisories behind some of them stand in no database that tools read.
const VERSIONS: [(&str, &str, &str); 5] = [
    ("libp2p", "0.57.1", "earlier versions link a yamux that a stranger can make panic"),
    ("libp2p-gossipsub", "0.50.1", "GHSA-vrx6-jcp8-vm7m: PRUNE handling"),
    (
        "yamux",
        "0.14.1",
        "GHSA-vxx9-2994-q338: a stranger can make it panic; a second, older copy counts too",
    ),
    ("hickory-proto", "0.26.0", "RUSTSEC-2026-0118, RUSTSEC-2026-0119"),
    ("bincode", "2.0.1", "bytes on the wire are its bytes; exactly this version"),
];

fn metadata() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let mut value: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = value["packages"].take();
    packages.as_array().expect("a workspace has packages").clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns the names of a package's dependencies, without those that only its tests need.
fn dependencies(package: &Value) -> BTreeSet<&str> {
    let list = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter(|d| d["kind"].as_str() != Some("dev")).map(|d| text(&d["name"])).collect()
}

fn manifest(package: &Value) -> String {
    let path = text(&package["manifest_path"]);
    let root = root().canonicalize().expect("the root exists");
    path.strip_prefix(&format!("{}/", root.display())).unwrap_or(path).to_owned()
}

#[test]
fn rooms_depend_only_in_the_allowed_directions() {
    let mut offences = Vec::new();
    let directions: BTreeMap<&str, &[&str]> = DIRECTIONS.into_iter().collect();
    for package in metadata() {
        let (name, path) = (text(&package["name"]).to_owned(), manifest(&package));
        let Some(allowed) = directions.get(name.as_str()) else {
            offences.push(Offence::new(
                &path,
                0,
                format!("{name} is no room; the top level is fixed"),
            ));
            continue;
        };
        for dependency in dependencies(&package) {
            if dependency.starts_with("wattle-") && !allowed.contains(&dependency) {
                let remedy = format!(
                    "{name} may not depend on {dependency}; move the code to the room that may"
                );
                offences.push(Offence::new(&path, 0, remedy));
            }
            let owner = OWNED.iter().find(|(krate, _)| *krate == dependency);
            if let Some((_, owner)) = owner.filter(|(_, owner)| *owner != name) {
                offences.push(Offence::new(
                    &path,
                    0,
                    format!("only {owner} may import {dependency}"),
                ));
            }
        }
        let targets = package["targets"].as_array().expect("a package has targets");
        if targets.iter().any(|t| t["kind"].to_string().contains("custom-build")) {
            offences.push(Offence::new(&path, 0, "build scripts are not used here"));
        }
    }
    judge("directions", &offences);
}

#[test]
fn protocol_depends_on_exactly_its_list() {
    let packages = metadata();
    let protocol = packages
        .iter()
        .find(|p| text(&p["name"]) == "wattle-protocol")
        .expect("protocol is a room");
    assert_eq!(
        dependencies(protocol),
        PROTOCOL.into_iter().collect(),
        "protocol/Cargo.toml: a change of protocol's dependencies needs a decision record, and this list"
    );
}

#[test]
fn every_room_takes_the_workspace_lints() {
    let mut offences = Vec::new();
    for package in metadata() {
        let path = manifest(&package);
        let table: toml::Table = read(&path).parse().expect("a manifest is TOML");
        let inherits =
            table.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
        if inherits != Some(true) {
            offences.push(Offence::new(&path, 0, "add [lints] workspace = true"));
        }
    }
    judge("lints", &offences);
}

/// Goal: the simulator stays out of a running peer. Method: its name may stand only in node's `sim` command.
#[test]
fn node_names_the_simulator_in_one_command() {
    let mut offences = Vec::new();
    for source in Source::all()
        .iter()
        .filter(|s| s.path.starts_with("node/") && !s.path.starts_with("node/src/cli/sim"))
    {
        for line in source.lines_with("wattle_sim") {
            offences.push(Offence::new(
                &source.path,
                line,
                "only node/src/cli/sim.rs and its folder may use the simulator",
            ));
        }
    }
    judge("simulator", &offences);
}

fn version(text: &str) -> Vec<u64> {
    let plain = text.split(['-', '+']).next().unwrap_or_default();
    plain.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[test]
fn no_locked_version_lies_below_the_safe_one() {
    let lock: toml::Table = read("Cargo.lock").parse().expect("Cargo.lock is TOML");
    let packages = lock["package"].as_array().expect("Cargo.lock lists packages");
    let mut offences = Vec::new();
    for package in packages {
        let field = |key: &str| package.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        let (name, locked) = (field("name"), field("version"));
        let Some((_, least, reason)) = VERSIONS.iter().find(|(krate, _, _)| *krate == name) else {
            continue;
        };
        let is_wrong = version(locked) < version(least) || (name == "bincode" && locked != *least);
        if is_wrong {
            let remedy = format!("{name} {locked} is locked, {least} is needed: {reason}");
            offences.push(Offence::new("Cargo.lock", 0, remedy));
        }
    }
    judge("versions", &offences);
}

/// Goal: a crate's own `clippy.toml` replaces the root's, so it must repeat it. Method: compare key by key.
#[test]
fn protocols_clippy_settings_repeat_the_roots() {
    let table = |path: &str| read(path).parse::<toml::Table>().expect("clippy.toml is TOML");
    let (root, protocol) = (table("clippy.toml"), table("protocol/clippy.toml"));
    let mut offences = Vec::new();
    for (key, value) in &root {
        let there = protocol.get(key);
        let is_repeated = match (value.as_array(), there.and_then(toml::Value::as_array)) {
            (Some(own), Some(other)) => own.iter().all(|entry| other.contains(entry)),
            _ => there == Some(value),
        };
        if !is_repeated {
            offences.push(Offence::new(
                "protocol/clippy.toml",
                0,
                format!("repeat what clippy.toml says of {key}"),
            ));
        }
    }
    judge("clippy", &offences);
}
