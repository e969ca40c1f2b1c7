"""Proves that folders pass between Wattle and transformers / torchvision in both directions.

Run by huggingface.sh, which builds the programs: `python huggingface.py WATTLE LOGITS`. Configurations are small and
weights random; nothing is fetched. Folders are written there and read here, written here (`wattle export`) and read
there, and trained by a swarm of two processes on the way. The largest difference of all logits is printed; more than
1e-4, or than 1e-4 of the largest logit where that is above 1, is a failure.
"""

import copy
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torchvision
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

WATTLE, LOGITS = sys.argv[1:3]
WINDOW, TOLERANCE = 16, 1e-4
torch.manual_seed(7)
torch.set_num_threads(2)
failed = False


def here(folder, shape, name=None):
    """Wattle's logits for the tokens or images of the example, and those inputs."""
    command = [LOGITS, str(folder), *([name] if name else ["--window", str(WINDOW)])]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return torch.tensor(said["inputs"]).reshape(shape), torch.tensor(said["logits"])


def report(what, ours, theirs):
    global failed
    apart = (ours.flatten() - theirs.detach().flatten()).abs().max().item()
    largest = theirs.abs().max().item()
    failed |= not apart <= TOLERANCE * (1.0 if what.startswith(("GPT", "gpt")) else max(1.0, largest))
    print(f"{what:<58} {apart:.1e} of {largest:.2f}", flush=True)


def spread(model):
    """Random weights that are large enough to matter, also in gains and biases."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            base = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(base + 0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn_like(buffer))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
    return model.eval()


def export(weights, model, out):
    command = [WATTLE, "export", str(weights), "--model", model, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)


class Swarm:
    """Two peers on this machine."""

    def __enter__(self):
        self.alone = ["--json", "--no-mdns", "--listen", "127.0.0.1:0", "--network", f"huggingface-{os.getpid()}"]
        self.peers, self.ticket = [], []
        for _ in range(2):
            command = [WATTLE, "up", "--device", "cpu", *self.alone, *self.ticket]
            peer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.peers.append(peer)
            self.ticket = ["--join", json.loads(peer.stdout.readline())["ticket"]]
        return self

    def __exit__(self, *_):
        for peer in self.peers:
            peer.terminate()
            peer.communicate()

    def train(self, job, out):
        command = [WATTLE, "train", str(job), *self.alone, *self.ticket, "--save", str(out)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        last = json.loads(said.splitlines()[-1])
        return f"{last['steps']} steps, loss {last['first_loss']:.3f} -> {last['last_loss']:.3f}"


gpt2 = dict(vocab_size=300, n_positions=24, n_embd=32, n_layer=2, n_head=4)
llama = dict(vocab_size=300, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64)
theirs = {
    "GPT-2, f32": (GPT2LMHeadModel(GPT2Config(**gpt2)), {}),
    "GPT-2, f16": (GPT2LMHeadModel(GPT2Config(**gpt2)).half(), {}),
    "GPT-2, bf16, split over files": (GPT2LMHeadModel(GPT2Config(**gpt2)).bfloat16(), {"max_shard_size": "40kB"}),
    "GPT-2 without its head": (GPT2LMHeadModel(GPT2Config(**gpt2)), {"base": True}),
    "Llama, grouped queries": (LlamaForCausalLM(LlamaConfig(**llama)), {}),
    "Llama, tied, another rotary base": (LlamaForCausalLM(LlamaConfig(**llama, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0})), {}),
}
with tempfile.TemporaryDirectory() as root:
    root = pathlib.Path(root)
    print("transformers -> Wattle")
    for number, (what, (model, options)) in enumerate(theirs.items()):
        folder, model = root / f"theirs-{number}", spread(model)
        is_base = options.pop("base", False)
        (model.transformer if is_base else model).save_pretrained(folder, **options)
        tokens, ours = here(folder, (1, WINDOW))
        report(what, ours, model.float()(tokens).logits)
    print("Wattle -> transformers")
    for name in ["gpt2-nano", "llama-nano"]:
        # Weights as a job's `--save FILE.safetensors` leaves them: under Wattle's names.
        config = (GPT2Config(vocab_size=256, n_positions=64, n_embd=64, n_layer=4, n_head=4) if name == "gpt2-nano" else
                  LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=176, num_hidden_layers=4,
                              num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5))
        drawn = spread(AutoModelForCausalLM.from_config(config)).state_dict()
        plain = {key.removeprefix("transformer."): value.contiguous() for key, value in drawn.items()
                 if not (name == "gpt2-nano" and key == "lm_head.weight")}
        save_file(plain, root / f"{name}.safetensors")
        export(root / f"{name}.safetensors", name, root / name)
        model, info = AutoModelForCausalLM.from_pretrained(root / name, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        tokens, ours = here(root / name, (1, WINDOW))
        report(name, ours, model.eval()(tokens).logits)
    print("transformers -> a swarm of Wattle -> transformers")
    with Swarm() as swarm:
        for what, number in [("GPT-2", 0), ("Llama", 4)]:
            folder, job = root / f"theirs-{number}", root / "job.toml"
            (folder / "tokenizer.json").write_text("{}")
            job.write_text(f'[model]\nweights = "{folder}"\nwindow = {WINDOW}\nmicro_batch = 4\n'
                           "[train]\nsteps = 20\nmicro_batches = 4\n[swarm]\nstages = 2\n")
            out = root / f"swarm-{number}"
            course = swarm.train(job, out)
            assert (out / "tokenizer.json").read_text() == "{}"
            (out / "tokenizer.json").unlink()
            model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
            assert not info["missing_keys"] and not info["unexpected_keys"], info
            tokens, ours = here(out, (1, WINDOW))
            report(f"{what}: {course}", ours, model.eval()(tokens).logits)
    print("torchvision -> Wattle -> torchvision")
    for name in ["resnet18", "resnet50"]:
        model = spread(getattr(torchvision.models, name)())
        save_file(model.state_dict(), root / f"{name}.safetensors")
        export(root / f"{name}.safetensors", name, root / name)
        back = getattr(torchvision.models, name)()
        back.load_state_dict(load_file(root / name / "model.safetensors"), strict=True)
        for (key, a), b in zip(model.state_dict().items(), back.state_dict().values()):
            assert not a.is_floating_point() or torch.equal(a, b), f"{name}: {key} differs"
        # In training mode, as jobs run: a batch's own statistics. What rounding alone does is shown by double precision.
        images, ours = here(root / name, (2, 3, 224, 224), name)
        exact = copy.deepcopy(back).double().train()(images.double())
        report(name, ours, exact)
        report(f"  (torchvision in single precision)", back.train()(images).detach(), exact)
sys.exit(failed)
