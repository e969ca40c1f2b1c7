#!/usr/bin/env python3
"""How fast lines must be for 50 homes with an RTX 3080 each to train as fast as four H100 in one machine: prints a table in Markdown.

usage: parity.py WATTLE [--models A,B] [--codecs dense,bf16,adatopk:100] [--replicas N] [--mbit A,B,...]

FusionAI's headline, from a performance analysis of its own, whose models and bandwidths are not public to us. Here: the step
that the planner predicts for each, with the same network and batch; homes differ from homes.toml in the rate of their lines,
as fast up as down. *Parity* is the least rate tried at which homes take at most 1/0.95 of the H100s' step. Predictions all.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
RATES = [10, 40, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000]
# Micro-batches of a step, a sample each: as many as a job may have, so that filling the pipeline counts least.
MICRO_BATCHES = 256
PARITY = 0.95


def homes(mbit):
    text = (HERE / "homes.toml").read_text()
    text = text.replace("up_mbit = 40", f"up_mbit = {mbit}").replace("down_mbit = 250", f"down_mbit = {mbit}")
    return text.replace("mbit = 1000,", f"mbit = {mbit},").replace("mbit = 1000\n", f"mbit = {mbit}\n")


def plan(wattle, job, testbed, codec, replicas):
    command = [wattle, "--json", "plan", job, "--testbed", testbed, "--replicas", str(replicas), "--codec", codec]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    return json.loads(done.stdout.splitlines()[-1])


def peers(found):
    return len({peer for stage in found["stages"] for peer in [stage["owner"], *stage["replicas"]]})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wattle")
    parser.add_argument("--models", default="gpt2,gpt2-xl")
    parser.add_argument("--codecs", default="dense,bf16,adatopk:100")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--mbit", default=",".join(map(str, RATES)))
    arguments = parser.parse_args()
    print("| network | codec | lines, Mbit/s | homes: stages, peers | step, s | H100: stages, peers | step, s | homes reach |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for model in arguments.models.split(","):
            job = folder / "job.toml"
            job.write_text(
                f'[model]\nname = "{model}"\nmicro_batch = 1\n[train]\nmicro_batches = {MICRO_BATCHES}\n[swarm]\nbackups = 0\n'
            )
            best = plan(arguments.wattle, job, HERE / "four-h100.toml", "dense", arguments.replicas)
            for codec in arguments.codecs.split(","):
                parity = None
                for mbit in map(int, arguments.mbit.split(",")):
                    testbed = folder / "homes.toml"
                    testbed.write_text(homes(mbit))
                    found = plan(arguments.wattle, job, testbed, codec, arguments.replicas)
                    if found is None:
                        print(f"| {model} | {codec} | {mbit} | none fits | | | | |", flush=True)
                        continue
                    own, theirs = found["predicted_step_seconds"], best["predicted_step_seconds"]
                    if parity is None and theirs / own >= PARITY:
                        parity = mbit
                    print(
                        f"| {model} | {codec} | {mbit} | {len(found['stages'])}, {peers(found)} | {own:.2f} "
                        f"| {len(best['stages'])}, {peers(best)} | {theirs:.2f} | {theirs / own:.2f} |",
                        flush=True,
                    )
                where = f"{parity} Mbit/s" if parity else "no rate tried"
                print(f"| {model} | {codec} | **parity: {where}** | | | | | |", flush=True)


if __name__ == "__main__":
    main()
