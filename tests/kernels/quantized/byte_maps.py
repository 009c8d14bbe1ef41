"""Random blocked maps of bytes for the tests: margins of zeros' bytes, anything beyond them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen.isa import AVX2, AVX512, GENERIC, NEON, Isa, cpu_features, host_family
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.quantized.arithmetic import Product
from fogconv.kernels.quantized.numbers import Bytes

WAYS: tuple[tuple[Isa, Product], ...] = {
    "x86": (
        (AVX512, Product.VNNI),
        (AVX2, Product.VNNI),
        (AVX512, Product.PAIRS),
        (AVX2, Product.PAIRS),
        (NEON, Product.PAIRS),
        (GENERIC, Product.PLAIN),
    ),
    "aarch64": ((NEON, Product.SDOT), (NEON, Product.SMULL), (NEON, Product.PLAIN)),
}.get(host_family(), ((GENERIC, Product.PLAIN),))
"""Instruction sets with the products that their CPUs can have."""

NEEDS = {
    (AVX512, Product.VNNI): {"avx512vnni", "avx512vl"},
    (AVX2, Product.VNNI): {"avxvnni"},
    (AVX512, Product.PAIRS): {"avx512bw"},
    (AVX2, Product.PAIRS): {"avx2"},
    (NEON, Product.SDOT): {"dotprod"},
}


def ways() -> list[tuple[Isa, Product]]:
    """Those that run on this CPU."""
    return [way for way in WAYS if NEEDS.get(way, set()) <= cpu_features()]


def random_bytes(rng: np.random.Generator, *shape: int) -> Bytes:
    """Many of them at the ends of the range."""
    return np.where(rng.random(shape) < 0.3, rng.choice([0, 255], shape), rng.integers(0, 256, shape)).astype(np.uint8)


def random_weights(rng: np.random.Generator, *shape: int) -> NDArray[np.int8]:
    return np.where(rng.random(shape) < 0.3, rng.choice([-127, 127], shape), rng.integers(-127, 128, shape)).astype(np.int8)


def pack_bytes(
    x: Bytes, zero: int, margin: Margin = Margin(), lanes: int = BLOCK, beyond: int | None = None, further: int = 0
) -> Blocked:
    """(N, C, H, W) in a margin of ``zero``. The lanes beyond C hold ``beyond``, ``zero`` by default; ``further`` rows and
    columns of other bytes lie around the margin."""
    n, c, h, w = x.shape
    wide = Margin(*(side + further for side in margin))
    m = Blocked.empty(n, c, h, w, wide, lanes, np.uint8, 255 - zero)
    rows, columns = slice(further, m.data.shape[2] - further), slice(further, m.data.shape[3] - further)
    m.data[:, :, rows, columns] = zero
    padded = np.full((n, m.data.shape[1] * lanes, h, w), zero if beyond is None else beyond, np.uint8)
    padded[:, :c] = x
    m.interior[...] = padded.reshape(n, -1, lanes, h, w).transpose(0, 1, 3, 4, 2)
    return m


def unpack_lanes(m: Blocked) -> NDArray[np.generic]:
    """(N, blocks·16, H, W): all lanes."""
    n, blocks, h, w, lanes = m.interior.shape
    return m.interior.transpose(0, 1, 4, 2, 3).reshape(n, blocks * lanes, h, w)
