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


HALF_RATE_MS = {
    (512, 512, 28, 28): (34.69, 17.08, 9.9),
    (512, 512, 6, 28): (7.43, 3.53, 2.71),
    (512, 512, 8, 28): (9.64, 4.56, 2.8),
    (256, 512, 8, 28): (4.79, 2.37, 1.58),
    (512, 512, 14, 14): (8.36, 4.09, 3.18),
    (512, 512, 3, 14): (1.94, 1.28, 1.87),
    (512, 512, 2, 14): (1.47, 0.71, 2.01),
    (256, 256, 12, 56): (7.15, 3.43, 2.13),
    (256, 256, 8, 56): (4.8, 2.46, 1.57),
    (256, 256, 3, 14): (0.5, 0.37, 0.58),
    (512, 512, 1, 7): (0.52, 0.84, 1.89),
    (512, 512, 2, 7): (0.72, 0.82, 1.92),
    (128, 128, 8, 28): (0.63, 0.39, 0.25),
    (512, 112, 28, 28): (7.49, 4.37, 2.71),
    (512, 112, 14, 14): (1.83, 1.14, 1.11),
}
"""The same on a Zen 4, which multiplies one vector of 16 floats per clock (one run); with AVX2 they are alike."""

CASES = [(shape, False) for shape in MEASURED_MS] + [(shape, True) for shape in HALF_RATE_MS]


def measured_ms(shape: tuple[int, int, int, int], half_rate: bool) -> dict[str, float]:
    return dict(zip(ALGORITHMS, (HALF_RATE_MS if half_rate else MEASURED_MS)[shape], strict=True))


def shard(channels: int, filters: int, rows: int, columns: int) -> ConvSpec:
    return ConvSpec(channels, filters, rows + 2, columns, (3, 3), padding=(0, 0, 1, 1))


@pytest.mark.parametrize(("shape", "half_rate"), CASES, ids=str)
def test_the_rule_takes_what_was_the_fastest_or_nearly(shape: tuple[int, int, int, int], half_rate: bool) -> None:
    measured = measured_ms(shape, half_rate)
    assert measured[cheapest(shard(*shape), half_rate=half_rate)] <= 1.05 * min(measured.values())


@pytest.mark.parametrize(("shape", "half_rate"), CASES, ids=str)
def test_the_chosen_algorithm_takes_about_what_the_rule_says(shape: tuple[int, int, int, int], half_rate: bool) -> None:
    spec = shard(*shape)
    chosen = cheapest(spec, half_rate=half_rate)
    ms = cycles(spec, chosen, half_rate=half_rate) * MS_PER_CYCLE * (2 if half_rate else 1)
    # Two runs on the Zen 4 differed by up to a third.
    assert ms == pytest.approx(measured_ms(shape, half_rate)[chosen], rel=0.45 if half_rate else 0.3)


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
