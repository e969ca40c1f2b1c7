//! Proofs over whole imports: fixtures against ONNX's own evaluator, and files that are cut off or tampered with.
//!
//! The fixtures are made by `fixtures/make.py`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use wattle_protocol::dag::grad::differentiate;
use wattle_protocol::dag::op::{Op, Targets};
use wattle_protocol::dag::text::{parse, to_text};
use wattle_protocol::dag::{Fact, Source};

use super::check::{ONNX_TOLERANCE, compare, execute};
use super::{
    ImportError, ImportOptions, Imported, import, import_bytes, import_with_loss, summarize,
};
use crate::{DeviceChoice, npz};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/onnx/fixtures").join(name)
}

fn options(batch: usize) -> ImportOptions {
    ImportOptions { batch, ..ImportOptions::default() }
}

/// Imports a fixture, runs it and compares every output with what ONNX's evaluator computed.
fn check(model: &str, arrays: &str) -> Imported {
    let imported = import(&fixture(model), &options(2)).unwrap();
    let arrays = npz::read(&fixture(arrays)).unwrap();
    let found = execute(&imported, &arrays, DeviceChoice::Cpu).unwrap();
    for (port, found) in imported.outputs.iter().zip(&found) {
        let difference = compare(found, &arrays[&port.name], ONNX_TOLERANCE);
        assert!(difference.is_within(), "{model}: {}: {difference:?}", port.name);
    }
    imported.dag.clone().checked().unwrap();
    assert_eq!(parse(&to_text(&imported.dag)).unwrap(), imported.dag);
    imported
}

fn problems(error: ImportError) -> String {
    match error {
        ImportError::Problems(problems) => problems.to_string(),
        ImportError::Read(error) => panic!("the file is readable: {error}"),
    }
}

#[test]
fn a_perceptron_keeps_the_names_and_shapes_of_its_weights() {
    let imported = check("mlp.onnx", "mlp.npz");
    let names: Vec<&str> = imported.weights.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]);
    assert_eq!(imported.weights[0].1, [5, 4]);
    assert_eq!(imported.dag.parameter_count(), 5 * 4 + 5 + 3 * 5 + 3);
    assert_eq!(imported.opset, 17);
}

#[test]
fn running_statistics_are_buffers_and_weights_are_trained() {
    let imported = check("image.onnx", "image.npz");
    let is_buffer = |name: &str| {
        let value = imported.dag.values().iter().find(|value| value.name == name).unwrap();
        matches!(value.source, Source::Buffer { .. })
    };
    assert!(is_buffer("mean") && is_buffer("var"));
    assert!(!is_buffer("w") && !is_buffer("gain"));
}

#[test]
fn computed_shapes_leave_no_operator_behind() {
    let imported = check("shapes.onnx", "shapes.npz");
    let kinds: Vec<&str> = imported.dag.nodes().iter().map(|node| node.op.name()).collect();
    assert!(!kinds.contains(&"concat"), "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == "reshape").count(), 1, "{kinds:?}");
}

#[test]
fn functions_of_the_file_are_expanded() {
    assert_eq!(check("function.onnx", "function.npz").nodes, 4);
}

#[test]
fn weights_in_a_file_beside_the_model_are_read() {
    check("external.onnx", "mlp.npz");
    // The same model without its folder: a clear error, not a panic.
    let bytes = std::fs::read(fixture("external.onnx")).unwrap();
    let error = problems(import_bytes(bytes.into(), &options(2)).unwrap_err());
    assert!(error.contains("fc1.weight") && error.contains("no folder"), "{error}");
}

#[test]
fn everything_unsupported_is_told_at_once_with_names() {
    let error = problems(import(&fixture("unsupported.onnx"), &options(1)).unwrap_err());
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(
        lines,
        [
            "4 things stand in the way:",
            "  lengths are open: give --dim width=N (z)",
            "  NonMaxSuppression: the operator is not supported (first, second)",
            "  Unique: the operator is not supported (third)",
        ]
    );
}

#[test]
fn an_imported_network_with_a_loss_has_gradients_for_all_its_weights() {
    let imported = import_with_loss(&fixture("mlp.onnx"), &options(2), |builder, outputs| {
        let targets = builder.input("targets", Fact::i32(&[2]));
        let op = Op::CrossEntropy(Targets::default());
        builder.op("loss", op, &[outputs[0].value, targets])
    });
    let imported = imported.unwrap();
    assert!(imported.dag.fact(imported.dag.outputs()[0]).shape.is_empty());
    let training = differentiate(imported.dag, 1).unwrap();
    assert_eq!(training.gradients.len(), 4);
}

#[test]
fn a_file_says_what_it_takes_and_gives() {
    let summary = summarize(&fixture("mlp.onnx")).unwrap();
    assert_eq!(summary.operators, ["Gemm", "Relu", "Gemm", "Softmax"]);
    assert_eq!(summary.inputs.len(), 1);
    assert_eq!(summary.outputs[0].0, "y");
}

#[test]
fn a_cut_off_file_is_an_error_or_a_whole_model_never_a_panic() {
    for name in ["mlp.onnx", "image.onnx", "shapes.onnx", "function.onnx"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for length in 0..whole.len() {
            let bytes = Bytes::copy_from_slice(&whole[..length]);
            drop(import_bytes(bytes, &options(1)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Goal: whatever stands in a file, the import answers. Method: flip some bits of a sound model.
    #[test]
    fn tampered_files_never_panic(
        which in 0usize..5,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..12),
    ) {
        let name = ["mlp", "image", "shapes", "function", "unsupported"][which];
        let mut bytes = std::fs::read(fixture(&format!("{name}.onnx"))).unwrap();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        drop(import_bytes(bytes.into(), &options(1)));
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drop(import_bytes(bytes.into(), &options(1)));
    }
}
