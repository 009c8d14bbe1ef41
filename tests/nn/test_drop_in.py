"""DistributedConv2d is a drop-in for nn.Conv2d: torch's own samples and errors, whole models, everything around a module."""

from __future__ import annotations

import copy
import io
import pickle
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import fogconv
from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.errors import InputError
from fogconv.nn import DistributedConv2d, distribute
from fogconv.zoo.models import torchvision_models
from tests.seeded_models import model as seeded

pytestmark = pytest.mark.alone

CONV2D = next(info for info in op_db if info.name == "nn.functional.conv2d")
MODULE = next(info for info in module_db if info.module_cls is nn.Conv2d)


def runs(session: Session) -> int:
    return session.last_run


def close(actual: torch.Tensor, expected: torch.Tensor, relative: float = 1e-5) -> None:
    """Within so much of the largest expected value."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * float(expected.detach().abs().max()) + 1e-6)


def layer_for(weight: torch.Tensor, bias: torch.Tensor | None, **settings: Any) -> nn.Conv2d:
    """An nn.Conv2d whose forward is F.conv2d(x, weight, bias, …), whatever these are."""
    conv = nn.Conv2d(4, 4, 3, bias=bias is not None)
    floating = weight.is_floating_point()
    conv.weight = nn.Parameter(weight.detach().clone(), requires_grad=floating)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.is_floating_point())
    groups = settings.get("groups", 1)
    conv.groups = groups
    conv.out_channels, conv.in_channels = weight.shape[0], weight.shape[1] * groups
    conv.kernel_size = tuple(weight.shape[2:])
    for name in ("stride", "dilation"):
        value = settings.get(name, 1)
        setattr(conv, name, (value, value) if isinstance(value, int) else tuple(value))
    padding = settings.get("padding", 0)
    conv.padding = (
        padding if isinstance(padding, str) else (padding, padding) if isinstance(padding, int) else tuple(padding)
    )
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        conv._reversed_padding_repeated_twice = [part for t in total[::-1] for part in (t // 2, t - t // 2)]
    elif padding == "valid":
        conv._reversed_padding_repeated_twice = [0, 0, 0, 0]
    else:
        conv._reversed_padding_repeated_twice = [conv.padding[1]] * 2 + [conv.padding[0]] * 2
    return conv


def gradients(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradients of the input and of every parameter, for one direction."""
    x = x.detach().clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(direction)
    assert x.grad is not None
    return [y, x.grad, *(parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None)]


# --- torch's own databases --------------------------------------------------------------------------------------------


def test_torchs_sample_inputs_give_the_same_values_and_gradients(cluster: Session) -> None:
    samples_agree(cluster, "auto")


@pytest.mark.full
@pytest.mark.parametrize("split", ["input", "output", (2, 1)])
def test_torchs_sample_inputs_agree_however_they_are_split(cluster: Session, split: Any) -> None:
    samples_agree(cluster, split)


def samples_agree(cluster: Session, split: Any) -> None:
    used = 0
    for sample in CONV2D.sample_inputs("cpu", torch.float32, requires_grad=True):
        weight, *rest = sample.args
        settings = dict(zip(("stride", "padding", "dilation", "groups"), rest[1:], strict=False)) | sample.kwargs
        bias = settings.pop("bias", rest[0] if rest else None)
        conv = layer_for(weight, bias, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected_y = F.conv2d(sample.input, weight, bias, **settings)
            twin = DistributedConv2d.from_conv2d(conv, cluster=cluster, threshold=0, split=split)
            before = runs(cluster)
            expected, actual = gradients(conv, sample.input), gradients(twin, sample.input)
        close(actual[0], expected_y)
        for ours, theirs in zip(actual, expected, strict=True):
            close(ours, theirs)
        used += runs(cluster) - before
    assert used > 10, "most samples can be shared"


def test_torchs_error_inputs_give_the_same_errors(cluster: Session) -> None:
    seen = 0
    for error in CONV2D.error_inputs("cpu"):
        sample = error.sample_input
        weight, *rest = sample.args
        settings = dict(sample.kwargs)
        bias = settings.pop("bias", rest[0] if rest else None)
        try:
            conv = layer_for(weight, bias, **settings)
        except (ValueError, IndexError):
            continue
        twin = DistributedConv2d.from_conv2d(conv, cluster=cluster, threshold=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(error.error_type) as expected:
                conv(sample.input)
            with pytest.raises(error.error_type, match=re.escape(str(expected.value))):
                twin(sample.input)
        seen += 1
    assert seen > 5


@pytest.mark.parametrize("training", [True, False])
def test_torchs_module_inputs_give_the_same_values_and_gradients(cluster: Session, training: bool) -> None:
    for given in MODULE.module_inputs_func(MODULE, "cpu", torch.float32, True, training):
        args, kwargs = given.constructor_input.args, given.constructor_input.kwargs
        torch.manual_seed(3)
        plain = nn.Conv2d(*args, **kwargs).train(training)
        torch.manual_seed(3)
        ours = DistributedConv2d(*args, cluster=cluster, threshold=0, **kwargs).train(training)
        assert plain.state_dict().keys() == ours.state_dict().keys()
        x = given.forward_input.args[0]
        before = runs(cluster)
        for one, other in zip(gradients(ours, x), gradients(plain, x), strict=True):
            close(one, other)
        assert runs(cluster) > before


# --- the constructor and what is around a module ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 1, (2, 1), "same", "valid"])
def test_every_padding_in_every_mode(inproc: Session, mode: str, padding: Any) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 6, (3, 2), padding=padding, padding_mode=mode, dilation=2)
    ours = DistributedConv2d(5, 6, (3, 2), padding=padding, padding_mode=mode, dilation=2, cluster=inproc, threshold=0)
    ours.load_state_dict(plain.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.randn(2, 5, 9, 8)
        for one, other in zip(gradients(ours, x), gradients(plain, x), strict=True):
            close(one, other)


def test_it_is_an_nn_conv2d_without_a_cluster() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 3, 2, 1, 1, 1, False, "zeros", None, torch.float32)
    torch.manual_seed(0)
    ours = DistributedConv2d(3, 4, 3, 2, 1, 1, 1, False, "zeros", None, torch.float32)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(plain(x), ours(x))
    assert repr(ours) == repr(plain).replace("Conv2d", "DistributedConv2d")
    with pytest.raises(TypeError):
        DistributedConv2d(3, 4, 3, 2, 1, 1, 1, False, "zeros", None, None, None)


def test_the_constructors_errors_are_torchs() -> None:
    for args in [(3, 4, 3, 1, "odd"), (3, 4, 3, 1, 0, 1, 2), (3, 4, 3, 2, "same")]:
        with pytest.raises(ValueError) as expected:
            nn.Conv2d(*args)
        with pytest.raises(ValueError, match=re.escape(str(expected.value))):
            DistributedConv2d(*args)


@pytest.mark.parametrize(
    "settings", [{"split": "rows"}, {"split": (0, 2)}, {"trigger": "never"}, {"threshold": -1.0}, {"on_loss": "panic"}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        DistributedConv2d(3, 4, 3, **settings)


def test_a_split_over_more_ranks_than_there_are_is_refused(inproc: Session) -> None:
    layer = DistributedConv2d(8, 8, 3, cluster=inproc, threshold=0, split=(3, 2))
    with pytest.raises(InputError, match="needs 6 ranks"):
        layer(torch.randn(1, 8, 5, 5))


@pytest.fixture
def pair(inproc: Session) -> tuple[nn.Conv2d, DistributedConv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 8, 3, padding=1)
    return plain, DistributedConv2d.from_conv2d(plain, cluster=inproc, threshold=0)


Pair = tuple[nn.Conv2d, DistributedConv2d]


def test_parameters_are_shared_not_copied(pair: Pair) -> None:
    plain, ours = pair
    assert ours.weight is plain.weight
    assert ours.bias is plain.bias


def test_unbatched_input(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(6, 7, 7)
    close(ours(x), plain(x))


def test_channels_last_stays_channels_last(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(2, 6, 7, 7).to(memory_format=torch.channels_last)
    y = ours(x)
    close(y, plain(x))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_input_that_is_not_contiguous(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(2, 7, 14, 6).permute(0, 3, 1, 2)[:, :, :, ::2]
    for one, other in zip(gradients(ours, x), gradients(plain, x), strict=True):
        close(one, other)


def test_no_grad_and_inference_mode(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(1, 6, 7, 7)
    with torch.no_grad():
        y = ours(x)
        assert not y.requires_grad
        close(y, plain(x))
    with torch.inference_mode():
        y = ours(x)
        assert y.is_inference()
        close(y, plain(x))


def test_a_deep_copy_uses_the_same_cluster_and_weights_of_its_own(pair: Pair) -> None:
    _, ours = pair
    x = torch.randn(1, 6, 7, 7)
    before = ours(x)
    twin = copy.deepcopy(ours)
    assert twin.cluster is ours.cluster
    with torch.no_grad():
        twin.weight.mul_(2)
        twin.bias.mul_(2)
    close(twin(x), 2 * before)
    close(ours(x), before)


def test_pickle_and_torch_save_leave_the_cluster_behind(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(1, 6, 7, 7)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for loaded in (pickle.loads(pickle.dumps(ours)), torch.load(file, weights_only=False)):
        assert loaded.cluster is None
        assert torch.equal(loaded(x), plain(x))


@pytest.mark.parametrize("change", [lambda m: m.double(), lambda m: m.bfloat16(), lambda m: m.half()])
def test_what_the_cluster_can_not_compute_runs_here_and_says_so_once(pair: Pair, change: Any) -> None:
    plain, ours = pair
    change(ours)
    x = torch.randn(1, 6, 7, 7).to(ours.weight.dtype)
    with pytest.warns(UserWarning, match="float32 only"):
        y = ours(x)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*float32 only")
        assert torch.equal(ours(x), y)
    assert torch.equal(y, plain.to(ours.weight.dtype)(x))


def test_hooks_are_called_and_come_along(pair: Pair, inproc: Session) -> None:
    plain, _ = pair
    calls: list[str] = []
    plain.register_forward_pre_hook(lambda *_: calls.append("before"))
    plain.register_forward_hook(lambda *_: calls.append("after"))
    plain.register_full_backward_hook(lambda *_: calls.append("backward"))
    ours = DistributedConv2d.from_conv2d(plain, cluster=inproc, threshold=0)
    x = torch.randn(1, 6, 7, 7, requires_grad=True)
    ours(x).sum().backward()
    assert calls == ["before", "after", "backward"]
    ours.register_forward_hook(lambda *_: calls.append("own"))
    plain(x)
    assert "own" not in calls


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_weights(inproc: Session, wrap: Any) -> None:
    torch.manual_seed(0)
    plain = wrap(nn.Conv2d(6, 8, 3)).eval()
    ours = DistributedConv2d.from_conv2d(plain, cluster=inproc, threshold=0)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(1, 6, 7, 7)
    expected = gradients(plain, x)
    before = runs(inproc)
    for one, other in zip(gradients(ours, x), expected, strict=True):
        close(one, other, 1e-4)
    assert runs(inproc) > before


def test_weights_that_changed_in_any_way_are_shipped_again(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(1, 6, 7, 7)
    ours(x)
    changes = [
        lambda: plain.weight.data.mul_(2),
        lambda: plain.weight.data.fill_(0.5),
        lambda: plain.weight.detach().numpy().fill(0.25),
        lambda: setattr(plain.weight, "data", torch.ones_like(plain.weight)),
    ]
    for change in changes:
        change()
        close(ours(x), plain(x))


def test_weights_that_did_not_change_are_not_shipped_again(pair: Pair) -> None:
    plain, ours = pair
    session = ours.cluster
    assert session is not None
    x = torch.randn(1, 6, 7, 7)
    ours(x)
    remote = next(iter(ours._remotes.by_size.values()))
    assert remote is not None
    shipped = remote._cut
    ours(x)
    assert remote._cut is shipped
    with torch.no_grad():
        plain.weight.add_(1)
    ours(x)
    assert remote._cut is not shipped


def test_gradients_of_gradients(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(1, 6, 5, 5, requires_grad=True)
    results = []
    for layer in (plain, ours):
        (grad,) = torch.autograd.grad((layer(x) ** 2).sum(), x, create_graph=True)
        results.append(torch.autograd.grad((grad**2).sum(), [x, plain.weight, plain.bias]))
    for one, other in zip(results[1], results[0], strict=True):
        close(one, other, 1e-4)


def test_only_the_gradients_that_are_wanted_are_computed(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(1, 6, 5, 5)
    ours(x).sum().backward()
    expected = plain.weight.grad
    plain.weight.grad = None
    plain(x).sum().backward()
    close(expected, plain.weight.grad)
    plain.requires_grad_(False)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    ours(inputs[0]).sum().backward()
    plain(inputs[1]).sum().backward()
    close(inputs[0].grad, inputs[1].grad)


def test_a_layer_called_twice_before_its_backward_pass(pair: Pair) -> None:
    """The workers keep one input; the other is sent again."""
    plain, ours = pair
    results = []
    for layer in (plain, ours):
        plain.zero_grad()
        torch.manual_seed(4)
        x, z = torch.randn(1, 6, 5, 5, requires_grad=True), torch.randn(1, 6, 5, 5, requires_grad=True)
        ((layer(x) * 2).sum() + (layer(z) ** 2).sum()).backward()
        results.append([x.grad, z.grad, plain.weight.grad])
    for one, other in zip(results[1], results[0], strict=True):
        close(one, other)


def test_an_inference_between_forward_and_backward(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(1, 6, 5, 5)
    y = ours(x)
    with torch.no_grad():
        ours(torch.randn(1, 6, 5, 5))
    y.sum().backward()
    actual, plain.weight.grad = plain.weight.grad, None
    plain(x).sum().backward()
    close(actual, plain.weight.grad)


def test_vmap_jvp_export_and_compile(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(2, 6, 5, 5)
    close(torch.func.vmap(ours)(x.unsqueeze(1)), torch.func.vmap(plain)(x.unsqueeze(1)))
    for actual, expected in zip(torch.func.jvp(ours, (x,), (x,)), torch.func.jvp(plain, (x,), (x,)), strict=True):
        close(actual, expected)
    close(torch.export.export(ours, (x,), strict=False).module()(x), plain(x))
    close(torch.compile(ours, backend="eager")(x), plain(x))


def test_autocast_runs_here(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(1, 6, 5, 5)
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(ours(x), plain(x))


def test_wrong_shapes_raise_what_nn_conv2d_raises(pair: Pair) -> None:
    plain, ours = pair
    for shape in [(1, 5, 7, 7), (6, 7), (1, 6, 0, 0), (1, 1, 6, 7, 7)]:
        with pytest.raises(RuntimeError) as expected:
            plain(torch.randn(*shape))
        with pytest.raises(RuntimeError, match=re.escape(str(expected.value))):
            ours(torch.randn(*shape))
    small = DistributedConv2d(6, 8, 9, cluster=ours.cluster, threshold=0)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        small(torch.randn(1, 6, 5, 5))


def test_an_empty_batch(pair: Pair) -> None:
    plain, ours = pair
    x = torch.randn(0, 6, 7, 7)
    assert ours(x).shape == plain(x).shape


# --- threads, loss, the end -------------------------------------------------------------------------------------------


def test_several_threads_and_several_layers_on_one_cluster(cluster: Session) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(6, 8, k, padding=k // 2) for k in (1, 3, 5)]
    ours = [DistributedConv2d.from_conv2d(layer, cluster=cluster, threshold=0) for layer in layers]
    inputs = [torch.randn(1, 6, 9, 9) for _ in range(4)]
    expected = {(i, j): layer(x).detach() for i, layer in enumerate(layers) for j, x in enumerate(inputs)}
    wrong: list[Any] = []

    def work(j: int) -> None:
        try:
            for _ in range(3):
                for i, layer in enumerate(ours):
                    with torch.no_grad():
                        close(layer(inputs[j]), expected[i, j])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(j,)) for j in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_closing_the_cluster_leaves_the_model_usable() -> None:
    with connect("inproc://1", threads=1) as session:
        layer = DistributedConv2d(6, 8, 3, cluster=session, threshold=0)
        x = torch.randn(1, 6, 5, 5, requires_grad=True)
        y = layer(x)
    y.sum().backward()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*torch")
        close(layer(x), y)
    assert x.grad is not None
    assert "closed" in repr(layer)


def test_no_model_is_needed_to_import_fogconv() -> None:
    script = "import sys, fogconv; assert not {'torch', 'numba', 'zmq'} & set(sys.modules); fogconv.DistributedConv2d"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert fogconv.DistributedConv2d is DistributedConv2d
    assert fogconv.distribute is distribute


# --- whole models -----------------------------------------------------------------------------------------------------


def model_results(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    y = model(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return y.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def kinks(model: nn.Module, x: torch.Tensor, gradients: dict[str, torch.Tensor]) -> float:
    """How far rounding moves torch's own gradients: by thousandths where some ReLU sits on its kink."""
    generator = torch.Generator().manual_seed(1)
    noises = [1 + 1e-6 * torch.randn(x.shape, generator=generator) for _ in range(4)]
    others = [model_results(model, x * noise)[1] for noise in noises]
    return max(float((other[key] - grad).norm() / grad.norm()) for other in others for key, grad in gradients.items())


@pytest.mark.parametrize(
    "name",
    ["resnet18", *(pytest.param(name, marks=pytest.mark.full) for name in ("mobilenet_v3_small", "densenet121"))],
)
def test_transparency(inproc: Session, name: str) -> None:
    """A model, wrapped and not, agrees in its output, in every gradient (as far as torch's is one) and in its state_dict."""
    plain = copy.deepcopy(seeded(name, 64).module)
    wrapped = distribute(plain, inproc, threshold=0)
    assert all(entry.distributed is not False for entry in wrapped.fogconv_report)
    assert len(wrapped.fogconv_report) == sum(isinstance(module, nn.Conv2d) for module in plain.modules())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    (expected, theirs), (actual, ours) = model_results(plain, x), model_results(wrapped, x)
    close(actual, expected, 1e-4)
    assert theirs.keys() == ours.keys()
    allowed = 1e-3 if name == "resnet18" else max(1e-3, 2 * kinks(plain, x, theirs))
    for key, grad in theirs.items():
        assert float((ours[key] - grad).norm() / grad.norm()) < allowed, (key, allowed)
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    wrapped.load_state_dict(plain.state_dict())
    plain.load_state_dict(wrapped.state_dict())


class OwnForward(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.odd = OwnForward(8, 8, 3)
        self.shared = nn.Conv2d(8, 8, 3)
        self.again = self.shared
        self.last = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.again(self.shared(self.odd(self.first(x)))))


def report(model: nn.Module) -> Iterator[tuple[str, bool | None]]:
    for entry in model.fogconv_report:  # type: ignore[union-attr]
        yield entry.name, entry.distributed


def test_distribute_tells_what_it_did_and_never_breaks_a_subclass(inproc: Session) -> None:
    plain = Block().eval()
    x = torch.randn(1, 3, 12, 12)
    wrapped = distribute(plain, inproc, threshold=0, exclude=["last"], example=x)
    assert dict(report(wrapped)) == {"first": True, "odd": False, "shared": True, "again": True, "last.0": False}
    assert wrapped is not plain
    assert wrapped.shared is wrapped.again
    assert type(wrapped.odd) is OwnForward
    assert type(plain.first) is nn.Conv2d
    close(wrapped(x), plain(x))
    assert distribute(plain, inproc, threshold=0, inplace=True) is plain
    assert type(plain.first) is DistributedConv2d


def test_distribute_follows_the_trigger(inproc: Session) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))
    wrapped = distribute(plain, inproc, trigger="channels:60", example=torch.randn(1, 3, 12, 12))
    assert dict(report(wrapped)) == {"0": False, "1": True}
    assert "60" in wrapped.fogconv_report[0].reason  # type: ignore[index, union-attr]
    never = distribute(plain, inproc, threshold=float("inf"), example=torch.randn(1, 3, 12, 12))
    assert not any(distributed for _, distributed in report(never))


def test_distribute_on_a_single_conv_and_with_a_wrong_name(inproc: Session) -> None:
    layer = distribute(nn.Conv2d(3, 4, 3), inproc, threshold=0)
    assert isinstance(layer, DistributedConv2d)
    with pytest.raises(InputError, match="no such module"):
        distribute(Block(), inproc, exclude=["lost"])


def test_torchvisions_models_can_be_distributed_without_an_example(inproc: Session) -> None:
    wrapped = distribute(torchvision_models().squeezenet1_0(), inproc)
    assert {entry.distributed for entry in wrapped.fogconv_report} == {None}  # type: ignore[union-attr]
