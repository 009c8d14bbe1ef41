"""The rule that chooses an algorithm, held to what 3×3 convolutions took."""

from __future__ import annotations

import pytest

from fogconv.ir.geometry import ConvSpec
from fogconv.ir.memory.algorithm import cheapest, cycles, winograd_elements, winograd_sets, winograd_tiles

ALGORITHMS = ("direct", "winograd2", "winograd4")

MS_PER_CYCLE = 0.14e-6
"""Of the processor that the table is of: two vectors of 16 floats in each cycle, at 3.6 GHz."""

MEASURED_MS = {
    (512, 512, 28, 28): (16.6, 9.5, 5.55),
    (512, 512, 6, 28): (3.5, 2.1, 2.39),
    (512, 512, 8, 28): (4.85, 2.8, 2.42),
    (256, 512, 8, 28): (2.3, 1.45, 0.95),
    (512, 512, 14, 14): (3.95, 2.4, 2.4),
    (512, 512, 3, 14): (1.03, 1.11, 1.1),
    (512, 512, 2, 14): (0.66, 0.66, 1.1),
    (256, 256, 12, 56): (3.37, 2.1, 1.4),
    (256, 256, 8, 56): (2.27, 1.45, 1.0),
    (256, 256, 3, 14): (0.25, 0.215, 0.315),
    (512, 512, 1, 7): (0.33, 0.58, 1.0),
    (512, 512, 2, 7): (0.48, 0.6, 1.0),
    (128, 128, 8, 28): (0.285, 0.185, 0.13),
    (512, 112, 28, 28): (3.5, 2.25, 1.36),
    (512, 112, 14, 14): (0.87, 0.59, 0.6),
}
"""(channels in and out, rows, columns of the output) → ms by each algorithm, from cold caches, one thread, AVX-512: layers
of VGG-16 and ResNet-50, whole, by rows and by channels."""


def shard(channels: int, filters: int, rows: int, columns: int) -> ConvSpec:
    return ConvSpec(channels, filters, rows + 2, columns, (3, 3), padding=(0, 0, 1, 1))


@pytest.mark.parametrize("shape", MEASURED_MS, ids=str)
def test_the_rule_takes_what_was_the_fastest_or_nearly(shape: tuple[int, int, int, int]) -> None:
    measured = dict(zip(ALGORITHMS, MEASURED_MS[shape], strict=True))
    assert measured[cheapest(shard(*shape))] <= 1.05 * min(measured.values())


@pytest.mark.parametrize("shape", MEASURED_MS, ids=str)
def test_the_chosen_algorithm_takes_about_what_the_rule_says(shape: tuple[int, int, int, int]) -> None:
    spec = shard(*shape)
    chosen = cheapest(spec)
    measured = dict(zip(ALGORITHMS, MEASURED_MS[shape], strict=True))[chosen]
    assert cycles(spec, chosen) * MS_PER_CYCLE == pytest.approx(measured, rel=0.3)


def test_weights_are_read_again_for_each_set_of_tiles() -> None:
    """A map of two sets costs twice a map of one, and not less because its weights are there already."""
    one, two = shard(512, 512, 8, 28), shard(512, 512, 32, 28)
    outputs = (2, 2)
    elements = winograd_elements(one, outputs)
    rows, columns = winograd_tiles(one, outputs)
    assert len(winograd_sets(one, elements, rows * columns)) == 1
    rows, columns = winograd_tiles(two, outputs)
    assert winograd_sets(two, elements, rows * columns) == (56, 56, 56, 56)
    assert cycles(two, "winograd2") == pytest.approx(4 * cycles(one, "winograd2"))
