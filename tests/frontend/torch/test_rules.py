"""Small modules, one rule each: which layers come out, and that they compute the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fogconv.frontend.torch.export import export
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Affine, Conv, Host, Slice
from tests.graph_reference import run_graph

Function = Callable[[torch.Tensor], torch.Tensor]


class Calls(nn.Module):
    """A module around a function and the modules that it uses."""

    def __init__(self, function: Callable[..., torch.Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.parts)


def exported(
    module: nn.Module | Callable[..., torch.Tensor], *parts: nn.Module, shape: Sequence[int] = (2, 6, 12, 10)
) -> LayerGraph:
    """The graph of a module in float64, held to the module."""
    torch.manual_seed(0)
    whole = (module if isinstance(module, nn.Module) else Calls(module, *parts)).double().eval()
    for part in whole.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            part.running_mean = torch.randn_like(part.running_mean)
            part.running_var = torch.rand_like(part.running_var) + 0.5
            part.weight = nn.Parameter(torch.randn_like(part.weight))
            part.bias = nn.Parameter(torch.randn_like(part.bias))
    x = torch.randn(*shape, dtype=torch.float64)
    before = x.clone()
    with torch.no_grad():
        expected = whole(x.clone()).numpy()
    graph = export(whole, x, "small")
    for _ in range(2):  # a Host layer must not remember anything
        result = run_graph(graph, x.numpy())
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(x, before)
    return graph


def kinds(graph: LayerGraph) -> list[str]:
    return [type(layer).__name__ for layer in graph.layers]


def conv(f: int = 6, c: int = 6, k: int = 3, **settings: object) -> nn.Conv2d:
    return nn.Conv2d(c, f, k, **{"padding": k // 2, **settings})  # type: ignore[arg-type]


# --- convolutions -----------------------------------------------------------------------------------------------------


def test_batch_norm_and_activation_go_into_the_conv_before_them() -> None:
    graph = exported(nn.Sequential(conv(), nn.BatchNorm2d(6), nn.ReLU(inplace=True)))
    assert kinds(graph) == ["Conv"]
    assert graph.convs[0].activation == "relu"


def test_two_batch_norms_in_a_row_go_into_the_conv() -> None:
    assert kinds(exported(nn.Sequential(conv(bias=False), nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=True)))) == ["Conv"]


def test_batch_norm_stays_where_the_convs_output_has_another_reader() -> None:
    graph = exported(lambda x, a, n: (y := a(x)) + n(y).sigmoid(), conv(), nn.BatchNorm2d(6))
    assert kinds(graph) == ["Conv", "Affine", "Add"]
    assert graph.layers[1].activation == "sigmoid"  # type: ignore[union-attr]


def test_batch_norm_before_a_conv_stays() -> None:
    assert kinds(exported(nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), conv()))) == ["Affine", "Conv"]


def test_batch_norm_after_a_linear_layer_is_taken_in() -> None:
    graph = exported(nn.Sequential(nn.Flatten(), nn.Linear(720, 9), nn.BatchNorm1d(9), nn.ReLU()))
    assert kinds(graph) == ["Conv"]
    assert graph.outputs[0].shape == (2, 9)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (F.relu, "relu"),
        (F.relu6, "relu6"),
        (F.silu, "silu"),
        (F.hardswish, "hardswish"),
        (F.hardsigmoid, "hardsigmoid"),
        (torch.sigmoid, "sigmoid"),
        (lambda x: F.hardtanh(x, 0.0, 6.0), "relu6"),
        (lambda x: x.clamp(0, 6), "relu6"),
        (lambda x: x.clamp(min=0), "relu"),
        (lambda x: x.clamp_min(0), "relu"),
        (lambda x: x * x.sigmoid(), "silu"),
        (lambda x: x * F.hardsigmoid(x), "hardswish"),
        (lambda x: F.relu_(x), "relu"),
        (lambda x: F.silu(x, inplace=True), "silu"),
        (lambda x: F.hardtanh_(x, 0.0, 6.0), "relu6"),
    ],
)
def test_an_activation_is_taken_in_whatever_it_is_written_like(function: Function, kind: str) -> None:
    graph = exported(lambda x, a: function(a(x)), conv())
    if kind in ("silu", "hardswish") and kinds(graph) == ["Conv", "Affine"]:  # x · sigmoid(x) reads the conv's output twice
        assert graph.layers[1].activation == kind  # type: ignore[union-attr]
    else:
        assert kinds(graph) == ["Conv"]
        assert graph.convs[0].activation == kind


@pytest.mark.parametrize(
    ("function", "written"),
    [
        (F.hardtanh, "clip(-1.0, 1.0)"),
        (lambda x: x.clamp(0, 5), "clip(0.0, 5.0)"),
        (lambda x: x.clamp(-1, 6), "clip(-1.0, 6.0)"),
        (lambda x: x.clamp_max(2), "clip(-inf, 2.0)"),
        (F.leaky_relu, "leaky_relu(0.01)"),
        (nn.LeakyReLU(0.2, inplace=True), "leaky_relu(0.2)"),
        (lambda x: F.prelu(x, torch.tensor([0.3], dtype=torch.float64)), "leaky_relu(0.3)"),
        (F.elu, "elu(1.0, 1.0, 1.0)"),
        (F.selu, "elu(1.6732632423543772, 1.0507009873554805, 1.0)"),
        (lambda x: F.celu(x, 0.5), "elu(0.5, 1.0, 2.0)"),
        (F.gelu, "gelu(0.5)"),
        (lambda x: F.gelu(x, approximate="tanh"), "gelu_tanh"),
        (F.mish, "mish"),
        (lambda x: F.softplus(x, 2.0, 10.0), "softplus(2.0, 10.0)"),
        (F.logsigmoid, "log_sigmoid"),
        (torch.tanh, "tanh"),
        (torch.erf, "erf"),
        (torch.exp, "exp"),
        (torch.abs, "abs"),
        (torch.floor, "floor"),
        (torch.ceil, "ceil"),
        (torch.round, "round"),
    ],
)
def test_an_elementwise_operator_on_one_map_is_the_activation_of_the_conv_before_it(
    function: Function, written: str
) -> None:
    graph = exported(lambda x, a, act: act(a(x)), conv(), Calls(function))
    assert kinds(graph) == ["Conv"]
    assert graph.convs[0].activation == written


def test_an_elementwise_operator_stays_a_layer_where_others_read_the_map_before_it() -> None:
    graph = exported(lambda x, a: (y := a(x)) + F.leaky_relu(y), conv())
    assert [layer.kind for layer in graph.layers] == ["conv", "leaky_relu", "add"]


@pytest.mark.parametrize(
    ("function", "written"),
    [
        (lambda x: x * (x + 3).clamp(0, 6) / 6, "hardswish"),
        (lambda x: x * ((x + 3).clamp(0, 6) / 6), "hardswish"),
        (lambda x: x * F.relu6(x + 3) * (1 / 6), "hardswish"),
        (lambda x: (0.2 * x + 0.5).clamp(0, 1) * x, "hard_gate(0.2, 0.5, 1.0)"),
        (lambda x: x * torch.sigmoid(1.702 * x), "swish(1.702)"),
        (lambda x: x * torch.tanh(F.softplus(x)), "mish"),
        (lambda x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)), "gelu(0.5)"),
        (lambda x: 0.5 * (x * (1.0 + torch.erf(x * 0.5**0.5))), "gelu(0.5)"),
    ],
)
def test_x_times_a_function_of_x_is_one_activation(function: Function, written: str) -> None:
    graph = exported(lambda x, a: function(a(x)), conv())
    assert [getattr(layer, "activation", None) for layer in graph.layers] == [written]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * (x + 3).clamp(1, 6),
        lambda x: x * torch.erf(x),
        lambda x: x * (torch.sigmoid(x) + 1),
        lambda x: x * torch.tanh(F.softplus(2 * x)),
        lambda x: (x * 2) * torch.sigmoid(x),
    ],
)
def test_other_products_are_products(function: Function) -> None:
    kinds_ = [layer.kind for layer in exported(lambda x, a: function(a(x)), conv()).layers]
    assert "multiply" in kinds_ and "host" not in kinds_


def test_prelu_has_a_slope_per_channel() -> None:
    graph = exported(lambda x, a, act: act(a(x)), conv(), nn.PReLU(6))
    assert [layer.kind for layer in graph.layers] == ["conv", "prelu"]


@pytest.mark.parametrize("function", [torch.sin, lambda x: x**3, F.hardshrink])
def test_other_functions_run_on_the_master(function: Function) -> None:
    assert kinds(exported(lambda x, a: function(a(x)), conv())) == ["Conv", "Host"]


ROW, COLUMN, PICTURE = torch.randn(10).double(), torch.randn(12, 1).double(), torch.randn(1, 12, 10).double()


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: torch.minimum(x, x.mean((2, 3), keepdim=True)), "minimum"),
        (lambda x: x - x.mean((2, 3), keepdim=True), "subtract"),
        (lambda x: x.mean((2, 3), keepdim=True) - x, "subtract"),
        (lambda x: x / (1 + x.abs()), "divide"),
        (lambda x: x * x[:, 2:3], "multiply"),
        (lambda x: x + ROW, "add"),
        (lambda x: x * COLUMN, "multiply"),
        (lambda x: x / (2 + PICTURE.abs()), "divide"),
        (lambda x: torch.maximum(x, PICTURE), "maximum"),
        (lambda x: x[:, :1] * x.mean((2, 3), keepdim=True), "multiply"),
        (lambda x: x * x, "multiply"),
        (lambda x: x**2, "multiply"),
    ],
)
def test_maps_of_unlike_shapes_are_combined_by_workers(function: Function, kind: str) -> None:
    kinds_ = [layer.kind for layer in exported(function).layers]
    assert kinds_[-1] == kind and "host" not in kinds_


def test_an_elementwise_operator_on_two_maps_is_a_layer() -> None:
    graph = exported(lambda x, a, b: torch.maximum(a(x), b(x)), nn.Conv2d(6, 8, 3), nn.Conv2d(6, 8, 3))
    assert [layer.kind for layer in graph.layers] == ["conv", "conv", "maximum"]
    graph = exported(lambda x, a: torch.maximum(a(x), torch.zeros(())), nn.Conv2d(6, 8, 3))
    assert kinds(graph) == ["Conv", "Host"]


def test_a_sum_goes_into_the_conv_before_it_and_the_activation_after_the_sum() -> None:
    graph = exported(lambda x, a: F.relu(a(x) + x), conv())
    assert kinds(graph) == ["Conv"]
    assert (graph.convs[0].residual, graph.convs[0].activation) == (graph.inputs[0].tensor, "relu")


def test_of_two_convs_the_later_one_takes_the_sum() -> None:
    graph = exported(lambda x, a, b: a(x) + b(x), conv(), conv())
    assert kinds(graph) == ["Conv", "Conv"]
    assert [layer.residual is not None for layer in graph.convs] == [False, True]


def test_a_sum_stays_where_the_other_operand_comes_later() -> None:
    graph = exported(lambda x, a: (y := a(x)) + F.avg_pool2d(x, 3, 1, 1) + 0 * y[:, :, :1, :1], conv())
    assert "Add" in kinds(graph)


def test_a_sum_stays_where_the_conv_has_an_activation_of_its_own() -> None:
    assert kinds(exported(lambda x, a: F.relu(a(x)) + x, conv())) == ["Conv", "Add"]


def test_a_map_added_to_itself_is_a_sum() -> None:
    assert kinds(exported(lambda x, a: (y := a(x)) + y, conv())) == ["Conv", "Add"]


def test_a_conv_that_is_called_twice_is_two_layers_with_one_set_of_weights() -> None:
    graph = exported(lambda x, a: a(a(x)), conv())
    first, second = graph.convs
    assert (first.weight, first.bias) == (second.weight, second.bias)
    assert len(graph.weights) == 2
    assert first.name != second.name


def test_a_shared_conv_with_different_batch_norms_gets_different_weights() -> None:
    graph = exported(lambda x, a, m, n: n(a(m(a(x)))), conv(), nn.BatchNorm2d(6), nn.BatchNorm2d(6))
    assert kinds(graph) == ["Conv", "Conv"]
    assert len({layer.weight for layer in graph.convs}) == 2


def test_zeros_before_a_conv_become_its_padding() -> None:
    graph = exported(nn.Sequential(nn.ZeroPad2d((1, 2, 0, 3)), conv(padding=1)))
    assert kinds(graph) == ["Conv"]
    assert graph.convs[0].spec.padding == (1, 4, 2, 3)


def test_zeros_that_something_else_reads_too_are_a_layer() -> None:
    graph = exported(lambda x, a: (y := F.pad(x, (1, 1, 1, 1)))[:, :, 1:-1, 1:-1] + a(y), conv(padding=0))
    assert kinds(graph) == ["Resample"] * 2 + ["Conv"]  # the two slices are one


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_padding_is_a_layer(mode: str) -> None:
    assert kinds(exported(conv(padding_mode=mode))) == ["Resample", "Conv"]


def test_a_pad_of_nothing_is_nothing() -> None:
    assert kinds(exported(lambda x, a: a(F.pad(x, (0, 0, 0, 0))), conv())) == ["Conv"]


def test_a_conv_with_computed_weights_runs_on_the_master() -> None:
    assert kinds(exported(lambda x: F.conv2d(x, x[:2, :, :3, :3] * 0.1)))[-1] == "Host"


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_conv2d_keeps_its_geometry(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    c, f = (groups * data.draw(st.integers(1, 3)) for _ in range(2))
    kernel = tuple(data.draw(st.integers(1, 4)) for _ in range(2))
    dilation = tuple(data.draw(st.integers(1, 2)) for _ in range(2))
    same = data.draw(st.booleans())
    padding = "same" if same else tuple(data.draw(st.integers(0, 3)) for _ in range(2))
    stride = (1, 1) if same else tuple(data.draw(st.integers(1, 3)) for _ in range(2))
    module = nn.Conv2d(c, f, kernel, stride, padding, dilation, groups, bias=data.draw(st.booleans()))  # type: ignore[arg-type]
    graph = exported(
        module, shape=(data.draw(st.integers(1, 2)), c, data.draw(st.integers(8, 11)), data.draw(st.integers(8, 11)))
    )
    assert kinds(graph) == ["Conv"]


# --- linear layers, pooling -------------------------------------------------------------------------------------------


def test_a_linear_layer_over_a_flattened_map_covers_the_map() -> None:
    graph = exported(nn.Sequential(nn.Flatten(), nn.Linear(720, 5)))
    (head,) = graph.layers
    assert isinstance(head, Conv)
    assert head.linear
    assert head.spec.weight_shape == (5, 6, 12, 10)
    assert graph.convs == ()


def test_a_linear_layer_over_rows_runs_on_the_master() -> None:
    assert kinds(exported(nn.Linear(10, 4))) == ["Host"]


def test_squeeze_and_excitation_with_linear_layers() -> None:
    def gate(x: torch.Tensor, down: nn.Linear, up: nn.Linear) -> torch.Tensor:
        return x * up(F.relu(down(x.mean((2, 3))))).sigmoid().view(2, 6, 1, 1)

    graph = exported(gate, nn.Linear(6, 3), nn.Linear(3, 6))
    assert kinds(graph) == ["GlobalPool", "Conv", "Conv", "Gate"]


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1))])
def test_an_average_over_the_whole_map_is_a_global_pool(pool: nn.Module) -> None:
    assert kinds(exported(pool)) == ["GlobalPool"]


@pytest.mark.parametrize("dims", [(2, 3), (-1, -2), (3, -2)])
@pytest.mark.parametrize("keepdim", [True, False])
def test_a_mean_over_rows_and_columns_is_a_global_pool(dims: tuple[int, int], keepdim: bool) -> None:
    assert kinds(exported(lambda x: x.mean(dims, keepdim=keepdim))) == ["GlobalPool"]


@pytest.mark.parametrize("function", [lambda x: x.mean((1, 2)), lambda x: x.mean(2), lambda x: x.mean()])
def test_other_means_run_on_the_master(function: Function) -> None:
    if function(torch.zeros(2, 6, 12, 10)).ndim:
        assert kinds(exported(function)) == ["Host"]


def test_an_adaptive_pool_that_changes_nothing_is_gone() -> None:
    assert kinds(exported(nn.Sequential(conv(), nn.AdaptiveAvgPool2d((12, 10))))) == ["Conv"]


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d((4, 5)), nn.AdaptiveMaxPool2d((4, 5))])
def test_an_adaptive_pool_with_whole_windows_is_a_pool(pool: nn.Module) -> None:
    assert kinds(exported(pool)) == ["Pool"]


def test_an_adaptive_pool_with_uneven_windows_runs_on_the_master() -> None:
    assert kinds(exported(nn.AdaptiveAvgPool2d((7, 7)))) == ["Host"]


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d((2, 3)),
        nn.AvgPool2d(3, 1, 1),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(2, divisor_override=3),
    ],
)
def test_pools_keep_torchs_semantics(pool: nn.Module) -> None:
    assert kinds(exported(pool)) == ["Pool"]


def test_a_max_pool_whose_indices_are_used_runs_on_the_master() -> None:
    def unpool(x: torch.Tensor) -> torch.Tensor:
        pooled, indices = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(pooled, indices, 2)

    assert set(kinds(exported(unpool))) == {"Host"}


# --- channels ---------------------------------------------------------------------------------------------------------


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def permuting(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(2, 3, 2, 12, 10).permute(0, 2, 1, 3, 4).reshape(2, 6, 12, 10)


@pytest.mark.parametrize("function", [lambda x: shuffle(x, 2), lambda x: shuffle(x, 3), permuting, nn.ChannelShuffle(3)])
def test_a_channel_shuffle_is_a_shuffle(function: Function) -> None:
    graph = exported(lambda x, a: function(a(x)), conv())
    assert kinds(graph) == ["Conv", "Shuffle"]


@pytest.mark.parametrize(
    ("function", "starts"),
    [
        (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), [3, 0]),
        (lambda x: torch.cat(x.chunk(4, 1)[::-1], 1), [4, 2, 0]),
        (lambda x: torch.cat(x.split((1, 5), 1)[::-1], 1), [1, 0]),
        (lambda x: torch.cat((x[:, 2:], x[:, :2]), 1), [2, 0]),
        (lambda x: torch.cat((x[:, -1:], x.narrow(1, 1, 3)), 1), [5, 1]),
        (lambda x: torch.cat((x[:, 4].unsqueeze(1), x[:, 1][:, None]), 1), [4, 1]),
    ],
)
def test_pieces_of_the_channels_are_slices(function: Function, starts: list[int]) -> None:
    graph = exported(function)
    slices = {layer.target: layer.start for layer in graph.layers if isinstance(layer, Slice)}
    concat = graph.layers[-1]
    assert [slices[source] for source in concat.sources] == starts  # type: ignore[union-attr]


def test_a_piece_that_nobody_reads_is_not_cut() -> None:
    assert kinds(exported(lambda x, a: a(x.chunk(2, 1)[0]), conv(c=3))) == ["Slice", "Conv"]


@pytest.mark.parametrize("function", [lambda x: x[:, ::2], lambda x: x.flip(1), lambda x: x.transpose(2, 3)])
def test_other_moves_run_on_the_master(function: Function) -> None:
    assert kinds(exported(lambda x, a: function(a(x)), conv())) == ["Conv", "Host"]


def test_a_concatenation_along_rows_runs_on_the_master() -> None:
    assert kinds(exported(lambda x: torch.cat((x, x), 2))) == ["Host"]


# --- per channel ------------------------------------------------------------------------------------------------------

PER_CHANNEL = torch.arange(1.0, 7.0, dtype=torch.float64)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 0.5,
        lambda x: 2 + x,
        lambda x: x - 1,
        lambda x: 1 - x,
        lambda x: x / 4,
        lambda x: torch.add(x, 3, alpha=2),
        lambda x: (x - 127) / 128,
        lambda x: (x - PER_CHANNEL.view(6, 1, 1)) / PER_CHANNEL.view(1, 6, 1, 1),
        lambda x: x * torch.tensor(3.0, dtype=torch.float64),
    ],
)
def test_arithmetic_with_constants_is_one_affine_layer(function: Function) -> None:
    graph = exported(function)
    assert kinds(graph) == ["Affine"]
    assert isinstance(graph.layers[0], Affine)
    assert kinds(exported(lambda x, a: function(a(x)), conv())) == ["Conv"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x**3,
        lambda x: x.softmax(2),
        lambda x: F.layer_norm(x, (10,)),
        lambda x: x - x.median(),
    ],
)
def test_other_arithmetic_runs_on_the_master(function: Function) -> None:
    assert "Host" in kinds(exported(function))


@pytest.mark.parametrize(
    ("module", "made"),
    [
        (nn.Softmax(1), ["softmax"]),
        (nn.LogSoftmax(1), ["log_softmax"]),
        (nn.GroupNorm(3, 6), ["globalpool", "squares", "normalize"]),
        (nn.GroupNorm(2, 6, affine=False), ["globalpool", "squares", "normalize"]),
        (nn.InstanceNorm2d(6), ["globalpool", "squares", "normalize"]),
        (nn.InstanceNorm2d(6, affine=True), ["globalpool", "squares", "normalize"]),
        (nn.LayerNorm((6, 12, 10), elementwise_affine=False), ["globalpool", "squares", "normalize"]),
        (nn.LayerNorm((6, 12, 10)), ["globalpool", "squares", "normalize", "multiply", "add"]),
        (nn.Sequential(nn.GroupNorm(3, 6), nn.GELU()), ["globalpool", "squares", "normalize"]),
    ],
)
def test_norms_by_the_inputs_own_statistics_are_layers(module: nn.Module, made: list[str]) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    assert [layer.kind for layer in exported(module).layers] == made


class ChannelsLast(nn.Module):
    """A block of ConvNeXt, as torchvision writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.LayerNorm(6)
        self.wide, self.narrow = nn.Linear(6, 24), nn.Linear(24, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.narrow(F.dropout(F.gelu(self.wide(y)), 0.1, self.training)).permute(0, 3, 1, 2)


def test_layer_norms_and_linear_layers_over_channels_that_come_last_are_layers() -> None:
    graph = exported(ChannelsLast())
    assert [layer.kind for layer in graph.layers] == ["conv", "layer_norm", "conv", "conv"]
    assert [each.activation for each in graph.convs] == [None, "gelu(0.5)", None]
    assert graph.convs[2].residual == graph.inputs[0].tensor


def test_a_layer_norm_over_one_pixel_is_a_layer() -> None:
    """As in ConvNeXt's head."""

    def head(x: torch.Tensor, norm: nn.Module, linear: nn.Module) -> torch.Tensor:
        return linear(norm(x.mean((2, 3), keepdim=True).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).flatten(1))

    made = [layer.kind for layer in exported(head, nn.LayerNorm(6), nn.Linear(6, 5)).layers]
    assert made == ["globalpool", "layer_norm", "conv"]
    flat = exported(lambda x, norm: norm(x.mean((2, 3))), nn.LayerNorm(6))
    assert [layer.kind for layer in flat.layers] == ["globalpool", "layer_norm"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(0, 2, 3, 1).softmax(3).permute(0, 3, 1, 2),
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (6,)).cumsum(1),
        lambda x: F.gelu(x.permute(0, 2, 3, 1)),
        lambda x: x.permute(0, 2, 3, 1).reshape(2, -1),
        lambda x: (y := x.permute(0, 2, 3, 1).relu()).permute(0, 3, 1, 2) + y.cos().permute(0, 3, 1, 2),
    ],
)
def test_other_operators_on_channels_that_come_last_run_on_the_master(function: Function) -> None:
    assert "Host" in kinds(exported(lambda x, a: function(a(x)), conv()))


def test_inceptions_input_transform_needs_no_torch() -> None:
    def transform(x: torch.Tensor) -> torch.Tensor:
        channels = [torch.unsqueeze(x[:, i], 1) * (0.2 + i) + 0.1 * i for i in range(3)]
        return torch.cat(channels, 1)

    assert "Host" not in kinds(exported(transform, shape=(1, 3, 8, 8)))


# --- the host ---------------------------------------------------------------------------------------------------------


def test_neighbouring_operations_share_one_host_layer() -> None:
    graph = exported(lambda x, a, b: b(a(x).sin().cos().atan()), conv(), conv())
    assert kinds(graph) == ["Conv", "Host", "Conv"]
    assert graph.layers[1].ops == ("atan", "cos", "sin")  # type: ignore[union-attr]


def test_host_operations_on_either_side_of_a_layer_are_not_merged_into_a_cycle() -> None:
    graph = exported(lambda x, a: a(y := x.sin()).sin() + y.cos(), conv())
    assert kinds(graph) == ["Host", "Conv", "Host", "Add"] or kinds(graph) == ["Host", "Conv", "Host"]


def test_values_that_are_no_maps_pass_between_host_layers() -> None:
    def attend(x: torch.Tensor, a: nn.Conv2d) -> torch.Tensor:
        y = x.sin()
        scale = y.flatten(2).std(2).softmax(1)  # (N, C), kept while the conv runs
        return torch.einsum("nchw,nc->nhw", a(y), scale)

    graph = exported(attend, conv())
    assert kinds(graph) == ["Host", "Conv", "Host"]
    assert graph.outputs[0].shape == (2, 12, 10)


def test_what_is_computed_from_constants_alone_is_computed_once() -> None:
    graph = exported(lambda x, a: a(x) * torch.linspace(1, 2, 6, dtype=torch.float64).exp().view(1, 6, 1, 1), conv())
    assert kinds(graph) == ["Conv"]


def test_writing_into_a_view_is_understood() -> None:
    def overwrite(x: torch.Tensor, a: nn.Conv2d) -> torch.Tensor:
        y = a(x)
        y[:, :2].mul_(3.0)
        y[:, 3] = 1.0
        return y + x

    exported(overwrite, conv())


def test_overwriting_what_is_read_later_is_understood() -> None:
    def overwrite(x: torch.Tensor, a: nn.Conv2d) -> torch.Tensor:
        y = a(x)
        z = F.relu_(y)
        return z + y  # y is what relu_ left

    exported(overwrite, conv())


def test_a_reshape_between_channels_and_rows_runs_on_the_master() -> None:
    graph = exported(lambda x, a: a(x.reshape(2, 12, 6, 10)), conv(c=12))
    assert kinds(graph) == ["Host", "Conv"]


@pytest.mark.parametrize("function", [lambda x: x.sum((1, 2)), lambda x: x.flatten(), lambda x: F.pad(x, (1, 1)), F.gelu])
def test_an_output_of_any_shape_comes_out_as_it_is(function: Function) -> None:
    exported(lambda x, a: function(a(x)), conv())


def test_what_a_host_layer_keeps_is_its_own() -> None:
    """The engine reuses a map's memory after the call."""

    def attend(x: torch.Tensor, a: nn.Conv2d) -> torch.Tensor:
        turned = x.permute(0, 2, 3, 1)
        return turned @ a(turned.softmax(3).permute(0, 3, 1, 2))

    graph = exported(attend, conv(), shape=(2, 6, 6, 6))
    first = next(layer for layer in graph.layers if isinstance(layer, Host))
    values: dict[str, object] = {}
    memory = np.random.default_rng(0).normal(size=graph.tensors[first.reads[0]].shape)
    first.call(values, memory)
    kept = {name: value.clone() for name, value in values.items() if isinstance(value, torch.Tensor)}
    memory[:] = 0
    assert kept
    assert all(torch.equal(value, values[name]) for name, value in kept.items())  # type: ignore[arg-type]
