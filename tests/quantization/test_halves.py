"""16 bits: what an answer loses by them, and that a net gives the same on any number of devices, within rounding."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fogconv
from fogconv.cluster.session.session import Session
from fogconv.errors import InputError, ModelError
from fogconv.hardware.topology import Topology
from fogconv.ir import steps as ir
from fogconv.ir.arrays import weight_key
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Protection
from fogconv.ir.layers import Add, Conv, Tensor
from fogconv.ir.memory.algorithm import is_depthwise
from fogconv.ir.memory.footprint import footprint
from fogconv.ir.memory.sharing import buffer_bytes
from fogconv.ir.plan import Plan, at_home
from fogconv.ir.precision.elements import HALVES, Half
from fogconv.ir.program import Program
from fogconv.kernels.conv.conv import algorithm_of
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.quantization.precision import for_shapes, in_precision, precision_report
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from tests.chains import chain
from tests.cluster.fault_cluster import FaultCluster
from tests.quantized_net import network, on_bytes, picture, pictures

pytestmark = pytest.mark.alone

UNIT: dict[Half, float] = {"fp16": 2.0**-11, "bf16": 2.0**-8}
"""The largest relative error of one rounding."""

ROUNDINGS = 12
"""Of the net's maps, one after the other: an answer may be off by so many."""


def equal_ranks(ranks: int) -> Topology:
    """Slow devices on a fast network, so that plans distribute."""
    return Topology.uniform(ranks, 1e8, 1e10, 1e-7)


@cache
def halved(half: Half) -> LayerGraph:
    return in_precision(network(), half, None)


@cache
def answer(half: Half | None, seed: int = 0) -> np.ndarray:
    graph = network() if half is None else halved(half)
    with fogconv.compile(graph, "inproc://0", topology=equal_ranks(1)) as engine:
        return np.asarray(engine(picture(seed)))


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found.reshape(-1) - wanted.reshape(-1)).max() / np.abs(wanted).max())


@pytest.mark.parametrize("half", HALVES)
def test_an_answer_is_near_the_one_in_fp32(half: Half) -> None:
    for seed in range(2):
        assert 0 < off(answer(half, seed), answer(None, seed)) < ROUNDINGS * UNIT[half]


@pytest.mark.parametrize("half", HALVES)
def test_convs_multiply_16_bits_but_for_depthwise_ones_and_the_ends_are_in_fp32(half: Half) -> None:
    graph = halved(half)
    convs = [layer for layer in graph.layers if isinstance(layer, Conv)]
    others = [conv for conv in convs if not is_depthwise(conv.spec)]
    assert others and all(conv.spec.element == half for conv in others)
    assert {graph.weights[conv.weight].dtype.itemsize for conv in others} == {2}
    assert {graph.tensors[number].precision.element for number in (*graph.given, *graph.results)} == {"fp32"}
    report = precision_report(graph)
    assert report is not None and 0.9 < report.share < 1.0
    [first] = [conv for conv in convs if conv.spec.element == "fp32"]
    assert {name for name, kind in report.layers.items() if kind != half} == {first.name}
    assert report.sentence.startswith(f"{half}: ")


@pytest.mark.parametrize("half", HALVES)
def test_depthwise_weights_and_what_the_first_conv_makes_for_them_stay_in_fp32(half: Half) -> None:
    """Sums of so few products lose more than all others: without this bf16 gives other answers twice as often."""
    graph = halved(half)
    depthwise = [layer for layer in graph.layers if isinstance(layer, Conv) and is_depthwise(layer.spec)]
    known = {layer.name: layer.weight for layer in network().layers if isinstance(layer, Conv)}
    assert depthwise and all(graph.weights[layer.weight].dtype == np.float32 for layer in depthwise)
    assert all(np.array_equal(graph.weights[layer.weight], network().weights[known[layer.name]]) for layer in depthwise)
    [first] = [layer for layer in graph.layers if isinstance(layer, Conv) and layer.target == depthwise[0].source]
    assert first.spec.element == half and graph.tensors[first.target].precision.element == "fp32"
    assert graph.tensors[depthwise[0].target].precision.element == half


@pytest.mark.parametrize("half", HALVES)
def test_what_is_computed_for_depthwise_convs_alone_stays_in_fp32(half: Half) -> None:
    """The second conv reads what the first one makes for it; the sum reads what the other conv makes, too."""
    graph = depthwise_of(16, half)
    elements = {tensor.name: tensor.precision.element for tensor in graph.tensors}
    assert [elements[f"conv{at}"] for at in range(3)] == [half, "fp32", half]
    assert [layer.spec.element for layer in graph.layers if isinstance(layer, Conv)] == [half, half, "fp32"]


@pytest.mark.parametrize("half", HALVES)
def test_with_pictures_an_answer_is_nearer_to_the_one_in_fp32(half: Half) -> None:
    """Weights of the same sizes, rounded so that errors cancel, under keys of their own; depthwise ones as they are."""
    graph = in_precision(network(), half, pictures(8))
    with fogconv.compile(graph, "inproc://0", topology=equal_ranks(1)) as engine:
        found = [np.asarray(engine(picture(seed))) for seed in range(20, 28)]
    exact = [answer(None, seed) for seed in range(20, 28)]
    noise = [
        sum(float(np.square(one - other).sum()) for one, other in zip(exact, each, strict=True))
        for each in (found, [answer(half, seed) for seed in range(20, 28)])
    ]
    assert noise[0] < 0.7 * noise[1]
    convs = {layer.name: layer for layer in graph.layers if isinstance(layer, Conv)}
    for layer in halved(half).layers:
        if isinstance(layer, Conv):
            other, same = convs[layer.name], is_depthwise(layer.spec)
            assert (other.weight == layer.weight, other.bias == layer.bias) == (same, same)
            one, two = graph.weights[other.weight], halved(half).weights[layer.weight]
            assert (one.dtype, one.shape) == (two.dtype, two.shape)
            assert same or other.weight == weight_key(one)


def test_pictures_that_can_not_be_measured_are_a_sentence() -> None:
    with pytest.raises(InputError, match="not finite"):
        in_precision(network(), "bf16", [[picture() * np.float32(np.nan)]])
    weights = {key: each * np.float32(1e30) for key, each in network().weights.items()}
    plain = network()
    large = LayerGraph.single("large", plain.tensors, plain.layers, 0, plain.results[0], (1, 10), weights)
    with pytest.raises(ModelError, match="values that are not finite; leave --calibrate out"):
        in_precision(large, "bf16", pictures(1))
    in_precision(large, "bf16", None)


@pytest.mark.parametrize("half", HALVES)
def test_one_group_of_a_depthwise_conv_may_be_alone_on_a_rank(half: Half) -> None:
    """Which is no depthwise conv any more: its weights are in fp32 all the same."""
    graph = depthwise_of(3, half)
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8), np.float32)
    with fogconv.compile(graph, "inproc://0", topology=equal_ranks(1)) as engine:
        wanted = np.asarray(engine(x))
    with fogconv.compile(graph, "inproc://2", scheme="star", threshold=0.0, topology=equal_ranks(3)) as engine:
        convs = [step for program in engine.plan.programs for step in program.steps if hasattr(step, "weight")]
        assert (1, half) in {(step.spec.groups, step.spec.element) for step in convs if step.spec.in_channels == 1}
        assert off(np.asarray(engine(x)), wanted) < 4 * UNIT[half]


def depthwise_of(channels: int, half: Half) -> LayerGraph:
    """A 1×1 conv and two depthwise ones, and a sum with what the first of them reads: so that is of 16 bits."""
    rng, size = np.random.default_rng(5), (1, channels, 8, 8)
    tensors = tuple(Tensor(name, *size) for name in ("x", "a", "b", "c", "y"))
    each = ConvSpec(channels, channels, 8, 8, (3, 3), padding=(1, 1, 1, 1), groups=channels)
    specs = (ConvSpec(channels, channels, 8, 8, (1, 1)), each, each)
    convs = [Conv(f"conv{at}", at, at + 1, spec, f"w{at}") for at, spec in enumerate(specs)]
    layers = (*convs, Add("sum", (3, 1), 4))
    weights = {f"w{at}": rng.standard_normal(spec.weight_shape, np.float32) for at, spec in enumerate(specs)}
    graph = LayerGraph.single("depthwise", tensors, layers, 0, 4, size, weights)
    return in_precision(graph, half, None)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("scheme", ["rows", "columns", "tiles", "depth", "star", "auto"])
def test_a_distributed_run_equals_one_device_within_rounding(scheme: str, half: Half) -> None:
    options = {"threshold": 0.0} if scheme == "star" else {}
    with fogconv.compile(halved(half), "inproc://2", scheme=scheme, topology=equal_ranks(3), **options) as engine:
        assert any(work.rank for placement in engine.plan.plan.placements for work in placement.work)
        wires = {step.wire for program in engine.plan.programs for step in program.steps if hasattr(step, "wire")}
        assert half in wires
        for seed in range(2):
            assert off(np.asarray(engine(picture(seed))), answer(half, seed)) < 4 * UNIT[half]


@pytest.mark.parametrize("half", HALVES)
def test_partial_sums_travel_in_fp32(half: Half) -> None:
    with fogconv.compile(
        halved(half), "inproc://2", scheme="star", split="input:3", threshold=0.0, topology=equal_ranks(3)
    ) as engine:
        assert off(np.asarray(engine(picture())), answer(half)) < 4 * UNIT[half]
        sends = [step for program in engine.plan.programs[1:] for step in program.steps if hasattr(step, "to")]
        assert {step.wire for step in sends} == {"fp32", half}


@cache
def deep(half: Half | None) -> LayerGraph:
    """3×3 convs with maps and channels enough for Winograd's algorithm, and a sum."""
    graph = chain(16, 32, 48, 32, 16, size=28, residual=True)
    rng = np.random.default_rng(11)
    sizes = {key: weight.shape for key, weight in graph.weights.items()}
    weights = {
        key: rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        for key, shape in sizes.items()
    }
    one, size = graph.layers, graph.tensors[graph.results[0]].shape
    plain = LayerGraph.single("deep", graph.tensors, one, 0, graph.results[0], size, weights)
    return plain if half is None else in_precision(plain, half, None)


def given_to(graph: LayerGraph, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(graph.tensors[graph.given[0]].shape, np.float32)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("scheme", ["local", "rows", "columns", "tiles", "depth", "output:3", "input:3", "grid:2x2"])
def test_shares_of_what_winograds_algorithm_computes_are_right(scheme: str, half: Half) -> None:
    """Rows and columns with halos, channels, and partial sums, beside the answers in fp32 and in 16 bits on one device."""
    graph, x = deep(half), given_to(deep(half))
    with fogconv.compile(deep(None), "inproc://0", topology=equal_ranks(1)) as engine:
        exact = np.asarray(engine(x))
    with fogconv.compile(graph, "inproc://0", topology=equal_ranks(1)) as engine:
        alone = np.asarray(engine(x))
    assert 0 < off(alone, exact) < ROUNDINGS * UNIT[half]
    options = {"scheme": "star", "split": scheme, "threshold": 0.0} if ":" in scheme else {"scheme": scheme}
    with fogconv.compile(graph, "inproc://3", topology=equal_ranks(4), **options) as engine:
        convs = [step for program in engine.plan.programs for step in program.steps if isinstance(step, ir.Conv)]
        assert any(algorithm_of(conv.spec).startswith("winograd") for conv in convs)
        assert off(np.asarray(engine(x)), alone) < 4 * UNIT[half]


@settings(max_examples=6)
@given(
    st.sampled_from(HALVES),
    st.integers(2, 3),
    st.sampled_from(["rows", "columns", "tiles", "depth", "star"]),
    st.sampled_from(["output:3", "input:3"]),
)
def test_whatever_the_layout_programs_hold_and_send_16_bits(half: Half, ranks: int, scheme: str, split: str) -> None:
    """As data: every map that travels does so in 16 bits, but for the picture, the answer and partial sums."""
    options = PlanOptions(scheme, threshold=0.0, split=split) if scheme == "star" else PlanOptions(scheme)
    graph = halved(half)
    lowered = lower(graph, plan(graph, equal_ranks(ranks), options))
    ends = {graph.tensors[number].name for number in (*graph.given, *graph.results)}
    for program in lowered.programs:
        for step in program.steps:
            if hasattr(step, "wire"):
                buffer = program.buffers[step.parts[0].buffer]
                summand = buffer.precision.element == "fp32"
                assert step.wire == (half if not summand else "fp32")
                assert summand or buffer.tensor not in ends
        convs = [step for step in program.steps if isinstance(step, ir.Conv) and not is_depthwise(step.spec)]
        assert {program.weight_types[conv.weight] for conv in convs} <= {"float16" if half == "fp16" else "uint16"}


@pytest.mark.parametrize("half", HALVES)
def test_maps_and_weights_take_half_the_memory(half: Half) -> None:
    def taken(graph: LayerGraph) -> tuple[int, int, Program]:
        lowered = lower(graph, Plan(graph.name, 1, "local", tuple(at_home(graph, layer) for layer in graph.layers)))
        program = lowered.programs[0]
        return sum(program.weight_bytes(key) for key in program.weights), footprint(program).maps, program

    (weights, maps, program), (wide_weights, wide_maps, wide) = taken(halved(half)), taken(network())
    assert weights < 0.55 * wide_weights and maps < wide_maps
    # The picture, and what the first conv makes for a depthwise one, stay in fp32: a third of this small net's maps.
    wide_bytes = {buffer.tensor: buffer_bytes(wide, number) for number, buffer in enumerate(wide.buffers)}
    narrow = [
        n for n, buffer in enumerate(program.buffers) if buffer.precision.element == half and buffer.tensor in wide_bytes
    ]
    assert len(narrow) == len(wide.buffers) - 3
    for number in narrow:
        assert buffer_bytes(program, number) <= 0.5 * wide_bytes[program.buffers[number].tensor]
    assert taken(for_shapes(network(), half))[1] == maps


def engine_of(session: Session, scheme: str) -> Engine:
    options = PlanOptions(scheme, threshold=0.0 if scheme == "star" else 1.0)
    return Engine(halved("bf16"), session, equal_ranks(session.ranks), options, RunOptions(adapt=False))


@pytest.mark.parametrize("scheme", ["rows", "star"])
def test_the_answer_is_right_after_a_loss(scheme: str) -> None:
    with FaultCluster(2) as cluster:
        engine = engine_of(cluster.session, scheme)
        assert off(engine.run(picture()).output, answer("bf16")) < 4 * UNIT["bf16"]
        cluster.cut_at(1, 3)
        hit = engine.run(picture(1))
        assert any("lost" in event for event in hit.events)
        assert off(hit.output, answer("bf16", 1)) < 4 * UNIT["bf16"]
        assert engine.ranks == (0, 2)


def test_what_16_bits_can_not_do_is_a_sentence() -> None:
    with pytest.raises(InputError, match="no checksums of narrower layers"):
        fogconv.plan(halved("bf16"), equal_ranks(3), scheme="star", protection=Protection(verify=True))
    with pytest.raises(InputError, match="quantised to 8 bits already"):
        in_precision(on_bytes().graph, "fp16", None)
    large = network()
    convs = [layer for layer in large.layers if isinstance(layer, Conv)]
    weights = {**large.weights, convs[2].weight: large.weights[convs[2].weight] * np.float32(1e6)}
    too_large = LayerGraph.single("large", large.tensors, large.layers, 0, large.results[0], (1, 10), weights)
    with pytest.raises(ModelError, match=f"{convs[2].name} has weights up to .* use --precision bf16"):
        in_precision(too_large, "fp16", None)
    in_precision(too_large, "bf16", None)
