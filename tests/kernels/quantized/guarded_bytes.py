"""Runs the kernels on bytes on arrays that end, then on arrays that begin, at a page that nobody may touch.

As `tests.kernels.guarded_conv`: every instruction set, margins of exactly the padding. A kernel that reads or writes outside
its arrays kills this process: `test_guard_pages_bytes` looks at how it ended.
"""

from __future__ import annotations

import numpy as np

from fogconv.ir.geometry import BLOCK, ConvSpec, PoolSpec
from fogconv.ir.memory.algorithm import QUANTIZED, QUANTIZED_WINOGRAD
from fogconv.kernels.codegen.isa import AVX512, Isa
from fogconv.kernels.maps import blocked, scratch
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.quantized import depthwise, direct, elementwise, pooling
from fogconv.kernels.quantized.arithmetic import Product
from fogconv.kernels.quantized.conv import prepare
from fogconv.kernels.quantized.numbers import Scale, Target
from fogconv.kernels.quantized.winograd import kernel as winograd
from tests.kernels import guarded
from tests.kernels.quantized.byte_maps import ways

P1 = (1, 1, 1, 1)

SPECS = (
    ConvSpec(3, 5, 7, 7, (3, 3), (2, 2), P1),
    ConvSpec(2, 5, 9, 9, (1, 7), (1, 1), (0, 0, 3, 3)),
    ConvSpec(21, 37, 5, 7, (3, 3), (1, 1), P1, batch=2),
    ConvSpec(32, 16, 4, 7, (1, 1), (2, 2)),
    ConvSpec(24, 24, 5, 7, (3, 3), (1, 1), P1, groups=24),
    ConvSpec(16, 16, 5, 3, (5, 5), (2, 2), (2, 2, 2, 2), groups=16),
    ConvSpec(42, 10, 4, 7, (3, 3), (1, 1), P1, groups=2),
    ConvSpec(70, 20, 1, 1, (1, 1)),
)


BY_TILES = (
    ConvSpec(21, 37, 5, 7, (3, 3), (1, 1), P1, batch=2),
    ConvSpec(32, 16, 8, 8, (3, 3), (1, 1), (0, 2, 0, 2)),
)


def run(spec: ConvSpec, isa: Isa, product: Product, algorithm: str = QUANTIZED) -> None:
    weight, factors = np.ones(spec.weight_shape, np.int8), np.full(spec.out_channels, 1e-3, np.float32)
    prepared = prepare(
        *(spec, weight, None, 3),
        multipliers=factors,
        target=Target(9),
        threads=2,
        isa=isa,
        product=product,
        algorithm=algorithm,
    )
    for lanes in {BLOCK, prepared.wanted_lanes}:
        prepared.run(Blocked.empty(*spec.input_shape, Margin(*spec.padding), lanes, np.uint8, 3), prepared.empty_output())


def run_maps(channels: int, height: int, width: int) -> None:
    shape, one = (2, channels, height, width), np.float32(0.1)
    x, y, out = (Blocked.empty(*shape, kind=np.uint8) for _ in range(3))
    gate, sums = Blocked.empty(2, channels, 1, 1, kind=np.uint8), Blocked.empty(*shape, kind=np.int32)
    total, real = Blocked.empty(2, channels, 1, 1, kind=np.int32), Blocked.empty(*shape)
    elementwise.bind_add(x, y, out, (1, 2), (one, one), Target(3))()
    elementwise.bind_multiply(x, y, out, (1, 2), one, Target(3))()
    elementwise.bind_multiply(x, gate, out, (1, 2), one, Target(3))()
    elementwise.bind_rescale(x, out, 1, one, Target(3))()
    elementwise.bind_table(x, out, guarded.guarded(256, np.uint8))()
    elementwise.bind_quantise(real, out, Scale(0.1, 3))()
    elementwise.bind_dequantise(x, real, Scale(0.1, 3))()
    if channels <= 4:
        narrow = Blocked.empty(*shape, lanes=4)
        elementwise.bind_quantise(narrow, Blocked.empty(*shape, lanes=4, kind=np.uint8), Scale(0.1, 3))()
    factors = np.ones(channels, np.float32)
    for target, multipliers in ((out, factors), (real, factors), (sums, None)):
        elementwise.bind_requantise([sums, sums], target, None, multipliers, Target(3) if target is out else None)()
    pooling.bind_global_sums(x, total, 3)()
    for kind in ("max", "avg"):
        for kernel, stride, padding in (((3, 3), (2, 2), 1), ((2, 2), (2, 2), 0)):
            spec = PoolSpec(kind, channels, height, width, kernel, stride, (padding,) * 4, ceil_mode=True, batch=2)
            pooled = Blocked.empty(2, channels, spec.out_height, spec.out_width, kind=np.uint8)
            if kind == "max":
                pooling.bind_max_pool(spec, x, 0, 0, pooled, 0, 0)()
            else:
                pooling.bind_average_pool(spec, x, 0, 0, pooled, 0, 0, 3, 0.5, Target(3))()


def main() -> None:
    for module in (blocked, depthwise, direct, elementwise, scratch, winograd):
        module.aligned_zeros = guarded.guarded_zeros if module is elementwise else _whole_pixels  # type: ignore[attr-defined]
    for flush in (True, False):
        guarded.at_end = flush
        for shape in ((1, 3, 3), (3, 5, 7), (16, 4, 4), (21, 3, 9)):
            run_maps(*shape)
        for spec in SPECS:
            for isa, product in ways():
                if product is not Product.PLAIN and (isa, product) != (AVX512, Product.PAIRS):
                    run(spec, isa, product)
        for spec in BY_TILES:
            for isa, product in ways():
                if (isa, product) != (AVX512, Product.PAIRS):
                    run(spec, isa, product, QUANTIZED_WINOGRAD)


def _whole_pixels(shape: tuple[int, ...], alignment: int = 64, kind: object = np.float32) -> np.ndarray:
    """Aligned to what the array ends with: 4 or 16 bytes of a pixel."""
    return guarded.guarded(shape, kind)


if __name__ == "__main__":
    main()
