"""What stays on the master is listed: operator, node, why, and its share of the multiply-adds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from fogconv.analysis.forecast import forecast
from fogconv.cli.output.tables.plan import print_plan
from fogconv.frontend.building.hosted import AMONG_HOSTED, OTHER_FORM, UNKNOWN
from fogconv.frontend.onnx.multiply_adds import multiply_adds
from fogconv.frontend.onnx.read import read
from fogconv.frontend.onnx.translate import Node
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.planning.planner import plan
from tests.frontend.onnx.test_rules import node, numbers, saved

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from fogconv.frontend.torch.export import export  # noqa: E402


class Mixed(nn.Module):
    """A conv for the workers; then what they don't know, with a product of matrices in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.after = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.cumsum(self.conv(x), 2).flatten(2).transpose(1, 2)
        return self.after(tokens)


def test_a_torch_model_says_what_stays_and_why() -> None:
    graph = export(Mixed().eval(), torch.zeros(1, 3, 8, 8), "mixed")
    found = {each.operator: each for each in graph.hosted}
    assert (found["cumsum"].why, found["cumsum"].macs) == (UNKNOWN, 0)
    assert (found["linear"].why, found["linear"].node, found["linear"].macs) == (AMONG_HOSTED, "after", 64 * 16 * 5)
    conv = 64 * 16 * 27
    assert graph.on_master_share == pytest.approx(64 * 80 / (64 * 80 + conv))


def test_an_onnx_model_says_what_stays_and_why(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["a", "a"], ["b"], name="beside", axis=3),
        helper.make_node("CumSum", ["b", "axis"], ["y"], name="sum"),
    ]
    path = saved(tmp_path / "m.onnx", nodes, {"w": numbers(4, 3, 3, 3), "axis": np.array(2)}, shape=(1, 3, 8, 8))
    graph = read(path)
    assert [(each.operator, each.node, each.why) for each in graph.hosted] == [
        ("Concat", "beside", OTHER_FORM),
        ("CumSum", "sum", UNKNOWN),
    ]
    assert graph.on_master_share == 0.0


@pytest.mark.parametrize(
    ("op", "shapes", "made", "macs"),
    [
        ("MatMul", [(2, 3, 4), (4, 5)], (2, 3, 5), 2 * 3 * 4 * 5),
        ("Gemm", [(4, 3), (4, 5)], (3, 5), 3 * 4 * 5),
        ("Conv", [(1, 4, 9), (6, 4, 3)], (1, 6, 7), 7 * 6 * 12),
        ("ConvTranspose", [(1, 4, 5, 5), (4, 3, 2, 2)], (1, 3, 10, 10), 100 * 12),
        ("LSTM", [(7, 1, 4), (1, 12, 4)], (7, 1, 1, 3), 7 * 12 * (4 + 3)),
        ("Relu", [(3, 3)], (3, 3), 0),
    ],
)
def test_multiply_adds_of_onnx_nodes(op: str, shapes: list[tuple[int, ...]], made: tuple[int, ...], macs: int) -> None:
    names = [f"i{number}" for number in range(len(shapes))]
    proto = helper.make_node(op, names, ["o"], **({"transA": 1} if op == "Gemm" else {}))
    known = {**dict(zip(names, shapes, strict=True)), "o": made}
    assert multiply_adds(Node(proto), known.get) == macs
    assert multiply_adds(Node(proto), lambda name: None) == 0


@pytest.mark.parametrize(
    ("operation", "macs"),
    [
        (lambda a: a @ a.transpose(0, 1), 6 * 6 * 4),
        (lambda a: torch.addmm(torch.zeros(6, 6), a, a.t()), 6 * 6 * 4),
        (lambda a: nn.functional.conv1d(a[None], torch.ones(3, 6, 2)), 3 * 3 * 12),
        (lambda a: nn.functional.scaled_dot_product_attention(a[None, None], a[None, None], a[None, None]), 2 * 6 * 6 * 4),
        (lambda a: torch.relu(a), 0),
    ],
)
def test_multiply_adds_of_torch_nodes(operation: object, macs: int) -> None:
    from fogconv.frontend.torch.multiply_adds import multiply_adds as counted

    class Only(nn.Module):
        def forward(self, a: torch.Tensor) -> torch.Tensor:
            return operation(a)  # type: ignore[no-any-return, operator]

    program = torch.export.export(Only(), (torch.zeros(6, 4),), strict=False)
    assert sum(counted(each) for each in program.graph.nodes if each.op == "call_function") == macs


def test_fogconv_plan_lists_it() -> None:
    graph = export(Mixed().eval(), torch.zeros(1, 3, 8, 8), "mixed")
    topology = Topology.uniform(2, 1e9, 1e9, 1e-5)
    found = forecast(graph, plan(graph, topology), topology)
    text = io.StringIO()
    print_plan(found, "Two.", out=text, width=80)
    shown = " ".join(text.getvalue().split())
    assert f"workers can't do it ({100 * graph.on_master_share:.3g} % of the multiply-adds)" in shown
    assert f"linear (after): {AMONG_HOSTED}; 0.00512 M multiply-adds" in shown
    assert all(len(line) <= 80 for line in text.getvalue().splitlines())
    answer = found.as_json()
    assert answer["on_master_share"] == graph.on_master_share
    assert {"operator": "linear", "node": "after", "why": AMONG_HOSTED, "macs": 5120} in answer["on_master"]


def test_a_graph_whose_output_is_no_map_can_be_planned(tmp_path: Path) -> None:
    graph: LayerGraph = read(saved(tmp_path / "m.onnx", [node("ArgMax", ["x"], axis=1)], {}, shape=(1, 3, 4, 4)))
    topology = Topology.uniform(2, 1e9, 1e9, 1e-5)
    assert forecast(graph, plan(graph, topology), topology).layers[0].mode == "host"


def test_what_is_hosted_does_not_spin(tmp_path: Path) -> None:
    """ONNX Runtime's threads would wait for more work on the core, and use up the master's quota."""
    nodes = [node("Conv", ["x", "w"], "c"), node("ArgMax", ["c"], axis=1)]
    graph = read(saved(tmp_path / "m.onnx", nodes, {"w": numbers(4, 3, 3, 3)}, shape=(1, 3, 8, 8)))
    [hosted] = [layer for layer in graph.layers if isinstance(layer, Host)]
    options = hosted.call.session.get_session_options()  # type: ignore[attr-defined]
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
