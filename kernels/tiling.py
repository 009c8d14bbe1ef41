"""Which tiles cover an output map: a cost rule, in cycles of the innermost loop.

A tile of P pixels × V vectors needs P·V + V + 1 registers: sums, weights and one broadcast value. The rule knows three
limits of a core, per input channel:

    multiplications    P·V / 2      two fused multiply-adds per cycle
    loads              (P + V) / 2  two loads per cycle
    latency            4            a sum can take its next product after four cycles

which fits AVX-512 and AVX2 servers; a core that multiplies at half the rate (Zen 4) only cares less about the shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from fogconv.kernels.isa import Isa

TILE_OVERHEAD = 40.0
"""Cycles to start and to store a tile."""

STREAM_BYTES_PER_CYCLE = 24.0
"""What the second-level cache sustains for weights."""

L1_BYTES = 24 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """One tile's place on the output map."""

    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Cover:
    """A map of height × width cut into bands of rows and pieces of columns (sizes, in order)."""

    bands: tuple[int, ...]
    pieces: tuple[int, ...]

    def places(self) -> Iterator[Place]:
        row = 0
        for rows in self.bands:
            column = 0
            for columns in self.pieces:
                yield Place(row, column, rows, columns)
                column += columns
            row += rows

    @property
    def shapes(self) -> frozenset[tuple[int, int]]:
        """The distinct (rows, columns)."""
        return frozenset((rows, columns) for rows in self.bands for columns in self.pieces)


@dataclass(frozen=True, slots=True)
class Pass:
    """``count`` groups of ``vectors`` vectors of output channels each, from vector ``first`` on, over one cover."""

    first: int
    vectors: int
    count: int
    cover: Cover


def most_pixels(isa: Isa, vectors: int) -> int:
    """The largest tile that stays in registers, by the number of vectors of output channels.

    One fewer than the registers would hold in three cases, where LLVM's schedule spills (`tests/kernels/test_assembly.py`).
    """
    if isa.name == "neon":  # inputs are held as vectors as well, and four weights at a time
        return {1: 12, 2: 8, 3: 5, 4: 4}[vectors]
    if isa.registers > 16:
        return {1: 28, 2: 14, 3: 8, 4: 6}[vectors]
    return {1: 9, 2: 6, 3: 3, 4: 2}[vectors]


def split_evenly(length: int, longest: int) -> tuple[int, ...]:
    """As few pieces as possible, none longer than ``longest``, as equal as possible, the longer ones first."""
    pieces = -(-length // longest)
    short, longer = divmod(length, pieces)
    return (short + 1,) * longer + (short,) * (pieces - longer)


@cache
def best_cover(isa: Isa, height: int, width: int, vectors: int, depth: int) -> tuple[Cover, float]:
    """The cheapest cover for sums over ``depth`` products, and its cost in cycles."""
    most = most_pixels(isa, vectors)
    best: tuple[float, Cover] | None = None
    for rows in range(1, min(height, most) + 1):
        pieces = split_evenly(width, most // rows)
        full, rest = divmod(height, rows)
        cover = Cover((rows,) * full + ((rest,) if rest else ()), pieces)
        cost = sum(
            (full * tile_cycles(rows * columns, vectors, depth, isa))
            + (tile_cycles(rest * columns, vectors, depth, isa) if rest else 0.0)
            for columns in pieces
        )
        if best is None or cost < best[0] * 0.995:
            best = (cost, cover)
    assert best is not None
    return best[1], best[0]


def tile_cycles(pixels: int, vectors: int, depth: int, isa: Isa) -> float:
    weight_bytes = 4 * isa.vector_length * vectors
    streamed = weight_bytes / STREAM_BYTES_PER_CYCLE if depth * weight_bytes > L1_BYTES else 0.0
    return TILE_OVERHEAD + depth * max(pixels * vectors / 2, (pixels + vectors) / 2, 4.0, streamed)


def group_sizes(isa: Isa) -> tuple[int, ...]:
    """How many vectors of output channels a tile may have. A group never splits a block of 16 channels unevenly."""
    return (1, 2, 3, 4) if isa.vector_length == 16 else (16 // isa.vector_length,)


@cache
def plan_passes(
    isa: Isa, height: int, width: int, out_channels: int, depth: int, vectors: int | None = None
) -> tuple[Pass, ...]:
    """All output channels in groups, the rest in a smaller one; ``vectors`` fixes the size of the groups."""
    total = -(-out_channels // isa.vector_length)
    best: tuple[float, tuple[Pass, ...]] | None = None
    for size in group_sizes(isa) if vectors is None else (vectors,):
        count, rest = divmod(total, size)
        passes, cost = [], 0.0
        if count:
            cover, cycles = best_cover(isa, height, width, size, depth)
            passes.append(Pass(0, size, count, cover))
            cost += cycles * count
        if rest:
            cover, cycles = best_cover(isa, height, width, rest, depth)
            passes.append(Pass(count * size, rest, 1, cover))
            cost += cycles
        if best is None or cost < best[0] * 0.98:
            best = (cost, tuple(passes))
    assert best is not None
    return best[1]
