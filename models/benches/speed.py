"""Sets the cases of speed.rs beside PyTorch (eager, CPU, the same number of threads), case by case in turn.

Needs Python with torch, and the benchmark built: `cargo bench --workspace --bench speed --no-run` prints its path.

    python models/benches/speed.py PATH_OF_THE_BENCHMARK [--threads 1,2] [--rounds 3] [--cases PART,PART]

Each round runs a case of one side, then of the other; the table shows the least time of each and the ratio of the two.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

BUDGET = 1.5
LEAST = 5


def values(*shape):
    count = math.prod(shape)
    return (((torch.arange(count) * 37) % 251).float() / 125.0 - 1.0).reshape(shape)


def ints(count, below):
    return (torch.arange(count) * 7919) % below


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(c, dim=2)
        q, k, v = (z.view(b, t, self.heads, c // self.heads).transpose(1, 2) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self, vocabulary=256, window=128, width=192, layers=6, heads=6):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(window, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


class Basic(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.down = None
        if stride != 1 or inner != outer:
            self.down = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.down is None else self.down(x)))


def resnet18():
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inner = 64
    for group in range(4):
        for block in range(2):
            layers.append(Basic(inner, 64 << group, 2 if group > 0 and block == 0 else 1))
            inner = 64 << group
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def step_of(model, batches):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, (0.9, 0.95), weight_decay=0.1, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        for x, y in batches:
            logits = model(x)
            loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
            (loss / len(batches)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def back(output, inputs, seed):
    return lambda: torch.autograd.grad(output, inputs, seed, retain_graph=True)


def leaf(*shape):
    return values(*shape).requires_grad_()


def grad_of(f, *inputs):
    output = f(*inputs)
    return back(output, [i for i in inputs if i.requires_grad], values(*output.shape) if output.dim() else torch.ones(()))


def operator(case):
    rows = (4096, 1024)
    heads = (8, 4, 256, 64)
    attention = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.125)
    norm = lambda x, g, b: F.layer_norm(x, (1024,), g, b)
    softmax = lambda x: F.softmax(x, 1)
    gelu = lambda x: F.gelu(x, approximate="tanh")
    ids = ints(1024, 50257)
    targets = ints(512, 8192)
    entropy = lambda x: F.cross_entropy(x, targets)
    k = 3 if "3x3" in case else 1
    image, taps = (8, 64, 56, 56), (64, 64, k, k)
    conv = lambda x, w: F.conv2d(x, w, padding=k // 2)
    linear = lambda x, w, b: F.linear(x, w, b)
    forward = {
        "matmul": (torch.matmul, [(1024, 1024), (1024, 1024)]),
        "linear": (linear, [(512, 192), (768, 192), (768,)]),
        "conv 3x3": (conv, [image, taps]),
        "conv 1x1": (conv, [image, taps]),
        "attention": (attention, [heads] * 3),
        "layer norm": (norm, [rows, (1024,), (1024,)]),
        "softmax": (softmax, [rows]),
        "gelu": (gelu, [rows]),
        "embedding": (lambda t: F.embedding(ids, t), [(50257, 768)]),
        "cross-entropy": (entropy, [(512, 8192)]),
        "add": (torch.add, [rows, rows]),
    }
    f, shapes = forward[case.removesuffix(" back")]
    if case.endswith(" back"):
        return grad_of(f, *[leaf(*s) for s in shapes])
    operands = [values(*s) for s in shapes]

    def run():
        with torch.no_grad():
            f(*operands)

    return run


def work_of(case):
    if case == "gpt2-mini step":
        batches = [(ints(512, 256).view(4, 128) + i) % 256 for i in range(8)]
        return step_of(GPT2(), [(b, (b + 1) % 256) for b in batches])
    if case == "resnet18 step":
        return step_of(resnet18(), [(torch.randn(8, 3, 64, 64), ints(8, 1000)) for _ in range(2)])
    return operator(case)


def least(work):
    work()
    best, start, done = math.inf, time.perf_counter(), 0
    while done < LEAST or time.perf_counter() - start < BUDGET:
        one = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - one)
        done += 1
    return best * 1e3


def ours(binary, case, threads):
    env = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    out = subprocess.run([binary, "--json", case], env=env, capture_output=True, text=True)
    if out.returncode:
        sys.exit(f"{case}: {out.stderr.strip()}")
    return json.loads(out.stdout.splitlines()[-1])["ms"]


CASES = """gpt2-mini step,resnet18 step,matmul,linear,linear back,conv 3x3,conv 3x3 back,conv 1x1,conv 1x1 back,attention,
attention back,layer norm,layer norm back,softmax,softmax back,gelu,gelu back,embedding back,cross-entropy,
cross-entropy back,add""".replace("\n", "").split(",")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--cases", default="")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    threads = [int(t) for t in args.threads.split(",")]
    print(f"PyTorch {torch.__version__.split('+')[0]}, eager; milliseconds, the least of {args.rounds} rounds\n")
    head = [f"wattle, {t} thr | torch, {t} thr | ratio" for t in threads]
    print("| case | " + " | ".join(head) + " |")
    print("| --- " + "| --- " * 3 * len(threads) + "|")
    for case in CASES:
        if not any(part in case for part in args.cases.split(",")):
            continue
        cells = []
        for count in threads:
            torch.set_num_threads(count)
            work = work_of(case)
            mine, theirs = math.inf, math.inf
            for _ in range(args.rounds):
                mine = min(mine, ours(args.binary, case, count))
                theirs = min(theirs, least(work))
            cells += [f"{mine:.2f}", f"{theirs:.2f}", f"{mine / theirs:.2f}"]
        print(f"| {case} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
