//! Runs every case of the operator suite and prints how far this machine's devices are from PyTorch's values.
//!
//! `cargo run --release --example op_suite [-- TEXT]`, where TEXT chooses rows that hold it and shows their cases one by
//! one; with `-- --cases` it describes all cases to `models/src/suite/make.py`. Last line: `N cases: N of N
//! within tolerance on cpu, ..`. The columns are largest differences, relative to the largest element of a tensor (or to the element,
//! where a case says so); a dash stands where there is no gradient, or where shaders are not asked.

use std::collections::BTreeMap;

use wattle_models::suite::reference::{Differences, References};
use wattle_models::suite::run::{SuiteError, run};
use wattle_models::suite::{Case, cases};
use wattle_models::{DeviceChoice, Executor};

/// A device with its name and how many cases it was wrong in.
struct Column {
    choice: DeviceChoice,
    name: String,
    wrong: Vec<String>,
    asked: usize,
}

/// What is said of one operator, composition or case.
#[derive(Default)]
struct Row {
    cases: usize,
    is_trained: bool,
    /// By device; None where it was not asked.
    largest: Vec<Option<Differences>>,
}

#[expect(clippy::print_stdout, reason = "an example prints what it shows")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let only = std::env::args().nth(1);
    if only.as_deref() == Some("--cases") {
        let all: Vec<_> = cases().iter().map(Case::describe).collect();
        println!("{}", serde_json::to_string(&all)?);
        return Ok(());
    }
    let mut columns = columns();
    let names: Vec<_> = columns.iter().map(|c| format!("{}: {}", c.choice, c.name)).collect();
    println!("{}", names.join("; "));
    let rows = rows(&mut columns, only.as_deref())?;
    let heads = columns.iter().map(|c| format!(" {0} forward | {0} gradient |", c.choice));
    println!("\n| operator or composition | cases |{}", heads.collect::<String>());
    println!("| --- | ---: |{}", " ---: | ---: |".repeat(columns.len()));
    for (name, row) in &rows {
        let cells: String = row.largest.iter().map(|off| cells(*off, row.is_trained)).collect();
        println!("| `{name}` | {} |{cells}", row.cases);
    }
    let mut parts = Vec::new();
    for column in &columns {
        column.wrong.iter().for_each(|line| println!("{}: {line}", column.choice));
        let (right, asked) = (column.asked - column.wrong.len(), column.asked);
        parts.push(format!("{right} of {asked} within tolerance on {}", column.choice));
    }
    let count: usize = rows.values().map(|row| row.cases).sum();
    println!("\n{count} cases: {}", parts.join(", "));
    Ok(())
}

/// Runs the cases on all devices; a row is an operator, or a case where some were chosen.
fn rows(columns: &mut [Column], only: Option<&str>) -> Result<BTreeMap<String, Row>, SuiteError> {
    let references = References::load()?;
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for case in cases().iter().filter(|case| only.is_none_or(|only| case.row.contains(only))) {
        let name = if only.is_some() { case.id() } else { case.row.clone() };
        let row = rows.entry(name).or_default();
        row.cases += 1;
        row.is_trained |= case.trained().next().is_some();
        row.largest.resize(columns.len(), None);
        for (column, largest) in columns.iter_mut().zip(&mut row.largest) {
            let Some(off) = column.compare(case, &references) else { continue };
            let most = largest.get_or_insert_default();
            most.forward = most.forward.max(off.forward);
            most.gradient = most.gradient.max(off.gradient);
        }
    }
    Ok(rows)
}

/// The CPU, and what wgpu finds.
fn columns() -> Vec<Column> {
    let open = |choice| {
        let name = Executor::new(choice).ok()?.device_name().to_owned();
        Some(Column { choice, name, wrong: Vec::new(), asked: 0 })
    };
    [DeviceChoice::Cpu, DeviceChoice::Wgpu].into_iter().filter_map(open).collect()
}

impl Column {
    fn compare(&mut self, case: &Case, references: &References) -> Option<Differences> {
        let tolerance = match self.choice {
            DeviceChoice::Cpu => case.cpu,
            DeviceChoice::Wgpu | DeviceChoice::Auto => case.gpu?,
        };
        self.asked += 1;
        let off = run(case, self.choice).and_then(|found| references.compare(case, &found));
        match off {
            Ok(off) => {
                if off.forward.max(off.gradient) > tolerance {
                    self.wrong.push(format!("{} is beyond {tolerance:.0e}: {off:?}", case.id()));
                }
                Some(off)
            }
            Err(error) => {
                self.wrong.push(error.to_string());
                None
            }
        }
    }
}

fn cells(off: Option<Differences>, trained: bool) -> String {
    let Some(off) = off else { return " - | - |".into() };
    let one = |value: f32| if value == 0.0 { " 0".into() } else { format!(" {value:.1e}") };
    let gradient = if trained { one(off.gradient) } else { " -".into() };
    format!("{} |{gradient} |", one(off.forward))
}
