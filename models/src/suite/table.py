"""What each case of the operator suite computes, in PyTorch: by the id of the case, a function of its operands.

Where PyTorch has a function of its own, that one is called and no formula repeated. Without a counterpart there, and
written out here: dropout (the draws are Wattle's own), rotary positions, iota, literal, fill, linear interpolation
without half-pixel or aligned corners, warping, and losses of depth and flow.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

TABLE = {}


def add(row, /, **cases):
    """Adds cases of one row; in their names a blank is `_` and a comma is `__`."""
    for name, function in cases.items():
        TABLE[f"{row}/{name.replace('__', ', ').replace('_', ' ')}"] = function


def alike(row, names, function):
    """Adds cases of one row that differ in their operands only."""
    for name in names:
        TABLE[f"{row}/{name}"] = function


# Elements.

UNARY = ["exp", "log", "sqrt", "tanh", "sigmoid", "sin", "cos", "asin", "acos", "atan", "erf", "abs", "sign", "floor",
         "ceil", "round"]
for name in UNARY:
    function = getattr(torch, name)
    alike(name, ["row", "odd", "larger"], function)
    alike(name, ["infinite"], lambda x, f=function: f(x / torch.zeros_like(x)))
for name in ["exp", "tanh", "sigmoid", "atan", "erf", "sin", "cos"]:
    alike(name, ["far"], getattr(torch, name))
for name in ["log", "sqrt"]:
    alike(name, ["near 0 and far"], getattr(torch, name))
for name in ["asin", "acos"]:
    alike(name, ["near 1"], getattr(torch, name))
for name in ["round", "floor", "ceil"]:
    alike(name, ["halves"], getattr(torch, name))
for name in ["sign", "abs"]:
    alike(name, ["at 0"], getattr(torch, name))
for name in ["log", "sqrt", "asin", "acos"]:
    alike(name, ["outside"], getattr(torch, name))
alike("exp", ["overflow"], torch.exp)
alike("relu", ["row", "odd", "at 0"], torch.relu)
alike("relu", ["infinite"], lambda x: torch.relu(x / 0))
alike("gelu", ["infinite"], lambda x: F.gelu(x / 0, approximate="tanh"))
alike("reduce_max", ["infinite"], lambda x: torch.amax(x / 0, 0))
alike("reduce_sum", ["infinite"], lambda x: torch.sum(x / 0, 0))
alike("softmax", ["infinite"], lambda x: torch.softmax(x / 0, 0))
alike("cum_sum", ["infinite"], lambda x: torch.cumsum(x / 0, 0))
alike("top_k", ["infinite"], lambda x: torch.topk(x / 0, 3).values)
alike("gelu", ["tanh row", "tanh odd", "tanh larger", "tanh far"], lambda x: F.gelu(x, approximate="tanh"))
alike("gelu", ["erf row", "erf odd", "erf larger", "erf far"], F.gelu)


def mix(z):
    mask = (1 << 64) - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def dropout(rate, stream):
    """Of job seed 0, step 0, micro-batch 0; `RunContext::key` and `dropout_mask`."""
    def of(x):
        key = mix(mix(mix(0)) ^ stream)
        threshold = int(float(np.float32(rate)) * 2.0**32)
        draws = [mix((key + i * 0x9E3779B97F4A7C15) & ((1 << 64) - 1)) >> 32 for i in range(x.numel())]
        kept = torch.tensor([draw >= threshold for draw in draws], dtype=x.dtype).reshape(x.shape)
        return x * kept / (1 - rate)
    return of


add("dropout", a_third=dropout(0.3, 1), none=dropout(0.0, 2))
alike("elements::silu", ["row", "far"], F.silu)
alike("elements::softplus", ["row", "far"], lambda x: F.softplus(x, threshold=1e9))
alike("elements::mish", ["row", "far"], lambda x: x * torch.tanh(F.softplus(x, threshold=1e9)))
alike("elements::leaky_relu", ["row"], lambda x: F.leaky_relu(x, 0.1))
add("elements::elu", row=F.elu, far=F.elu, half=lambda x: F.elu(x, 0.5))
add("elements::clamp", both=lambda x: torch.clamp(x, -0.51, 0.75), least=lambda x: torch.clamp(x, min=-0.51),
    most=lambda x: torch.clamp(x, max=0.75))
add("elements::norm", inner=lambda x: torch.linalg.vector_norm(x, dim=1), of_zeros=lambda x: torch.linalg.vector_norm(x, dim=1),
    all_kept=lambda x: torch.linalg.vector_norm(x, dim=(0, 1, 2), keepdim=True))
add("elements::constant", row=lambda x: x * x.detach(), far=lambda x: x.detach())
add("elements::one_hot", rows=lambda i: F.one_hot(i, 5))

# Functions of two numbers and more.

SHAPES = ["alike", "last axis", "middle axis", "both stretch", "scalar", "two scalars", "odd", "larger", "larger, last axis"]
for name in ["add", "sub", "mul", "div"]:
    alike(name, SHAPES, getattr(torch, name))
for name in ["add", "sub", "mul"]:
    alike(name, ["integers"], getattr(torch, name))
add("div", by_zero=torch.div, integers=lambda a, b: torch.div(a, b, rounding_mode="trunc"))
add("scale", row=lambda x: x * -1.5)
add("shift", row=lambda x: x + 2.0)
add("add_n", one=lambda x: x, three=lambda a, b, c: a + b + c)
alike("max", ["middle axis", "odd", "integers"], torch.maximum)
alike("min", ["middle axis", "odd", "integers"], torch.minimum)
alike("remainder", ["positive", "negative", "small", "integers"], torch.fmod)
for name, function in [("max", torch.maximum), ("min", torch.minimum), ("equal", torch.eq), ("less", torch.lt),
                       ("less_equal", torch.le)]:
    alike(name, ["infinite"], lambda a, b, f=function: f(a / 0, b + torch.log(b) * 0))
alike("pow", ["positive", "both stretch", "whole exponents", "edges"], torch.pow)
alike("atan2", ["all quarters", "above", "on axes"], torch.atan2)
alike("equal", ["integers", "floats"], torch.eq)
alike("less", ["integers", "floats"], torch.lt)
alike("less_equal", ["integers", "floats"], torch.le)
alike("where", ["integers", "floats", "stretched", "other masks"], lambda mask, a, b: torch.where(mask != 0, a, b))
add("where", by_comparison=lambda a, b: torch.where(a < b, a, b))
add("cast", to_integers=lambda x: x.to(torch.int32), to_floats=lambda x: x.to(torch.float64), alike=lambda x: x)

# Products.

alike("matmul", ["plain", "rows by matrix", "first stretched", "both stretched", "one row", "one column", "one term",
                 "odd", "larger still"], torch.matmul)
alike("matmul", ["first swapped"], lambda a, b: a.mT @ b)
alike("matmul", ["second swapped", "rows by swapped matrix", "larger"], lambda a, b: a @ b.mT)
alike("matmul", ["both swapped", "swapped rows by swapped matrix", "odd swapped"], lambda a, b: a.mT @ b.mT)
alike("linear", ["with bias", "one row", "odd", "larger"], lambda x, w, b: F.linear(x, w.T, b))
add("linear", without_bias=lambda x, w: F.linear(x, w.T))
alike("linear_weight_grad", ["rows", "odd"], lambda x, g: torch.einsum("...i,...o->io", x, g))
alike("embedding", ["rows", "odd"], lambda table, ids: F.embedding(ids, table))
add("embedding_grad", rows=lambda ids, g: torch.zeros(5, 7, dtype=g.dtype).index_add(0, ids.flatten(), g.flatten(0, 1)))


def attention(causal, scale):
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)


def attention_grad(q, k, v, g):
    operands = [t.detach().requires_grad_() for t in (q, k, v)]
    return torch.autograd.grad(attention(True, 0.5)(*operands), operands, g)


alike("attention", ["causal", "heads", "a matrix", "one position"], attention(True, 0.5))
add("attention", all_see_all=attention(False, 0.5), odd=attention(False, 0.447), head_of_24=attention(False, 0.204),
    head_of_24__causal=attention(True, 0.204), longer=attention(False, 0.177), longer__causal=attention(True, 0.177),
    large_scores=attention(True, 20.0))
add("attention_grad", three=attention_grad)


def hidden(x, fill):
    above = torch.ones(x.shape[-2:], dtype=torch.bool).triu(1)
    return x.masked_fill(above, fill)


add("causal_mask", in_the_middle=lambda x: hidden(x, 0.5), heads=lambda x: hidden(x, -2.0),
    before_a_softmax=lambda x: torch.softmax(hidden(x, -torch.inf), 2))


def rotary(interleaved, inverse, start, theta=10.0):
    def of(x):
        length, width = x.shape[-2:]
        place = torch.arange(start, start + length, dtype=torch.float64)
        angle = torch.outer(place, theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width))
        turn = torch.polar(torch.ones_like(angle), -angle if inverse else angle)
        if interleaved:
            pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
            return torch.view_as_real(pairs * turn).flatten(-2)
        turned = torch.complex(x[..., : width // 2], x[..., width // 2:]) * turn
        return torch.cat([turned.real, turned.imag], -1)
    return of


add("rotary", halves=rotary(False, False, 2), pairs=rotary(True, False, 2), halves_back=rotary(False, True, 0),
    pairs_back=rotary(True, True, 1), a_matrix=rotary(False, False, 1), odd=rotary(False, False, 0), far=rotary(False, False, 1000, 10_000.0))

# Softmax, norms, losses.

for row, function in [("softmax", torch.softmax), ("log_softmax", torch.log_softmax)]:
    for name, axis in [("last axis", 2), ("middle axis", 1), ("first axis", 0), ("rows of 1", 1), ("rows of 7", 1),
                       ("rows of 33", 1), ("rows of 65", 2), ("larger", 1), ("steep", 1), ("large", 1)]:
        alike(row, [name], lambda x, f=function, a=axis: f(x, a))
alike("softmax", ["hidden by minus infinity"], lambda x, by: torch.softmax(x / by, 1))
alike("log_softmax", ["hidden by minus infinity"], lambda x, by: torch.log_softmax(x / by, 1))
add("softmax_grad", any_rows=lambda y, g: torch.ops.aten._softmax_backward_data(g, y, 1, torch.float64))


def layer_norm(eps):
    return lambda x, gain, bias: torch.native_layer_norm(x, x.shape[-1:], gain, bias, eps)


add("layer_norm", rows=layer_norm(1e-3))
alike("layer_norm", ["rows of 1", "rows of 7", "rows of 33", "rows of 130", "larger", "far from zero"], layer_norm(1e-5))


def batch_norm(x, gain, bias):
    axes = (0, 2, 3)
    y = F.batch_norm(x, None, None, gain, bias, training=True, eps=1e-3)
    return y, x.mean(axes), x.var(axes, unbiased=True)


def batch_norm_inference(x, gain, bias, mean, var):
    return F.batch_norm(x, mean, var, gain, bias, training=False, eps=1e-3)


def rms_norm(x, gain):
    rstd = (x.square().mean(-1) + 1e-3).rsqrt()
    return F.rms_norm(x, x.shape[-1:], gain, 1e-3), rstd


alike("batch_norm", ["image", "rows", "odd", "larger"], batch_norm)
alike("batch_norm_inference", ["image", "odd"], batch_norm_inference)
alike("rms_norm", ["rows", "rows of 7", "rows of 33", "rows of 130", "larger"], rms_norm)
add("norm::group_norm", affine=lambda x, g, b: F.group_norm(x, 2, g, b, 1e-3), plain=lambda x: F.group_norm(x, 2, eps=1e-3),
    odd=lambda x, g, b: F.group_norm(x, 5, g, b, 1e-5))
add("norm::instance_norm", image=lambda x, g, b: F.instance_norm(x, weight=g, bias=b, eps=1e-3))
alike("norm::as_image", ["rows", "volume"], lambda x: x.reshape(x.shape[0], x.shape[1], -1, 1))


def cross_entropy(smoothing=0.0, ignore=-100):
    def of(x, targets):
        return F.cross_entropy(x.flatten(0, -2), targets.flatten(), label_smoothing=smoothing, ignore_index=ignore)
    return of


alike("cross_entropy", ["rows", "text", "some ignored", "steep", "larger"], cross_entropy())
alike("cross_entropy", ["smoothed", "odd"], cross_entropy(0.1))
alike("cross_entropy", ["smoothed, some ignored"], cross_entropy(0.2))
# PyTorch divides by the number of targets that count, here 0; Wattle's loss of none is 0.
add("cross_entropy", a_class_ignored=cross_entropy(0.0, 2), all_ignored=lambda x, t: (x * 0).sum())


def mean(x, mask=None):
    if mask is None:
        return x.mean()
    mask = mask.expand(x.shape)
    return (x * mask).sum() / max(int(mask.sum()), 1)


def berhu(x, target, mask=None):
    size = (x - target).abs()
    counted = size if mask is None else size * mask
    c = torch.clamp(counted.max().detach() * 0.2, min=1e-6)
    return mean(torch.where(size <= c, size, (size**2 + c**2) / (2 * c)), mask)


alike("loss::mean", ["of all", "of some", "of none"], mean)
alike("loss::mse", ["of all", "of some"], lambda x, t, m=None: mean(F.mse_loss(x, t, reduction="none"), m))
alike("loss::l1", ["of all", "of some"], lambda x, t, m=None: mean(F.l1_loss(x, t, reduction="none"), m))
add("loss::smooth_l1", of_all=lambda x, t: F.smooth_l1_loss(x, t, beta=0.5),
    of_some=lambda x, t, m: mean(F.smooth_l1_loss(x, t, reduction="none", beta=1.0), m))
alike("loss::berhu", ["of all", "of some"], berhu)
add("loss::kl", some_shares_are_0=lambda x, p: F.kl_div(torch.log_softmax(x, 1), p, reduction="batchmean"))
add("loss::end_point", flow=lambda x, t: torch.linalg.vector_norm(x - t, dim=1).mean())

# Layout.

alike("reshape", ["other axes", "integers"], lambda x: x.reshape(4, 6))
add("reshape", to_a_scalar=lambda x: x.reshape(()))
alike("transpose", ["turned", "integers"], lambda x: x.permute(2, 0, 1))
add("transpose", six_axes=lambda x: x.permute(5, 0, 3, 1, 4, 2), five_axes=lambda x: x.permute(0, 2, 1, 4, 3), odd=lambda x: x.T,
    heads=lambda x: x.transpose(1, 2))
alike("slice", ["middle", "integers"], lambda x: x[:, 1:3])
add("slice", last=lambda x: x[:, :, 3:])
alike("unslice", ["last axis", "integers"], lambda x: F.pad(x, (1, 2)))
add("unslice", first_axis=lambda x: F.pad(x, (0, 0, 0, 0, 3, 0)))
alike("concat", ["two", "integers"], lambda a, b: torch.cat([a, b], 1))
add("concat", three=lambda a, b, c: torch.cat([a, b, c], 2), one=lambda x: x)
alike("expand", ["leading axis", "integers"], lambda x: x.expand(2, 3, 4))
add("expand", scalar=lambda x: x.expand(2, 3), middle_axis=lambda x: x.expand(3, 5, 2))
add("sum_to", a_column=lambda x: x.sum_to_size(3, 1), a_row=lambda x: x.sum_to_size(4), a_scalar=lambda x: x.sum(),
    odd=lambda x: x.sum_to_size(1, 17))
for row, function in [("reduce_sum", torch.sum), ("reduce_mean", torch.mean), ("reduce_max", torch.amax)]:
    for name, axes, keep in [("first", 0, False), ("middle, kept", 1, True), ("last", 2, False), ("outer", (0, 2), False),
                             ("inner, kept", (1, 2), True), ("all", (0, 1, 2), False), ("all, kept", (0, 1, 2), True),
                             ("odd", 1, False)]:
        alike(row, [name], lambda x, f=function, a=axes, k=keep: f(x, a, k))
add("reduce_sum", integers=lambda x: x.sum((0, 2)))
add("reduce_max", equal_maxima=lambda x: torch.amax(x, 1))
add("iota", inner=lambda: torch.arange(3).reshape(1, 3, 1).expand(2, 3, 4), last=lambda: torch.arange(33))
add("fill", shape=lambda: torch.full((2, 3), -1.25), scalar=lambda: torch.tensor(7.0))
add("literal", floats=lambda: torch.tensor([[0.5, -1.5], [2.0, 1e-3]], dtype=torch.float64),
    integers=lambda: torch.tensor([-7, 0, 65535]))


def swapped(x, function):
    return function(x.transpose(1, 2)).transpose(1, 2)


def dilate(x):
    wide = x.new_zeros(x.shape[0], 3 * x.shape[1] - 2, x.shape[2])
    return wide.index_copy(1, 3 * torch.arange(x.shape[1]), x)


add("layout::pad", zeros=lambda x: F.pad(x, (1, 2)), a_number=lambda x: F.pad(x, (0, 0, 2, 1), value=2.5),
    a_number_behind=lambda x: F.pad(x, (0, 0, 0, 0, 0, 2), value=-1.0), reflect=lambda x: F.pad(x, (3, 2), "reflect"),
    reflect__short_axis=lambda x: swapped(x, lambda t: F.pad(t, (2, 2), "reflect")),
    replicate=lambda x: F.pad(x, (2, 5), "replicate"), circular=lambda x: F.pad(x, (3, 4), "circular"),
    integers=lambda x: F.pad(x, (1, 1), value=4))
add("layout::flip", middle=lambda x: x.flip(1))
add("layout::stride", by_two=lambda x: x[:, 1:7:2], by_one=lambda x: x[:, 2:5])
add("layout::tile", three_times=lambda x: x.tile(1, 3, 1))
add("layout::repeat", three_times=lambda x: x.repeat_interleave(3, 1))
alike("layout::dilate", ["by three", "one element"], dilate)
alike("scan::cum_prod", ["middle", "through zeros", "nine"], lambda x: torch.cumprod(x, 1))


def rendering(density, distance):
    opacity = 1 - torch.exp(-density * distance)
    light = torch.cumprod(torch.cat([torch.ones_like(opacity[..., :1]), 1 - opacity], -1), -1)[..., :-1]
    return light * opacity


def soft_argmin(cost, step):
    places = step * torch.arange(cost.shape[1], dtype=cost.dtype)
    return torch.einsum("bd...,d->b...", torch.softmax(-cost, 1), places)


add("scan::rendering_weights", rays=rendering)
add("scan::soft_argmin", costs=lambda x: soft_argmin(x, 1.0), steps_of_two=lambda x: soft_argmin(x, 2.0))

# Indices.


def taken(x, ids, axis):
    return x.index_select(axis, ids.flatten()).unflatten(axis, ids.shape)


def untaken(ids, g, axis, length):
    flat = g.flatten(axis, axis + ids.dim() - 1)
    shape = list(flat.shape)
    shape[axis] = length
    return flat.new_zeros(shape).index_add(axis, ids.flatten(), flat)


def replaced(x, ids, updates):
    """PyTorch leaves open which of several writes counts; what it does here is checked to be the last."""
    y = x.scatter(1, ids, updates)
    last = x.detach().clone()
    for row, column in np.ndindex(*ids.shape):
        last[row, ids[row, column]] = updates[row, column]
    assert torch.equal(y.detach(), last)
    return y


alike("gather", ["middle axis", "odd", "integers"], lambda x, ids: taken(x, ids, 1))
add("gather", first_axis=lambda x, ids: taken(x, ids, 0), last_axis=lambda x, ids: taken(x, ids, 2))
add("gather_grad", middle_axis=lambda ids, g: untaken(ids, g, 1, 3), last_axis=lambda ids, g: untaken(ids, g, 2, 5))
alike("gather_elements", ["last axis", "fewer elsewhere", "odd", "integers"], lambda x, ids: x.gather(1, ids))
add("gather_elements", first_axis=lambda x, ids: x.gather(0, ids))
alike("scatter_elements", ["adds", "adds, fewer elsewhere", "adds, odd"], lambda x, i, u: x.scatter_add(1, i, u))
alike("scatter_elements", ["adds, first axis"], lambda x, i, u: x.scatter_add(0, i, u))
alike("scatter_elements", ["replaces, first axis"], lambda x, i, u: x.scatter(0, i, u))
alike("scatter_elements", ["replaces", "replaces twice", "integers"], replaced)


def top(axis, k, smallest=False):
    def of(x):
        values, places = torch.sort(x, dim=axis, descending=not smallest, stable=True)
        return values.narrow(axis, 0, k), places.narrow(axis, 0, k)
    return of


add("top_k", largest=top(2, 2), smallest=top(2, 2, True), middle_axis=top(1, 2), first_axis=top(0, 2, True), all=top(2, 4), odd=top(1, 5),
    equal_ones=top(1, 2), equal_ones__smallest=top(1, 3, True))
alike("cum_sum", ["forward", "odd"], lambda x: x.cumsum(1))
add("cum_sum", first_axis=lambda x: x.flip(0).cumsum(0).flip(0) - x, last_axis=lambda x: x.flip(2).cumsum(2).flip(2),
    exclusive=lambda x: x.cumsum(1) - x, backward=lambda x: x.flip(1).cumsum(1).flip(1),
    backward__exclusive=lambda x: x.flip(1).cumsum(1).flip(1) - x)

# Convolutions and pools.


def conv(function=F.conv2d, **settings):
    return lambda x, w, b=None: function(x, w, b, **settings)


alike("conv2d", ["1x1", "whole image", "odd 1x1", "larger 1x1"], conv())
alike("conv2d", ["bias", "odd", "three images", "larger"], conv(padding=1))
alike("conv2d", ["stride", "odd stride", "larger stride"], conv(stride=2, padding=1))
alike("conv2d", ["1x1 stride"], conv(stride=2))
alike("conv2d", ["7x7"], conv(stride=2, padding=3))
alike("conv2d", ["1x1, padded"], conv(padding=2))
alike("conv2d", ["1x1 stride, groups"], conv(stride=2, padding=1, groups=2))
add("conv2d", dilation=conv(padding=2, dilation=2), groups=conv(groups=2), depthwise=conv(padding=1, groups=5),
    two_a_channel=conv(stride=2, padding=1, groups=3), uneven=conv(stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
    rows_only=conv(padding=(0, 1)), columns_only=conv(padding=(1, 0)), stride_leaves_a_rest=conv(stride=3),
    odd_depthwise=conv(padding=1, groups=17))


def input_grad(**settings):
    return lambda w, g: torch.nn.grad.conv2d_input((2, 2, 5, 4), w, g, **settings)


def weight_grad(shape, **settings):
    return lambda x, g: torch.nn.grad.conv2d_weight(x, shape, g, **settings)


add("conv2d_input_grad", stride=input_grad(stride=2, padding=1), groups=input_grad(groups=2),
    dilation=input_grad(padding=2, dilation=2))
add("conv2d_weight_grad", stride=weight_grad((3, 2, 3, 3), stride=2, padding=1), groups=weight_grad((4, 1, 3, 3), groups=2))
for row, function in [("max_pool2d", F.max_pool2d), ("avg_pool2d", F.avg_pool2d)]:
    for name, kernel, stride, padding in [("2x2", 2, 2, 0), ("overlapping, padded", 3, 2, 1), ("every place", 3, 1, 1),
                                          ("uneven", (3, 2), (1, 2), (1, 0)), ("a rest", 2, 3, 0), ("odd", 3, 2, 1),
                                          ("larger", 3, 2, 1)]:
        alike(row, [name], lambda x, f=function, a=(kernel, stride, padding): f(x, *a))
alike("max_pool2d", ["no number"], lambda x, y: F.max_pool2d(torch.sqrt(x) + y, 2))
add("conv::conv1d", padded=conv(F.conv1d, padding=1), stride__groups=conv(F.conv1d, stride=2, padding=1, groups=2),
    dilation=conv(F.conv1d, padding=2, dilation=3), without_bias=conv(F.conv1d))
add("conv::conv3d", uneven=conv(F.conv3d, stride=(2, 1, 1), padding=(1, 0, 1)),
    dilation__groups=conv(F.conv3d, stride=(1, 2, 1), padding=(2, 1, 1), dilation=(2, 1, 1), groups=2),
    without_bias=conv(F.conv3d))
add("conv::transposed2d", gaps=conv(F.conv_transpose2d, stride=3, output_padding=(0, 1)), doubles=conv(F.conv_transpose2d, stride=2, padding=1),
    groups__extra=conv(F.conv_transpose2d, stride=(2, 1), padding=1, groups=2, output_padding=(1, 0)),
    dilation=conv(F.conv_transpose2d, padding=1, dilation=2))
add("conv::transposed1d", groups__extra=conv(F.conv_transpose1d, stride=2, padding=1, groups=2, output_padding=1))
add("conv::transposed3d", uneven=conv(F.conv_transpose3d, stride=(2, 1, 1), padding=(1, 0, 0)),
    dilation__extra=conv(F.conv_transpose3d, stride=2, padding=1, dilation=(2, 1, 1), groups=2, output_padding=(1, 1, 0)))
add("pool::mean_of_image", padded=lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    not_padded=lambda x: F.avg_pool2d(x, 2, (2, 1)))
add("pool::pool1d", max=lambda x: F.max_pool1d(x, 2, 2), max_padded=lambda x: F.max_pool1d(x, 3, 2, 1),
    mean=lambda x: F.avg_pool1d(x, 2, 2), mean_padded=lambda x: F.avg_pool1d(x, 3, 2, 1))
for name, function in [("max", F.max_pool3d), ("mean", F.avg_pool3d)]:
    alike("pool::pool3d", [f"{name} volume"], lambda x, f=function: f(x, (2, 2, 1), (2, 2, 1)))
    alike("pool::pool3d", [f"{name} padded"], lambda x, f=function: f(x, (3, 3, 2), (2, 1, 1), (1, 1, 0)))
add("pool::adaptive", more_than_there_are=lambda x: F.adaptive_avg_pool1d(x, 5), max_adaptive=lambda x: F.adaptive_max_pool2d(x, (3, 2)),
    mean_adaptive=lambda x: F.adaptive_avg_pool2d(x, (3, 2)))

# Reading between pixels.


def resized(size, mode="bilinear", aligned=None):
    return lambda x: F.interpolate(x, size=size, mode=mode, align_corners=aligned)


def asymmetric(x, axis, new):
    """New element i lies at `i old / new`."""
    old = x.shape[axis]
    at = torch.arange(new, dtype=x.dtype) * old / new
    low = at.floor().long().clamp(max=old - 1)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(x.dim())])
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, (low + 1).clamp(max=old - 1)) * share


add("resize::nearest", larger=resized((10, 7), "nearest"), smaller=resized((3, 2), "nearest"))
add("resize::linear", half_pixels__larger=resized((9, 8)), half_pixels__smaller=resized((3, 2)),
    aligned__larger=resized((9, 8), aligned=True), aligned__smaller=resized((3, 2), aligned=True),
    aligned__to_one=resized((1, 1), aligned=True), asymmetric=lambda x: asymmetric(asymmetric(x, 2, 7), 3, 6),
    one_axis=resized(16, "linear"), volume=resized((5, 7, 4), "trilinear"))


def sampled(beyond="zeros", aligned=False):
    return lambda x, grid: F.grid_sample(x, grid, padding_mode=beyond, align_corners=aligned)


def at_pixels(x, rows, columns, beyond="zeros"):
    """Reads at places in pixels."""
    grid = torch.stack([2 * columns / (x.shape[3] - 1) - 1, 2 * rows / (x.shape[2] - 1) - 1], -1)
    return sampled(beyond, True)(x, grid)


def warped(beyond):
    def of(x, disparity):
        rows = torch.arange(x.shape[2], dtype=x.dtype).reshape(1, -1, 1).expand(disparity[:, 0].shape)
        return at_pixels(x, rows, torch.arange(x.shape[3], dtype=x.dtype) - disparity[:, 0], beyond)
    return of


def bilinear(x, rows, columns):
    read = at_pixels(x.flatten(0, 1), rows.flatten(0, 1)[:, None], columns.flatten(0, 1)[:, None])
    return read[:, :, 0].unflatten(0, x.shape[:2])


def deformable(**settings):
    return lambda x, w, offset, mask=None: deform_conv2d(x, offset, w, mask=mask, **settings)


add("sample::grid_sample", zeros=sampled(), border=sampled("border"), zeros__aligned=sampled("zeros", True),
    border__aligned=sampled("border", True), within_a_cell=sampled("zeros", True))
add("sample::warp", zeros=warped("zeros"), border=warped("border"), half_a_pixel=warped("border"))
add("sample::bilinear", two_groups=bilinear)
alike("sample::deformable", ["first version", "second version"], deformable(padding=1))
alike("sample::deformable", ["far beyond", "within cells"], deformable())
add("sample::deformable", stride__two_offset_groups=deformable(stride=2, padding=1),
    dilation__groups=deformable(padding=2, dilation=2))
