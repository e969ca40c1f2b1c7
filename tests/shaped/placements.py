#!/usr/bin/env python3
"""Predicted step times beside measured ones, on real processes over shaped links.

    placements.py WATTLE [--swarms N] [--first SEED] [--jobs N] [--steps N] [--lock FILE] [--out FILE] [--seconds N]
    placements.py --table FILE...

Each swarm is drawn from its seed: 2 to 5 peers, each a `wattle up` in a network namespace of its own with an emulated
share of one core, and a link in each direction of each pair: 8 Mbit/s to 1 Gbit/s, 1 to 40 ms one way, a third of the
pairs different both ways. A submitter in a further namespace trains small jobs on it. Printed are: the step time that the
plan predicted, the one that was measured (mean from the third step on; the table at the end has
medians too), and what `wattle sim` makes of the same adverts
and links. --lock names a file that is locked while a swarm runs, for machines that others use too.

Shares add up to one core at most and each peer computes with one thread, so that two cores are enough for arithmetic and
messages; where `chrt` is there, all of it runs ahead of ordinary processes, so that others do not reach the figures. Rates, delays and queues (100 ms deep, at least 64 KiB; what comes beyond is dropped) are those of `line.rs`: many kernels
have no `sch_netem`. Needs root, Linux, iproute2 and rustc. Takes minutes; not a test, since it measures.
"""

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from statistics import fmean as mean, median
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = ["gpt2-nano", "gpt2-mini", "resnet-tiny"]
NEAR = 0.15
PORT = 4100
QUEUE_SECONDS = 0.1
TUNSETIFF, IFF_TUN_NO_PI = 0x400454CA, 0x1001


def sh(*words, check=True):
    return subprocess.run([str(w) for w in words], check=check, capture_output=True, text=True)


def ahead(priority):
    """A command that runs another ahead of all ordinary processes, where there is one."""
    return ["chrt", "-f", str(priority)] if shutil.which("chrt") else []


class Swarm:
    """Namespaces, their links and the peers in them; all is gone after `close`."""

    loss_per_million = 0
    # Without the line, packets go straight from space to space.
    shaped = True

    def __init__(self, wattle, line, seed, folder):
        draw = random.Random(seed)
        self.wattle, self.folder, self.seed = wattle, folder, seed
        self.count = draw.randint(2, 5)
        weights = [draw.uniform(0.4, 1.0) for _ in range(self.count)]
        most = draw.uniform(0.5, 1.0)
        self.shares = [round(most * w / sum(weights), 3) for w in weights]
        log = lambda low, high: low * (high / low) ** draw.random()
        self.links = {}
        # The submitter, the last one, is well connected: it only watches.
        for a in range(self.count + 1):
            for b in range(a):
                there = back = (1000.0, 1.0)
                if a < self.count:
                    there = back = (log(8, 1000), log(1, 40))
                    if draw.random() < 1 / 3:
                        back = (log(8, 1000), there[1])
                self.links[a, b], self.links[b, a] = there, back
        self.jobs = random.Random(seed + 1_000_000)
        self.peers, self.line, self.tun = [], None, None
        self.ids, self.ticket = [], None
        try:
            self.lay_out(line)
        except BaseException:
            self.close()
            raise

    def space(self, place):
        return f"wattle-{place}"

    def lay_out(self, line):
        self.close()
        core = self.space("core")
        sh("ip", "netns", "add", core)
        inside = lambda *words: sh("ip", "netns", "exec", core, *words)
        inside("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0",
               "net.ipv4.conf.default.rp_filter=0")
        self.tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH22s", b"wattle-wan", IFF_TUN_NO_PI, b""))
        sh("ip", "link", "set", "wattle-wan", "netns", core)
        inside("ip", "link", "set", "wattle-wan", "up", "txqueuelen", "10000")
        inside("ip", "route", "add", "default", "dev", "wattle-wan", "table", "100")
        for place in range(self.count + 1):
            space, end = self.space(place), f"h{place}"
            sh("ip", "netns", "add", space)
            sh("ip", "-n", space, "link", "set", "lo", "up")
            sh("ip", "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", end, "netns", core)
            sh("ip", "-n", space, "addr", "add", f"10.99.0.{place + 1}/32", "dev", "eth0")
            sh("ip", "-n", space, "link", "set", "eth0", "up")
            sh("ip", "-n", space, "route", "add", "10.99.0.254", "dev", "eth0", "scope", "link")
            sh("ip", "-n", space, "route", "add", "default", "via", "10.99.0.254")
            sh("ip", "-n", core, "addr", "add", "10.99.0.254/32", "dev", end)
            sh("ip", "-n", core, "link", "set", end, "up")
            sh("ip", "-n", core, "route", "add", f"10.99.0.{place + 1}", "dev", end)
            if self.shaped:
                sh("ip", "-n", core, "rule", "add", "iif", end, "lookup", "100")
        table = self.folder / "links"
        with table.open("w") as out:
            for (a, b), (mbit, ms) in self.links.items():
                rate = mbit * 125_000
                queue = max(65_536, rate * QUEUE_SECONDS)
                out.write(f"{a + 1} {b + 1} {rate:.0f} {ms * 1000:.0f} {queue:.0f} {self.loss_per_million}\n")
        self.line = subprocess.Popen([*ahead(10), line, table], stdin=self.tun)

    def inside(self, place, *words):
        space = ["ip", "netns", "exec", self.space(place), "env", "RAYON_NUM_THREADS=1",
                 f"WATTLE_CACHE={self.folder}/cache-{self.seed}"]
        return [*space, *ahead(2), self.wattle, *[str(w) for w in words]]

    def start(self):
        for place, share in enumerate(self.shares):
            words = ["up", "--json", "--no-mdns", "--device", "cpu", "--share", share, "--memory", 1024,
                     "--listen", f"10.99.0.{place + 1}:{PORT}", "--until-stdin-closes"]
            if self.ticket:
                words += ["--join", self.ticket]
            log = (self.folder / f"peer-{place}.log").open("w")
            peer = subprocess.Popen(self.inside(place, *words), stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, stderr=log, text=True)
            self.peers.append(peer)
            said = json.loads(peer.stdout.readline())
            self.ids.append(said["peer"])
            self.ticket = self.ticket or said["ticket"]
            # Whoever writes must be read.
            sink = (self.folder / f"peer-{place}.jsonl").open("w")
            subprocess.Popen(["cat"], stdin=peer.stdout, stdout=sink)
            # One after another: all links filled at once are more than the line that shapes them carries.
            if place > 0:
                self.adverts(3)

    def adverts(self, wait=10):
        """Waits until every peer is measured and says what its links to all others do."""
        end = time.time() + 60
        while time.time() < end:
            words = self.inside(self.count, "peers", "--json", "--no-mdns", "--wait", wait,
                                "--listen", f"10.99.0.{self.count + 1}:0", "--join", self.ticket)
            said = subprocess.run(words, capture_output=True, text=True)
            found = {}
            for text in said.stdout.splitlines():
                one = json.loads(text)
                if one.get("schema") == "wattle.peer.v1":
                    found[one["peer"]] = one
            lists = [found.get(peer) for peer in self.ids]
            def whole(one, peer):
                known = {link["to"] for link in one["links"]}
                return one["hardware"] and all(p in known for p in self.ids if p != peer)
            if all(one and whole(one, peer) for one, peer in zip(lists, self.ids)):
                return lists
        raise RuntimeError("the peers were not measured in time")

    def job(self, steps):
        draw = self.jobs
        stages = draw.randint(2, self.count)
        backups = draw.randint(0, 1)
        return {"model": draw.choice(MODELS), "steps": steps, "micro_batches": draw.choice([2, 4, 8]),
                "stages": stages, "backups": backups, "gpipe": draw.random() < 1 / 3,
                "seed": draw.randrange(1, 1 << 30)}

    def train(self, job):
        order = "gpipe" if job["gpipe"] else "1f1b"
        path = self.folder / "job.toml"
        path.write_text(
            f"[model]\nname = \"{job['model']}\"\n[train]\nsteps = {job['steps']}\nseed = {job['seed']}\n"
            f"micro_batches = {job['micro_batches']}\n[swarm]\nstages = {job['stages']}\n"
            f"backups = {job['backups']}\norder = \"{order}\"\n")
        words = self.inside(self.count, "train", path, "--json", "--no-mdns",
                            "--listen", f"10.99.0.{self.count + 1}:0", "--join", self.ticket)
        said = subprocess.run(words, capture_output=True, text=True, timeout=170)
        lines = [json.loads(text) for text in said.stdout.splitlines() if text.startswith("{")]
        if said.returncode != 0:
            sys.stderr.write(said.stderr)
        return lines

    def simulate(self, job, adverts):
        def toml(value):
            if not isinstance(value, dict):
                return json.dumps(value)
            return "{ " + ", ".join(f"{name} = {toml(one)}" for name, one in value.items()) + " }"

        text = "limit_seconds = 100000\n"
        for one in adverts:
            # A number that TOML can write; all that counts is that it is the same.
            hardware = {**one["hardware"], "host": 1}
            text += f"[[peers]]\nmeasured = {toml(hardware)}\n"
        text += "[link]\nmbit = 1000.0\nlatency_ms = 1.0\n"
        for place, one in enumerate(adverts):
            for link in one["links"]:
                if link["to"] in self.ids:
                    text += (f"[[links]]\nfrom = {place}\nto = {self.ids.index(link['to'])}\n"
                             f"mbit = {link['bytes_per_second'] / 125_000}\n"
                             f"latency_ms = {link['round_trip_seconds'] * 500}\n")
        text += (f"[job]\nmodel = \"{job['model']}\"\nsteps = {job['steps']}\n"
                 f"micro_batches = {job['micro_batches']}\nstages = {job['stages']}\n"
                 f"backups = {job['backups']}\norder = \"{'gpipe' if job['gpipe'] else '1f1b'}\"\nstages_per_peer = 2\n")
        path = self.folder / "scenario.toml"
        path.write_text(text)
        said = subprocess.run([self.wattle, "sim", "run", path, "--json"], capture_output=True, text=True)
        if said.returncode != 0:
            sys.stderr.write(said.stderr)
        return json.loads(said.stdout.splitlines()[0])

    def close(self):
        for peer in self.peers:
            peer.stdin.close()
        for peer in self.peers:
            try:
                peer.wait(5)
            except subprocess.TimeoutExpired:
                peer.kill()
        self.peers = []
        if self.line:
            self.line.kill()
            self.line.wait()
            self.line = None
        if self.tun is not None:
            os.close(self.tun)
            self.tun = None
        for place in [*range(6), "core"]:
            sh("ip", "netns", "del", self.space(place), check=False)




def run(options):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        line = folder / "line"
        sh("rustc", "-O", "--edition", "2024", "-o", line, HERE / "line.rs")
        rows = []
        for seed in range(options.first, options.first + options.swarms):
            lock = open(options.lock, "w") if options.lock else None
            if lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
            begun = time.time()
            swarm = None
            try:
                swarm = Swarm(options.wattle, line, seed, folder)
                swarm.start()
                for number in range(options.jobs):
                    if time.time() - begun > options.seconds:
                        break
                    job = swarm.job(options.steps)
                    # Jobs teach peers of their links, so each prediction has adverts of its own.
                    adverts = swarm.adverts()
                    row = measure(swarm, job, adverts)
                    row.update(seed=seed, number=number, adverts=adverts)
                    row["links"] = [[*ends, *link] for ends, link in swarm.links.items()]
                    rows.append(row)
                    show(row)
                    if options.out:
                        with open(options.out, "a") as out:
                            out.write(json.dumps(row) + "\n")
            except Exception as error:
                print(f"seed {seed}: {error}", file=sys.stderr)
            finally:
                if swarm:
                    swarm.close()
                if lock:
                    lock.close()
        table(rows)


def measure(swarm, job, adverts):
    lines = swarm.train(job)
    adopted = [one for one in lines if one["schema"] == "wattle.adopted.v1"]
    steps = [one for one in lines if one["schema"] == "wattle.step.v1"]
    row = {"job": job, "ids": swarm.ids, "shares": swarm.shares}
    if len(adopted) == 1 and len(steps) == job["steps"]:
        row["predicted"] = adopted[0]["predicted_step_seconds"]
        row["measured"] = mean([one["seconds"] for one in steps[2:]])
        row["adopted"] = adopted[0]
        row["owners"] = [swarm.ids.index(one["owner"]) for one in adopted[0]["stages"]]
        row["leader"] = swarm.ids.index(adopted[0]["leader"])
        row["backups"] = [[swarm.ids.index(b) for b in one["backups"]] for one in adopted[0]["stages"]]
        row["steps"] = steps
    simulated = swarm.simulate(job, adverts)
    row["simulated"] = simulated["step_seconds"]
    row["simulated_prediction"] = simulated["predicted_step_seconds"]
    return row


def show(row):
    job = row["job"]
    name = (f"seed {row['seed']}.{row['number']}: {len(row['ids'])} peers, {job['model']}, {job['stages']} stages, "
            f"{job['micro_batches']} micro-batches, {'GPipe' if job['gpipe'] else '1F1B'}, {job['backups']} backups")
    if "measured" not in row:
        print(f"{name}: did not run in one plan")
        return
    error = lambda figure: f"{100 * (row[figure] / row['measured'] - 1):+.1f} %"
    print(f"{name}: measured {row['measured']:.4f} s, predicted {row['predicted']:.4f} s ({error('predicted')}), "
          f"simulated {row['simulated']:.4f} s ({error('simulated')})", flush=True)


def table(rows):
    ran = [row for row in rows if "measured" in row]
    print(f"{len(ran)} placements, {len(rows) - len(ran)} that did not run in one plan")
    for figure, of in [(f, of) for f in ["predicted", "simulated"] for of in [median, mean]]:
        step = lambda row: of([one["seconds"] for one in row["steps"][2:]])
        errors = sorted(row[figure] / step(row) - 1 for row in ran)
        if not errors:
            continue
        near = sum(abs(error) <= NEAR for error in errors)
        at = lambda permille: f"{100 * errors[(len(errors) - 1) * permille // 1000]:+.1f}"
        print(f"{figure} against the {'median' if of is median else 'mean'} step: within 15 %: {near} of {len(errors)}; percent: least, 5th "
              f"percentile, median, 95th, most: {' '.join(at(p) for p in [0, 50, 500, 950, 1000])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wattle", nargs="?", type=Path)
    parser.add_argument("--swarms", type=int, default=8)
    parser.add_argument("--first", type=int, default=1, help="seed of the first swarm")
    parser.add_argument("--jobs", type=int, default=5, help="jobs on each swarm")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=110, help="no further job on a swarm after this")
    parser.add_argument("--lock", help="a file to lock while a swarm runs")
    parser.add_argument("--out", help="lines of JSON are added here")
    parser.add_argument("--table", nargs="+", help="print the table of such files instead")
    options = parser.parse_args()
    if options.table:
        rows = [json.loads(text) for path in options.table for text in open(path)]
        for row in rows:
            show(row)
        return table(rows)
    options.wattle = options.wattle.resolve()
    # Whoever ends it, namespaces and peers go with it.
    for name in [signal.SIGTERM, signal.SIGINT]:
        signal.signal(name, lambda *_: sys.exit(1))
    run(options)


if __name__ == "__main__":
    main()
