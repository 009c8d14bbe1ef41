"""Buffers in one memory are never in use at the same time, and what is computed in them is the same."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.cluster.executor.executable import Executable
from fogconv.hardware.topology import Topology
from fogconv.ir import steps as ir
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.graph import LayerGraph
from fogconv.ir.memory.contents import expected
from fogconv.ir.memory.sharing import buffer_bytes, cleared, memories, memory_bytes
from fogconv.ir.program import Program, buffers_of
from fogconv.lowering.lower import outline
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from tests.random_graphs import graphs

KEY = "w"


def chain(count: int, channels: int = 32, margin: int = 1) -> Program:
    """Convolutions of 3×3 one after the other, each into a buffer of its own."""
    spec = ConvSpec(channels, channels, 6, 7, (3, 3), (1, 1), (1, 1, 1, 1))
    whole = Region.whole(channels, 6, 7)
    buffers = tuple(ir.Buffer(f"b{n}", whole, (margin,) * 4) for n in range(count + 1))
    steps = [ir.Conv(0, spec, KEY, None, None, n, whole, n + 1, whole) for n in range(count)]
    run = (ir.Input(0, 0, 0, whole), *steps, ir.Output(0, 0, count, whole))
    return Program(0, 1, 1, ("layer",), buffers, run, {KEY: spec.weight_shape})


@settings(max_examples=30, deadline=None)
@given(graphs(), st.integers(1, 3), st.sampled_from(["rows", "tiles", "star", "local", "auto"]))
def test_what_shares_is_never_in_use_at_once_and_has_zeros_in_its_margin(graph: LayerGraph, ranks: int, scheme: str) -> None:
    topology = Topology.uniform(ranks, 1e10, 1e9, 1e-4)
    for program in outline(graph, plan(graph, topology, PlanOptions(scheme))):
        found = memories(program)
        used: dict[int, list[int]] = {}
        for number, step in enumerate(program.steps):
            for buffer in buffers_of(step):
                used.setdefault(buffer, []).append(number)
        sharing: dict[int, list[int]] = {}
        for buffer in used:
            sharing.setdefault(found[buffer], []).append(buffer)
        for together in sharing.values():
            spans = sorted((used[buffer][0], used[buffer][-1]) for buffer in together)
            assert all(before[1] < after[0] for before, after in pairwise(spans))
            held = [program.buffers[buffer] for buffer in together]
            alike = len({(one.region.shape, one.margin, one.precision) for one in held}) == 1
            assert alike or expected(program).finite.isdisjoint(together)
            clearings = cleared(program, found)
            before = [*held[-1:], *held]
            for buffer, one, other in zip(together, held, before, strict=False):
                zeroed = [step for step, buffers in clearings.items() if buffer in buffers]
                form, others = (one.region.shape, one.margin, one.precision), [other] if buffer != together[0] else held
                changed = any((each.region.shape, each.margin, each.precision) != form for each in others)
                assert zeroed == (used[buffer][:1] if changed and any(one.margin) else [])
        assert set(found) == set(memory_bytes(program)) == set(range(len(set(found))))
        assert sum(memory_bytes(program).values()) <= sum(buffer_bytes(program, n) for n in range(len(program.buffers)))


def test_a_long_chain_takes_the_memory_of_two_maps() -> None:
    program = chain(7)
    assert memories(program) == [0, 1, 0, 1, 0, 1, 0, 1]
    assert memories(chain(7, channels=20)) == [0, 1, 0, 1, 0, 1, 0, 1]  # of one shape: their unused lanes are the same ones
    assert memories(chain(7, channels=4)) == [0, 1, 2, 3, 4, 5, 6, 7]  # some of them might be narrow
    assert sum(memory_bytes(program).values()) == 2 * buffer_bytes(program, 0)


@pytest.mark.parametrize("channels", [32, 20])
@pytest.mark.parametrize("margin", [0, 1])
def test_maps_of_other_sizes_share_and_get_their_zeros_back(margin: int, channels: int) -> None:
    program = chain(3, channels, margin)
    wider = ir.Buffer("b2", program.buffers[2].region, (margin, margin, margin + 1, margin))
    program = msgspec.structs.replace(program, buffers=(*program.buffers[:2], wider, *program.buffers[3:]))
    found = memories(program)
    assert found == [0, 1, 0, 1]
    assert cleared(program, found) == ({0: (0,), 2: (2,)} if margin else {2: (2,)})


@pytest.mark.parametrize(("size", "taken"), [(3, 2), (5, 2), (7, 0), (9, 0)])
def test_of_the_free_memories_the_one_that_grows_least_is_taken_and_the_last_one_of_several(size: int, taken: int) -> None:
    maps = [Region.whole(16, 1, each) for each in (8, 4, 6, 8, size)]
    first, last = Region.whole(16, 1, 4), Region.whole(16, 1, 3)
    steps = (ir.Add(0, (0, 1, 2), (first,) * 3, 3, first), ir.Copy(0, 3, last, 4))
    program = Program(0, 1, 1, ("layer",), tuple(ir.Buffer("b", region) for region in maps), steps, {})
    assert memories(program) == [0, 1, 2, 3, taken]


@pytest.mark.parametrize("channels", [32, 20])
def test_nothing_of_one_inference_is_left_for_the_next(channels: int) -> None:
    class Alone:
        def proceed(self) -> None: ...

    program = chain(5, channels)
    random = np.random.default_rng(0)
    weight = random.standard_normal((channels, channels, 3, 3), np.float32) / 10
    x = random.standard_normal((1, channels, 6, 7), np.float32)
    executable = Executable(program, {KEY: weight})
    [first] = executable.run(Alone(), [x])
    [spoilt] = executable.run(Alone(), [np.full_like(x, np.nan)])
    [again] = executable.run(Alone(), [x])
    assert np.isnan(spoilt).all()
    assert np.array_equal(first, again)
    assert executable.memory_bytes >= sum(memory_bytes(program).values())


WHOLE = Region.whole(32, 4, 4)


@pytest.mark.parametrize(
    ("step", "buffers"),
    [
        (ir.Copy(0, 1, WHOLE, 2), {1, 2}),
        (ir.Send(0, 1, WHOLE, 1, 1, more=(ir.Part(4, WHOLE),)), {1, 4}),
        (ir.Add(0, (1, 2), (WHOLE, WHOLE), 3, WHOLE), {1, 2, 3}),
        (ir.Gate(0, 1, WHOLE, 2, WHOLE, 3, WHOLE), {1, 2, 3}),
        (ir.Affine(0, 1, WHOLE, 2, WHOLE, residual=5, residual_region=WHOLE), {1, 2, 5}),
        (ir.Squares(0, 1, WHOLE, 2, WHOLE, 3, WHOLE, 1, 0, 16), {1, 2, 3}),
        (ir.Normalize(0, 1, WHOLE, 2, WHOLE, 3, WHOLE, 4, WHOLE, 1, 0, 1e-5), {1, 2, 3, 4}),
        (ir.Host(0, (1, 2), (WHOLE, WHOLE), (3,), (WHOLE,)), {1, 2, 3}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_buffer_that_a_step_names_is_in_use(step: ir.AnyStep, buffers: set[int]) -> None:
    assert set(buffers_of(step)) == buffers


def test_no_step_has_a_region_without_its_buffer() -> None:
    for kind in (*get_args(ir.MapStep), ir.Input, ir.Output, ir.Send, ir.Recv, ir.Host):
        regions = [name for name in kind.__struct_fields__ if name.endswith(("_region", "_regions"))]
        buffers = {name.removesuffix("_region").replace("_regions", "s") for name in regions}
        assert buffers <= set(kind.__struct_fields__)
        numbers = {name for name, of in kind.__annotations__.items() if of in ("int", "int | None", "tuple[int, ...]")}
        assert numbers - buffers - {"source", "target"} <= NUMBERS, f"{kind.__name__}: is one of these a buffer?"


NUMBERS = {"index", "to", "tag", "origin", "shift", "divisor", "per_group", "first", "channels"}
"""Fields of steps that are integers but no buffers."""
