"""Steps without Python between them give what they give one by one, on any number of threads, and can end between two."""

from __future__ import annotations

import threading
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest

from fogconv.cluster.executor import executable as module
from fogconv.cluster.executor import interface
from fogconv.cluster.executor.bands.joined_steps import JoinedSteps
from fogconv.cluster.executor.executable import Executable
from fogconv.errors import ClusterError
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Tensor
from fogconv.ir.memory.bands import banded
from fogconv.lowering.lower import Lowered, lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.quantization.halves import in_halves
from tests.cluster.executor.test_shared_maps import spoil
from tests.post import Post
from tests.quantized_net import network, on_bytes, picture

GRAPHS: dict[str, Callable[[], LayerGraph]] = {
    "fp32": network,
    "fp16": lambda: in_halves(network(), "fp16"),
    "int8": lambda: on_bytes().graph,
}


class Counting(Post):
    """A mailbox that counts how often it is asked whether the run is still wanted."""

    def __init__(self) -> None:
        super().__init__(0, {}, threading.Condition())
        self.asked = 0

    def proceed(self) -> None:
        self.asked += 1


class Unwanted(Post):
    def __init__(self) -> None:
        super().__init__(0, {}, threading.Condition())

    def proceed(self) -> None:
        raise ClusterError("the run is over")


def lowered_for_one(graph: LayerGraph) -> Lowered:
    return lower(graph, plan(graph, Topology.uniform(1, 1e9, 1e9, 1e-4), PlanOptions("local")))


def on_one(graph: LayerGraph, threads: int) -> Executable:
    lowered = lowered_for_one(graph)
    [program] = lowered.programs
    weights = {key: lowered.weights[key] for key in program.weights}
    return Executable(program, weights, threads=threads)


def one_by_one(calls: list[interface.Call], messages: object) -> list[interface.Call]:
    return calls


@pytest.mark.parametrize("precision", GRAPHS)
def test_joined_steps_give_the_bits_of_steps_one_by_one(precision: str) -> None:
    graph = GRAPHS[precision]()
    with mock.patch.object(module, "joined", one_by_one):
        apart = on_one(graph, 1)
    assert not any(joined for _, joined in apart._bound._calls)
    [wanted] = apart.run(Counting(), [picture()])
    for threads in (1, 2, 3):
        executable = on_one(graph, threads)
        several = [joined for _, joined in executable._bound._calls if isinstance(joined, JoinedSteps)]
        assert max(each.count for each in several) > 2
        for _ in range(20):
            [found] = executable.run(Counting(), [picture()])
            assert np.array_equal(found, wanted)


def inverted_bottlenecks() -> LayerGraph:
    """Maps with margins and maps without lie in one memory."""
    tensors, layers, weights = [Tensor("x", 1, 32, 9, 9)], [], {}
    random = np.random.default_rng(0)
    for number, (c, f, size, groups) in enumerate([(32, 80, 1, 1), (80, 80, 3, 80), (80, 32, 1, 1)] * 3):
        padding = (size // 2,) * 4
        spec = ConvSpec(c, f, 9, 9, (size, size), padding=padding, groups=groups)
        weights[f"w{number}"] = random.standard_normal(spec.weight_shape, np.float32) / c**0.5
        layers.append(Conv(f"conv{number}", number, number + 1, spec, f"w{number}"))
        tensors.append(Tensor(f"map{number}", 1, f, 9, 9))
    return LayerGraph.single("net", tuple(tensors), tuple(layers), 0, len(layers), (1, 32, 9, 9), weights)


@pytest.mark.parametrize("threads", [2, 3])
def test_margins_that_threads_share_become_zeros_whatever_was_there(threads: int) -> None:
    graph = inverted_bottlenecks()
    x = np.random.default_rng(1).standard_normal((1, 32, 9, 9), np.float32)
    [wanted] = on_one(graph, 1).run(Counting(), [x])
    executable = on_one(graph, threads)
    [program] = lowered_for_one(graph).programs
    found = banded(program, threads)
    assert found.cleared
    for _ in range(5):
        assert spoil(executable, found.places) > 1
        [y] = executable.run(Counting(), [x])
        assert np.array_equal(y, wanted)


@pytest.mark.parametrize("threads", [1, 2])
def test_each_of_them_has_a_time(threads: int) -> None:
    executable = on_one(network(), threads)
    steps = len(executable.program.steps)
    assert executable.times.shape == (steps, 2)
    executable.run(Counting(), [picture()])
    times = executable.times
    assert times.shape == (steps, 2)
    assert (np.diff(times.ravel()) >= 0).all() and times[0, 0] < times[-1, 1]
    computing = [number for number, step in enumerate(executable.program.steps) if type(step).__name__ == "Conv"]
    assert (times[computing, 1] > times[computing, 0]).any()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_long_run_asks_between_them_whether_it_is_still_wanted(threads: int) -> None:
    executable = on_one(network(), threads)
    [wanted] = executable.run(Counting(), [picture()])
    with mock.patch.object(interface, "LOOK_NS", -1):
        mailbox = Counting()
        [found] = executable.run(mailbox, [picture()])
        assert np.array_equal(found, wanted)
        assert mailbox.asked >= sum(type(step).__name__ == "Conv" for step in executable.program.steps)
        with pytest.raises(ClusterError, match="over"):
            executable.run(Unwanted(), [picture()])
    [found] = executable.run(Counting(), [picture()])
    assert np.array_equal(found, wanted)
