"""Test cases: what they say of a runtime whose times are known, and the chains of both runtimes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from fogconv.calibration.fusion import in_onnx_runtime
from fogconv.calibration.fusion.cases import Case, Runtime, find
from fogconv.calibration.fusion.in_fogconv import Fogconv, fused_graph
from fogconv.calibration.fusion.in_onnx_runtime import OnnxRuntime
from fogconv.calibration.fusion.operators import CHAINS, CHANNELS, CONVS, OPERATORS, PAIRS, Chain, Operator, sides
from fogconv.hardware.latency.kernels import by_kernels, kernels
from fogconv.ir.layers import Conv
from tests.graph_reference import run_outputs

ALONE = {operator: 10.0 + 3 * place for place, operator in enumerate(OPERATORS)}
FUSED = {("conv", "relu"), ("add", "relu"), ("conv", "add")}


class Known:
    """A runtime that computes each operator in a fixed time per row, and some pairs in one kernel; it is slow in its first
    round."""

    name = "known"

    def __init__(self) -> None:
        self.runs = 0

    def chain(self, operators: Chain, side: int) -> Callable[[], float]:
        def run() -> float:
            self.runs += 1
            total, before = 0.0, None
            for operator, rows in zip(operators, sides(operators, side), strict=False):
                total += 0.0 if (before, operator) in FUSED else ALONE[operator] * rows
                before = operator
            return total * (2.0 if self.runs < 200 else 1.0)

        return run


def test_pairs_that_are_one_kernel_are_found_and_chains_priced_by_them() -> None:
    found = find(Known(), rounds=3)
    assert found.runtime == "known"
    assert found.rules == FUSED & set(PAIRS)
    assert [(trial.operators, trial.by_kernels_s >= trial.measured_s) for trial in found.trials] == [
        (chain, True) for chain in CHAINS
    ]
    vgg = found.trials[0]
    assert vgg.by_kernels_s == pytest.approx(112 * (max(ALONE["conv"], ALONE["relu"]) + ALONE["maxpool"]))
    assert vgg.by_operators_s == pytest.approx(112 * (ALONE["conv"] + ALONE["relu"] + ALONE["maxpool"]))
    told = found.as_json()
    assert {(each["first"], each["second"]) for each in told["cases"] if each["fuses"]} == FUSED & set(PAIRS)
    assert [each["operators"] for each in told["chains"]] == [list(chain) for chain in CHAINS]


def test_a_pair_that_saves_a_little_is_not_one_kernel() -> None:
    assert not Case("conv", "relu", 10.0, 2.0, 11.1).fuses
    assert Case("conv", "relu", 10.0, 2.0, 10.9).fuses
    assert Case("relu", "conv", 2.0, 10.0, 10.9).saved == pytest.approx(0.55)


def test_kernels_of_a_chain() -> None:
    rules = frozenset({("conv", "relu"), ("relu", "add"), ("pool", "relu")})
    assert kernels(["conv", "relu", "add", "add", "pool", "conv"], rules) == [
        ("conv", "relu", "add"),
        ("add",),
        ("pool",),
        ("conv",),
    ]
    assert by_kernels(["conv", "relu", "pool"], [5.0, 1.0, 2.0], rules) == 7.0
    assert by_kernels([], [], rules) == 0.0


def _reference(operators: Chain, graph_weights: Any, inputs: list[torch.Tensor]) -> torch.Tensor:
    """The chain in torch, by the weights of fogconv's graph before fusion."""
    x, others = inputs[0], iter(inputs[1:])
    for place, operator in enumerate(operators):
        x = _applied(operator, x, others, graph_weights, place)
    return x


def _applied(
    operator: Operator, x: torch.Tensor, others: Iterator[torch.Tensor], weights: Callable[[int], Any], place: int
) -> torch.Tensor:
    match operator:
        case "conv":
            return F.conv2d(x, weights(place))
        case "depthwise":
            return F.conv2d(x, weights(place), padding=1, groups=CHANNELS)
        case "batchnorm":
            return 0.5 * x + 0.25
        case "add":
            return x + next(others)
        case "maxpool":
            return F.max_pool2d(x, 3, 2, 1)
        case "avgpool":
            return F.avg_pool2d(x, 2)
        case "globalpool":
            return x.mean((2, 3), keepdim=True)
        case "clip":
            return x.clamp(0, 6)
    functions = {"relu": F.relu, "hardswish": F.hardswish, "sigmoid": torch.sigmoid}
    return functions[operator](x)


@pytest.mark.parametrize("operators", [*((each,) for each in OPERATORS), *CHAINS], ids="+".join)
def test_both_runtimes_compute_what_the_operators_say(operators: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """fogconv's by its fused graph, ONNX Runtime's by its session. Seeds are the target map's number, or the place."""
    side, random = 12, np.random.default_rng(0)
    graph = fused_graph(operators, side)
    given = [random.standard_normal(port.shape, np.float32) for port in graph.inputs if port.shape is not None]

    def seeded(seed: int, operator: Operator) -> torch.Tensor:
        shape = (CHANNELS, CHANNELS, 1, 1) if operator == "conv" else (CHANNELS, 1, 3, 3)
        return torch.from_numpy((np.random.default_rng(seed).standard_normal(shape) / 8).astype(np.float32))

    targets, number = [], 0
    for operator in operators:
        number += 2 if operator == "add" else 1
        targets.append(number)
    xs = [torch.from_numpy(each) for each in given]
    right = _reference(operators, lambda place: seeded(targets[place], operators[place]), xs)
    [out] = run_outputs(graph, given)
    np.testing.assert_allclose(out, right, rtol=1e-4, atol=1e-4)

    seen: list[Any] = []
    monkeypatch.setattr(in_onnx_runtime, "_timed", lambda session, feeds: seen.append((session, feeds)) or 1e-6)
    OnnxRuntime().chain(operators, side)()
    session, feeds = seen[-1]
    right = _reference(
        operators, lambda place: seeded(place, operators[place]), [torch.from_numpy(each) for each in feeds.values()]
    )
    [theirs] = session.run(None, feeds)
    np.testing.assert_allclose(theirs, right, rtol=1e-4, atol=1e-4)


def test_what_fogconv_fuses_is_one_layer_of_its_graph() -> None:
    [conv] = fused_graph(("conv", "batchnorm", "relu"), 12).layers
    assert isinstance(conv, Conv) and conv.activation == "relu"
    assert len(fused_graph(("conv", "maxpool"), 12).layers) == 2


@pytest.mark.parametrize("runtime", [Fogconv, OnnxRuntime])
def test_a_runtime_gives_times(runtime: Callable[[], Runtime]) -> None:
    call = runtime().chain(("conv", "add", "globalpool"), 12)
    assert 0 < call() < 60


def test_every_operator_is_in_some_pair() -> None:
    assert {each for pair in PAIRS for each in pair} == set(OPERATORS) and set(CONVS) <= set(OPERATORS)
    assert sides(("conv", "maxpool", "avgpool", "globalpool"), 112) == [112, 112, 56, 28, 1]
