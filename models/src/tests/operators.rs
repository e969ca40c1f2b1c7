//! `docs/reference/operators.md` is made of the code: the enum's own comments, the rules of costs and kernels, which
//! are matches over all operators, and derivatives that are taken here. To write it anew: `INSTA_UPDATE=always`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use wattle_protocol::dag::Fact;
use wattle_protocol::dag::cost::rule::{Kind, kind, rule};
use wattle_protocol::dag::cost::{TRANSCENDENTAL, flops};
use wattle_protocol::dag::grad::differentiate;
use wattle_protocol::dag::op::{Op, every};
use wattle_protocol::dag::text::settings;

use super::vjp::{cases, cover::variant};
use crate::exec::kernel::origin::{Crossing, crossing, kernels};

const HEAD: &str = "\
# Operators and compositions

This page is made by a test from the code and compared with it at each run: the comments of
[op.rs](../../protocol/src/dag/op.rs), the rules of [costs](../../protocol/src/dag/cost/rule.rs) and of
[kernels](../../models/src/exec/kernel/origin.rs), and the derivatives that
[grad](../../protocol/src/dag/grad.rs) takes.

## Operators

Shapes: B batch, T sequence, C channels, H height, W width, D head width; `..` any leading axes. Operators
whose dtypes are \"f32, i32\" move or combine either; only f32 has derivatives, and masks are i32 of 0 and 1.
Arithmetic: x is the first operand, y the first result, g the cotangent, |x| a number of elements, e what an
exponential counts (8). A derivative names the operators that it is written with; \"passes on\" hands the
cotangent to the operand as it is. Every derivative is compared with finite differences, on hosts, and every
operator and its derivative with the host's on a GPU.

| operator | kind | operands and results | settings | dtypes | derivative | arithmetic | kernels |
| --- | --- | --- | --- | --- | --- | --- | --- |
";

const CROSSINGS: &str = "
## What crosses between a GPU and host memory

Beside the tensors that stages exchange, data and losses. An upload is queued, and the device goes on; where
the host computes, the device stands still until it has. Compared with what is counted on a GPU. Every other
operator brings nothing over.

| operator | what | why |
| --- | --- | --- |
";

const MIDDLE: &str = "
## Compositions

Functions over a network in the making that write operators
([compose](../../protocol/src/dag/compose.rs)); derivative, price and kernels follow from theirs.

| composition | what it writes |
| --- | --- |
";

fn room(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Makes a text fit a cell, with links of the documentation as plain code.
fn cell(text: &str) -> String {
    let text = text.replace("[`", "`").replace("`]", "`").replace("super::", "");
    text.replace('|', "\\|")
}

/// Returns each variant of the enum with its comment, in order.
fn variants() -> Vec<(String, String)> {
    let source = read(&room("protocol/src/dag/op.rs"));
    let body = source.split_once("pub enum Op {").unwrap().1;
    let mut found = Vec::new();
    let mut comment = String::new();
    for line in body.lines().take_while(|line| *line != "}") {
        // Those of fields stand further in.
        let Some(line) = line.strip_prefix("    ").filter(|line| !line.starts_with([' ', '}']))
        else {
            continue;
        };
        match line.strip_prefix("///") {
            Some(text) => comment.push_str(text),
            None => {
                let name = line.chars().take_while(char::is_ascii_alphanumeric).collect();
                found.push((name, std::mem::take(&mut comment).trim().to_owned()));
            }
        }
    }
    found
}

/// Returns, for each variant that a case holds in its forward pass, the operators of its derivative.
fn derivatives() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut found: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for case in cases() {
        let training = differentiate(case.dag(), 1).unwrap();
        let (forward, backward) = training.dag.nodes().split_at(training.forward_nodes);
        let loss = training.dag.producer(training.loss).unwrap();
        for (origin, node) in training.origin.iter().zip(backward) {
            // The loss itself begins with a constant.
            let is_seed = *origin == loss && matches!(node.op, Op::Fill { .. });
            // Contributions of several uses are summed with the node that made the value.
            let is_sum = matches!(node.op, Op::AddN);
            let names = found.entry(variant(&forward[origin.index()].op)).or_default();
            if !is_seed && !is_sum {
                names.insert(node.op.name());
            }
        }
        for node in forward.iter().filter(|node| node.outputs.len() == 1) {
            let reached = training.cotangents.contains_key(&node.outputs[0]);
            if reached {
                found.entry(variant(&node.op)).or_default();
            }
        }
    }
    found
}

/// Joins what differs among the operators of one variant.
fn distinct(texts: impl Iterator<Item = String>) -> String {
    let mut seen = Vec::new();
    for text in texts.filter(|text| !text.is_empty()) {
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    seen.join("; ")
}

fn row(name: &str, comment: &str, derivative: Option<&BTreeSet<&'static str>>) -> String {
    let ops: Vec<Op> = every().into_iter().filter(|op| variant(op) == name).collect();
    assert!(!ops.is_empty(), "{name} is missing in op::every");
    let names: BTreeSet<String> = ops.iter().map(|op| format!("`{}`", op.name())).collect();
    let kind = match kind(&ops[0]) {
        Kind::Primitive => "primitive",
        Kind::Fused => "fused",
        Kind::Gradient => "gradient",
    };
    let keys: BTreeSet<&str> = ops.iter().flat_map(settings).collect();
    let keys = keys.into_iter().map(|key| format!("`{key}`")).collect::<Vec<_>>();
    let dtypes = match ops[0] {
        Op::Iota { .. } => "i32",
        Op::Literal { .. } | Op::Compare(_) | Op::Cast { .. } => "f32, i32",
        _ if ops.iter().any(Op::takes_any) => "f32, i32",
        _ => "f32",
    };
    let comment = comment.replace("; *any*", "").replace(" *any*.", "");
    let derivative = match derivative {
        Some(names) if names.is_empty() => "passes on".to_owned(),
        Some(names) => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        None => "none".to_owned(),
    };
    let cells = [
        names.into_iter().collect::<Vec<_>>().join(", "),
        kind.to_owned(),
        comment,
        keys.join(", "),
        dtypes.to_owned(),
        derivative,
        distinct(ops.iter().map(|op| rule(op).to_owned())),
        distinct(ops.iter().map(|op| kernels(op).to_owned())),
    ];
    format!("| {} |\n", cells.map(|text| cell(&text)).join(" | "))
}

/// Returns the public functions of one file of compositions with their comments.
fn compositions(source: &str) -> Vec<(String, String)> {
    let (mut found, mut comment) = (Vec::new(), String::new());
    for line in source.lines() {
        match (line.strip_prefix("///"), line.strip_prefix("pub fn ")) {
            // A blank line ends what is said of the function itself: what follows says why, where from, and what fails.
            (Some(text), _) => {
                comment.push_str(if text.is_empty() { "\n" } else { text });
            }
            (None, Some(signature)) => {
                let name = signature.split(['(', '<']).next().unwrap_or_default().to_owned();
                let text = std::mem::take(&mut comment).replace(" \n", "\n");
                let parts = ["*Errors*", "*Source*"];
                let end = parts.iter().filter_map(|part| text.find(part)).min();
                let text = text[..end.unwrap_or(text.len())].replace('\n', " ");
                found.push((name, text.split_whitespace().collect::<Vec<_>>().join(" ")));
            }
            (None, None) if ["#[", "    ", ")]"].iter().any(|start| line.starts_with(start)) => {}
            (None, None) => comment.clear(),
        }
    }
    found
}

/// Returns module, name and comment of every public composition.
pub(super) fn all_compositions() -> Vec<(String, String, String)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(room("protocol/src/dag/compose"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_stem().is_some_and(|stem| stem != "tests"))
        .collect();
    files.sort();
    let of = |file: PathBuf| {
        let module = file.file_stem().unwrap().to_string_lossy().into_owned();
        let all = compositions(&read(&file)).into_iter();
        all.map(move |(name, comment)| (module.clone(), name, comment))
    };
    files.into_iter().flat_map(of).collect()
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    let derivatives = derivatives();
    for (name, comment) in variants() {
        page.push_str(&row(&name, &comment, derivatives.get(&name)));
    }
    page.push_str(CROSSINGS);
    let mut listed = BTreeSet::new();
    for op in every() {
        let (what, why) = match crossing(&op) {
            Crossing::Nothing => continue,
            Crossing::Upload(why) => ("an upload", why),
            Crossing::Wait(why) => ("the host computes", why),
        };
        if listed.insert(op.name()) {
            writeln!(page, "| `{}` | {what} | {} |", op.name(), cell(why)).unwrap();
        }
    }
    page.push_str(MIDDLE);
    for (module, name, comment) in all_compositions() {
        assert!(!comment.is_empty(), "{module}::{name} says nothing");
        writeln!(page, "| `{module}::{name}` | {} |", cell(&comment)).unwrap();
    }
    page
}

#[test]
fn the_page_of_operators_is_what_the_code_says() {
    let path = room("docs/reference/operators.md");
    let page = page();
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(&path, &page).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = recorded.lines().zip(page.lines()).find(|(old, new)| old != new);
    let advice = "docs/reference/operators.md is stale; run this test with INSTA_UPDATE=always";
    assert!(differs.is_none() && recorded == page, "{advice}: {differs:?}");
}

#[test]
fn every_variant_has_one_row() {
    let named: Vec<String> = variants().into_iter().map(|(name, _)| name).collect();
    let all: BTreeSet<String> = every().iter().map(variant).collect();
    assert_eq!(named.len(), all.len());
    assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), all);
}

/// Works out a rule that is a factor and a number of elements; none for products.
fn worked_out(rule: &str, inputs: &[&Fact], outputs: &[&Fact]) -> Option<u64> {
    let count = |fact: Option<&&Fact>| fact.map(|fact| fact.elements() as u64);
    let (factor, of) = match rule.strip_suffix('|')?.rsplit_once('|') {
        Some((factor, of)) => (factor.trim(), of),
        None => return None,
    };
    let elements = match of {
        "x" => count(inputs.first())?,
        "y" => count(outputs.first())?,
        "g" | "updates" => count(inputs.last())?,
        _ => return None,
    };
    let factor = match factor {
        "" => 1,
        "e" => TRANSCENDENTAL,
        "(n - 1)" => inputs.len() as u64 - 1,
        _ => match factor.strip_prefix("(e + ").and_then(|rest| rest.strip_suffix(')')) {
            Some(more) => TRANSCENDENTAL + more.parse::<u64>().ok()?,
            None => factor.parse().ok()?,
        },
    };
    Some(factor * elements)
}

#[test]
fn rules_in_words_are_those_that_are_counted() {
    let mut checked = BTreeSet::new();
    for case in cases() {
        let training = differentiate(case.dag(), 1).unwrap();
        for node in training.dag.nodes() {
            let facts =
                |ids: &[_]| -> Vec<&Fact> { ids.iter().map(|id| training.dag.fact(*id)).collect() };
            let (inputs, outputs) = (facts(&node.inputs), facts(&node.outputs));
            let counted = flops(&node.op, &inputs, &outputs).count();
            match worked_out(rule(&node.op), &inputs, &outputs) {
                Some(said) => {
                    assert_eq!(said, counted, "{:?}", node.op);
                    checked.insert(node.op.name());
                }
                None if rule(&node.op) == "0" => assert_eq!(counted, 0, "{:?}", node.op),
                None => {}
            }
        }
    }
    assert!(checked.len() > 50, "{checked:?}");
}
