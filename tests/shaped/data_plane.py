#!/usr/bin/env python3
"""What the data plane carries beside iperf3 (TCP), and how long control messages take meanwhile, on shaped links.

    data_plane.py WATTLE [--links 8,40 100,40 1000,10] [--loss 0 1] [--seconds N]

A link is Mbit/s and milliseconds of round trip, alike both ways, between two namespaces (shaped by `line.rs`: queues of
100 ms, at least 64 KiB); --loss is per cent of packets, at random. On each, one after another: iperf3 with one stream, for as long as
`wattle link` then keeps the link full towards a `wattle up`. `loopback` as a link is no link at all: both ends in one namespace.
Printed: Mbit/s of both, the ratio, how long control messages take on the quiet link (median) and on the full one (p99), packets lost,
and processor seconds for each gigabyte at both ends. Needs root, Linux, iproute2, iperf3 and rustc. Not a test, since it measures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import placements

HERE = Path(__file__).resolve().parent
IPERF_PORT = 5201
TICKS = os.sysconf("SC_CLK_TCK")


class Pair(placements.Swarm):
    """Two namespaces and the link between them."""

    def __init__(self, wattle, line, link, loss, folder):
        self.wattle, self.folder, self.seed, self.count, self.shares = wattle, folder, 0, 1, [1]
        self.loss_per_million = round(loss * 1e4)
        mbit, round_trip = link
        self.links = {(0, 1): (mbit, round_trip / 2), (1, 0): (mbit, round_trip / 2)}
        self.peers, self.line, self.tun, self.ids, self.ticket = [], None, None, [], None
        self.lay_out(line)


def iperf(enter, address, seconds):
    """Mbit/s that TCP reaches, in the receiver's eyes."""
    server = subprocess.Popen([*enter(0), "iperf3", "-s", "-1", "--forceflush", "-p", str(IPERF_PORT)],
                              stdout=subprocess.PIPE, text=True)
    try:
        while "listening" not in (said := server.stdout.readline()):
            if not said:
                raise RuntimeError("iperf3 does not listen")
        words = [*enter(1), "iperf3", "-c", address, "-p", str(IPERF_PORT), "-t", str(seconds), "-O", "2", "-J"]
        said = json.loads(subprocess.run(words, capture_output=True, text=True).stdout)
        return said["end"]["sum_received"]["bits_per_second"] / 1e6
    finally:
        server.kill()
        server.wait()


def processor(process):
    """Processor seconds of a process; what starts it in a namespace becomes it."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def link(inside, peer, ticket, seconds):
    """What `wattle link` says, and the far end's processor seconds."""
    words = inside("link", ticket, "--seconds", seconds, "--json", "--no-mdns")
    before = processor(peer)
    said = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if said.returncode != 0:
        raise RuntimeError(said.stderr[-2000:])
    return json.loads(said.stdout), processor(peer) - before


def row(name, loss, tcp, seen, far):
    mbit = seen["bytes_per_second"] / 125_000
    giga = seen["bytes"] / 1e9
    ms = lambda seconds: f"{seconds * 1e3:.1f}"
    lost = 100 * (seen["packets_lost"] or 0) / max(seen["packets_sent"] or 1, 1)
    print(f"| {name} | {loss:g} % | {tcp:.1f} | {mbit:.1f} | {mbit / tcp:.2f} | {ms(seen['quiet_seconds']['median'])} "
          f"| {ms(seen['full_seconds']['p99'])} | {lost:.2f} % | {seen['processor_seconds_per_gigabyte']:.1f} + {far / giga:.1f} |", flush=True)


def measured(inside, ticket):
    """Waits until the peer has measured itself."""
    for _ in range(10):
        words = inside("peers", "--json", "--no-mdns", "--join", ticket)
        said = subprocess.run([str(w) for w in words], capture_output=True, text=True).stdout
        if any(json.loads(line).get("hardware") for line in said.splitlines()):
            return
    raise RuntimeError("the peer was not measured in time")


def plain(program, tcp, seconds):
    """Plain quinn on loopback, tuned as ours: a row of the table."""
    server = subprocess.Popen([program, "serve"], stdout=subprocess.PIPE, text=True)
    try:
        words = [program, "send", server.stdout.readline().strip(), str(seconds)]
        before = processor(server)
        seen = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        far = (processor(server) - before) / seen["bytes"] * 1e9
    finally:
        server.kill()
        server.wait()
    mbit = seen["bytes_per_second"] / 125_000
    print(f"| loopback, plain quinn | 0 % | {tcp:.1f} | {mbit:.1f} | {mbit / tcp:.2f} | | | "
          f"| {seen['processor_seconds_per_gigabyte']:.1f} + {far:.1f} |", flush=True)


def loopback(options):
    enter = lambda _: []
    tcp = iperf(enter, "127.0.0.1", options.seconds)
    if options.plain:
        plain(options.plain, tcp, options.seconds)
    peer = subprocess.Popen([options.wattle, "up", "--json", "--no-mdns", "--device", "cpu", "--memory", "1024",
                             "--listen", "127.0.0.1:0", "--until-stdin-closes"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        ticket = json.loads(peer.stdout.readline())["ticket"]
        inside = lambda *words: [options.wattle, *words, "--listen", "127.0.0.1:0"]
        measured(inside, ticket)
        row("loopback", 0, tcp, *link(inside, peer, ticket, options.seconds))
    finally:
        peer.stdin.close()
        peer.wait()


def shaped(options, line, text, loss, folder):
    mbit, round_trip = (float(part) for part in text.split(","))
    pair = Pair(options.wattle, line, (mbit, round_trip), loss, folder)
    try:
        enter = lambda place: ["ip", "netns", "exec", pair.space(place)]
        tcp = iperf(enter, "10.99.0.1", options.seconds)
        pair.start()
        pair.adverts()
        inside = lambda *words: pair.inside(1, *words, "--listen", "10.99.0.2:0")
        row(f"{mbit:g} Mbit/s, {round_trip:g} ms", loss, tcp, *link(inside, pair.peers[0], pair.ticket, options.seconds))
    finally:
        pair.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wattle", type=Path)
    parser.add_argument("--links", nargs="+", default=["8,40", "100,40", "1000,10", "loopback"])
    parser.add_argument("--loss", nargs="+", type=float, default=[0, 1])
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--plain", type=Path, help="the example plain_quinn, for a row of its own on loopback")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root, for namespaces")
    print("| link, round trip | loss | iperf3 | wattle | ratio | answer, quiet (ms) | full, p99 (ms) | lost | s/GB |\n"
          "| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        line = folder / "line"
        placements.sh("rustc", "-O", "--edition", "2024", "-o", line, HERE / "line.rs")
        for text in options.links:
            for loss in [0] if text == "loopback" else options.loss:
                try:
                    if text == "loopback":
                        loopback(options)
                    else:
                        shaped(options, line, text, loss, folder)
                except Exception as error:
                    print(f"{text}, {loss:g} %: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
