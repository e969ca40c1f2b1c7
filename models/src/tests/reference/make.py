"""Makes the reference values of this folder with PyTorch, in double precision.

Run: `python make.py [NAME ...]` with torch, torchvision and transformers. The files hold the loss and the logits of
the first micro-batch, the whole gradient of every parameter over one step, and the losses of ten steps of training.
Weights and samples are drawn by `draws`, as models/src/tests/reference.rs draws them, and stand in no file.

A further network is an entry of NETWORKS here and one of `networks` there.
"""

import math
import pathlib
import re
import sys

import numpy as np
import torch
import torchvision.models.resnet as tv
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import draws

HERE = pathlib.Path(__file__).parent
ROWS, WINDOW, MICRO_BATCHES, SEED, STEPS = 3, 16, 2, 9, 10
torch.set_num_threads(2)


class Padded(nn.Module):
    """He et al. 2016, section 3.3, option A: every second pixel, and zeros for the further channels."""

    def __init__(self, stride, further):
        super().__init__()
        self.stride, self.before = stride, further // 2
        self.after = further - self.before

    def forward(self, x):
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class Small(nn.Module):
    """A ResNet of torchvision's blocks and names, with a stem, widths and shortcuts of its own."""

    def __init__(self, block, image, is_large, width, blocks, classes, pads=False):
        super().__init__()
        kernel, stride = (7, 2) if is_large else (3, 1)
        self.conv1 = nn.Conv2d(image[0], width, kernel, stride, kernel // 2, bias=False)
        self.bn1, self.is_large = nn.BatchNorm2d(width), is_large
        had = width
        self.groups = len(blocks)
        for group, count in enumerate(blocks):
            planes, layers = width << group, []
            for at in range(count):
                stride = 2 if group > 0 and at == 0 else 1
                out, short = planes * block.expansion, None
                if (stride != 1 or had != out) and pads:
                    short = Padded(stride, out - had)
                elif stride != 1 or had != out:
                    short = nn.Sequential(nn.Conv2d(had, out, 1, stride, bias=False), nn.BatchNorm2d(out))
                layers.append(block(had, planes, stride, short))
                had = out
            setattr(self, f"layer{group + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(had, classes)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        if self.is_large:
            x = nn.functional.max_pool2d(x, 3, 2, 1)
        for group in range(self.groups):
            x = getattr(self, f"layer{group + 1}")(x)
        return self.fc(x.mean((2, 3)))


class Recurrent(nn.Module):
    """Zaremba et al. 2014: LSTM layers with dropout before each of them and after the last."""

    def __init__(self, vocabulary, width, layers, rate):
        super().__init__()
        self.encoder = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(nn.LSTM(width, width) for _ in range(layers))
        self.decoder = nn.Linear(width, vocabulary)
        self.rate = rate

    def drop(self, x, stream):
        return x * torch.from_numpy(draws.dropout(*self.place, stream, self.rate, x.shape))

    def forward(self, tokens):
        x = self.encoder(tokens.T)
        for stream, layer in enumerate(self.layers):
            x, _ = layer(self.drop(x, stream))
        return self.decoder(self.drop(x, len(self.layers)).transpose(0, 1))


def lstm():
    def rename(name):
        return re.sub(r"layers\.(\d+)\.(.*)_l0", r"rnn.\2_l\1", name)

    return Recurrent(128, 16, 2, 0.65), rename


def gpt2():
    config = GPT2Config(vocab_size=128, n_positions=24, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager")
    return GPT2LMHeadModel(config), lambda name: name.removeprefix("transformer.")


def llama():
    config = LlamaConfig(vocab_size=128, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=WINDOW,
                         rms_norm_eps=1e-5, tie_word_embeddings=False, attn_implementation="eager",
                         rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    return LlamaForCausalLM(config), lambda name: name


# Name: the network with the names that Wattle has for its parameters, and its images if it reads such.
NETWORKS = {
    "gpt2": (gpt2, None),
    "llama": (llama, None),
    "lstm": (lstm, None),
    "resnet-basic": (lambda: (Small(tv.BasicBlock, (1, 8, 8), False, 4, [1, 2, 1], 10), str), (1, 8, 8)),
    # Of a width with which no ReLU reads anything nearer to zero than 7e-6 in any of the steps. At width 4 one reads
    # 2e-7, which single precision may put on the other side: the gradient jumps there.
    "resnet-padded": (lambda: (Small(tv.BasicBlock, (3, 8, 8), False, 5, [2] * 3, 10, True), str), (3, 8, 8)),
    "resnet-bottleneck": (lambda: (Small(tv.Bottleneck, (3, 32, 32), True, 4, [1, 1], 10), str), (3, 32, 32)),
}
# AdamW and SGD with momentum, both with warm-up and decay of the rate, and with clipping in some of the steps.
PEAK, FLOOR, WARMUP = {"adamw": 3e-3, "sgd": 5e-2}, 0.1, 3
CLIP = {"gpt2": 1.5, "llama": 1.5, "lstm": 0.35, "resnet-padded": 6.0}  # The others': 3.


def fresh(build):
    model, rename = build()
    model = model.double().train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(draws.weight(rename(name), tuple(parameter.shape))))
    return model, rename


def batch(step, micro_batch, image):
    if image is None:
        return draws.text(SEED, step, micro_batch, MICRO_BATCHES, ROWS, WINDOW)
    return draws.digits(SEED, step, micro_batch, MICRO_BATCHES, ROWS, image)


def passes(model, step, image):
    """One step's gradient; the mean loss and the first micro-batch's logits."""
    total, first = 0.0, None
    for micro_batch in range(MICRO_BATCHES):
        x, y = (torch.from_numpy(a) for a in batch(step, micro_batch, image))
        model.place = step, micro_batch
        result = model(x if image is None else x.double())
        logits = getattr(result, "logits", result)
        loss = cross_entropy(logits.flatten(0, -2), y.flatten())
        (loss / MICRO_BATCHES).backward()
        total += loss.item() / MICRO_BATCHES
        first = logits.detach().float().numpy() if first is None else first
    return total, first


def rate(kind, step):
    if step < WARMUP:
        return PEAK[kind] * (step + 1) / WARMUP
    cosine = 0.5 * (1.0 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))
    return PEAK[kind] * (FLOOR + (1.0 - FLOOR) * cosine)


def train(build, kind, image, most):
    model, _ = fresh(build)
    parameters = list(model.parameters())
    decay = {"adamw": 0.1, "sgd": 1e-3}[kind]
    groups = [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    if kind == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    else:
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9)
    losses, clipped = [], 0
    for step in range(STEPS):
        optimizer.zero_grad()
        losses.append(passes(model, step, image)[0])
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in parameters))
        if norm > most:
            clipped += 1
            for parameter in parameters:
                parameter.grad.mul_(most / norm)
        for group in optimizer.param_groups:
            group["lr"] = rate(kind, step)
        optimizer.step()
    print(f"  {kind}: {losses[0]:.4f} -> {losses[-1]:.4f}, clipped in {clipped} of {STEPS} steps")
    return np.array(losses), {name: b.float().numpy() for name, b in model.named_buffers() if "running" in name}


for name in sys.argv[1:] or NETWORKS:
    build, image = NETWORKS[name]
    print(name)
    model, rename = fresh(build)
    loss, logits = passes(model, 0, image)
    arrays = {"loss": np.array([loss]), "logits": logits}
    for parameter, value in model.named_parameters():
        arrays[f"gradient {rename(parameter)}"] = value.grad.float().numpy()
    for kind in PEAK:
        arrays[f"losses {kind}"], buffers = train(build, kind, image, CLIP.get(name, 3.0))
        arrays |= {f"{kind} {buffer}": value for buffer, value in buffers.items()}
    np.savez_compressed(HERE / f"{name}.npz", **arrays)
