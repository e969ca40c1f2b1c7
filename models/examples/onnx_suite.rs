//! Runs the ONNX project's own test data against the importer and prints a table: operator, passed, failed,
//! unsupported, with the reasons, and the share of passed cases.
//!
//! `models/examples/onnx_suite.sh` fetches the data and runs this; by hand:
//! `cargo run --release -p wattle-models --example onnx_suite -- FOLDER`, where FOLDER holds `node`, `simple` and so on.
//! Last line: `coverage: N of M single-node cases of floats and integers (P %)`. Inputs that decide about shapes are
//! fixed at import, since networks here are static. Tolerance: ONNX's own (relative 1e-3, absolute 1e-7); for results in
//! half precision, which are computed in f32, two units in the last place of theirs; for Fourier transforms absolute 1e-5.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use wattle_models::DeviceChoice;
use wattle_models::onnx::array::{Array, Kind};
use wattle_models::onnx::check::{CheckError, ONNX_TOLERANCE, Tolerance, compare, execute};
use wattle_models::onnx::{
    ImportError, ImportOptions, Imported, Port, Problem, Reason, Summary, import, read_tensor,
    summarize,
};

/// What came of one case.
enum Verdict {
    Passed,
    Failed(String),
    Unsupported(String),
}

#[derive(Default)]
struct Row {
    passed: usize,
    failed: BTreeMap<String, Vec<String>>,
    unsupported: BTreeMap<String, Vec<String>>,
}

#[expect(clippy::print_stdout, reason = "an example prints what it shows")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("which folder holds the test data?")?);
    let only = args.next();
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let (mut eligible, mut passed) = (0, 0);
    for family in ["node", "simple", "pytorch-operator", "pytorch-converted"] {
        let Ok(cases) = std::fs::read_dir(folder.join(family)) else { continue };
        let mut cases: Vec<PathBuf> = cases.flatten().map(|c| c.path()).collect();
        cases.sort();
        for case in cases.iter().filter(|c| c.join("model.onnx").is_file()) {
            let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if only.as_ref().is_some_and(|only| !name.contains(only)) {
                continue;
            }
            let summary = summarize(&case.join("model.onnx"));
            let (row, counts) = place(family, summary.as_ref().ok());
            let verdict = catch_unwind(AssertUnwindSafe(|| run(case, summary)));
            let verdict = verdict.unwrap_or_else(|_| Verdict::Failed("a panic".into()));
            eligible += usize::from(counts);
            passed += usize::from(counts && matches!(verdict, Verdict::Passed));
            rows.entry(row).or_default().note(name, verdict);
        }
    }
    for (name, verdict) in light(&folder.join("light"), only.as_deref()) {
        rows.entry("(light)".into()).or_default().note(name, verdict);
    }
    println!(
        "| operator | passed | failed | unsupported | reasons |\n| --- | --- | --- | --- | --- |"
    );
    for (name, row) in &rows {
        println!("| {name} | {} |", row.cells());
    }
    let total = |f: fn(&Row) -> usize| rows.values().map(f).sum::<usize>();
    println!(
        "all cases: {} passed, {} failed, {} unsupported",
        total(|r| r.passed),
        total(|r| r.failed.values().map(Vec::len).sum()),
        total(|r| r.unsupported.values().map(Vec::len).sum()),
    );
    let share = passed as f64 / f64::from(u32::try_from(eligible.max(1))?) * 100.0;
    println!(
        "coverage: {passed} of {eligible} single-node cases of floats and integers ({share:.1} %)"
    );
    Ok(())
}

/// Returns the row that a case belongs to, and whether it counts for the coverage.
fn place(family: &str, summary: Option<&Summary>) -> (String, bool) {
    match summary {
        Some(summary) if family == "node" => match summary.operators.as_slice() {
            [operator] => {
                let mut ports = summary.inputs.iter().chain(&summary.outputs);
                let typed = ports.all(|(_, kind)| kind.is_some());
                let row =
                    if typed { operator.clone() } else { format!("{operator} (other types)") };
                (row, typed)
            }
            _ => ("(several nodes)".into(), false),
        },
        _ => (format!("({family})"), false),
    }
}

impl Row {
    fn note(&mut self, name: String, verdict: Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed(why) => self.failed.entry(why).or_default().push(name),
            Verdict::Unsupported(why) => self.unsupported.entry(why).or_default().push(name),
        }
    }

    /// Counts, and the reasons with how many cases each has and the name of one that failed.
    fn cells(&self) -> String {
        let count = |map: &BTreeMap<String, Vec<String>>| map.values().map(Vec::len).sum::<usize>();
        let failed =
            self.failed.iter().map(|(why, names)| format!("FAILED {why}: {}", names.join(", ")));
        let unsupported =
            self.unsupported.iter().map(|(why, names)| format!("{why}: {}", names.len()));
        let reasons: Vec<String> = failed.chain(unsupported).collect();
        let (failed, unsupported) = (count(&self.failed), count(&self.unsupported));
        format!("{} | {failed} | {unsupported} | {}", self.passed, reasons.join("; "))
    }
}

fn run(case: &Path, summary: Result<Summary, impl std::fmt::Display>) -> Verdict {
    let summary = match summary {
        Ok(summary) => summary,
        Err(error) => return Verdict::Unsupported(error.to_string()),
    };
    let model = case.join("model.onnx");
    let mut sets = 0;
    while case.join(format!("test_data_set_{sets}")).is_dir() {
        let set = case.join(format!("test_data_set_{sets}"));
        let read = |prefix: &str, names: &[(String, _)]| arrays(&set, prefix, names);
        let (inputs, expected) =
            match (read("input", &summary.inputs), read("output", &summary.outputs)) {
                (Ok(inputs), Ok(expected)) => (inputs, expected),
                (Err(why), _) | (_, Err(why)) => return Verdict::Unsupported(why),
            };
        let imported = match import_with(&model, &inputs) {
            Ok(imported) => imported,
            Err(why) => return Verdict::Unsupported(why),
        };
        let found = match execute(&imported, &inputs, DeviceChoice::Cpu) {
            Ok(found) => found,
            Err(CheckError::TooLarge { .. }) => {
                return Verdict::Unsupported("integers beyond 32 bits".into());
            }
            Err(error) => return Verdict::Failed(error.to_string()),
        };
        for (port, found) in imported.outputs.iter().zip(&found) {
            let Some(expected) = expected.get(&port.name) else {
                return Verdict::Failed(format!("there is nothing to compare {} with", port.name));
            };
            let difference =
                compare(found, expected, tolerance(&summary.operators, expected.kind()));
            if !difference.alike {
                return Verdict::Failed(format!(
                    "{} {:?} instead of {} {:?}",
                    found.kind(),
                    found.shape(),
                    expected.kind(),
                    expected.shape()
                ));
            }
            if !difference.is_within() {
                return Verdict::Failed(format!("off by {:.2e}", difference.absolute));
            }
        }
        sets += 1;
    }
    if sets == 0 { Verdict::Unsupported("there are no data".into()) } else { Verdict::Passed }
}

/// Whole networks of the field with made-up weights: the input counts from 0 to 1, the output lies beside the model.
fn light(folder: &Path, only: Option<&str>) -> Vec<(String, Verdict)> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let mut models: Vec<PathBuf> =
        files.filter(|p| p.extension().is_some_and(|e| e == "onnx")).collect();
    models.sort();
    let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let wanted = models.iter().filter(|path| only.is_none_or(|only| name(path).contains(only)));
    wanted.map(|path| (name(path), run_light(path))).collect()
}

#[expect(clippy::cast_precision_loss, reason = "images have far fewer than 2^24 numbers")]
fn run_light(model: &Path) -> Verdict {
    let imported = match import(model, &ImportOptions::default()) {
        Ok(imported) => imported,
        Err(error) => return Verdict::Unsupported(error.to_string().replace('\n', " ")),
    };
    let counted = |port: &Port| {
        let fact = imported.dag.fact(port.value);
        let count = fact.elements();
        let values = (0..count).map(|i| i as f32 / count as f32).collect();
        (port.name.clone(), Array::floats(Kind::F32, fact.shape.clone(), values))
    };
    let inputs = imported.inputs.iter().map(counted).collect();
    let beside = model.to_string_lossy().replace(".onnx", "_output_0.pb");
    match (execute(&imported, &inputs, DeviceChoice::Cpu), read_tensor(Path::new(&beside))) {
        (Ok(found), Ok((_, expected))) => {
            let difference = compare(&found[0], &expected, ONNX_TOLERANCE);
            if difference.is_within() {
                return Verdict::Passed;
            }
            Verdict::Failed(format!("off by {:.2e}", difference.absolute))
        }
        (Err(error), _) => Verdict::Failed(error.to_string()),
        (_, Err(error)) => Verdict::Unsupported(error.to_string()),
    }
}

fn tolerance(operators: &[String], kind: Kind) -> Tolerance {
    match kind {
        // The terms of a transform cancel: what is 0 comes out as the rounding error of the largest of them.
        Kind::F32 if operators.iter().any(|name| name == "DFT") => {
            Tolerance { absolute: 1e-5, ..ONNX_TOLERANCE }
        }
        Kind::F16 => Tolerance { relative: 2e-3, absolute: 1e-6 },
        Kind::Bf16 => Tolerance { relative: 1.6e-2, absolute: 1e-6 },
        _ => ONNX_TOLERANCE,
    }
}

/// One reason without the names of its place, so that equal ones are counted together.
fn reason(problem: &Problem) -> String {
    let operator = if problem.operator.is_empty() { "the data" } else { &problem.operator };
    match &problem.reason {
        Reason::Operator => format!("{operator} is not supported"),
        Reason::NotKnown { .. } => format!("{operator} reads a size that is not known"),
        Reason::Form(what) if what.ends_with("is empty") => "an empty tensor".into(),
        Reason::Form(what) | Reason::Malformed(what) => format!("{operator}: {what}"),
        Reason::Build(error) => format!("{operator}: {error}"),
    }
}

/// Reads the arrays of a data set, by the names that the model gives them in order.
fn arrays<T>(
    set: &Path,
    prefix: &str,
    names: &[(String, T)],
) -> Result<BTreeMap<String, Array>, String> {
    let mut arrays = BTreeMap::new();
    for at in 0.. {
        let path = set.join(format!("{prefix}_{at}.pb"));
        if !path.is_file() {
            break;
        }
        let (own, array) = read_tensor(&path).map_err(|error| match error {
            ImportError::Problems(problems) => reason(&problems.0[0]),
            ImportError::Read(error) => error.to_string(),
        })?;
        let is_known = names.iter().any(|(name, _)| *name == own);
        let by_order = names.get(at).map(|(name, _)| name.clone());
        arrays.insert(if is_known { own } else { by_order.unwrap_or(own) }, array);
    }
    Ok(arrays)
}

/// Imports with the inputs' own shapes; inputs that have to be known are fixed.
fn import_with(model: &Path, inputs: &BTreeMap<String, Array>) -> Result<Imported, String> {
    let mut options = ImportOptions::default();
    for (name, array) in inputs {
        for (axis, length) in array.shape().iter().enumerate() {
            options.dims.insert(format!("{name}.{axis}"), *length);
        }
        // An empty tensor is no value of a network, but may be a constant.
        if array.count() == 0 {
            options.fixed.insert(name.clone(), array.clone());
        }
    }
    loop {
        let problems = match import(model, &options) {
            Ok(imported) => return Ok(imported),
            Err(ImportError::Read(error)) => return Err(error.to_string()),
            Err(ImportError::Problems(problems)) => problems,
        };
        let mut is_better = false;
        for problem in &problems.0 {
            let Reason::NotKnown { inputs: origins, .. } = &problem.reason else { continue };
            for name in origins {
                // Sizes and places are fixed, not the data that a network computes with.
                let array = inputs.get(name).filter(|a| !a.kind().is_float() || a.count() <= 8);
                if let Some(array) = array {
                    is_better |= options.fixed.insert(name.clone(), array.clone()).is_none();
                }
            }
        }
        if !is_better {
            return Err(reason(&problems.0[0]));
        }
    }
}
