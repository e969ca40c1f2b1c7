#!/usr/bin/env bash
# Runs the ONNX project's backend test data against the importer. Fetches the wheel of onnx 1.22.0 (Apache-2.0; the last
# one that ships the node cases) into a temporary folder, which is removed again. Needs python3 with venv, and network.
# Arguments after the first are the example's: `onnx_suite.sh [PART OF A CASE'S NAME]`.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet download onnx==1.22.0 --no-deps --only-binary=:all: --dest "$folder"
"$folder/venv/bin/python" -m zipfile -e "$folder"/onnx-1.22.0-*.whl "$folder/wheel"
cargo run --release --quiet -p wattle-models --example onnx_suite -- \
    "$folder/wheel/onnx/backend/test/data" "$@"
