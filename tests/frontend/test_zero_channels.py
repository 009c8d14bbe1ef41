"""Channels that are always 0 are left out, and nothing else: the answer is torch's all the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fogconv.frontend.torch.export import export
from fogconv.frontend.zero_channels import dropped_channels, sentence
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.quantization.recorder import Recorder

X = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 12, 12), np.float32))


class Net(nn.Module):
    """Convs by name, and a function of them and the picture. ``zeros``: channels whose filters and biases are 0."""

    def __init__(self, convs: dict[str, nn.Conv2d], zeros: dict[str, Sequence[int]], run: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleDict(convs)
        self.run = run
        with torch.no_grad():
            for conv in convs.values():
                nn.init.normal_(conv.weight, std=0.4)
                if conv.bias is not None:
                    nn.init.normal_(conv.bias)
            for name, channels in zeros.items():
                for channel in channels:
                    convs[name].weight[channel] = 0
                    convs[name].bias[channel] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, **dict(self.convs.items()))


def conv(c: int, f: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(c, f, 3, padding=1, **options)


def read(net: Net) -> LayerGraph:
    """The graph, which computes what torch does."""
    graph = export(net.eval(), (X,), "net")
    [number] = graph.results
    found = Recorder(graph, [number]).of([X.numpy()])[number]
    with torch.no_grad():
        exact = net(X).numpy()
    assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()
    return graph


def widths(graph: LayerGraph) -> list[tuple[int, int]]:
    return [(layer.spec.in_channels, layer.spec.out_channels) for layer in graph.layers if isinstance(layer, Conv)]


def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


def test_a_zero_channel_leaves_the_conv_that_makes_it_and_those_that_read_it() -> None:
    graph = read(Net({"a": conv(3, 8), "b": conv(8, 4)}, {"a": (0, 3, 7)}, lambda x, a, b: b(relu(a(x)))))
    assert widths(graph) == [(3, 5), (5, 4)] and dropped_channels(graph) == 3
    assert sentence(3) == "3 channels that are always zero were left out"
    assert sentence(1) == "1 channel that is always zero was left out"


def test_through_pools_norms_and_other_layers_of_single_channels() -> None:
    def run(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
        y = nn.functional.max_pool2d(nn.functional.hardswish(a(x)), 3, 2, 1)
        y = nn.functional.interpolate(nn.functional.avg_pool2d(y, 2), scale_factor=2.0)
        return b(nn.functional.silu(y))

    graph = read(Net({"a": conv(3, 8), "b": conv(8, 4)}, {"a": (1, 2)}, run))
    assert widths(graph) == [(3, 6), (6, 4)]
    assert dropped_channels(graph) >= 2


def test_a_sum_drops_what_all_of_its_terms_lack() -> None:
    def run(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
        y = relu(a(x))
        return c(relu(b(y) + y))

    convs = {"a": conv(3, 8), "b": conv(8, 8), "c": conv(8, 2)}
    graph = read(Net(convs, {"a": (1, 5), "b": (5, 6)}, run))
    assert widths(graph) == [(3, 7), (7, 7), (7, 2)], "channel 1 is in the sum, and so is 6"


def test_concatenations_keep_the_order_of_what_stays() -> None:
    def run(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
        return c(torch.cat([relu(a(x)), relu(b(x))], 1))

    graph = read(Net({"a": conv(3, 4), "b": conv(3, 6), "c": conv(10, 2)}, {"a": (3,), "b": (0, 2)}, run))
    assert widths(graph) == [(3, 3), (3, 4), (7, 2)]


def test_slices_begin_where_they_did() -> None:
    def run(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
        y = relu(a(x))
        return b(y[:, :4]) + c(y[:, 4:])

    graph = read(Net({"a": conv(3, 8), "b": conv(4, 2), "c": conv(4, 2)}, {"a": (1, 6)}, run))
    assert sorted(widths(graph)) == [(3, 2), (3, 2), (3, 6)]


def test_depthwise_convs_drop_a_channel_only_where_theirs_is_zero_too() -> None:
    convs = {"a": conv(3, 8), "b": conv(8, 8, groups=8), "c": conv(8, 2)}
    graph = read(Net(convs, {"a": (1, 2), "b": (2, 3)}, lambda x, a, b, c: c(relu(b(relu(a(x)))))))
    assert widths(graph) == [(3, 7), (7, 7), (7, 2)], "1 has a bias, 3 an input"
    [depthwise] = [layer for layer in graph.layers if isinstance(layer, Conv) and layer.spec.groups > 1]
    assert depthwise.spec.groups == 7


@pytest.mark.parametrize("what", ["groups", "bias", "sigmoid", "output", "shuffle"])
def test_what_cannot_be_left_out_stays(what: str) -> None:
    def run(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
        y = torch.sigmoid(a(x)) if what == "sigmoid" else relu(a(x))
        if what == "shuffle":
            y = nn.functional.channel_shuffle(y, 2)
        return y if what == "output" else b(y)

    net = Net({"a": conv(3, 8), "b": conv(8, 4, groups=2 if what == "groups" else 1)}, {"a": (1, 2)}, run)
    if what == "bias":
        with torch.no_grad():
            net.convs["a"].bias[[1, 2]] = torch.tensor([0.5, 1e-30])
    graph = read(net)
    assert widths(graph)[0] == (3, 8) and dropped_channels(graph) == 0


def test_a_map_of_zeros_keeps_a_channel() -> None:
    graph = read(Net({"a": conv(3, 4), "b": conv(4, 2)}, {"a": range(4)}, lambda x, a, b: b(relu(a(x)))))
    assert widths(graph) == [(3, 1), (1, 2)]
