#!/usr/bin/env python3
"""Wattle beside torch.distributed.pipelining over gloo: the same network, batch and number of processes on the same shaped links.

    beside_torch.py WATTLE [--python PYTHON] [--links 8,20 50,10 1000,1 unshaped] [--steps N]
        [--schedules gpipe,1f1b] [--codecs dense,int8,int5,adaptive]

Three peers in network namespaces of their own, all links alike (Mbit/s, milliseconds one way; shaped by `line.rs`, or
`unshaped`: as fast as the machine forwards), one thread each, both ahead of ordinary processes where `chrt` is there. gpt2-mini in three stages, eight micro-batches of eight samples, AdamW, no backups. torch runs GPipe and 1F1B on
two blocks a stage with a head of its own (Wattle ties it to the embedding). Printed are seconds a step (from the fourth step to the last,
over their number), bytes a step as the peers' interfaces count them (Wattle's of the same steps), and how many times as long torch takes. Needs root, Linux, iproute2,
rustc, and a PYTHON with torch. Outside the checks, since it measures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS, MICRO_BATCHES, SAMPLES = 3, 8, 8
WIDTH, HEADS, WINDOW, BLOCKS = 192, 6, 128, 6
WARM = 3


def worker(schedule_name, steps):
    """One process of torch's pipeline; the first prints seconds a step."""
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch import nn
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    torch.set_num_threads(1)
    torch.manual_seed(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.attend, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x):
            heads = self.attend(self.first(x)).view(-1, WINDOW, 3, HEADS, WIDTH // HEADS)
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.project(seen.transpose(1, 2).reshape(x.shape))
            return x + self.down(F.gelu(self.up(self.second(x)), approximate="tanh"))

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            if rank == 0:
                self.words, self.places = nn.Embedding(256, WIDTH), nn.Embedding(WINDOW, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS // PEERS))
            if rank == PEERS - 1:
                self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)

        def forward(self, x):
            if rank == 0:
                x = self.words(x) + self.places.weight
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x)) if rank == PEERS - 1 else x

    part = Part()
    stage = PipelineStage(part, rank, PEERS, torch.device("cpu"))
    schedule = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[schedule_name]
    loss = lambda out, target: F.cross_entropy(out.reshape(-1, 256), target.reshape(-1))
    pipeline = schedule(stage, MICRO_BATCHES, loss_fn=loss)
    optimizer = torch.optim.AdamW(part.parameters(), 1e-3)
    draw = torch.Generator().manual_seed(7)
    begun = None
    for step in range(steps):
        if step == WARM:
            dist.barrier()
            begun = time.time()
        tokens = torch.randint(256, (MICRO_BATCHES * SAMPLES, WINDOW + 1), generator=draw)
        optimizer.zero_grad()
        if rank == 0:
            pipeline.step(tokens[:, :-1].contiguous())
        elif rank == PEERS - 1:
            pipeline.step(target=tokens[:, 1:].contiguous(), losses=[])
        else:
            pipeline.step()
        optimizer.step()
    dist.barrier()
    if rank == 0:
        print(json.dumps({"seconds": (time.time() - begun) / (steps - WARM)}), flush=True)
    dist.destroy_process_group()


def torch_steps(swarm, python, schedule, steps):
    from placements import ahead as before_others

    running, ahead = [], before_others(2)
    for rank in range(PEERS):
        space = ["ip", "netns", "exec", swarm.space(rank), "env", f"RANK={rank}", f"WORLD_SIZE={PEERS}",
                 "MASTER_ADDR=10.99.0.1", "MASTER_PORT=29500", "GLOO_SOCKET_IFNAME=eth0", "OMP_NUM_THREADS=1"]
        words = [*space, *ahead, python, str(HERE / "beside_torch.py"), "--worker", schedule, "--steps", str(steps)]
        running.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        ended = [one.communicate(timeout=900) for one in running]
    finally:
        for one in running:
            one.kill()
    lines = [line for line in ended[0][0].splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(ended[0][1][-2000:])
    return json.loads(lines[-1])["seconds"]


def wattle_steps(swarm, codec, steps):
    path = swarm.folder / "job.toml"
    path.write_text(
        f'[model]\nname = "gpt2-mini"\nmicro_batch = {SAMPLES}\n[train]\nsteps = {steps}\n'
        f'micro_batches = {MICRO_BATCHES}\n[train.optimizer]\nkind = "adamw"\n'
        f'[swarm]\nstages = {PEERS}\nbackups = 0\ncodec = "{codec}"\n')
    words = swarm.inside(swarm.count, "train", path, "--json", "--no-mdns",
                         "--listen", f"10.99.0.{swarm.count + 1}:0", "--join", swarm.ticket)
    said = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # What is learnt is pulled after the last step, which is no part of any.
    found, counts = [], []
    for text in said.stdout:
        one = json.loads(text)
        if one["schema"] == "wattle.step.v1":
            found.append(one["seconds"])
            counts.append(sent(swarm))
    problems = said.stderr.read()
    if said.wait() != 0 or len(found) <= WARM:
        raise RuntimeError(problems[-2000:])
    found, counts = found[WARM:], counts[WARM - 1:]
    return sum(found) / len(found), (counts[-1] - counts[0]) / len(found)


def sent(swarm):
    """Bytes that the peers' interfaces have sent."""
    count = lambda place: subprocess.run(
        ["ip", "netns", "exec", swarm.space(place), "cat", "/sys/class/net/eth0/statistics/tx_bytes"],
        capture_output=True, text=True, check=True).stdout
    return sum(int(count(place)) for place in range(PEERS))


def compare(options):
    sys.path.insert(0, str(HERE))
    import placements

    class Even(placements.Swarm):
        """Peers with a core each, on links that are all alike."""

        def __init__(self, wattle, line, link, folder, shaped):
            self.wattle, self.folder, self.seed, self.count = wattle, folder, link[0], PEERS
            self.shaped = shaped
            self.shares = [1] * PEERS
            places = range(PEERS + 1)
            self.links = {(a, b): link for a in places for b in places if a != b}
            self.peers, self.line, self.tun, self.ids, self.ticket = [], None, None, [], None
            self.lay_out(line)

    print("| links | | seconds a step | MB a step | torch takes times as long |\n| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        line = folder / "line"
        placements.sh("rustc", "-O", "--edition", "2024", "-o", line, HERE / "line.rs")
        for link in options.links:
            shaped = link != "unshaped"
            # What the table of an unshaped line would say is not looked at.
            mbit, ms = (float(part) for part in link.split(",")) if shaped else (1000.0, 1.0)
            name = f"{mbit:g} Mbit/s, {ms:g} ms" if shaped else link
            swarm = Even(options.wattle, line, (mbit, ms), folder, shaped)
            try:
                torch = {}
                for schedule in filter(None, options.schedules.split(",")):
                    before = sent(swarm)
                    torch[schedule] = torch_steps(swarm, options.python, schedule, options.steps)
                    size = (sent(swarm) - before) / options.steps
                    print(f"| {name} | torch {schedule} | {torch[schedule]:.3f} | {size / 1e6:.2f} | |", flush=True)
                swarm.start()
                swarm.adverts()
                for codec in options.codecs.split(","):
                    seconds, size = wattle_steps(swarm, codec, options.steps)
                    ratio = f"{min(torch.values()) / seconds:.2f}" if torch else ""
                    print(f"| {name} | wattle {codec} | {seconds:.3f} | {size / 1e6:.2f} | {ratio} |", flush=True)
            except Exception as error:
                print(f"{name}: {error}", file=sys.stderr)
            finally:
                swarm.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wattle", nargs="?", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--links", nargs="+", default=["8,20", "50,10", "1000,1", "unshaped"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--schedules", default="gpipe,1f1b", help="of torch; none: an empty text")
    parser.add_argument("--codecs", default="dense,int8,int5,adaptive")
    parser.add_argument("--worker", choices=["gpipe", "1f1b"])
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.steps)
    elif not options.wattle or os.geteuid() != 0:
        parser.error("names the binary, as root")
    else:
        compare(options)


if __name__ == "__main__":
    main()
