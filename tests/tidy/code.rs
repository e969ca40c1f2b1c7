//! Rules for Rust files: headers, sizes, clocks, purity, names that belong to one file, order in `protocol`.

use crate::exceptions::{Offence, judge};
use crate::source::{Source, has_word};

/// A file above this many lines wants to be two.
const FILE_LINES: usize = 400;
/// No file is longer than this, exception or not.
const FILE_LINES_MAX: usize = 600;
/// Lines of code in one function.
const FUNCTION_LINES: usize = 70;
/// Rooms inside `protocol`, each with its place: a file may name rooms of its own place and below.
const ORDER: [(&str, usize); 9] = [
    ("ids", 0),
    ("units", 0),
    ("dag", 1),
    ("codec", 2),
    ("replica", 3),
    ("job", 4),
    ("schedule", 5),
    ("wire", 6),
    ("swarm", 7),
];
/// Who may ask for the time: the driver and its clock, and what measures this machine.
const CLOCKS: [&str; 9] = [
    "node/src/driver.rs",
    "node/src/clock.rs",
    "node/src/net/strain.rs",
    "node/src/probe.rs",
    "node/src/probe/networks.rs",
    "protocol/examples/codecs.rs",
    "tests/shaped/line.rs",
    "models/src/bench.rs",
    "models/src/exec/times.rs",
];
/// What a pure room never names, and what it does instead.
const IMPURE: [(&str, &str); 14] = [
    ("HashMap", "take BTreeMap, so that a seed means one run"),
    ("HashSet", "take BTreeSet, so that a seed means one run"),
    ("std::time", "time comes in as units::Instant"),
    ("std::thread", "work goes out as Effect::Run"),
    ("std::env", "settings come in as Config"),
    ("std::fs", "files are the node's"),
    ("std::io", "streams are the node's"),
    ("std::net", "addresses are text here"),
    ("std::process", "processes are the node's"),
    ("Mutex", "one owner a state"),
    ("RwLock", "one owner a state"),
    ("static mut", "no global state"),
    ("async", "answers come in as inputs"),
    ("await", "answers come in as inputs"),
];

#[test]
fn every_rust_file_opens_with_what_it_is() {
    let mut offences = Vec::new();
    for source in Source::all() {
        if !source.lines.first().is_some_and(|line| line.starts_with("//! ")) {
            offences.push(Offence::new(
                &source.path,
                1,
                "open with `//!` and one sentence of what the file is",
            ));
        }
    }
    judge("header", &offences);
}

#[test]
fn files_are_short() {
    let mut offences = Vec::new();
    let mut too_long = Vec::new();
    for source in Source::all() {
        let size = source.lines.len();
        if size > FILE_LINES_MAX {
            too_long.push(format!(
                "{}:1: {size} lines; no exception goes beyond {FILE_LINES_MAX}",
                source.path
            ));
        }
        if size > FILE_LINES {
            let remedy = format!("{size} lines; split it by ideas at {FILE_LINES}");
            offences.push(Offence { size: Some(size), ..Offence::new(&source.path, 1, remedy) });
        }
    }
    assert!(too_long.is_empty(), "{}", too_long.join("\n"));
    judge("file", &offences);
}

#[test]
fn functions_are_short() {
    let mut offences = Vec::new();
    for source in Source::all() {
        for function in source.functions().into_iter().filter(|f| f.size > FUNCTION_LINES) {
            let remedy = format!(
                "{} has {} lines of code; split it at {FUNCTION_LINES}",
                function.name, function.size
            );
            let offence = Offence::new(&source.path, function.line, remedy).about(&function.name);
            offences.push(Offence { size: Some(function.size), ..offence });
        }
    }
    judge("function", &offences);
}

/// Goal: decisions and arithmetic never look at a clock. Method: only the node's clock and what measures speed
/// (benchmarks among it) ask for the time; whoever else does is listed.
#[test]
fn only_the_clock_asks_for_the_time() {
    let mut offences = Vec::new();
    let measures = |path: &str| CLOCKS.contains(&path) || path.contains("/benches/");
    for source in Source::all().iter().filter(|s| !measures(&s.path)) {
        let asks =
            |line: &String| line.contains("Instant::now") || line.contains("SystemTime::now");
        if let Some(index) = source.code.iter().position(asks) {
            let remedy = "take the moment as an argument; only node/src/clock.rs asks for it";
            offences.push(Offence::new(&source.path, index + 1, remedy));
        }
    }
    judge("clock", &offences);
}

#[test]
fn some_crates_are_named_in_one_place_only() {
    let places = [
        ("bincode", "protocol/src/wire/frame.rs", "encode and decode through wire::frame"),
        ("burn", "models/", "only models knows burn"),
        ("burn_backend", "models/", "only models knows burn"),
        ("libp2p", "node/", "only node knows the network"),
        ("quinn", "node/", "only node knows the network"),
        ("tokio", "node/", "only node is asynchronous"),
        ("clap", "node/", "only node has a command line"),
    ];
    let mut offences = Vec::new();
    for source in Source::all() {
        for (name, place, remedy) in places {
            if source.path.starts_with(place) {
                continue;
            }
            for line in
                source.lines_with(name).filter(|line| names_crate(&source.code[line - 1], name))
            {
                offences.push(Offence::new(
                    &source.path,
                    line,
                    format!("{name} stands here: {remedy}"),
                ));
            }
        }
    }
    judge("one place", &offences);
}

/// Says whether a word is meant as a crate: a path begins with it, or an import ends with it.
fn names_crate(line: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let is_path = line.match_indices(&path).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
            && !line[..at].ends_with("::")
    });
    is_path || line.trim() == format!("use {name};")
}

#[test]
fn protocol_is_pure() {
    let mut offences = Vec::new();
    for source in Source::all().iter().filter(|s| s.path.starts_with("protocol/src/")) {
        for (index, line) in source.code.iter().enumerate() {
            for (name, remedy) in IMPURE.iter().filter(|(name, _)| has_word(line, name)) {
                offences.push(Offence::new(
                    &source.path,
                    index + 1,
                    format!("{name} in a pure room: {remedy}"),
                ));
            }
        }
    }
    judge("pure", &offences);
}

/// Returns the room inside `protocol` that a file belongs to.
fn room(path: &str) -> Option<(&'static str, usize)> {
    let inside = path.strip_prefix("protocol/src/")?;
    let name = inside.split(['/', '.']).next()?;
    ORDER.into_iter().find(|(room, _)| *room == name)
}

#[test]
fn protocol_uses_only_rooms_to_its_left() {
    let mut offences = Vec::new();
    for source in Source::all() {
        let Some((own, place)) = room(&source.path) else {
            continue;
        };
        for (index, line) in source.code.iter().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let used: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let later = ORDER.iter().find(|(room, other)| *room == used && *other > place);
                if later.is_some() {
                    let remedy = format!(
                        "{own} lies left of {used} (ids, units, dag, codec, replica, job, schedule, wire, swarm)"
                    );
                    offences.push(Offence::new(&source.path, index + 1, remedy).about(&used));
                }
            }
        }
    }
    judge("order", &offences);
}
