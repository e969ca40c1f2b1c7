#!/usr/bin/env python3
"""What codecs cost in learning and save in time: trains a network in simulated swarms with real numbers, prints a table in
Markdown.

usage: learning.py WATTLE [--model gpt2-nano] [--steps 200] [--seeds 3] [--codecs A,B] [--links NAME,NAME]

Each line is the mean over seeds, which give other weights and other samples. Time is virtual: arithmetic of 30 GFLOP/s and
links as named. A run is of one thread.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

# One peer behind a slow line; all behind ordinary ones; fast ones.
LINKS = {
    "one-8": "[link]\nmbit = 500.0\nlatency_ms = 2.0\n"
    + "".join(f"[[pairs]]\nbetween = [0, {n}]\nmbit = 8.0\nlatency_ms = 20.0\n" for n in (1, 2)),
    "all-50": "[link]\nmbit = 50.0\nlatency_ms = 10.0\n",
    "fast": "[link]\nmbit = 10000.0\nlatency_ms = 0.2\n",
}
# The last steps, whose mean is compared: of few micro-batches one loss says little.
LAST = 20
CODECS = "dense,f16,int8,int4,adaptive,topk:10,adatopk:10"


def run(wattle, folder, links, model, steps, codec, seed):
    path = pathlib.Path(folder) / "scenario.toml"
    head, pairs, rest = LINKS[links].partition("[[pairs]]")
    path.write_text(
        f'limit_seconds = 1000000\narithmetic = "numeric"\n[[peers]]\ncount = 3\ngflops = 30.0\n{head}{pairs}{rest}'
        f'[job]\nmodel = "{model}"\nsteps = {steps}\nstages = 3\nbackups = 0\nmicro_batches = 4\n'
        f'codec = "{codec}"\nseed = {seed}\n'
    )
    done = subprocess.run([wattle, "sim", "run", path, "--json"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{links}, {codec}, seed {seed}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout.splitlines()[0])


def sooner(found, dense, last):
    """How many times sooner than the dense run ended this one had, over its last steps, the dense run's loss."""
    losses = found["losses"]
    aim = last(dense["losses"])
    reached = (n for n in range(LAST, len(losses) + 1) if last(losses[:n]) <= aim * 1.01)
    steps = next(reached, None)
    if steps is None:
        return None
    return dense["step_seconds"] * len(dense["losses"]) / (found["step_seconds"] * steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wattle")
    parser.add_argument("--model", default="gpt2-nano")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--codecs", default=CODECS)
    parser.add_argument("--links", default="one-8,all-50,fast")
    arguments = parser.parse_args()
    last = lambda losses: statistics.fmean(losses[-LAST:])
    print("| links | codec | a step, s | loss | against dense, each seed | sooner | MB a step |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for links in arguments.links.split(","):
            base = None
            for codec in arguments.codecs.split(","):
                one = lambda seed: run(
                    arguments.wattle, folder, links, arguments.model, arguments.steps, codec, seed
                )
                found = [one(seed) for seed in range(1, arguments.seeds + 1)]
                base = base or found
                step = statistics.fmean(f["step_seconds"] for f in found)
                loss = statistics.fmean(last(f["losses"]) for f in found)
                pairs = list(zip(found, base))
                off = ", ".join(f"{100 * (last(f['losses']) / last(b['losses']) - 1):+.2f} %" for f, b in pairs)
                times = [sooner(f, b, last) for f, b in pairs]
                quick = f"{statistics.fmean(times):.2f}" if all(times) else "never" if not any(times) else "not each"
                size = statistics.fmean(sum(b[2] for b in f["bytes"]) / len(f["losses"]) for f in found) / 1e6
                print(f"| {links} | {codec} | {step:.3f} | {loss:.4f} | {off} | {quick} | {size:.2f} |", flush=True)


if __name__ == "__main__":
    main()
