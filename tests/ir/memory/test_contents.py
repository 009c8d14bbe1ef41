"""What a buffer must hold before a step writes it: nothing but its margin, unless a sum could take it in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fogconv.ir import steps as ir
from fogconv.ir.geometry import ConvSpec, PoolSpec, Region, Span
from fogconv.ir.memory.algorithm import reads_beyond
from fogconv.ir.memory.contents import expected
from fogconv.ir.precision.scale import Precision
from fogconv.ir.program import Program, written

RAGGED, ONE = Region.whole(20, 6, 6), Region.whole(20, 1, 1)
LINEAR = ConvSpec(20, 32, 1, 1, (1, 1))
DENSE = ConvSpec(20, 32, 6, 6, (1, 1))


def program(buffers: tuple[Region, ...], *steps: ir.AnyStep, precision: Precision | None = None) -> Program:
    held = tuple(ir.Buffer("b", region, precision=precision or Precision()) for region in buffers)
    return Program(0, 1, 1, ("layer",), held, steps, {})


def conv(spec: ConvSpec, source: int, read: Region, target: int, made: Region, **more: int | Region) -> ir.Conv:
    return ir.Conv(0, spec, "w", None, None, source, read, target, made, **more)  # type: ignore[arg-type]


def test_unused_lanes_count_where_a_fully_connected_layer_sums_them_even_by_way_of_others() -> None:
    mean = ir.GlobalPool(0, 0, RAGGED, 1, ONE, 36)
    linear = conv(LINEAR, 1, ONE, 2, Region.whole(32, 1, 1))
    regions = (RAGGED, ONE, Region.whole(32, 1, 1))
    assert expected(program(regions, mean, linear)).finite == {0, 1}
    assert expected(program(regions, mean)).finite == set()


def test_a_dense_conv_takes_in_no_lane_beyond_its_channels_but_its_residual_s_may_stay() -> None:
    wide = Region.whole(32, 6, 6)
    assert expected(program((RAGGED, wide), conv(DENSE, 0, RAGGED, 1, wide))).finite == set()
    spec = replace(DENSE, in_channels=32, out_channels=20)
    summed = conv(spec, 1, wide, 2, RAGGED, residual=0, residual_region=RAGGED)
    regions = (RAGGED, wide, RAGGED, ONE, Region.whole(32, 1, 1))
    mean = ir.GlobalPool(0, 2, RAGGED, 3, ONE, 36)
    assert expected(program(regions, summed, mean, conv(LINEAR, 3, ONE, 4, regions[4]))).finite == {0, 2, 3}
    assert expected(program(regions, summed, mean)).finite == set()


def test_a_fully_connected_layer_that_reads_half_a_block_leaves_its_source_alone() -> None:
    """The other half may be another rank's rows: what lay there was multiplied by 0, and NaN stayed NaN."""
    half, whole = replace(LINEAR, in_channels=8), Region.whole(16, 1, 1)
    part = Region(Span(0, 8), whole.rows, whole.columns)
    made = Region.whole(32, 1, 1)
    assert expected(program((whole, made), conv(half, 0, part, 1, made))).alone == {0}
    assert expected(program((whole, made), conv(replace(LINEAR, in_channels=16), 0, whole, 1, made))).alone == set()


@pytest.mark.parametrize("precision", [Precision("uint8", 0.1, 3), Precision("fp16")], ids=lambda one: one.element)
def test_unused_lanes_of_other_types_than_fp32_always_count(precision: Precision) -> None:
    assert expected(program((RAGGED, Region.whole(32, 6, 6)), ir.Copy(0, 0, RAGGED, 1), precision=precision)).finite == {0}


def test_steps_that_are_not_known_to_keep_lanes_apart_count_them() -> None:
    permute = ir.Permute(0, 0, RAGGED, 1, RAGGED, tuple(range(20)))
    assert expected(program((RAGGED, RAGGED), permute)).finite == {0, 1}
    grouped = conv(ConvSpec(20, 20, 6, 6, (1, 1), groups=20), 0, RAGGED, 1, RAGGED)
    assert expected(program((RAGGED, RAGGED), grouped)).finite == {0, 1}


TILED = ConvSpec(16, 16, 10, 8, (3, 3), padding=(1, 0, 1, 1))
WHOLE = Region.whole(16, 12, 8)


@pytest.mark.parametrize(("height", "beyond"), [(9, False), (10, True), (11, True), (13, False)])
def test_tiles_read_beyond_what_is_no_multiple_of_them(height: int, beyond: bool) -> None:
    assert reads_beyond(replace(TILED, height=height)) is beyond
    assert not reads_beyond(replace(TILED, height=height, kernel=(1, 1), padding=(0, 0, 0, 0)))


@pytest.mark.parametrize("height", [9, 10])
def test_rows_that_come_later_than_a_tile_reads_them_count(height: int) -> None:
    """Ten rows are here, or nine, which tiles of four rows and of two end with; the last ones come from another rank."""
    spec, here = replace(TILED, height=height), Region(WHOLE.channels, Span(0, height), WHOLE.columns)
    made = Region.whole(*spec.output_shape[1:])
    taken = ir.Input(0, 0, 0, here)
    later = ir.Recv(0, 0, Region(WHOLE.channels, Span(height, 12), WHOLE.columns), 1, 1)
    interior = conv(spec, 0, here, 1, made)
    assert expected(program((WHOLE, made), taken, interior, later)).finite == ({0} if height == 10 else set())
    assert expected(program((WHOLE, made), taken, later, interior)).finite == set()


@pytest.mark.parametrize(
    ("step", "regions"),
    [
        (ir.Input(0, 0, 1, WHOLE), [(1, WHOLE)]),
        (ir.Copy(0, 0, WHOLE, 2, 16), [(2, WHOLE.shift_channels(16))]),
        (ir.Recv(0, 1, WHOLE, 1, 1, more=(ir.Part(4, RAGGED),)), [(1, WHOLE), (4, RAGGED)]),
        (ir.Send(0, 1, WHOLE, 1, 1), []),
        (ir.Host(0, (1,), (WHOLE,), (3, 5), (RAGGED, WHOLE)), [(3, RAGGED), (5, WHOLE)]),
        (ir.Add(0, (1, 2), (WHOLE, WHOLE), 3, RAGGED), [(3, RAGGED)]),
        (ir.Pool(0, PoolSpec("max", 16, 12, 8, (2, 2), (2, 2)), 1, WHOLE, 2, RAGGED), [(2, RAGGED)]),
        (
            ir.Gather(0, (ir.Piece(ir.Recv(0, 1, WHOLE, 1, 1), conv(TILED, 0, WHOLE, 1, WHOLE)),)),
            [(1, WHOLE)],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_step_writes(step: ir.AnyStep, regions: list[tuple[int, Region]]) -> None:
    assert list(written(step)) == regions
