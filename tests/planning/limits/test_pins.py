"""Pins and an input that stays at home: what is not allowed is in no plan, and contradictions are sentences."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import InputError, PlannerError
from fogconv.frontend.zoo_graphs import graph as zoo_graph
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import GlobalPool, Pool
from fogconv.ir.memory.footprint import PROCESS_BYTES
from fogconv.ir.plan import Plan
from fogconv.lowering.lower import lower, outline
from fogconv.planning.limits.allowed import sent_tensors
from fogconv.planning.limits.pins import Pin
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.schemes import ONE_FRAME, STREAMS, Scheme
from tests.chains import chain
from tests.graph_reference import run_graph
from tests.program_reference import run

FAST = Topology.uniform(3, 10e9, 1e11, 1e-6, copy_s_per_byte=1e-12, step_s=1e-7)
UNEVEN = FAST.replace_device(1, FAST.devices[1].scaled(5))
"""With a rank that is worth offloading to."""
CHAIN = chain(64, 64, 64, 64, 64)


@cache
def net(name: str) -> LayerGraph:
    return zoo_graph(name)


def ranks_of(graph: LayerGraph, found: Plan) -> dict[str, set[int]]:
    return {
        layer.name: {work.rank for work in placement.work}
        for layer, placement in zip(graph.layers, found.placements, strict=True)
    }


@pytest.mark.parametrize(
    ("pin", "name", "holds"),
    [
        ("features.0-4", "features.0", True),
        ("features.0-4", "features.4", True),
        ("features.0-4", "features.5", False),
        ("features.0-4", "features.10", False),
        ("features.0-4", "classifier.1", False),
        ("layer1-2", "layer2.0.conv1", True),
        ("layer1-2", "layer3.0.conv1", False),
        ("layer1", "layer1.0.conv1", True),
        ("layer1", "layer10", False),
        ("conv1", "conv1", True),
        ("a.1-2", "ax1", False),
    ],
)
def test_a_pin_holds_a_name_or_a_range(pin: str, name: str, holds: bool) -> None:
    assert Pin.parse(f"{pin}=0").holds(name) == holds


@pytest.mark.parametrize(
    "text", ["", "=", "features.0", "features.0=", "=1", "features.0=-1", "features.0=x", "a\n=1", "x" * 300 + "=1"]
)
def test_what_is_no_pin_is_a_sentence(text: str) -> None:
    with pytest.raises(InputError, match="pin"):
        PlanOptions(pins=(text,))


@settings(deadline=None, max_examples=10)
@given(
    st.lists(st.integers(-1, 2), min_size=4, max_size=4),
    st.sampled_from([s for s in Scheme if s not in (Scheme.STAR, *STREAMS)]),
)
def test_pinned_layers_are_computed_whole_where_they_are_pinned(wanted: list[int], scheme: Scheme) -> None:
    pins = tuple(f"conv{i}={rank}" for i, rank in enumerate(wanted) if rank >= 0)
    found = plan(CHAIN, FAST, PlanOptions(scheme, pins=pins))
    ranks = ranks_of(CHAIN, found)
    for i, rank in enumerate(wanted):
        assert rank < 0 or ranks[f"conv{i}"] == {rank}
    graph = replace(
        CHAIN, weights={k: np.random.default_rng(1).standard_normal(w.shape) / 24 for k, w in CHAIN.weights.items()}
    )
    x = np.random.default_rng(0).standard_normal((1, 64, 32, 32))
    lowered = lower(graph, found)
    out = run(lowered.programs, lowered.weights, x).reshape(graph.outputs[0].shape)
    np.testing.assert_allclose(out, run_graph(graph, x), atol=1e-6)


@pytest.mark.parametrize("scheme", ONE_FRAME)
@pytest.mark.parametrize("name", ["vgg16", "resnet18", "inception_v3"])
def test_no_tensor_between_pinned_layers_is_sent(name: str, scheme: Scheme) -> None:
    graph = net(name)
    first = [layer for layer in graph.layers if not layer.relabels][:3]
    options = PlanOptions(scheme, threshold=0.0, pins=tuple(f"{layer.name}=0" for layer in first))
    sent = sent_tensors(outline(graph, plan(graph, UNEVEN, options)))
    free = {tensor for layer in graph.layers if layer not in first for tensor in layer.reads}
    own = {*graph.given, *(layer.writes[0] for layer in first)} - free
    held = {graph.tensors[tensor].name for tensor in own}
    assert len(held) >= 2 and sent and not held & set(sent)


@pytest.mark.parametrize("scheme", ONE_FRAME)
@pytest.mark.parametrize("name", ["vgg16", "resnet18", "googlenet"])
def test_an_input_that_stays_at_home_is_seen_by_no_other_rank(name: str, scheme: Scheme) -> None:
    graph = net(name)
    free = sent_tensors(outline(graph, plan(graph, UNEVEN, PlanOptions(scheme, threshold=0.0))))
    sent = sent_tensors(outline(graph, plan(graph, UNEVEN, PlanOptions(scheme, threshold=0.0, keep_input_home=True))))
    before = {graph.picture.name}
    for layer in graph.layers:
        if isinstance(layer, Pool | GlobalPool):
            break
        before |= {graph.tensors[tensor].name for tensor in layer.writes}
    assert before & set(free), "without the option they are sent"
    assert sent and not before & set(sent)


def test_contradictions_are_sentences() -> None:
    vgg = net("vgg16")
    cases = (
        ({"pins": ("features.0-4=0", "features.2=1")}, "contradict each other: both pin features.2"),
        ({"pins": ("features.0=1",), "keep_input_home": True}, "features.0 on rank 1, and --keep-input-home keeps"),
        ({"pins": ("features.0=7",)}, "there are ranks 0 to 2"),
        ({"pins": ("feature.0=1",)}, "layer 'feature.0' is not known; did you mean features.0"),
        ({"pins": ("features.0=1",), "scheme": "star"}, "can't put features.0 on rank 1"),
    )
    for options, says in cases:
        with pytest.raises(InputError, match=says):
            plan(vgg, FAST, PlanOptions(**options))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="chain has none"):
        plan(CHAIN, FAST, PlanOptions(keep_input_home=True))


def test_a_pin_against_a_memory_limit_is_a_sentence() -> None:
    cluster = FAST.replace_device(1, replace(FAST.devices[1], memory_bytes=PROCESS_BYTES + 10_000_000))
    vgg = net("vgg16")
    with pytest.raises(PlannerError, match=r"limit is .*; --pin leaves no other rank"):
        plan(vgg, cluster, PlanOptions("offload", pins=("classifier=1",)))


def test_what_a_lost_rank_was_to_compute_is_the_masters() -> None:
    options = PlanOptions("offload", pins=("conv0=0", "conv1=1", "conv2=2"))
    left = options.among((0, 2))
    assert left.pins == ("conv0=0", "conv1=0", "conv2=1")
    assert ranks_of(CHAIN, plan(CHAIN, FAST.subset((0, 2)), left))["conv2"] == {1}


def test_a_given_plan_keeps_to_the_pins_or_is_refused() -> None:
    given = plan(CHAIN, FAST, PlanOptions("offload", pins=("conv1=1",)))
    assert plan(CHAIN, FAST, PlanOptions(plan=given, pins=("conv1=1",))).placements == given.placements
    with pytest.raises(InputError, match="computes conv1 on rank 1"):
        plan(CHAIN, FAST, PlanOptions(plan=given, pins=("conv1=2",)))
    vgg = net("vgg16")
    open_plan = plan(vgg, FAST, PlanOptions("rows"))
    with pytest.raises(InputError, match=r"the plan sends .* and --keep-input-home keeps it"):
        plan(vgg, FAST, PlanOptions(plan=open_plan, keep_input_home=True))


def test_of_many_ranks_the_pinned_ones_get_work() -> None:
    cluster = Topology.uniform(40, 10e9, 1e11, 1e-6)
    found = plan(CHAIN, cluster, PlanOptions("offload", pins=("conv1=39",)))
    assert ranks_of(CHAIN, found)["conv1"] == {39}
