"""Makes the reference values of the operator suite: PyTorch in f64, on the same f32 operands.

    cargo run --release --example op_suite -- --cases | python models/src/suite/make.py

Needs torch, torchvision, numpy and safetensors; the checks need none of them, since what this writes is committed
(`values/`, one file a family, one tensor a case). What each case computes stands in `table.py` and `table_more.py`. The
formula of operands, weights and choices is that of `formula.rs`; each case's fingerprints tell whether both sides have
used the same.
"""

import json
import os
import sys

import numpy as np
import torch
from safetensors.numpy import save_file

import table_more  # noqa: F401, adds its cases to the table
from table import TABLE

# As in reference.rs and formula.rs.
WHOLE_MAX = 256
CHOSEN = 64
ELEMENT = 0x9E3779B97F4A7C15
OPERAND = 0xD1B54A32D192ED03
MASK = (1 << 64) - 1
WEIGHTS, CHOICE, SIGNS = 100, 101, 102


def mix(z):
    """The finaliser of SplitMix64, on an array of uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draws(stream, count):
    key = np.uint64(((stream + 1) * OPERAND) & MASK)
    return mix(key + np.arange(count, dtype=np.uint64) * np.uint64(ELEMENT))


def order(stream, count):
    return np.argsort(draws(stream, count), kind="stable")


def spread(stream, low, high, count):
    shift = 0.25 + 0.013 * min(stream, 10)
    low, width = float(low), float(high) - float(low)
    values = np.empty(count)
    values[order(stream, count)] = low + width * (np.arange(count) + shift) / count
    return values.astype(np.float32)


def signs(stream, count):
    return np.where(draws(stream, count) & np.uint64(1) == 0, np.float32(1), np.float32(-1))


def weights(count):
    return spread(WEIGHTS, 0.5, 1.5, count) * signs(WEIGHTS, count)


def elements(at, operand):
    """The elements of an operand: f32 or int64."""
    (kind, of), = operand["filling"].items()
    count = int(np.prod(operand["shape"], dtype=np.int64))
    if kind == "range":
        values = spread(at, np.float32(of[0]), np.float32(of[1]), count)
    elif kind == "floats":
        values = np.array(of, dtype=np.float32)
    elif kind == "ids":
        span = np.uint64(of[1] - of[0])
        values = of[0] + ((draws(at, count) >> np.uint64(11)) % span).astype(np.int64)
    else:
        values = np.array(of, dtype=np.int64)
    return values.reshape(operand["shape"])


def fingerprint(values):
    flat = values.reshape(-1).astype(np.float64)
    return (flat * (np.arange(flat.size) % 97 + 1)).sum()


def packed(tensor):
    """A small tensor as it is; of a large one some elements and a sum of all."""
    flat = tensor.detach().to(torch.float64).numpy().reshape(-1)
    if flat.size <= WHOLE_MAX:
        return flat
    chosen = flat[order(CHOICE, flat.size)[:CHOSEN]]
    return np.append(chosen, (flat * signs(SIGNS, flat.size)).sum())


def reference(case):
    arrays = [elements(at, operand) for at, operand in enumerate(case["operands"])]
    tensors = []
    for array, operand in zip(arrays, case["operands"]):
        is_float = array.dtype == np.float32
        tensor = torch.from_numpy(array.astype(np.float64) if is_float else array)
        tensors.append(tensor.requires_grad_(is_float and operand["trained"]))
    results = TABLE[case["id"]](*tensors)
    results = results if isinstance(results, tuple) else (results,)
    parts = [np.array([fingerprint(array) for array in arrays])]
    parts += [packed(result) for result in results]
    trained = [t for t in tensors if t.requires_grad]
    if trained and not case["forward_only"]:
        first = results[0]
        loss = (first.reshape(-1) * torch.from_numpy(weights(first.numel()).astype(np.float64))).sum()
        reached = loss.requires_grad
        gradients = torch.autograd.grad(loss, trained, allow_unused=True) if reached else [None] * len(trained)
        for tensor, gradient in zip(trained, gradients):
            parts.append(packed(torch.zeros_like(tensor) if gradient is None else gradient))
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32)


def main():
    torch.set_num_threads(2)
    np.seterr(over="ignore")
    cases = json.load(sys.stdin)
    missing = {case["id"] for case in cases} ^ set(TABLE)
    if missing:
        sys.exit(f"only in one of the tables and the suite: {sorted(missing)}")
    families = {}
    for case in cases:
        try:
            families.setdefault(case["family"], {})[case["id"]] = reference(case)
        except Exception as error:
            raise RuntimeError(case["id"]) from error
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "values")
    os.makedirs(folder, exist_ok=True)
    for family, values in families.items():
        path = os.path.join(folder, f"{family}.safetensors")
        save_file(values, path)
        os.chmod(path, 0o644)
        print(f"{family}: {len(values)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
