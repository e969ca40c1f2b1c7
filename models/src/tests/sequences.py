"""Prints what PyTorch computes for the cases of sequences.rs: python sequences.py (made with PyTorch 2.15, CPU)."""

import torch
import torch.nn.functional as F


def waves(*shape, start=0):
    """Elements sin(0.7 i + start) in row-major order."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(float(count)) * 0.7 + start).reshape(shape)


def show(name, values):
    print(name, [round(v, 6) for v in values.flatten().tolist()])


for layer, gates in [(torch.nn.LSTM, 4), (torch.nn.GRU, 3)]:
    model = layer(2, 2)
    model.load_state_dict(
        {
            "weight_ih_l0": waves(gates * 2, 2, start=1),
            "weight_hh_l0": waves(gates * 2, 2, start=2),
            "bias_ih_l0": waves(gates * 2, start=3),
            "bias_hh_l0": waves(gates * 2, start=4),
        }
    )
    hidden, last = model(waves(3, 2, 2))
    show(layer.__name__, hidden)
    if gates == 4:
        show("cell", last[1])

q = waves(1, 4, 3, 2)
mask = waves(3, 3, start=3)
mask[1, 0] = -float("inf")
k, v = waves(1, 2, 3, 2, start=1), waves(1, 2, 3, 2, start=2)
show("masked", F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True))
k, v = waves(1, 2, 5, 2, start=1), waves(1, 2, 5, 2, start=2)
show("causal", F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))

volume = (torch.arange(24, dtype=torch.float32) ** 2 % 7).reshape(1, 1, 2, 3, 4)
grid = torch.tensor([[-0.9, 0.3, 0.2], [0.5, -1.2, 0.8], [1.3, 0.1, -0.4], [0.05, 0.65, -0.7]])
for padding in ["zeros", "border"]:
    for aligned in [False, True]:
        y = F.grid_sample(volume, grid.reshape(1, 1, 1, 4, 3), padding_mode=padding, align_corners=aligned)
        show(f"volume {padding} {aligned}", y)
