"""Programs whose maps lie in one another's memory give the bits that they give in memory of their own, whatever was there.

Before each run all memory that maps of several forms share is filled with NaN.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fogconv.cluster.executor.executable import Executable
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.memory import bands, contents
from fogconv.ir.memory.sharing import NOWHERE
from fogconv.ir.program import Program
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.quantization.halves import in_halves
from tests.post import Messages, Post
from tests.quantized_net import network, on_bytes, picture
from tests.random_graphs import graphs, numbers_for

Maps = Sequence[NDArray[Any]]


def run(executables: Sequence[Executable], inputs: Maps) -> list[NDArray[Any]]:
    there, arrived = Messages(), threading.Condition()
    with ThreadPoolExecutor(len(executables)) as pool:
        runs = [pool.submit(each.run, Post(rank, there, arrived), inputs) for rank, each in enumerate(executables)]
        outputs = [each.result() for each in runs]
    return outputs[0]


def alone(program: Program, together: object = (), apart: Sequence[int] = ()) -> list[int]:
    """In the place of `memories`: each map in its own."""
    return [NOWHERE if number in apart else number for number in range(len(program.buffers))]


def spoil(executable: Executable, places: Sequence[int]) -> int:
    """Fill what maps of several forms share. Returns how many these are."""
    buffers = executable.program.buffers
    forms: dict[int, set[Any]] = {}
    for buffer, place in zip(buffers, places, strict=False):
        forms.setdefault(place, set()).add((buffer.region.shape, buffer.margin, buffer.precision))
    mixed = [number for number, place in enumerate(places) if place != NOWHERE and len(forms[place]) > 1]
    for number in mixed:
        executable._buffers[number].data.view(np.uint8)[...] = 0xFF
    return len(mixed)


def check(graph: LayerGraph, ranks: int, scheme: str, inputs: Maps) -> int:
    topology = Topology.uniform(ranks, 1e9, 1e11, 1e-7, copy_s_per_byte=1e-12, step_s=1e-8)
    lowered = lower(graph, plan(graph, topology, PlanOptions(scheme, threshold=0.0)))

    def host(layer: int, values: dict[Any, Any], maps: Maps) -> Maps:
        found = graph.layers[layer]
        assert isinstance(found, Host)
        return [np.asarray(each, np.float32) for each in found.call(values, *maps)]

    def executable(program: Program) -> Executable:
        weights: Mapping[str, Any] = {key: lowered.weights[key] for key in program.weights}
        return Executable(program, {key: _single(each) for key, each in weights.items()}, host=host)

    with mock.patch.dict(vars(bands), memories=alone):
        wanted = run([executable(program) for program in lowered.programs], inputs)
    shared = [executable(program) for program in lowered.programs]
    exact = not any(contents.late(program) for program in lowered.programs)
    for _ in range(2):
        count = sum(
            spoil(each, bands.banded(each_of).places) for each, each_of in zip(shared, lowered.programs, strict=True)
        )
        for found, made in zip(run(shared, inputs), wanted, strict=True):
            if exact:
                assert np.array_equal(found, made)
            else:  # what Winograd's tiles read of other maps cancels out, but for rounding
                assert np.abs(found - made).max() <= 1e-4 * max(1.0, float(np.abs(made).max()))
    return count


def _single(weight: NDArray[Any]) -> NDArray[Any]:
    return weight.astype(np.float32) if weight.dtype == np.float64 else weight


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.integers(1, 3), st.sampled_from(["rows", "tiles", "depth", "auto"]), st.integers(0, 9))
def test_nothing_that_was_there_gets_into_a_result(graph: LayerGraph, ranks: int, scheme: str, seed: int) -> None:
    check(graph, ranks, scheme, [each.astype(np.float32) for each in numbers_for(graph, seed)])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(("ranks", "scheme"), [(2, "rows"), (2, "depth")])
def test_nothing_that_was_there_gets_into_a_result_of_any_precision(precision: str, ranks: int, scheme: str) -> None:
    graph = {"fp32": network, "fp16": lambda: in_halves(network(), "fp16"), "int8": lambda: on_bytes().graph}[precision]()
    assert check(graph, ranks, scheme, [picture()]) >= 2
