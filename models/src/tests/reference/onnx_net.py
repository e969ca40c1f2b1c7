"""Makes digits-net.onnx and its reference values with PyTorch: a small network over 8 x 8 images, its loss and the
whole gradient of every parameter over one step, in double precision.

Run: `python onnx_net.py` with torch and onnx. Names of parameters are those that the exporter gives them.
"""

import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import draws

HERE = pathlib.Path(__file__).parent
ROWS, MICRO_BATCHES, SEED = 3, 2, 9


class DigitsNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.inner, self.norm, self.outer = nn.Linear(24, 16), nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, pixels):
        x = nn.functional.max_pool2d(self.one(pixels).relu(), 2)
        x = torch.sigmoid(self.two(x)).flatten(1)
        return self.outer(nn.functional.gelu(self.norm(self.inner(x))))


torch.manual_seed(3)
model = DigitsNet().eval()
torch.onnx.export(model, (torch.zeros(ROWS, 1, 8, 8),), HERE / "digits-net.onnx", dynamo=False, opset_version=17,
                  input_names=["pixels"], output_names=["scores"], dynamic_axes={"pixels": {0: "batch"}})
double = DigitsNet().double()
double.load_state_dict(model.state_dict())
total = 0.0
for micro_batch in range(MICRO_BATCHES):
    images, labels = draws.digits(SEED, 0, micro_batch, MICRO_BATCHES, ROWS, (1, 8, 8))
    loss = cross_entropy(double(torch.from_numpy(images).double()), torch.from_numpy(labels))
    (loss / MICRO_BATCHES).backward()
    total += loss.item() / MICRO_BATCHES
arrays = {f"gradient {name}": p.grad.float().numpy() for name, p in double.named_parameters()}
np.savez_compressed(HERE / "digits-net.npz", loss=np.array([total]), **arrays)
