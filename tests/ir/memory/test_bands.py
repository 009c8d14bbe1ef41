"""Steps that are computed band by band give what they give one after the other, and touch nothing but their maps."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.executor.microbenchmark import NoMailbox
from fogconv.ir import steps as ir
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec, PoolSpec, Region
from fogconv.ir.memory import bands
from fogconv.ir.memory.bands import Banded, banded
from fogconv.ir.memory.footprint import footprint
from fogconv.ir.program import Program
from tests.cluster.launch import ROOT, environment

BLOCK_OF_MOBILENET = ((96, 1, 1, 1), (96, 3, 2, 96), (24, 1, 1, 1))
"""(output channels, kernel, stride, groups)"""


@dataclass(frozen=True)
class Net:
    program: Program
    weights: dict[str, Array]
    x: Array

    def output(self, threads: int, least_bytes: int, band_bytes: int = 1 << 14, turns: int = 2) -> Array:
        with small_caches(least_bytes, band_bytes):
            executable = Executable(self.program, self.weights, threads=threads)
        results = [executable.run(NoMailbox(), [self.x])[0] for _ in range(turns)]
        assert all(np.array_equal(results[0], result, equal_nan=True) for result in results)
        times = executable.times
        assert len(times) == len(self.program.steps)
        assert (times[:, 0] <= times[:, 1]).all() and (times[:-1, 1] <= times[1:, 0]).all()
        return results[0]


def small_caches(least_bytes: int = 1, band_bytes: int = 1 << 14) -> mock._patch_dict:
    """Maps from ``least_bytes`` on leave the cache; so many bytes of a band fit into it."""
    return mock.patch.dict(vars(bands), LEAST_BYTES=least_bytes, BAND_BYTES=band_bytes)


NEVER = 1 << 60


def conv_net(
    channels: int,
    height: int,
    width: int,
    layers: tuple[tuple[int, int, int, int], ...],
    pads: tuple[tuple[int, int, int, int], ...] | None = None,
    pool: PoolSpec | None = None,
    residual: bool = False,
    activation: str | None = "relu6",
    batch: int = 1,
    seed: int = 0,
) -> Net:
    """A chain of convs, and perhaps a pool at its end. Shapes of its parts as in a shard of rows: other padding above than
    below."""
    random = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    specs: list[ConvSpec | PoolSpec] = []
    for number, (out, kernel, stride, groups) in enumerate(layers):
        padding = (kernel // 2,) * 4 if pads is None else pads[number]
        spec = ConvSpec(channels, out, height, width, (kernel, kernel), (stride, stride), padding, (1, 1), groups, batch)
        weights[f"w{number}"] = random.standard_normal(spec.weight_shape, dtype=np.float32) / spec.weight_shape[1] ** 0.5
        specs.append(spec)
        channels, height, width = out, spec.out_height, spec.out_width
    if pool is not None:
        specs.append(PoolSpec(pool.kind, channels, height, width, pool.kernel, pool.stride, pool.padding, batch=batch))
    whole = [
        Region.whole(spec.in_channels if isinstance(spec, ConvSpec) else spec.channels, spec.height, spec.width)
        for spec in specs
    ]
    last = specs[-1]
    out_channels = last.out_channels if isinstance(last, ConvSpec) else last.channels
    whole.append(Region.whole(out_channels, last.out_height, last.out_width))
    margins = [spec.padding if isinstance(spec, ConvSpec) else (0, 0, 0, 0) for spec in specs] + [(0, 0, 0, 0)]
    buffers = [ir.Buffer(f"b{n}", region, margin) for n, (region, margin) in enumerate(zip(whole, margins, strict=True))]
    run: list[ir.AnyStep] = [ir.Input(0, 0, 0, whole[0])]
    shapes = {key: value.shape for key, value in weights.items()}
    x = random.standard_normal((batch, *whole[0].shape), dtype=np.float32)
    addend = None
    fits = whole[-1].columns == whole[0].columns and whole[-1].rows in whole[0].rows
    if residual and isinstance(last, ConvSpec) and fits:
        addend = len(buffers)
        buffers.append(ir.Buffer("addend", whole[-1]))
        weights["one"] = random.standard_normal((out_channels, whole[0].shape[0], 1, 1), dtype=np.float32)
        shapes["one"] = weights["one"].shape
    for number, spec in enumerate(specs):
        places = (number, whole[number], number + 1, whole[number + 1])
        if isinstance(spec, PoolSpec):
            run.append(ir.Pool(0, spec, *places))
            continue
        added = (addend, whole[-1]) if addend is not None and number == len(specs) - 1 else (None, None)
        run.append(ir.Conv(0, spec, f"w{number}", None, activation, *places, *added))
    if addend is not None:
        rows = Region(whole[0].channels, whole[-1].rows, whole[0].columns)
        one = ConvSpec(whole[0].shape[0], out_channels, len(rows.rows), whole[0].shape[2], (1, 1), batch=batch)
        run.insert(1, ir.Conv(0, one, "one", None, None, 0, rows, addend, whole[-1]))
    run.append(ir.Output(0, 0, len(specs), whole[-1]))
    return Net(Program(0, 1, batch, ("layer",), tuple(buffers), tuple(run), shapes), weights, x)


@st.composite
def nets(draw: st.DrawFn) -> Net:
    layers, pads = [], []
    channels = first = draw(st.integers(5, 40))
    for _ in range(draw(st.integers(2, 4))):
        kind = draw(st.sampled_from(["1x1", "depthwise", "strided"]))
        kernel = 1 if kind == "1x1" else draw(st.sampled_from([2, 3, 5]))
        out = channels if kind == "depthwise" else draw(st.integers(5, 40))
        stride = 2 if kind == "strided" else draw(st.sampled_from([1, 2])) if kind == "depthwise" else 1
        layers.append((out, kernel, stride, channels if kind == "depthwise" else 1))
        pads.append((*(draw(st.integers(0, kernel - 1)) for _ in range(2)), kernel // 2, kernel // 2))
        channels = out
    pool = draw(st.sampled_from([None, ("max", 3, 2, 1), ("avg", 2, 2, 0), ("max", 3, 1, 1)]))
    window = None if pool is None else PoolSpec(pool[0], 1, 9, 9, (pool[1],) * 2, (pool[2],) * 2, (pool[3],) * 4)
    return conv_net(
        first,
        draw(st.integers(40, 80)),
        draw(st.integers(20, 30)),
        tuple(layers),
        tuple(pads),
        window,
        draw(st.booleans()),
        draw(st.sampled_from([None, "relu6", "silu"])),
        draw(st.integers(1, 2)),
        draw(st.integers(0, 99)),
    )


@settings(max_examples=25, deadline=None)
@given(nets(), st.integers(1, 3), st.sampled_from([1 << 11, 1 << 13, 1 << 15]))
def test_what_is_computed_in_bands_is_the_same_to_the_last_bit(net: Net, threads: int, band_bytes: int) -> None:
    assert np.array_equal(net.output(threads, 1, band_bytes), net.output(1, NEVER))


@settings(max_examples=60, deadline=None)
@given(nets(), st.integers(1, 3), st.sampled_from([1 << 11, 1 << 13, 1 << 15]))
def test_every_row_is_made_once_by_each_thread_that_needs_it_and_all_of_the_result_once(
    net: Net, threads: int, band_bytes: int
) -> None:
    with small_caches(1, band_bytes):
        found = banded(net.program, threads)
    for walk in found.walks:
        last = walk.first + walk.count - 1
        rows: list[int] = []
        for share in walk.shares:
            made: dict[int, list[int]] = {}
            for piece in share:
                if isinstance(piece.part, ir.Conv | ir.Pool):
                    span = piece.part.target_region.rows
                    made.setdefault(piece.step, []).extend(range(span.start, span.stop))
            assert all(len(set(each)) == len(each) for each in made.values())
            rows += made[last]
        whole = net.program.steps[last].target_region.rows  # type: ignore[union-attr]
        assert rows == list(range(whole.start, whole.stop))
        check_places(found)


def check_places(found: Banded) -> None:
    """The maps between are nowhere as a whole, and buffers of bands share memory with those of the same map only."""
    names: dict[int, set[str]] = {}
    for buffer, place in zip(found.buffers, found.places, strict=True):
        names.setdefault(place, set()).add(buffer.tensor)
    gone = names.pop(bands.NOWHERE, set())
    assert gone
    for place, tensors in names.items():
        assert len(tensors) == 1 or not tensors & gone, place


def test_a_block_of_mobilenet_is_walked_and_its_wide_maps_take_a_share_of_their_memory() -> None:
    net = conv_net(16, 112, 112, BLOCK_OF_MOBILENET)
    found = banded(net.program)
    [walk] = found.walks
    assert (walk.first, walk.count) == (1, 3)
    with mock.patch.dict(vars(bands), LEAST_BYTES=NEVER):
        whole = footprint(net.program)
    assert footprint(net.program).maps < 0.35 * whole.maps
    assert footprint(net.program, threads=2).maps < 0.5 * whole.maps
    assert Executable(net.program, net.weights).memory_bytes <= footprint(net.program).total


@pytest.mark.parametrize("threads", [1, 2])
def test_padding_stays_zero_where_a_map_has_an_odd_size(threads: int) -> None:
    net = conv_net(16, 31, 29, ((48, 1, 1, 1), (48, 5, 1, 48), (48, 3, 2, 48), (20, 1, 1, 1)), activation="silu")
    assert np.array_equal(net.output(threads, 1, 1 << 12, turns=3), net.output(1, NEVER))


def test_what_is_read_again_or_has_many_weights_is_kept_whole() -> None:
    net = conv_net(16, 112, 112, ((96, 1, 1, 1), (96, 3, 1, 96), (96, 1, 1, 1)), residual=False)
    assert len(banded(net.program).walks) == 1
    again = ir.Output(0, 1, 1, net.program.buffers[1].region)
    more = Program(0, 1, 1, ("layer",), net.program.buffers, (*net.program.steps, again), net.program.weights)
    [walk] = banded(more).walks
    assert (walk.first, walk.count) == (2, 2)
    heavy = conv_net(256, 56, 56, ((256, 1, 1, 1), (256, 3, 2, 1)))
    assert not banded(heavy.program).walks


def test_a_map_too_wide_for_any_band_or_with_too_many_bands_is_computed_at_once() -> None:
    wide = conv_net(16, 8, 9000, ((64, 1, 1, 1), (64, 3, 1, 64)))
    assert not banded(wide.program).walks
    spec = ConvSpec(64, 64, 1 << 40, 1, (1, 1))
    region = Region.whole(64, 1 << 40, 1)
    buffers = tuple(ir.Buffer(f"b{n}", region) for n in range(3))
    steps = tuple(ir.Conv(0, spec, "w", None, None, n, region, n + 1, region) for n in range(2))
    assert not banded(Program(0, 1, 1, ("layer",), buffers, steps, {"w": spec.weight_shape})).walks


GUARDED = """
from tests.cluster.executor import fuzz_programs as fuzz
from tests.ir.memory import test_bands as tests
fuzz.prepare()
for fuzz.guarded.at_end in (True, False):
    for net in (
        tests.conv_net(5, 41, 21, ((40, 1, 1, 1), (40, 3, 1, 40), (24, 1, 1, 1))),
        tests.conv_net(16, 40, 23, ((40, 1, 1, 1), (40, 5, 2, 40), (24, 3, 2, 1)), residual=True),
        tests.conv_net(3, 46, 30, ((24, 3, 2, 1),), pool=tests.PoolSpec("max", 1, 9, 9, (3, 3), (2, 2), (1, 1, 1, 1))),
    ):
        with tests.small_caches(1, 1 << 16):
            assert tests.banded(net.program).walks
            executable = fuzz.Executable(net.program, net.weights)
        executable.run(tests.NoMailbox(), [net.x])
print("inside")
"""


def test_bands_touch_nothing_outside_their_memory() -> None:
    command = [sys.executable, "-c", GUARDED]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "inside\n", done.stderr[-2000:]
