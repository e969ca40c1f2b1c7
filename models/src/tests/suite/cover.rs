//! Which row of the suite stands for which operator: a further operator without a case does not compile, and one without
//! a row in the table, or a composition without one, is found here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use wattle_protocol::dag::grad::differentiate;
use wattle_protocol::dag::op::Op;

use crate::suite::cases;

/// Returns the row of the table whose training graphs hold the operator: its own, or, for the gradient operators at the
/// end, that of the operator whose backward pass they are.
fn row_of(op: &Op) -> &'static str {
    match op {
        Op::MatMul { .. } | Op::Linear | Op::LinearWeightGrad => op.name(),
        Op::Embedding | Op::EmbeddingGrad { .. } => op.name(),
        Op::Attention { .. } | Op::AttentionGrad { .. } | Op::CausalMask { .. } => op.name(),
        Op::Softmax { .. } | Op::SoftmaxGrad { .. } | Op::LogSoftmax { .. } => op.name(),
        Op::LayerNorm { .. } | Op::BatchNorm { .. } | Op::BatchNormInference { .. } => op.name(),
        Op::RmsNorm { .. } | Op::Relu | Op::Gelu(_) | Op::Dropout { .. } => op.name(),
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Scale { .. } | Op::Shift { .. } => op.name(),
        Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Where | Op::Cast { .. } => op.name(),
        Op::Iota { .. } | Op::Literal { .. } | Op::Fill { .. } | Op::AddN => op.name(),
        Op::Gather { .. } | Op::GatherGrad { .. } | Op::GatherElements { .. } => op.name(),
        Op::ScatterElements { .. } | Op::TopK { .. } | Op::CumSum { .. } => op.name(),
        Op::Rotary(_) | Op::Reshape { .. } | Op::Transpose { .. } => op.name(),
        Op::Slice { .. } | Op::Unslice { .. } | Op::Concat { .. } => op.name(),
        Op::Expand { .. } | Op::SumTo { .. } => op.name(),
        Op::ReduceSum { .. } | Op::ReduceMean { .. } | Op::ReduceMax { .. } => op.name(),
        Op::Conv2d(_) | Op::Conv2dInputGrad { .. } | Op::Conv2dWeightGrad { .. } => op.name(),
        Op::MaxPool2d(_) | Op::AvgPool2d(_) | Op::CrossEntropy(_) => op.name(),
        Op::Lstm | Op::Gru => op.name(),
        Op::LstmGrad => "lstm",
        Op::GruGrad => "gru",
        Op::LayerNormGrad => "layer_norm",
        Op::BatchNormGrad { .. } => "batch_norm",
        Op::RmsNormGrad => "rms_norm",
        Op::ReluGrad => "relu",
        Op::GeluGrad(_) => "gelu",
        Op::MaxPool2dGrad(_) => "max_pool2d",
        Op::AvgPool2dGrad { .. } => "avg_pool2d",
        Op::CrossEntropyGrad(_) => "cross_entropy",
    }
}

/// Returns the names of all operators, as serde knows them: it lists what it would have taken.
fn all() -> BTreeSet<String> {
    let error = serde_json::from_str::<Op>("\"no such operator\"").unwrap_err().to_string();
    let names = error.split('`').skip(1).step_by(2).skip(1);
    names.map(str::to_owned).collect()
}

/// Returns an operator's name as serde and [`all`] spell it.
fn variant(op: &Op) -> String {
    format!("{op:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

#[test]
fn every_operator_has_a_case_that_holds_it() {
    let (mut found, mut settings) = (BTreeSet::new(), BTreeSet::new());
    for case in cases() {
        let training = differentiate(case.dag().unwrap(), 1).unwrap();
        let ops = training.dag.nodes().iter().map(|node| &node.op);
        for op in ops.filter(|op| row_of(op) == case.row) {
            found.insert(variant(op));
            settings.insert(format!("{op:?}"));
        }
    }
    let all = all();
    assert!(all.len() > 40, "{all:?}");
    let missing: Vec<_> = all.difference(&found).collect();
    assert!(missing.is_empty(), "no case holds {missing:?}");
    // Operators that are many functions in one: each of them.
    for one in ["Gelu(Erf)", "Gelu(Tanh)", "Unary(Round)", "Binary(Remainder)", "Compare(Less)"] {
        assert!(settings.contains(one), "no case holds {one}");
    }
}

#[test]
fn every_function_of_one_and_two_numbers_has_a_row() {
    use wattle_protocol::dag::op::{Binary, Comparison, Unary};
    let rows: BTreeSet<String> = cases().into_iter().map(|case| case.row).collect();
    let names = Unary::ALL.iter().map(|f| f.name());
    let names = names.chain(Binary::ALL.iter().map(|f| f.name()));
    let names = names.chain(Comparison::ALL.iter().map(|c| c.name()));
    let missing: Vec<_> = names.filter(|name| !rows.contains(*name)).collect();
    assert!(missing.is_empty(), "no case stands for {missing:?}");
}

/// Goal: no composition without a case. Method: the public functions in the files of compositions, by name.
#[test]
fn every_composition_has_a_row() {
    let rows: BTreeSet<String> = cases().into_iter().map(|case| case.row).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/src/dag/compose");
    let mut missing = BTreeSet::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("pub fn ")) {
            let name: String =
                line.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            seen += 1;
            let row = format!("{module}::{name}");
            if !rows.contains(&row) {
                missing.insert(row);
            }
        }
    }
    assert!(seen > 30, "{seen}");
    assert!(missing.is_empty(), "no case stands for {missing:?}");
}

/// Goal: the page shows what there is. Method: its rows with their numbers of cases against the table's.
#[test]
fn the_page_of_the_suite_has_all_rows() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/op-suite.md");
    let page = std::fs::read_to_string(page).unwrap();
    let cells = |line: &str| -> Option<(String, usize)> {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let name = cells.next()?.trim().trim_end_matches('`').to_owned();
        Some((name, cells.next()?.trim().parse().ok()?))
    };
    let listed: BTreeMap<String, usize> = page.lines().filter_map(cells).collect();
    let mut own: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases() {
        *own.entry(case.row).or_default() += 1;
    }
    let command = "cargo run --release --example op_suite";
    assert_eq!(listed, own, "docs/reference/op-suite.md (left) lacks what `{command}` prints");
}
