#!/usr/bin/env python3
"""Compares OP-Fence with placements that look at no link, on every testbed: prints a table in Markdown.

usage: compare.py WATTLE [--replicas N] [--stages-per-peer N] [--models A,B] [--testbeds A,B] [--codecs dense,adatopk:100]

Predictions all: of the model that the estimator and the search share, no swarm runs.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
MODELS = {
    # Network: samples of a micro-batch, micro-batches of a step.
    "gpt2": (1, 64),
    "gpt2-medium": (1, 64),
    "gpt2-large": (1, 64),
    "gpt2-xl": (1, 64),
    "resnet101": (8, 64),
}
TESTBEDS = ["three-sites", "eight-megabit", "mixed", "homes", "equal"]


def job(folder, model, stages_per_peer):
    size, count = MODELS[model]
    path = folder / f"{model}.toml"
    path.write_text(
        f'[model]\nname = "{model}"\nmicro_batch = {size}\n[train]\nmicro_batches = {count}\n'
        + f'[train.optimizer]\nkind = "adamw"\n[swarm]\nbackups = 0\nstages_per_peer = {stages_per_peer}\n'
    )
    return path


def plan(wattle, path, testbed, codec, replicas):
    command = [wattle, "--json", "plan", str(path), "--testbed", str(HERE / f"{testbed}.toml")]
    command += ["--compare", "--replicas", str(replicas), "--codec", codec]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None, done.stderr.strip().splitlines()[-1]
    return json.loads(done.stdout.splitlines()[-1]), None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wattle")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--stages-per-peer", type=int, default=2)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--testbeds", default=",".join(TESTBEDS))
    parser.add_argument("--codecs", default="dense,adatopk:100")
    arguments = parser.parse_args()
    print("| testbed | network | codec | stages | peers | passes | step, s | best other | times as long | limited by |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for testbed in arguments.testbeds.split(","):
            for model in arguments.models.split(","):
                for codec in arguments.codecs.split(","):
                    path = job(pathlib.Path(folder), model, arguments.stages_per_peer)
                    found, why = plan(arguments.wattle, path, testbed, codec, arguments.replicas)
                    if found is None:
                        print(f"| {testbed} | {model} | {codec} | | | | | {why} | | |", flush=True)
                        continue
                    parts = [[stage["owner"], *stage["replicas"]] for stage in found["stages"]]
                    peers = len({peer for part in parts for peer in part})
                    step = found["predicted_step_seconds"]
                    passes = found["order"] + (", again" if found["recompute"] else "")
                    others = [o for o in found["others"] if o["step_seconds"] is not None]
                    best = min(others, key=lambda o: o["step_seconds"], default=None)
                    name = best["placement"] if best else "none fits"
                    ratio = f"{best['step_seconds'] / step:.2f}" if best else ""
                    print(
                        f"| {testbed} | {model} | {codec} | {len(found['stages'])} | {peers} | {passes} | {step:.3f} "
                        f"| {name} | {ratio} | {found['limited_by']} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
