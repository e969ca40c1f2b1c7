#!/usr/bin/env python3
"""Peers behind NATs find each other: through relays first, then straight where the NATs let them.

    nat.py WATTLE [--repeats N] [--round-trip MS] [--logs FOLDER]

Lays out namespaces (`wnat-...`) with the kernel's NAT: two public peers that relay, a cone NAT, a cone NAT that gives another
port, and two symmetric NATs, one peer behind each. Checked, in order: everybody behind a NAT is reached through a relay; cone and cone
become direct by hole punching, cone and symmetric, and symmetric and symmetric stay relayed; `wattle peers` shows both; a small job
trains on the four; one relay is killed: direct paths stay, relayed ones go through the other relay, and a job trains again.
--repeats does the punching again with fresh peers and prints how long each took from the relayed path to the direct one; relays let
one machine open few circuits a minute, so that ten in a row is about the most. --round-trip delays what passes between sites, by
`line.rs` (needs rustc).
Waits end on events, with deadlines; nothing depends on how fast the machine is. Needs root, Linux, iproute2 and iptables; without them
it says so and ends well, unless WATTLE_REQUIRE_NAT is set.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import placements

# Deadline of a wait, in seconds: only a swarm that has failed reaches it.
LIMIT = 120
PORT = 4100
RELAYS = ["r1", "r2"]
SITES = {"a": "cone", "b": "shifted", "s": "symmetric", "t": "symmetric"}


def sh(*words, check=True):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done


def space(name):
    return f"wnat-{name}"


def inside(name, *words):
    return sh("ip", "netns", "exec", space(name), *words)


class Lab:
    """The namespaces; all is gone after `close`."""

    def __init__(self, folder, round_trip):
        self.line, self.tun = None, None
        self.close()
        try:
            self.lay_out()
            if round_trip:
                self.delay(folder, round_trip)
        except BaseException:
            self.close()
            raise

    def lay_out(self):
        self.add("core")
        inside("core", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
        for number, name in enumerate(RELAYS):
            self.add(name)
            self.wire(name, "eth0", f"203.0.113.{4 * number + 2}", f"203.0.113.{4 * number + 1}")
        # `line.rs` names ends by the last numbers of their addresses, so no two are alike.
        for number, (name, kind) in enumerate(SITES.items(), len(RELAYS)):
            self.site(name, kind, number)

    def delay(self, folder, round_trip):
        """Sends all that passes through the core over a line that holds it back."""
        line, table = folder / "line", folder / "links"
        sh("rustc", "-O", "--edition", "2024", "-o", line, placements.HERE / "line.rs")
        ends = [4 * number + 2 for number in range(len(RELAYS) + len(SITES))]
        # A gigabit a second, so that only time is held back.
        table.write_text("".join(f"{a} {b} 125000000 {round_trip * 500:.0f} 12500000 0\n"
                                 for a in ends for b in ends if a != b))
        self.tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self.tun, placements.TUNSETIFF, struct.pack("16sH22s", b"wnat-wan", placements.IFF_TUN_NO_PI, b""))
        sh("ip", "link", "set", "wnat-wan", "netns", space("core"))
        inside("core", "ip", "link", "set", "wnat-wan", "up", "txqueuelen", "10000")
        inside("core", "ip", "route", "add", "default", "dev", "wnat-wan", "table", "100")
        for name in [*RELAYS, *(f"{name}-gw" for name in SITES)]:
            inside("core", "ip", "rule", "add", "iif", f"to-{name}", "lookup", "100")
        self.line = subprocess.Popen([*placements.ahead(10), line, table], stdin=self.tun)

    def add(self, name):
        sh("ip", "netns", "add", space(name))
        sh("ip", "-n", space(name), "link", "set", "lo", "up")

    def wire(self, name, device, address, gateway, to="core"):
        """A cable from a namespace to its gateway, and the default route through it."""
        end = f"to-{name}"
        sh("ip", "-n", space(name), "link", "add", device, "type", "veth", "peer", "name", end, "netns", space(to))
        sh("ip", "-n", space(name), "addr", "add", f"{address}/30", "dev", device)
        sh("ip", "-n", space(to), "addr", "add", f"{gateway}/30", "dev", end)
        sh("ip", "-n", space(name), "link", "set", device, "up")
        sh("ip", "-n", space(to), "link", "set", end, "up")
        sh("ip", "-n", space(name), "route", "add", "default", "via", gateway)

    def site(self, name, kind, number):
        door, public = f"{name}-gw", f"198.51.100.{4 * number + 2}"
        self.add(door)
        self.add(name)
        self.wire(door, "wan", public, f"198.51.100.{4 * number + 1}")
        self.wire(name, "eth0", f"192.168.{number}.2", f"192.168.{number}.1", door)
        inside(door, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        out = ["iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "wan"]
        if kind == "shifted":
            inside(door, *out, "-p", "udp", "--sport", PORT, "-j", "SNAT", "--to-source", f"{public}:40000")
        inside(door, *out, "-j", "MASQUERADE", *(["--random-fully"] if kind == "symmetric" else []))
        # What nobody has asked for vanishes, as behind a router at home.
        inside(door, "iptables", "-A", "FORWARD", "-i", "wan", "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP")
        inside(door, "iptables", "-A", "INPUT", "-i", "wan", "!", "-p", "icmp", "-j", "DROP")

    def close(self):
        if self.line:
            self.line.kill()
            self.line.wait()
        if self.tun is not None:
            os.close(self.tun)
        self.line, self.tun = None, None
        for name in ["core", *RELAYS, *SITES, *(f"{name}-gw" for name in SITES)]:
            sh("ip", "netns", "del", space(name), check=False)


class Peer:
    """A `wattle up` and what it has said, each line with the moment it came."""

    def __init__(self, swarm, name, *words):
        self.name, self.lines, self.news = name, [], threading.Condition()
        log = (swarm.folder / f"{name}.log").open("a")
        words = swarm.command(name, "up", "--json", "--no-mdns", "--device", "cpu", "--listen", f"0.0.0.0:{PORT}",
                              "--until-stdin-closes", *words)
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        said = self.wait("says who it is", lambda lines: next((l for _, l in lines if l["schema"] == "wattle.up.v1"), None))
        self.id, self.ticket = said["peer"], said["ticket"]

    def read(self):
        for text in self.process.stdout:
            with self.news:
                self.lines.append((time.monotonic(), json.loads(text)))
                self.news.notify_all()
        with self.news:
            self.news.notify_all()

    def wait(self, what, find):
        end = time.monotonic() + LIMIT
        with self.news:
            while not (found := find(self.lines)):
                if self.process.poll() is not None:
                    raise RuntimeError(f"{self.name} has ended before it {what}")
                if not self.news.wait(end - time.monotonic()):
                    raise RuntimeError(f"{self.name} never {what}; its paths: {self.paths()}")
            return found

    def paths(self):
        """The last path to each peer, by its id."""
        return {l["peer"]: l for _, l in self.lines if l["schema"] == "wattle.path.v1"}

    def path(self, other, kind, via=None):
        def find(_):
            path = self.paths().get(other.id)
            return path and path["path"] == kind and (via is None or path["via"] == via.id) and path
        return self.wait(f"has a {kind} path to {other.name}{f' via {via.name}' if via else ''}", find)

    def place(self, relay):
        """Waits until this peer is reached through a relay."""
        def find(lines):
            tickets = [l["ticket"] for _, l in lines if l["schema"] == "wattle.ticket.v1"]
            return tickets and any("p2p-circuit" in part and relay.address in part for part in tickets[-1].split(","))
        self.wait(f"has a place on {relay.name}", find)

    def since(self, other):
        """Seconds from the first relayed path to another peer to the first direct one; None without the former."""
        at = {}
        for moment, line in self.lines:
            if line["schema"] == "wattle.path.v1" and line["peer"] == other.id:
                at.setdefault(line["path"], moment)
        return at["direct"] - at["relayed"] if {"direct", "relayed"} <= at.keys() and at["relayed"] <= at["direct"] else None

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()


class Swarm:
    def __init__(self, wattle, folder):
        self.wattle, self.folder, self.peers = wattle, folder, {}

    def command(self, name, *words):
        enter = ["ip", "netns", "exec", space(name), "env", "RAYON_NUM_THREADS=1", f"WATTLE_CACHE={self.folder}/cache"]
        return [*enter, self.wattle, *(str(w) for w in words)]

    def start(self, name, *words):
        self.peers[name] = peer = Peer(self, name, "--network", "nat-lab", *words)
        return peer

    def relays(self):
        first = None
        for number, name in enumerate(RELAYS):
            # No memory to take part in a job: what trains is behind NATs.
            words = ["--relay", "--memory", 0, *(["--join", first.ticket] if first else [])]
            relay = self.start(name, *words)
            relay.address = f"203.0.113.{4 * number + 2}"
            first = first or relay

    def run(self, name, *words):
        common = ["--json", "--no-mdns", "--network", "nat-lab", "--listen", "0.0.0.0:0"]
        done = subprocess.run(self.command(name, *words, *common), capture_output=True, text=True, timeout=2 * LIMIT)
        if done.returncode != 0:
            raise RuntimeError(f"wattle {words[0]} at {name}: {done.stderr[-2000:]}")
        return [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")]

    def train(self, relay, steps=4):
        """Trains a small job from the first cone site; returns its step lines and its owners."""
        job = self.folder / "job.toml"
        job.write_text(f'[model]\nname = "gpt2-nano"\n[train]\nsteps = {steps}\nseed = 3\nmicro_batches = 2\n'
                       "[swarm]\nstages = 4\nstages_per_peer = 1\nbackups = 0\n")
        lines = self.run("a", "train", job, "--join", relay.ticket)
        done = [line for line in lines if line["schema"] == "wattle.step.v1"]
        plans = [line for line in lines if line["schema"] == "wattle.adopted.v1"]
        owners = {stage["owner"] for stage in plans[-1]["stages"]}
        hidden = {self.peers[name].id for name in SITES}
        names = {peer.id: name for name, peer in self.peers.items()}
        print("owners by plan:", [[names.get(s["owner"]) for s in plan["stages"]] for plan in plans], flush=True)
        check(len(done) == steps and len(owners) == 4 and owners <= hidden,
              f"a job of {steps} steps trains on the four peers behind NATs "
              f"(median step {median(line['seconds'] for line in done):.3f} s)")

    def close(self):
        for peer in self.peers.values():
            if peer.process.poll() is None:
                peer.stop()


def check(holds, what):
    print(f"{'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        raise RuntimeError(what)


def meet(swarm):
    swarm.relays()
    r1, r2 = (swarm.peers[name] for name in RELAYS)
    for name in SITES:
        swarm.start(name, "--memory", 512, "--join", r1.ticket)
    a, b, s, t = (swarm.peers[name] for name in SITES)
    for peer in [a, b, s, t]:
        for relay in [r1, r2]:
            peer.place(relay)
    check(True, "each peer behind a NAT has a place on each relay")
    for one, other in [(a, b), (b, a)]:
        one.path(other, "direct")
    check(a.paths()[b.id]["transport"] == "quic", "cone and cone are direct, over QUIC")
    hard = [(s, t), (a, s), (b, t)]
    for one, other in hard:
        one.path(other, "relayed")
        other.path(one, "relayed")
    check(True, "cone and symmetric, symmetric and symmetric are relayed")
    return (a, b, s, t), hard


def look(swarm, relay, peers):
    a, b, s, t = peers
    def seen():
        lines = swarm.run("b", "peers", "--wait", 15, "--join", relay.ticket)
        return {line["peer"]: line for line in lines if line["schema"] == "wattle.peer.v1"}
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        found = seen()
        known = [found.get(peer.id, {}).get("path") for peer in [relay, a, s]]
        if known == ["direct", "direct", "relayed"] and all(found[p.id]["hardware"] for p in peers):
            via = {r.id for name, r in swarm.peers.items() if name in RELAYS}
            check(found[s.id]["via"] in via and found[a.id]["transport"] == "quic",
                  "`wattle peers` behind a cone NAT shows direct paths, and the relay of others")
            return
    raise RuntimeError(f"`wattle peers` shows {known}")


def lose_relay(swarm, peers, hard):
    a, b, s, t = peers
    r1, r2 = (swarm.peers[name] for name in RELAYS)
    before = len(a.lines)
    r1.kill()
    for one, other in hard:
        one.path(other, "relayed", r2)
        other.path(one, "relayed", r2)
    check(True, "relayed peers go on through the other relay")
    lost = [l for _, l in a.lines[before:] if l.get("peer") == b.id and l["schema"] != "wattle.path.v1"]
    changed = [l for _, l in a.lines[before:] if l["schema"] == "wattle.path.v1" and l["peer"] == b.id and l["path"] != "direct"]
    check(not changed and not lost, f"the direct pair has noticed nothing {lost + changed or ''}")


def repeat(swarm, times):
    r1 = swarm.peers["r1"]
    took, tries, failed = [], 0, False
    for _ in range(times):
        for name in ["a", "b"]:
            swarm.peers[name].stop()
        a, b = (swarm.start(name, "--memory", 512, "--join", r1.ticket) for name in ["a", "b"])
        tries += 1
        try:
            a.path(b, "direct")
            b.path(a, "direct")
        except RuntimeError as error:
            print(f"a punch failed: {error}", flush=True)
            failed = True
            continue
        took += [seconds for seconds in [a.since(b), b.since(a)] if seconds is not None]
    if took:
        print(f"punched: {tries} tries, {len(took)} views of the change, from the relayed path to the direct one: "
              f"least {min(took) * 1e3:.0f} ms, median {median(took) * 1e3:.0f} ms, most {max(took) * 1e3:.0f} ms", flush=True)
    if failed:
        raise RuntimeError("not every pair became direct")


def run(options):
    lab, swarm, good = None, None, False
    with tempfile.TemporaryDirectory() as folder:
        try:
            lab = Lab(Path(folder), options.round_trip)
            swarm = Swarm(options.wattle, Path(folder))
            peers, hard = meet(swarm)
            if options.repeats:
                repeat(swarm, options.repeats)
            else:
                look(swarm, swarm.peers["r1"], peers)
                swarm.train(swarm.peers["r1"])
                lose_relay(swarm, peers, hard)
                swarm.train(swarm.peers["r2"])
            good = True
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"FAILED: {error}", file=sys.stderr)
        finally:
            if swarm:
                swarm.close()
            if lab:
                lab.close()
            if not good and options.logs:
                shutil.copytree(folder, options.logs, dirs_exist_ok=True)
                for name, peer in (swarm.peers if swarm else {}).items():
                    text = "\n".join(f"{moment:.3f} {json.dumps(line)}" for moment, line in peer.lines)
                    (options.logs / f"{name}.jsonl").write_text(text)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wattle", type=Path)
    parser.add_argument("--repeats", type=int, default=0, help="only punch, so many times, and print how long it took")
    parser.add_argument("--round-trip", type=float, default=0, help="milliseconds between any two sites")
    parser.add_argument("--logs", type=Path, help="where the logs of a failed run go")
    options = parser.parse_args()
    options.wattle = options.wattle.resolve()
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("iptables"):
        print("SKIPPED: the NAT lab needs root, iproute2 and iptables")
        sys.exit(1 if os.environ.get("WATTLE_REQUIRE_NAT") else 0)
    # Whoever ends it, namespaces and peers go with it.
    def end(*_):
        # A second one would interrupt the clearing up.
        for name in [signal.SIGTERM, signal.SIGINT]:
            signal.signal(name, signal.SIG_IGN)
        sys.exit(1)
    for name in [signal.SIGTERM, signal.SIGINT]:
        signal.signal(name, end)
    # The namespaces have fixed names: one lab at a time on a machine.
    with open(Path(tempfile.gettempdir()) / "wattle-nat-lab.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        good = run(options)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
