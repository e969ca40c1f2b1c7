#!/usr/bin/env python3
"""Loss as peers measure it, beside the loss of the lines between them.

    loss.py WATTLE [--jobs N]

Swarms of `placements.py`, whose lines drop a part of all packets in each direction at random. Printed is, for
each link, what `wattle peers --json` says after the first probes and after each of a few jobs, beside what the
line drops. Its queue drops too where a window overshoots it. Needs what `placements.py` needs.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from placements import HERE, Swarm, sh


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wattle", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="jobs on each swarm")
    parser.add_argument("--seed", type=int, default=104, help="of the swarm")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        line = folder / "line"
        sh("rustc", "-O", "--edition", "2024", "-o", line, HERE / "line.rs")
        print("dropped  when        link   Mbit/s  measured loss")
        for loss in [0.0, 0.01, 0.03]:
            Swarm.loss_per_million = round(loss * 1e6)
            swarm = Swarm(options.wattle, line, options.seed, folder)
            try:
                swarm.start()
                show(swarm, loss, "probed")
                for number in range(options.jobs):
                    job = {"model": "gpt2-mini", "steps": 12, "micro_batches": 4, "stages": swarm.count,
                           "backups": 0, "gpipe": False, "seed": number + 1}
                    swarm.train(job)
                    show(swarm, loss, f"after job {number + 1}")
            except subprocess.TimeoutExpired as error:
                print(f"{100 * loss:.1f} %: {error}")
            finally:
                swarm.close()


def show(swarm, loss, when):
    for place, one in enumerate(swarm.adverts()):
        for link in one["links"]:
            if link["to"] in swarm.ids:
                to = swarm.ids.index(link["to"])
                print(f"{100 * loss:5.1f} %  {when:<11} {place}->{to}  {swarm.links[place, to][0]:7.1f}  "
                      f"{100 * link['loss']:.2f} %", flush=True)


if __name__ == "__main__":
    main()
