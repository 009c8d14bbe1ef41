"""Stages keep every layer after what it reads, and let branches share their messages."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Concat, Conv, Host, Tensor
from fogconv.ir.stages import made_before, one_by_one, stages
from fogconv.ir.steps import Recv, Send
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from tests.random_graphs import graphs


def cell(size: int = 40) -> LayerGraph:
    """Two branches of 1×1 and 3×3, side by side, as Inception has them."""
    weights: dict[str, np.ndarray] = {}

    def conv(name: str, source: int, target: int, kernel: int) -> Conv:
        pad = kernel // 2
        spec = ConvSpec(64, 64, size, size, (kernel, kernel), padding=(pad, pad, pad, pad))
        weights[name] = np.ones(spec.weight_shape, np.float32)
        return Conv(name, source, target, spec, name, None)

    tensors = tuple(Tensor(f"t{n}", 1, 128 if n == 5 else 64, size, size) for n in range(6))
    layers = (conv("a1", 0, 1, 1), conv("a3", 1, 2, 3), conv("b1", 0, 3, 1), conv("b3", 3, 4, 3), Concat("c", (2, 4), 5))
    return LayerGraph.single("cell", tensors, layers, 0, 5, tensors[5].shape, weights)


@given(graphs())
@settings(deadline=None, max_examples=100)
def test_every_layer_comes_once_and_after_what_it_reads(graph: LayerGraph) -> None:
    order = [index for stage in stages(graph) for index in stage]
    assert sorted(order) == list(range(len(graph.layers)))
    made = set(graph.given)
    for index in order:
        assert set(graph.layers[index].reads) <= made
        made |= set(graph.layers[index].writes)
    if any(isinstance(layer, Host) for layer in graph.layers):
        assert stages(graph) == one_by_one(graph)


@given(graphs())
@settings(deadline=None, max_examples=100)
def test_what_is_ahead_of_a_wave_was_made_before_it(graph: LayerGraph) -> None:
    made = set(graph.given)
    for stage in stages(graph):
        assert made_before(graph, stage) <= made
        for index in stage:
            made |= set(graph.layers[index].writes)


def test_branches_of_a_cell_wait_for_their_neighbours_together() -> None:
    assert stages(cell()) == ((0, 2), (1, 3, 4))


def test_two_branches_halos_are_one_message() -> None:
    graph = cell()
    found = plan(graph, Topology.uniform(4, 1e9, 1e9, 1e-6, step_s=1e-6), PlanOptions("rows"))
    programs = lower(graph, found).programs
    shared = [step for program in programs for step in program.steps if isinstance(step, Send) and step.more]
    assert shared
    for program in programs:
        received = [(step.origin, step.layer) for step in program.steps if isinstance(step, Recv)]
        assert len(received) == len(set(received))
