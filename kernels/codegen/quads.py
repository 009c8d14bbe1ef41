"""Quads: the last output channels of a map, where a vector of one per lane would be mostly empty (AVX-512, up to 12 of 16).

A vector of a quad holds 4 output channels × 4 input channels, an input's four values are broadcast together, and the lanes
of a sum are added in fours at the end:

    sum[pixel, 4·o + i] += x[pixel, 4·k + i] · w[k, 4·o + i]

12 output channels cost 3/4 of 16, 8 half, 4 a quarter; adding the lanes takes three to ten instructions per pixel.
Vectors of 8 floats for up to 8 channels were slower where they apply (8 of 64 channels, 1×1 at 56×56: 0.80 of linear
speed against 0.90), because each product still needs its own load. They do not help for 9 to 12 channels, nor on CPUs
whose units are 512 bits wide.
"""

from __future__ import annotations

from collections.abc import Sequence

from fogconv.ir.memory.algorithm import QUAD as QUAD
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import Builder, Value


def quad_steps(in_channels: int) -> int:
    """Vectors of weights per four output channels and tap: one for every four input channels, then one for each."""
    return in_channels // QUAD + in_channels % QUAD


def spread(builder: Builder, vl: int, four: Value) -> Value:
    """Four values for four output channels, each in the first of its lanes, with zeros in the others."""
    lanes = [QUAD if lane % QUAD else lane // QUAD for lane in range(vl)]
    return v.pick(builder, four, v.constant(QUAD, 0.0), lanes)


def folded(builder: Builder, sums: Sequence[Value], vectors: int) -> list[Value]:
    """Sums [pixel][vector] with their lanes added in fours: for each pixel its output channels in order, then zeros.

    Four vectors at a time, from as many pixels as needed: interleaving their lanes leaves whole vectors to add.
    """
    vl = sums[0].type.count
    zero, pixels = v.constant(vl, 0.0), QUAD // vectors

    def added(a: Value, b: Value, *orders: Sequence[int]) -> Value:
        """The sum of interleavings of a and b; the orders are lanes within fours, from 4 on those of b."""
        picked = []
        for order in orders:
            fours = [(lane - lane % QUAD, *divmod(order[lane % QUAD], QUAD)) for lane in range(vl)]
            picked.append(v.pick(builder, a, b, [first + vl * of_b + within for first, of_b, within in fours]))
        return builder.fadd(*picked)

    results = []
    for p in range(0, len(sums) // vectors, pixels):
        some = list(sums[p * vectors : (p + pixels) * vectors])
        here = len(some) // vectors
        a, b, c, d = some + [zero] * (QUAD - len(some))
        ab, cd = (added(*two, (0, 4, 1, 5), (2, 6, 3, 7)) for two in ((a, b), (c, d)))
        total = added(ab, cd, (0, 1, 4, 5), (2, 3, 6, 7))  # lane 4·q + j: output channel q of vector j
        for pixel in range(here):
            channels = [QUAD * q + pixel * vectors + j for j in range(vectors) for q in range(QUAD)]
            results.append(v.pick(builder, total, zero, channels + [vl] * (vl - len(channels))))
    return results
