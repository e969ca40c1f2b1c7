#!/usr/bin/env bash
# Proves that folders pass between Wattle and transformers / torchvision in both directions, and prints the largest
# differences. Needs a Python with torch, torchvision, transformers and safetensors: `PYTHON=... huggingface.sh`.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --release --quiet --workspace --bins --examples
"${PYTHON:-python3}" models/examples/huggingface.py target/release/wattle target/release/examples/logits
