"""Weights, tokens and images as Wattle draws them, bit for bit, so that reference files need not hold them.

The same formulas as models/src/init.rs (draws from a job's seed by a counter) and models/src/data (the order of
samples). BLAKE3 is written out for inputs of one block, from its specification, section 2.
"""

import math
import pathlib
import struct
import zlib

import numpy as np

DATA = pathlib.Path(__file__).parents[3] / "data"
M64 = (1 << 64) - 1
M32 = (1 << 32) - 1
IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]


def _mix_words(v, a, b, c, d, x, y):
    turn = lambda word, by: ((word >> by) | (word << (32 - by))) & M32
    v[a] = (v[a] + v[b] + x) & M32
    v[d] = turn(v[d] ^ v[a], 16)
    v[c] = (v[c] + v[d]) & M32
    v[b] = turn(v[b] ^ v[c], 12)
    v[a] = (v[a] + v[b] + y) & M32
    v[d] = turn(v[d] ^ v[a], 8)
    v[c] = (v[c] + v[d]) & M32
    v[b] = turn(v[b] ^ v[c], 7)


def blake3_first8(data: bytes) -> int:
    """The first eight bytes of the BLAKE3 hash, as a little-endian integer."""
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    assert len(blocks) <= 16, "one chunk"
    chain = IV
    for number, block in enumerate(blocks):
        words = list(struct.unpack("<16I", block.ljust(64, b"\0")))
        is_last = number == len(blocks) - 1
        flags = (1 if number == 0 else 0) | (2 | 8 if is_last else 0)
        v = chain + IV[:4] + [0, 0, len(block), flags]
        for turn in range(7):
            for at, (a, b, c, d) in enumerate(
                [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                 (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
            ):
                _mix_words(v, a, b, c, d, words[2 * at], words[2 * at + 1])
            words = [words[i] for i in PERMUTATION]
        chain = [v[i] ^ v[i + 8] for i in range(8)]
    return chain[0] | (chain[1] << 32)


def mix(z: int) -> int:
    """SplitMix64's finaliser."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
    return z ^ (z >> 31)


def normal(seed: int, name: str, deviation: float, count: int) -> np.ndarray:
    """Normal draws of a named stream, f32."""
    key = blake3_first8(b"wattle-init-v1\0" + struct.pack("<Q", seed) + name.encode())
    step = 0x9E3779B97F4A7C15
    unit = lambda n: (mix((key + n * step + step) & M64) >> 11) / 9007199254740992.0
    out = []
    for pair in range((count + 1) // 2):
        length = math.sqrt(-2.0 * math.log(1.0 - unit(2 * pair))) * float(np.float32(deviation))
        angle = math.tau * unit(2 * pair + 1)
        out += [length * math.cos(angle), length * math.sin(angle)]
    return np.array(out[:count], dtype=np.float32)


def weight(name: str, shape) -> np.ndarray:
    """A parameter of the reference networks: see models/src/tests/reference.rs, which has the same rule."""
    count = int(np.prod(shape))
    if len(shape) > 1:
        return normal(1, name, 0.2, count).reshape(shape)
    gain = np.float32(1.0) if name.endswith("weight") else np.float32(0.0)
    return (gain + normal(1, name, 0.1, count)).reshape(shape)


def dropout(step: int, micro_batch: int, stream: int, rate: float, shape) -> np.ndarray:
    """A mask of a job of seed 0: models/src/exec/host/activation.rs, keyed as in models/src/exec/kernel.rs."""
    key = mix(mix(mix(0) ^ step) ^ (micro_batch << 32 | stream))
    rate, one = np.float32(rate), np.float32(1.0)
    bound, keep = int(float(rate) * 2.0**32), float(one / (one - rate))
    dropped = lambda n: mix((key + n * 0x9E3779B97F4A7C15) & M64) >> 32 < bound
    mask = [0.0 if dropped(n) else keep for n in range(math.prod(shape))]
    return np.array(mask).reshape(shape)


def sample(seed: int, place: int, count: int) -> int:
    """models/src/data/order.rs."""
    turn, at = divmod(place, max(count, 1))
    key = mix(mix(seed) ^ turn)
    half = max(-(-(count - 1).bit_length() // 2), 1)
    mask = (1 << half) - 1
    while True:
        left, right = at >> half, at & mask
        for number in range(4):
            left, right = right, left ^ (mix(key ^ ((right << 8) & M64) ^ number) & mask)
        at = (left << half) | right
        if at < count:
            return at


def _rows(seed, step, micro_batch, micro_batches, rows, count):
    first = (step * micro_batches + micro_batch) * rows
    return [sample(seed, first + row, count) for row in range(rows)]


def text(seed, step, micro_batch, micro_batches, rows, length):
    """Tokens and targets of text:kjv."""
    whole = zlib.decompress((DATA / "kjv.txt.zlib").read_bytes())
    starts = _rows(seed, step, micro_batch, micro_batches, rows, (len(whole) - 1) // length)
    cut = lambda shift: np.array([list(whole[s * length + shift : s * length + shift + length]) for s in starts])
    return cut(0), cut(1)


def digits(seed, step, micro_batch, micro_batches, rows, image):
    """Images and labels of images:digits."""
    whole = zlib.decompress((DATA / "digits.zlib").read_bytes())
    records = [whole[i : i + 65] for i in range(0, len(whole), 65)]
    channels, height, width = image
    images, labels = np.zeros((rows, *image), np.float32), np.zeros(rows, np.int64)
    for row, at in enumerate(_rows(seed, step, micro_batch, micro_batches, rows, len(records))):
        labels[row] = records[at][0]
        pixels = np.frombuffer(records[at][1:], np.uint8).reshape(8, 8).astype(np.float32) / 8.0 - 1.0
        small = pixels[np.arange(height) * 8 // height][:, np.arange(width) * 8 // width]
        images[row] = small[None]
    return images, labels
