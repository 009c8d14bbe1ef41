"""Training on the cluster: the same losses as torch alone, on real data; adjoint operators; workers that die."""

from __future__ import annotations

import contextlib
import copy
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.digits import accuracy, digits, network, train
from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.errors import GeometryError, WorkerLostError
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.shard import conv_grid
from fogconv.nn import DistributedConv2d, distribute
from fogconv.nn.remote import RemoteConv
from tests.cluster.launch import free_port, process, wait_until_listening

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def four() -> Iterator[Session]:
    with connect("inproc://4", threads=1) as session:
        yield session


def test_the_losses_of_fifty_steps_are_those_of_torch_alone(four: Session) -> None:
    torch.manual_seed(0)
    plain, data = network(), digits()
    start = copy.deepcopy(plain.state_dict())
    wrapped = distribute(plain, four, threshold=0, split="output")
    alone, together = (train(model, data, steps=50) for model in (plain, wrapped))
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert not torch.equal(wrapped[0].weight, start["0.weight"])  # type: ignore[index]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_small_network_learns_the_digits_over_four_workers(four: Session) -> None:
    torch.manual_seed(0)
    model, data = distribute(network(), four, threshold=0, split="output"), digits()
    train(model, data)
    assert accuracy(model, data) >= 0.97


@st.composite
def convs(draw: st.DrawFn) -> tuple[ConvSpec, int]:
    """A conv and a number p of input groups for four ranks; few kinds of kernels, since each compiles."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    c, f = (groups * draw(st.integers(1, 12)) for _ in range(2))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 3)]))
    height, width = (draw(st.integers(4, 9)) for _ in range(2))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    stride = draw(st.sampled_from([(1, 1), (2, 2), (1, 2)]))
    spec = ConvSpec(c, f, height, width, kernel, stride, padding, (1, 1), groups, draw(st.integers(1, 3)))  # type: ignore[arg-type]
    return spec, draw(st.sampled_from([1, 2, 4]))


@settings(max_examples=12, deadline=None)
@given(case=convs(), seed=st.integers(0, 999))
def test_the_backward_pass_is_the_adjoint_of_the_forward_pass(four: Session, case: tuple[ConvSpec, int], seed: int) -> None:
    """⟨conv(x, w), y⟩ = ⟨x, grad_x⟩ = ⟨w, grad_w⟩, and both gradients are torch's in float64."""
    spec, p = case
    try:
        shards = conv_grid(spec, (0, 1, 2, 3), p)
    except GeometryError:
        return
    random = np.random.default_rng(seed)
    x, w, y = (
        random.normal(size=shape).astype(np.float32) for shape in (spec.input_shape, spec.weight_shape, spec.output_shape)
    )
    remote = RemoteConv(four, spec, shards)
    out, token = remote.forward(x, w, 0, keep=True)
    grad_x, grad_w = remote.backward(y, x, w, 0, token, grad_x=True, grad_w=True)
    remote.unload()
    assert grad_x is not None
    assert grad_w is not None
    pairing = float(np.vdot(out.astype(np.float64), y))
    scale = float(np.linalg.norm(out.astype(np.float64)) * np.linalg.norm(y))
    assert abs(float(np.vdot(x.astype(np.float64), grad_x)) - pairing) < 1e-5 * scale
    assert abs(float(np.vdot(w.astype(np.float64), grad_w)) - pairing) < 1e-5 * scale
    top, bottom, left, right = spec.padding
    x64, w64 = (torch.from_numpy(array).double().requires_grad_() for array in (x, w))
    padded = F.pad(x64, (left, right, top, bottom))
    reference = F.conv2d(padded, w64, None, spec.stride, 0, spec.dilation, spec.groups)
    reference.backward(torch.from_numpy(y).double())
    for ours, theirs in ((out, reference), (grad_x, x64.grad), (grad_w, w64.grad)):
        expected = theirs.detach().numpy()  # type: ignore[union-attr]
        assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max() + 1e-6


def test_each_worker_keeps_its_input_for_the_backward_pass(four: Session) -> None:
    spec = ConvSpec(64, 64, 16, 16, (3, 3), padding=(1, 1, 1, 1), batch=2)
    remote = RemoteConv(four, spec, conv_grid(spec, (0, 1, 2, 3, 4)[:4], 4))
    x, w, y = (np.ones(shape, np.float32) for shape in (spec.input_shape, spec.weight_shape, spec.output_shape))
    sent = []
    run = four.run

    def spy(loaded, inputs=(), **options):  # type: ignore[no-untyped-def]
        result = run(loaded, inputs, **options)
        sent.append(result.sent_bytes[0])
        return result

    four.run = spy  # type: ignore[method-assign]
    try:
        _, token = remote.forward(x, w, 0, keep=True)
        remote.backward(y, x, w, 0, token, grad_x=True, grad_w=True)
        remote.backward(y, x, w, 0, token + 1, grad_x=True, grad_w=True)
        remote.forward(x, w, 0, keep=True)
    finally:
        del four.run  # type: ignore[method-assign]
    shard, weights, grad = x.nbytes * 3 // 4, w.nbytes * 3 // 4, y.nbytes * 3
    assert sent == [shard + weights, grad, grad + shard, shard]


def test_one_forward_pass_can_have_two_backward_passes(four: Session) -> None:
    torch.manual_seed(0)
    conv = DistributedConv2d(8, 12, 3, padding=1, cluster=four, threshold=0, split="output", on_loss="raise")
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    y = conv(x)
    first = torch.autograd.grad(y.sum(), (x, conv.weight), retain_graph=True)
    second = torch.autograd.grad(y.sum(), (x, conv.weight))
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("split", ["output", "input"])
def test_weights_written_where_no_counter_sees_it_are_shipped_before_they_are_used(four: Session, split: str) -> None:
    """Between the forward and the backward pass, and before the next forward pass."""
    torch.manual_seed(0)
    conv = DistributedConv2d(16, 20, 3, padding=1, bias=False, cluster=four, threshold=0, split=split, on_loss="raise")
    x = torch.randn(2, 16, 9, 9, requires_grad=True)
    grad = torch.randn(2, 20, 9, 9)
    y = conv(x)
    conv.weight.data.mul_(2)
    y.backward(grad)
    twin = torch.nn.functional.conv2d
    x2, w2 = x.detach().clone().requires_grad_(), conv.weight.detach().clone().requires_grad_()
    twin(x2, w2, padding=1).backward(grad)
    torch.testing.assert_close(x.grad, x2.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(conv.weight.grad, w2.grad, atol=1e-4, rtol=1e-4)
    conv.weight.data.add_(1)
    torch.testing.assert_close(conv(x), twin(x, conv.weight, padding=1), atol=1e-3, rtol=1e-4)


# --- workers that die -------------------------------------------------------------------------------------------------


class Mortal:
    """A session with two worker processes, and the means to kill one."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        ports = [free_port() for _ in range(2)]
        self.addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
        self.processes = [
            stack.enter_context(process(sys.executable, "-m", "fogconv.cli.commands.worker", "--bind", address))
            for address in self.addresses
        ]
        for port in ports:
            wait_until_listening(port, 120.0)
        self.session = stack.enter_context(connect(self.addresses, connect_timeout_s=30.0, timeout_s=60.0))

    def kill(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait()


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    with contextlib.ExitStack() as stack:
        yield Mortal(stack)


@pytest.mark.parametrize("moment", ["forward", "backward"])
def test_a_worker_that_dies_costs_a_warning_and_nothing_else(mortal: Mortal, moment: str) -> None:
    torch.manual_seed(0)
    layer = DistributedConv2d(6, 9, 3, cluster=mortal.session, threshold=0, split="output")
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    x = torch.randn(1, 6, 7, 7, requires_grad=True)
    expected = F.conv2d(x, layer.weight, layer.bias)
    (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    y = layer(x)
    if moment == "forward":
        mortal.kill(0)
        with pytest.warns(RuntimeWarning, match="continues in torch"):
            y = layer(x)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*continues in torch")
            y.sum().backward()
    else:
        mortal.kill(0)
        with pytest.warns(RuntimeWarning, match="continues in torch"):
            y.sum().backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(x.grad, expected_grad)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    torch.testing.assert_close(layer(x), expected)  # over the worker that is left
    assert len(layer.verdict((1, 6, 7, 7)).shards) == 2


def test_a_layer_may_be_asked_to_raise_instead(mortal: Mortal) -> None:
    layer = DistributedConv2d(6, 9, 3, cluster=mortal.session, threshold=0, split="output", on_loss="raise")
    x = torch.randn(1, 6, 7, 7)
    y = layer(x)
    mortal.kill(1)
    with pytest.raises(WorkerLostError):
        layer(x)
    with pytest.raises(WorkerLostError):
        y.sum().backward()
    assert layer.weight.grad is None
    y = layer(x)  # the other worker is still there
    y.sum().backward()
    assert layer.weight.grad is not None
