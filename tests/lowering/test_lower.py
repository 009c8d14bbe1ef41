"""Programs of any plan compute the graph: no message lost, nothing read that was not written, the same numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fogconv.cluster.worker.checks.program_check import check_program
from fogconv.errors import GeometryError, PlannerError
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec, Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Guard, Protection
from fogconv.ir.layers import Concat, Conv, Host, Layer, Slice, Tensor
from fogconv.ir.layout import Layout
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.program import decode, encode
from fogconv.ir.steps import Conv as ConvStep
from fogconv.ir.steps import Send
from fogconv.lowering.lower import lower
from fogconv.planning.cost import Prices
from fogconv.planning.layout_table import LayoutBook
from fogconv.planning.limits.tiling import Tiling
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan as make_plan
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.star import plan_star
from fogconv.planning.strategies.family import Scheme
from fogconv.planning.strategies.options import Options
from tests.chains import chain
from tests.graph_reference import run_outputs as run_outputs_of
from tests.mutations import mutated
from tests.program_reference import run, run_outputs
from tests.random_graphs import graphs, numbers_for

topologies = st.builds(
    lambda rates, bandwidth: _uneven(rates, bandwidth),
    st.lists(st.sampled_from([0.5, 1.0, 1.0, 2.0, 3.7]), min_size=1, max_size=5),
    st.sampled_from([1e5, 1e8, 1e11]),
)


def _uneven(rates: list[float], bandwidth: float) -> Topology:
    topology = Topology.uniform(len(rates), 1e9, bandwidth, 1e-5, copy_s_per_byte=1e-10, step_s=1e-6)
    for rank, rate in enumerate(rates):
        topology = topology.replace_device(rank, topology.devices[rank].scaled(rate))
    return topology


def host_of(graph: LayerGraph) -> Any:
    def call(layer: int, values: dict[Any, Any], maps: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        found = graph.layers[layer]
        assert isinstance(found, Host)
        return found.call(values, *maps)

    return call


def check(graph: LayerGraph, plan: Plan, seed: int) -> None:
    lowered = lower(graph, plan)
    inputs = numbers_for(graph, seed)
    programs = [decode(encode(program)) for program in lowered.programs]
    for program in programs:
        check_program(program, 1 << 30)
    found = run_outputs(programs, lowered.weights, inputs, host_of(graph))
    for port, out, expected in zip(graph.outputs, found, run_outputs_of(graph, inputs), strict=True):
        off = np.abs(out.reshape(port.shape) - expected)
        assert np.max(off) <= 1e-9 * max(1.0, np.max(np.abs(expected))), port


@given(graphs(), topologies, st.sampled_from(["auto", "depth", "rows", "columns", "tiles", "local"]), st.integers(0, 9))
@settings(deadline=None, max_examples=90)
def test_the_planners_plan_computes_the_graph(graph: LayerGraph, topology: Topology, scheme: str, seed: int) -> None:
    check(graph, make_plan(graph, topology, PlanOptions(scheme)), seed)


@given(graphs(), topologies, st.booleans(), st.booleans(), st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_the_star_computes_the_graph(graph: LayerGraph, topology: Topology, master: bool, even: bool, seed: int) -> None:
    check(graph, plan_star(graph, topology, SchemeOptions(threshold=0, master_computes=master, even=even)), seed)


@given(graphs(), topologies, st.booleans(), st.booleans(), st.integers(0, 1), st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_the_guarded_star_computes_the_graph_and_its_checks_and_codes_agree(
    graph: LayerGraph, topology: Topology, master: bool, verify: bool, redundancy: int, seed: int
) -> None:
    protection = Protection(verify, redundancy, 3.0)
    check(graph, plan_star(graph, topology, SchemeOptions(threshold=0, master_computes=master, protection=protection)), seed)


def guarded_conv(scale: float) -> tuple[LayerGraph, Plan]:
    """One conv in three pieces, checked and coded, none of them the master's; its filters are of this size."""
    graph = chain(64, 96, size=8)
    rng = np.random.default_rng(2)
    weight = (scale * rng.standard_normal((96, 64, 3, 3))).astype(np.float32).astype(np.float64)
    graph = replace(graph, weights={"w0": weight})
    protection = Protection(verify=True, redundancy=1)
    topology = Topology.uniform(5, 1e9, 1e8)
    options = SchemeOptions(threshold=0, master_computes=False, protection=protection)
    return graph, plan_star(graph, topology, options)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_checks_and_codes_agree_however_large_the_terms_are(scale: float) -> None:
    """Summed filters are rounded to float32. Of thousands of sums some are near zero, and off by as much as the others."""
    check(*guarded_conv(scale), 0)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
@pytest.mark.parametrize("rank", [0, 4])
def test_a_check_or_a_code_of_wrong_filters_is_noticed(scale: float, rank: int) -> None:
    """On rank 0 one filter of a check is off by a thousandth, on rank 4 one of the code."""
    graph, plan = guarded_conv(scale)
    lowered = lower(graph, plan)
    conv = next(step for step in lowered.programs[rank].steps if isinstance(step, ConvStep) and step.layer == 0)
    wrong = lowered.weights[conv.weight].copy()
    wrong[0, 0, 1, 1] *= 1.001
    x = np.random.default_rng(0).standard_normal((1, 64, 8, 8))
    with pytest.raises(AssertionError, match="more than rounding"):
        run(lowered.programs, {**lowered.weights, conv.weight: wrong}, x)


@given(graphs(), topologies, st.data(), st.integers(0, 9))
@settings(deadline=None, max_examples=120)
def test_any_mixture_of_options_computes_the_graph(
    graph: LayerGraph, topology: Topology, data: st.DataObject, seed: int
) -> None:
    """Not only the cheapest path: every layer in a way drawn at random, so that any layout meets any other."""
    check(graph, mixture(graph, topology, data, data.draw(st.sampled_from(["auto", "depth"]))), seed)


@given(graphs(), topologies, st.data(), st.integers(0, 9))
@settings(deadline=None, max_examples=120)
def test_tiles_of_any_widths_compute_the_graph(
    graph: LayerGraph, topology: Topology, data: st.DataObject, seed: int
) -> None:
    """In any tiling, with tiles of uneven sizes, narrower than a halo or empty, alone and fused with what comes next."""
    tiling = Tiling(data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5)))
    check(graph, mixture(graph, topology, data, data.draw(st.sampled_from(["tiles", "columns"])), tiling), seed)


def mixture(
    graph: LayerGraph, topology: Topology, data: st.DataObject, scheme: Scheme, tiling: Tiling | None = None
) -> Plan:
    prices = Prices(topology)
    options = Options(graph, prices, LayoutBook(prices), scheme, tiling=tiling, fused=data.draw(st.integers(0, 3)))
    placements = []
    for layer in graph.layers:
        if isinstance(layer, Concat | Slice):
            placements.append(Placement("relabel", ()))
            continue
        option = data.draw(st.sampled_from(options.of(layer)))
        placements.append(Placement(option.mode, option.work, option.target))
    return Plan(graph.name, len(topology), "any", tuple(placements))


@given(graphs(), topologies, st.sampled_from(["rows", "columns", "tiles"]), st.integers(0, 9))
@settings(deadline=None, max_examples=90)
def test_interior_first_computes_the_graph(graph: LayerGraph, topology: Topology, scheme: str, seed: int) -> None:
    """With limits at which even these small maps are cut into interior and borders."""
    with (
        patch("fogconv.lowering.overlap.LEAST_WORK", 0),
        patch("fogconv.lowering.overlap.TILE", 1),
        patch("fogconv.lowering.overlap.LEAST_SHARE", 0),
    ):
        check(graph, make_plan(graph, topology, PlanOptions(scheme)), seed)


def _rows(graph: LayerGraph, topology: Topology, overlaps: Sequence[int]) -> Plan:
    """By rows, each layer with so many of its neighbours' rows done by both."""
    prices = Prices(topology)
    options = Options(graph, prices, LayoutBook(prices), "rows")
    placements = []
    for layer, overlap in zip(graph.layers, overlaps, strict=True):
        height = graph.tensors[layer.target].height  # type: ignore[union-attr]
        wanted = height + 2 * overlap * (len(topology) - 1)
        option = next(o for o in options.of(layer) if o.mode == "rows" and sum(len(w.output.rows) for w in o.work) == wanted)
        placements.append(Placement(option.mode, option.work, option.target))
    return Plan(graph.name, len(topology), "rows", tuple(placements))


def bottleneck() -> LayerGraph:
    """1×1, and a residual block over it: 1×1, 3×3, 1×1 and the sum with the block's input."""
    rng = np.random.default_rng(1)
    tensors = [Tensor(name, 1, 16, 24, 24) for name in ("input", "a", "b", "c", "d")]
    layers: list[Layer] = []
    weights: dict[str, NDArray[Any]] = {}
    for number, kernel in enumerate((1, 1, 3, 1)):
        spec = ConvSpec(16, 16, 24, 24, (kernel, kernel), padding=(kernel // 2,) * 4)
        weights[f"w{number}"] = rng.integers(-3, 4, spec.weight_shape).astype(np.float64)
        residual = 1 if number == 3 else None
        layers.append(Conv(f"conv{number}", number, number + 1, spec, f"w{number}", None, "relu", residual))
    return LayerGraph.single("bottleneck", tuple(tensors), tuple(layers), 0, 4, tensors[4].shape, weights)


def test_what_only_a_later_layer_needs_travels_with_the_next_message() -> None:
    """The block's sum reads the neighbours' rows of its input, its first conv does not: one exchange, before the 3×3."""
    graph = bottleneck()
    plan = _rows(graph, Topology.uniform(3, 1e9, 1e8), (0, 0, 2, 2))
    check(graph, plan, 0)
    programs = lower(graph, plan).programs
    between = [s for program in programs for s in program.steps if isinstance(s, Send) and s.layer in (1, 2, 3)]
    assert sorted((len(s.parts), s.layer) for s in between) == [(2, 2)] * 4  # 0↔1↔2, each with rows of both tensors


def _by_filters(graph: LayerGraph, ranks: int) -> Plan:
    """Every conv split by output channels."""
    prices = Prices(Topology.uniform(ranks, 1e9, 1e8))
    options = Options(graph, prices, LayoutBook(prices), "depth")
    found = [next(option for option in options.of(layer) if option.mode == "output") for layer in graph.layers]
    return Plan(graph.name, ranks, "depth", tuple(Placement(each.mode, each.work, each.target) for each in found))


def test_everybody_sends_to_the_next_rank_first() -> None:
    graph = chain(64, 64, 64)
    programs = lower(graph, _by_filters(graph, 4)).programs
    for rank, program in enumerate(programs):
        to = [step.to for step in program.steps if isinstance(step, Send) and step.layer == 1]
        assert to == [(rank + ahead) % 4 for ahead in (1, 2, 3)]


def test_a_plan_of_another_graph_is_refused() -> None:
    graph = LayerGraph.single("a", (), (), 0, 0, (), {})
    with pytest.raises(PlannerError, match="plan again"):
        lower(graph, replace(Plan("b", 2, "local", ())))


@given(graphs(), st.sampled_from(["auto", "rows", "tiles", "guarded"]), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_a_plan_with_changed_numbers_is_lowered_or_refused(graph: LayerGraph, scheme: str, random: Random) -> None:
    """A plan may come from a file. What it asks for is within the graph and its ranks, or one sentence says what is not."""
    topology = Topology.uniform(3, 1e9, 1e11)
    if scheme == "guarded":
        options = SchemeOptions(threshold=0, protection=Protection(True, 1, 3.0))
        plan = plan_star(graph, topology, options)
    else:
        plan = make_plan(graph, topology, PlanOptions(scheme))
    packed = mutated(msgspec.msgpack.encode(plan), random)
    try:
        changed = msgspec.msgpack.decode(packed, type=Plan)
    except msgspec.MsgspecError:
        return
    with contextlib.suppress(GeometryError, PlannerError):
        lower(graph, changed)


HUGE = 2**31


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda plan: replace(plan, ranks=HUGE), "ranks"),
        (lambda plan: _with_work(plan, rank=HUGE), "there is no rank 2147483648"),
        (lambda plan: _with_work(plan, output=Region(Span(0, 16), Span(0, HUGE), Span(0, 32))), "rank 0 has .* of"),
        (lambda plan: _with_work(plan, output=Region(Span(0, 16), Span(9, 2), Span(0, 32))), "rank 0 has .* of"),
        (lambda plan: _with_work(plan, depth=Span(0, HUGE)), "16 input channels, not 0 to 2147483648"),
        (lambda plan: _with_first(plan, work=()), "no rank computes it"),
        (lambda plan: _with_first(plan, target=Layout(((),) * 2)), "for 2 ranks, not for 3"),
        (lambda plan: _with_first(plan, via=((HUGE, Layout(((),) * 3)),)), "tensor"),
        (lambda plan: _with_first(plan, guard=Guard(code=HUGE)), "there is no worker 2147483648 to guard it"),
        (lambda plan: _with_first(plan, guard=Guard(patience_s=float("nan"))), "patience"),
    ],
)
def test_numbers_of_a_plan_that_are_out_of_place_are_named(change: Callable[[Plan], Plan], told: str) -> None:
    graph = chain(16, 16)
    plan = plan_star(graph, Topology.uniform(3, 1e9, 1e12), SchemeOptions(threshold=0.0))
    with pytest.raises(PlannerError, match=told):
        lower(graph, change(plan))


def _with_first(plan: Plan, **fields: Any) -> Plan:
    first, *others = plan.placements
    return replace(plan, placements=(replace(first, **fields), *others))


def _with_work(plan: Plan, **fields: Any) -> Plan:
    first, *others = plan.placements[0].work
    return _with_first(plan, work=(replace(first, **fields), *others))
