"""What is counted before anything is loaded is what is held afterwards: never less, and not much more."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.cluster.executor.executable import Executable
from fogconv.hardware.topology import Topology
from fogconv.ir import steps as ir
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec, Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.memory.algorithm import HALF, cheapest, packed_bytes, scratch_elements, winograd_sets
from fogconv.ir.memory.footprint import footprint, packings, room
from fogconv.ir.precision.scale import Precision
from fogconv.ir.program import Program
from fogconv.kernels.codegen.isa import AVX2, AVX512, NEON, Isa, half_rate, host_isa
from fogconv.kernels.conv.conv import algorithm_of, prepare_conv2d
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.scratch import Scratch
from fogconv.lowering.lower import lower, outline
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.schemes import Scheme
from tests.chains import chain
from tests.kernels.algorithms import algorithms
from tests.random_graphs import graphs

P1 = (1, 1, 1, 1)
SPECS = (
    ConvSpec(3, 64, 40, 40, (7, 7), (2, 2), (3, 3, 3, 3)),
    ConvSpec(64, 60, 28, 28, (3, 3), (1, 1), P1),
    ConvSpec(64, 64, 9, 28, (5, 5), (1, 1), (2, 2, 2, 2), batch=2),
    ConvSpec(32, 40, 17, 17, (1, 7), (1, 1), (0, 0, 3, 3)),
    ConvSpec(48, 48, 14, 14, (3, 3), (2, 2), P1, groups=48),
    ConvSpec(64, 64, 14, 14, (3, 3), (1, 1), P1, groups=16),
    ConvSpec(24, 36, 14, 14, (1, 1), groups=3),
    ConvSpec(37, 50, 6, 6, (6, 6)),
)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_no_algorithm_keeps_more_than_is_counted(spec: ConvSpec) -> None:
    weight = np.ones(spec.weight_shape, np.float32)
    for name in algorithms(spec, AVX512):
        scratch = Scratch()
        prepared = prepare_conv2d(spec, weight, algorithm=name, scratch=scratch)
        assert 0.5 * packed_bytes(spec, name) <= prepared.weight_bytes <= packed_bytes(spec, name)
        scratch.reserve(scratch_elements(spec, name), 1)
        counted = scratch.nbytes
        prepared.bind(prepared.empty_input(), Blocked.empty(*spec.output_shape), Blocked.empty(*spec.output_shape))
        assert scratch.nbytes == counted, f"{name} borrowed more than the {counted} B that are counted"
        assert bool(counted) == name.startswith(("winograd", "grouped"))


@pytest.mark.parametrize("isa", [AVX512, AVX2, NEON], ids=lambda isa: isa.name)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_planners_rule_is_the_kernels(spec: ConvSpec, isa: Isa) -> None:
    assert cheapest(spec, isa.vector_length) == cheapest(spec)
    assert cheapest(spec, half_rate=half_rate(host_isa())) == algorithm_of(spec)


def test_a_spec_of_billions_of_tiles_is_counted_at_once() -> None:
    huge = ConvSpec(64, 64, 2**31, 2**31, (3, 3), (1, 1), P1)
    small = replace(huge, height=400, width=400)
    elements = scratch_elements(small, "winograd4")
    assert elements == scratch_elements(huge, "winograd4")
    assert max(winograd_sets(small, 36, 10_000)) <= elements


def programs_of(graph: LayerGraph, scheme: str, ranks: int = 3) -> tuple[list[object], object]:
    topology = Topology.uniform(ranks, 1e9, 1e11, 1e-7, copy_s_per_byte=1e-12, step_s=1e-8)
    found = plan(graph, topology, PlanOptions(scheme, threshold=0.0))
    return list(outline(graph, found)), lower(graph, found)


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("threads", [1, 3])
def test_an_executable_holds_what_is_counted(scheme: str, threads: int) -> None:
    graph = chain(32, 64, 64, 128, size=28)
    _, lowered = programs_of(graph, scheme)
    for program in lowered.programs:  # type: ignore[attr-defined]
        counted = footprint(program, threads=threads)
        executable = Executable(program, {key: lowered.weights[key] for key in program.weights}, threads=threads)  # type: ignore[attr-defined]
        assert executable._scratch.nbytes == counted.scratch
        assert executable.memory_bytes <= counted.total
        assert executable.memory_bytes >= 0.6 * (counted.packed + counted.maps)


@given(graphs(), st.sampled_from(list(Scheme)))
def test_an_outline_takes_what_its_programs_take(graph: LayerGraph, scheme: str) -> None:
    outlined, lowered = programs_of(graph, scheme)
    for drawn, program in zip(outlined, lowered.programs, strict=True):  # type: ignore[attr-defined]
        # Weights of the same values have one name in a program, and two in an outline.
        counted, exact = footprint(drawn), footprint(program)  # type: ignore[arg-type]
        assert replace(counted, packed=0, plain=0) == replace(exact, packed=0, plain=0)
        assert counted.packed >= exact.packed and counted.plain >= exact.plain


def test_what_is_packed_already_counts_no_more() -> None:
    _, lowered = programs_of(chain(32, 64, 64, size=28), "local")
    program = lowered.programs[0]  # type: ignore[attr-defined]
    again = footprint(program, packed=packings(program))
    assert again.packed == again.transit == 0
    assert again.private == footprint(program).private > 0


def test_a_limit_below_what_a_process_takes_leaves_nothing() -> None:
    assert room(1000) == 0
    assert 0 < room(400_000_000) < 400_000_000


def test_plain_weights_are_let_go_once_they_are_packed() -> None:
    _, lowered = programs_of(chain(32, 64, 64, size=28), "local")
    program = lowered.programs[0]  # type: ignore[attr-defined]
    weights = {key: np.array(lowered.weights[key]) for key in program.weights}  # type: ignore[attr-defined]
    executable = Executable(program, weights)
    convs = {packing.weight for packing in packings(program)}
    held = [id(weights[key]) for key in convs]
    weights.clear()
    gc.collect()
    assert executable.memory_bytes > 0
    assert not {id(each) for each in gc.get_objects() if issubclass(type(each), np.ndarray)} & set(held)


@pytest.mark.parametrize("first", [0, 1])
def test_parts_of_a_16_bit_layer_by_different_algorithms_have_the_scratch_that_they_need(first: int) -> None:
    """A large interior by Winograd's algorithm, a border of one row by the direct one, in either order."""
    bf16 = Precision("bf16")
    x, y = Region.whole(64, 30, 28), Region.whole(64, 28, 28)
    parts = []
    for rows in (Span(0, 24), Span(24, 25)):
        spec = ConvSpec(64, 64, len(rows) + 2, 28, (3, 3), padding=(0, 0, 1, 1), element="bf16")
        read = x.with_rows(Span(rows.start, rows.stop + 2))
        parts.append(ir.Conv(0, spec, "w", None, None, 0, read, 1, y.with_rows(rows)))
    chosen = {parts[0].spec: "winograd4", parts[1].spec: HALF}
    buffers = (ir.Buffer("x", x, (0, 0, 1, 1), bf16), ir.Buffer("y", y, (0,) * 4, bf16))
    steps = (parts[first], parts[1 - first])
    program = Program(0, 1, 1, ("layer",), buffers, steps, {"w": (64, 64, 3, 3)}, weight_types={"w": "uint16"})
    counted = footprint(program, choose=chosen.__getitem__).scratch
    assert counted == BYTES_PER_ELEMENT * scratch_elements(parts[0].spec, "winograd4") > 0
