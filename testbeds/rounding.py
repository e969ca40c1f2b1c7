#!/usr/bin/env python3
"""How many bits activations and cotangents bear, and whether residuals help: a small GPT in PyTorch, cut twice, whose cuts
round or select what crosses them. Prints a table in Markdown.

usage: rounding.py [--steps 1000] [--seed 0] [--cases NAME;NAME]

The network and the data are gpt2-nano's, the optimizer is AdamW with its schedule from examples/gpt2-nano.toml, four
micro-batches of eight samples. For choosing what to build; what Wattle itself learns, `learning.py` says. Needs torch.
"""

import argparse
import math
import pathlib
import zlib

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, LAYERS, HEADS, WINDOW, BATCH, MICRO_BATCHES = 64, 4, 4, 64, 8, 4
TEXT = pathlib.Path(__file__).parent.parent / "models" / "data" / "kjv.txt.zlib"
LAST = 20


def dense(x):
    return x


def top(ratio):
    def select(x):
        flat = x.reshape(-1)
        places = flat.abs().topk(max(1, flat.numel() // ratio)).indices
        return torch.zeros_like(flat).scatter(0, places, flat[places]).view_as(x)

    return select


def top_of_rows(ratio):
    def select(x):
        places = x.abs().topk(max(1, x.shape[-1] // ratio), -1).indices
        return torch.zeros_like(x).scatter(-1, places, x.gather(-1, places))

    return select


def bits(count, block):
    def rounded(x):
        blocks, most = x.reshape(-1, block), (1 << (count - 1)) - 1
        scale = (blocks.abs().amax(1, keepdim=True) / most).clamp_min(1e-30)
        return ((blocks / scale).round() * scale).view_as(x)

    return rounded


# What becomes of activations and of cotangents, and which of them keep residuals.
CASES = {
    "dense": (dense, dense, ""),
    "8 bits": (bits(8, 64), bits(8, 64), ""),
    "5 bits": (bits(5, 32), bits(5, 32), ""),
    "4 bits": (bits(4, 32), bits(4, 32), ""),
    "4 bits, cotangents 8": (bits(4, 32), bits(8, 64), ""),
    "8 bits, cotangents 4": (bits(8, 64), bits(4, 32), ""),
    "4 bits, cotangents with residuals": (bits(4, 32), bits(4, 32), "back"),
    "one in 4": (top(4), top(4), ""),
    "one in 10": (top(10), top(10), ""),
    "one in 10, cotangents with residuals": (top(10), top(10), "back"),
    "one in 10, both with residuals": (top(10), top(10), "there, back"),
    "one in 10 of each token's": (top_of_rows(10), top_of_rows(10), ""),
    "8 bits, cotangents one in 10": (bits(8, 64), top(10), ""),
    "one in 10, cotangents 8 bits": (top(10), bits(8, 64), ""),
}


class Edge:
    """A cut: a residual for each micro-batch and direction, where there are any."""

    def __init__(self, there, back, residuals):
        self.code = {"there": there, "back": back}
        self.residuals, self.left = residuals, {}

    def send(self, way, micro_batch, tensor):
        key = (way, micro_batch)
        if way in self.residuals and key in self.left:
            tensor = tensor + self.left[key]
        sent = self.code[way](tensor)
        self.left[key] = tensor - sent
        return sent

    def cross(self, x, micro_batch):
        edge = self

        class Crossing(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return edge.send("there", micro_batch, x.detach())

            @staticmethod
            def backward(ctx, cotangent):
                return edge.send("back", micro_batch, cotangent)

        return Crossing.apply(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        heads = self.attend(self.first(x)).view(len(x), WINDOW, 3, HEADS, WIDTH // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(seen.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.second(x)), approximate="tanh"))


class Network(nn.Module):
    def __init__(self, edges):
        super().__init__()
        self.words, self.places = nn.Embedding(256, WIDTH), nn.Embedding(WINDOW, WIDTH)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH)
        self.edges = edges
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, 0.02)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)

    def forward(self, x, micro_batch):
        x = self.words(x) + self.places.weight
        for place, block in enumerate(self.blocks):
            x = block(x)
            if place in self.edges:
                x = self.edges[place].cross(x, micro_batch)
        return F.linear(self.norm(x), self.words.weight)


def rate(step, steps):
    if step < 25:
        return 3e-3 * (step + 1) / 25
    return 3e-4 + 2.7e-3 * 0.5 * (1 + math.cos(math.pi * (step - 25) / (steps - 25)))


def train(case, data, steps, seed):
    torch.manual_seed(seed)
    network = Network({0: Edge(*case), 2: Edge(*case)})
    optimizer = torch.optim.AdamW(network.parameters(), 1.0, betas=(0.9, 0.95), weight_decay=0.1)
    draw, losses = torch.Generator().manual_seed(seed + 100), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        optimizer.zero_grad()
        total = 0.0
        for micro_batch in range(MICRO_BATCHES):
            places = torch.randint(len(data) - WINDOW - 1, (BATCH,), generator=draw)
            samples = torch.stack([data[at : at + WINDOW + 1] for at in places])
            scores = network(samples[:, :-1], micro_batch)
            loss = F.cross_entropy(scores.reshape(-1, 256), samples[:, 1:].reshape(-1)) / MICRO_BATCHES
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(total)
    return sum(losses[-LAST:]) / LAST


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", default=";".join(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = torch.frombuffer(bytearray(zlib.decompress(TEXT.read_bytes())), dtype=torch.uint8).long()
    print("| what crosses | loss | against dense |\n| --- | --- | --- |", flush=True)
    base = None
    for name in arguments.cases.split(";"):
        loss = train(CASES[name], data, arguments.steps, arguments.seed)
        base = base or loss
        print(f"| {name} | {loss:.4f} | {100 * (loss / base - 1):+.2f} % |", flush=True)


if __name__ == "__main__":
    main()
