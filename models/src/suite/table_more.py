"""What further cases of the operator suite compute, in PyTorch: sequences and compositions.

Recurrent operators are PyTorch's layers and cells; what those keep to themselves (gates), what PyTorch has no layer of
(a reset gate before the product, convolutional gates) and what of stereo and meshes it lacks is written out.
"""

import torch
import torch.nn.functional as F

from table import add, alike

# Sequences.


def attention(q, k, v, mask=None, *, causal=False):
    """Positions at -1e30 or less are hidden; a mask and causality at once are not PyTorch's to take, so they are joined."""
    if mask is not None:
        mask = mask.masked_fill(mask <= -1e30, -torch.inf)
        if causal:
            later = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
            mask = torch.broadcast_to(mask, (*q.shape[:-1], k.shape[-2])).masked_fill(later, -torch.inf)
    grouped = q.dim() > 2 and q.shape[-3] != k.shape[-3]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=0.5, enable_gqa=grouped)


def causal(q, k, v, mask=None):
    return attention(q, k, v, mask, causal=True)


alike("attention", ["more keys", "fewer keys", "wider values", "grouped heads", "one head of keys", "mask", "mask of a row",
                    "mask of each head", "hidden positions", "hidden keys", "a query that sees nothing", "larger, grouped, mask"],
      attention)
alike("attention", ["more keys, causal", "fewer keys, causal", "one query, causal", "narrower values, causal",
                    "grouped heads, causal", "five axes", "larger, grouped, causal", "mask, causal",
                    "a query that sees nothing, causal", "grouped, mask, causal, more keys, wider values"], causal)


def attention_grad(function, count):
    def of(*operands):
        g = operands[-1]
        operands = [t.detach().requires_grad_() for t in operands[:-1]]
        return torch.autograd.grad(function(*operands), operands[:count], g)
    return of


add("attention_grad", grouped=attention_grad(attention, 3), mask=attention_grad(causal, 3), mask_too=attention_grad(attention, 4))


def lstm(fed, recurrent, h, c):
    """Step by step with PyTorch's cell, to which the fed products are an input with the identity as weight."""
    eye = torch.eye(fed.shape[-1], dtype=fed.dtype)
    states, gates = [], []
    for step in fed:
        i, f, g, o = (step + h @ recurrent.T).chunk(4, 1)
        gates.append(torch.cat([i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()], 1))
        h, c = torch.lstm_cell(step, (h, c), eye, recurrent)
        states.append(torch.stack([h, c]))
    return torch.stack(states, 1), torch.stack(gates)


def gru(fed, recurrent, bias, h):
    eye = torch.eye(fed.shape[-1], dtype=fed.dtype)
    of_candidate = torch.cat([torch.zeros(2 * len(bias), dtype=bias.dtype), bias])
    outputs, gates = [], []
    for step in fed:
        back = h @ recurrent.T + of_candidate
        (r, z, n), (back_r, back_z, part) = step.chunk(3, 1), back.chunk(3, 1)
        r, z = (r + back_r).sigmoid(), (z + back_z).sigmoid()
        gates.append(torch.cat([r, z, (n + r * part).tanh(), part], 1))
        h = torch.gru_cell(step, h, eye, recurrent, torch.zeros_like(of_candidate), of_candidate)
        outputs.append(h)
    return torch.stack(outputs), torch.stack(gates)


KINDS = ["steps and batch", "one step", "one sequence", "one wide", "odd", "larger", "far"]
alike("lstm", KINDS, lstm)
alike("gru", KINDS, gru)


def lstm_layer(x, *operands):
    """Hidden states, the last one, the last cell."""
    weights, start = operands[:4], operands[4:]
    zeros = torch.zeros(x.shape[1], weights[1].shape[1], dtype=x.dtype)
    h, c = start or (zeros, zeros)
    y, h, c = torch.lstm(x, (h[None], c[None]), weights, len(weights) == 4, 1, 0.0, False, False, False)
    return y, h[0], c[0]


def gru_layer(x, *operands):
    weights, start = operands[:4], operands[4:]
    h = start[0] if start else torch.zeros(x.shape[1], weights[1].shape[1], dtype=x.dtype)
    y, h = torch.gru(x, h[None], weights, len(weights) == 4, 1, 0.0, False, False, False)
    return y, h[0], h[0]


def gru_reset_before(x, input_weight, recurrent, *rest):
    """The first form of the paper (Cho et al. 2014, equations 5 to 8)."""
    biases, start = rest[:2], rest[2:]
    width = recurrent.shape[1]
    h = start[0] if start else torch.zeros(x.shape[1], width, dtype=x.dtype)
    outputs = []
    for step in x:
        r, z, n = (F.linear(step, input_weight) + sum(biases)).chunk(3, 1)
        reset, update, candidate = recurrent.chunk(3, 0)
        r, z = (r + h @ reset.T).sigmoid(), (z + h @ update.T).sigmoid()
        h = (1 - z) * (n + (r * h) @ candidate.T).tanh() + z * h
        outputs.append(h)
    return torch.stack(outputs), h, h


def backwards(layer, part):
    def of(x, *operands):
        y = layer(x.flip(0), *operands)[part]
        return y.flip(0) if part == 0 else y
    return of


def part(layer, at):
    return lambda *operands: layer(*operands)[at]


for row, layer in [("lstm", lstm_layer), ("gru", gru_layer), ("gru_reset_before", gru_reset_before)]:
    add(f"recurrent::{row}", hidden_states=part(layer, 0), last_state=part(layer, 1), cell=part(layer, 2), from_zeros=part(layer, 0),
        without_biases=part(layer, 0), backwards=backwards(layer, 0), backwards__last_state=backwards(layer, 1))


def zeros(x, width, directions=2):
    return torch.zeros(directions, x.shape[1], width, dtype=x.dtype)


def both_lstm(x, *weights):
    start = zeros(x, weights[1].shape[1])
    return torch.lstm(x, (start, start), weights, True, 1, 0.0, False, True, False)[0]


def both_gru(x, *weights):
    return torch.gru(x, zeros(x, weights[1].shape[1]), weights, True, 1, 0.0, False, True, False)[0]


add("recurrent::lstm", two_directions=both_lstm)
add("recurrent::gru", two_directions=both_gru)


def lstm_of(fed, recurrent, *start):
    start = start or [zeros(fed, recurrent.shape[1])[0]] * 2
    return lstm(fed, recurrent, *start)[0][0]


def gru_of(fed, recurrent, bias, *start):
    start = start or [zeros(fed, recurrent.shape[1])[0]]
    return gru(fed, recurrent, bias, *start)[0]


add("recurrent::lstm_of", from_zeros=lstm_of, backwards=lambda x, *rest: lstm_of(x.flip(0), *rest).flip(0))
add("recurrent::gru_of", from_zeros=gru_of, backwards=lambda x, *rest: gru_of(x.flip(0), *rest).flip(0))


def conv_gru(h, x, *gates):
    def conv(parts, at):
        return F.conv2d(torch.cat(parts, 1), gates[2 * at], gates[2 * at + 1], padding="same")
    z, r = conv([h, x], 0).sigmoid(), conv([h, x], 1).sigmoid()
    return (1 - z) * h + z * conv([r * h, x], 2).tanh()


alike("recurrent::conv_gru", ["3x3", "1x1"], conv_gru)
alike("recurrent::separable_conv_gru", ["1x5 and 5x1"], lambda h, x, *gates: conv_gru(conv_gru(h, x, *gates[:6]), x, *gates[6:]))

# Compositions.


def masked(x, mask, function, nothing=0.0):
    return function(torch.where(mask.expand(x.shape) != 0, x, nothing), mask.expand(x.shape).to(x.dtype))


def masked_sum(axes, keep=False):
    return lambda x, mask: masked(x, mask, lambda x, mask: x.sum(axes, keep))


def masked_mean(axes, keep=False):
    return lambda x, mask: masked(x, mask, lambda x, mask: x.sum(axes, keep) / mask.sum(axes, keep).clamp(min=1))


def masked_max(axes, keep=False):
    return lambda x, mask: masked(x, mask, lambda x, mask: x.amax(axes, keep), -9.0)


def roots(function):
    """What is no number is left out before it comes to be."""
    return lambda x, y: function(x + y.clamp(min=0).sqrt(), (y >= 0).to(torch.int64))


for row, function in [("sum", masked_sum), ("mean", masked_mean), ("max", masked_max)]:
    add(f"reduce::masked_{row}", rows=function(2), stretched=function((0, 1)), nothing_left_in_one=function((1, 2)),
        no_numbers=roots(function(2)))
add("reduce::masked_sum", kept=masked_sum((1, 2), True))
add("reduce::masked_mean", kept=masked_mean((1, 2), True))


def neighbours(x, ids):
    return x[:, ids.clamp(min=0)] * (ids >= 0)[None, :, :, None]


def mean_of_neighbours(x, ids):
    return neighbours(x, ids).sum(2) / (ids >= 0).sum(1).clamp(min=1)[None, :, None]


alike("mesh::neighbours", ["some missing", "of other places"], neighbours)
alike("mesh::mean_of_neighbours", ["some missing", "one alone"], mean_of_neighbours)


def resized(size, mode, aligned=None):
    return lambda x: F.interpolate(x, size=size, mode=mode, align_corners=aligned)


add("resize::linear_all", row=resized(12, "linear"), image=resized((7, 9), "bilinear"), image__aligned=resized((3, 7), "bilinear", True),
    volume=resized((5, 2, 6), "trilinear"), volume__aligned=resized((5, 7, 2), "trilinear", True),
    volume__one_size_as_it_was=resized((6, 4, 1), "trilinear"))
add("resize::nearest_all", row=resized(12, "nearest"), image=resized((3, 9), "nearest"), volume=resized((7, 3, 5), "nearest"))
add("pool::adaptive_all", row__mean=lambda x: F.adaptive_avg_pool1d(x, 3), image__mean=lambda x: F.adaptive_avg_pool2d(x, (3, 3)),
    image__max=lambda x: F.adaptive_max_pool2d(x, (2, 3)), image_to_one__mean=lambda x: F.adaptive_avg_pool2d(x, 1),
    volume__mean=lambda x: F.adaptive_avg_pool3d(x, (2, 3, 2)), volume__max=lambda x: F.adaptive_max_pool3d(x, (2, 3, 5)))


def sampled(beyond="zeros", aligned=False):
    return lambda x, grid: F.grid_sample(x, grid, padding_mode=beyond, align_corners=aligned)


add("volume::grid_sample", zeros=sampled(), border=sampled("border"), zeros__aligned=sampled("zeros", True),
    border__aligned=sampled("border", True), one_slice=sampled(), within_a_cell=sampled("zeros", True))


def moved(x, by):
    """The image moved to the right; zeros come in."""
    return F.pad(x, (by, 0))[..., : x.shape[-1]]


def correlation(disparities):
    return lambda left, right: torch.stack([(left * moved(right, d)).mean(1) for d in range(disparities)], 1)


def concatenation(disparities):
    def of(left, right):
        seen = [moved(torch.ones_like(left), d) for d in range(disparities)]
        return torch.stack([torch.cat([left * seen[d], moved(right, d)], 1) for d in range(disparities)], 2)
    return of


add("stereo::all_pairs", rows=lambda left, right: torch.einsum("bchw,bchv->bhwv", left, right))
add("stereo::correlation", three_disparities=correlation(3), one_disparity=correlation(1),
    more_disparities_than_columns=correlation(6))
add("stereo::concatenation", three_disparities=concatenation(3), one_disparity=concatenation(1),
    as_many_disparities_as_columns=concatenation(4))
alike("layout::unfold", ["3x3, padded"], lambda x: F.unfold(x, 3, padding=1))
add("layout::unfold", patches=lambda x: F.unfold(x, 2, stride=2), stride_leaves_a_rest=lambda x: F.unfold(x, 2, stride=3),
    uneven=lambda x: F.unfold(x, (2, 3), (3, 2), (0, 2), (2, 1)))


def einsum(equation):
    return lambda *operands: torch.einsum(equation, *operands)


add("einsum::einsum", product=einsum("ij,jk->ik"), product__by_name=einsum("ij,jk"), batch=einsum("bij,bkj->bki"),
    heads=einsum("bqhd,bkhd->bhqk"), two_axes=einsum("bijc,ijco->bo"), outer=einsum("i,j->ij"), elements=einsum("bi,bi->bi"),
    inner=einsum("bi,bi->"), sum_of_an_axis=einsum("bij->ib"), axes_by_name=einsum("cab"), diagonal=einsum("bii->bi"),
    trace=einsum("ii,j->j"), three_operands=einsum("ab,bc,cd->da"), bilinear=einsum("bi,oij,bj->bo"),
    any_axes=einsum("...ij,...jk->...ik"), any_axes__stretched=einsum("...ij,...kj"), axis_of_one_alone=einsum("ij,kl->il"))
