"""Programs in torch: all ranks of random graphs against float64, and each kind of step and of message."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fogconv.accelerator.executable import TorchExecutable, TorchExecutor
from fogconv.accelerator.functions import ACROSS, ELEMENTWISE
from fogconv.accelerator.map_steps import KERNELS
from fogconv.accelerator.payload import flat, write
from fogconv.cluster.executor.interface import Call, Run, nothing
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.worker.master_session import MasterSession
from fogconv.cluster.worker.program_loader import ProgramLoader
from fogconv.errors import ClusterError, KernelError, WireError, WorkerMemoryError
from fogconv.hardware.topology import Topology
from fogconv.ir import steps as ir
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.memory.footprint import PROCESS_BYTES, footprint
from fogconv.ir.precision.scale import Precision
from fogconv.ir.program import Program, encode
from fogconv.kernels import reference
from fogconv.kernels.codegen.formulas import FORMULAS
from fogconv.kernels.maps import across_channels, wire
from fogconv.kernels.maps.pack import pack
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from tests.chains import chain
from tests.graph_reference import run_outputs
from tests.post import Messages, Post
from tests.random_graphs import graphs, numbers_for


class Master(TorchExecutable):
    """With the steps of a master, which a worker's executor does not need."""

    def __init__(self, graph: LayerGraph, program: Program, weights: Mapping[str, Any], made: TorchExecutor) -> None:
        self._graph = graph
        super().__init__(program, weights, made.device, made._weights)

    def _bind(self, step: ir.AnyStep) -> Call:
        match step:
            case ir.Input():
                return self._input(step.index, self.at(step.target, step.region))
            case ir.Output():
                return self._output(step.index, self.at(step.source, step.region))
            case ir.HostOutput():
                return lambda run: run.outputs.update({step.index: run.values[step.value]})
            case ir.Host():
                return self._host(step)
        return super()._bind(step)

    def _input(self, index: int, target: torch.Tensor) -> Call:
        def call(run: Run) -> None:
            target.copy_(torch.from_numpy(run.input(index)))

        return call

    def _output(self, index: int, source: torch.Tensor) -> Call:
        return lambda run: run.outputs.update({index: source.cpu().numpy().copy()})

    def _host(self, step: ir.Host) -> Call:
        layer = self._graph.layers[step.layer]
        assert isinstance(layer, Host)

        def call(run: Run) -> None:
            maps = [self.at(s, r).cpu().numpy().copy() for s, r in zip(step.sources, step.source_regions, strict=True)]
            for result, buffer, region in zip(layer.call(run.values, *maps), step.targets, step.target_regions, strict=True):
                self.at(buffer, region).copy_(torch.from_numpy(np.ascontiguousarray(result, np.float32)))

        return call


def run_all(graph: LayerGraph, found: Any, inputs: Sequence[NDArray[Any]], made: TorchExecutor) -> list[NDArray[Any]]:
    """The outputs of a plan of which every rank computes in torch."""
    lowered = lower(graph, found)
    weights = {key: np.asarray(each, np.float32) for key, each in lowered.weights.items()}
    there = Messages()
    arrived = threading.Condition()
    failures: list[BaseException] = []
    master = Master(graph, lowered.programs[0], weights, made)
    workers = [made(program, weights) for program in lowered.programs[1:]]

    def work(executable: TorchExecutable) -> None:
        try:
            executable.run(Post(executable.program.rank, there, arrived))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(each,)) for each in workers]
    for thread in threads:
        thread.start()
    out = master.run(Post(0, there, arrived), inputs)
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert not there, "never received"
    return out


FAST = Topology.uniform(3, 1e9, 1e11, 1e-7)


@pytest.mark.parametrize("form", ["fp32", "bf16"])
@given(graph=graphs(), scheme=st.sampled_from(["auto", "depth", "rows", "star"]), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranks_in_torch_compute_the_graph(
    made: TorchExecutor, form: ir.Wire, graph: LayerGraph, scheme: str, seed: int
) -> None:
    """As exactly as torch computes it on one device in float32; with a coded wire in its places."""
    single = replace(graph, weights={key: np.asarray(each, np.float32) for key, each in graph.weights.items()})
    inputs = [np.asarray(each, np.float32) for each in numbers_for(graph, seed)]
    exact = run_outputs(graph, [each.astype(np.float64) for each in inputs])
    alone = run_outputs(single, inputs)
    found = run_all(single, plan(single, FAST, PlanOptions(scheme, wire=form, threshold=0.0)), inputs, made)
    for port, out, right, own in zip(graph.outputs, found, exact, alone, strict=True):
        largest = max(1.0, float(np.abs(right).max()))
        assert np.isfinite(out).all()
        if form == "fp32":
            allowed = 30 * float(np.abs(own - right).max()) + 2e-5 * largest
            assert float(np.abs(out.reshape(port.shape) - right).max()) <= allowed, port


@pytest.mark.parametrize("channels", [1, 16, 20, 35])
def test_a_payload_is_that_of_the_other_kernels(channels: int) -> None:
    x = np.random.default_rng(channels).standard_normal((2, channels, 3, 5)).astype(np.float32)
    theirs = np.empty(x.size, np.float32)
    wire.bind_extract(pack(x), 0, channels, theirs)()
    ours = flat(torch.from_numpy(x))
    np.testing.assert_array_equal(ours.numpy(), theirs)
    back = torch.full(x.shape, 1.0)
    write(ours, back, add=True)
    np.testing.assert_array_equal(back.numpy(), x + 1)


def test_every_step_and_every_operator_is_known() -> None:
    assert set(KERNELS) == set(get_args(ir.MapStep)) - {ir.Convert}, "which is for 8 bits"
    assert set(ELEMENTWISE) == set(FORMULAS)
    assert set(ACROSS) == set(across_channels.OPERATORS)


def _lone(made: TorchExecutor, *steps: ir.AnyStep, weights: Mapping[str, Any] | None = None, **more: Any) -> TorchExecutable:
    whole = Region.whole(3, 2, 2)
    given = weights or {}
    shapes = {key: each.shape for key, each in given.items()}
    buffers = (ir.Buffer("x", whole), ir.Buffer("y", whole))
    return made(Program(1, 2, 1, ("layer",), buffers, steps, shapes, **more), given)


def test_what_a_worker_does_not_do_is_refused(made: TorchExecutor) -> None:
    with pytest.raises(KernelError, match="step of the master"):
        _lone(made, ir.Input(0, 0, 0, Region.whole(3, 2, 2)))
    with pytest.raises(ClusterError, match="is not in buffer"):
        _lone(made, ir.Copy(0, 0, Region.whole(4, 2, 2), 1))
    eight = ir.Buffer("x", Region.whole(3, 2, 2), precision=Precision("uint8", 0.5, 3))
    with pytest.raises(KernelError, match="x is kept in uint8"):
        made(Program(1, 2, 1, ("layer",), (eight,), (), {}), {})
    with pytest.raises(KernelError, match="abacus"):
        _lone(made, ir.Elementwise(0, "abacus", (0,), (Region.whole(3, 2, 2),), 1, Region.whole(3, 2, 2)))


@pytest.mark.parametrize("form", ["fp32", "fp16", "bf16", *wire.LOSSLESS])
def test_messages_go_there_and_back_in_every_form(made: TorchExecutor, form: ir.Wire) -> None:
    """Two parts in one message, the first of them added."""
    whole = Region.whole(3, 2, 2)
    send = ir.Send(0, 0, whole, 0, 1, form, (ir.Part(1, whole),))
    receive = ir.Recv(0, 0, whole, 0, 1, True, form, (ir.Part(1, whole),))
    there = Messages()
    arrived = threading.Condition()
    sender, receiver = _lone(made, send), _lone(made, receive)
    values = torch.arange(12.0, device=made.device).reshape(1, 3, 2, 2)
    sender.at(0, whole).copy_(values)
    sender.at(1, whole).copy_(values + 20)
    sender.run(Post(1, there, arrived))
    there[0, 1, 1] = there.pop((1, 0, 1))
    short = there[0, 1, 1][:-1]
    receiver.at(0, whole).fill_(100.0)
    receiver.run(Post(1, there, arrived))
    torch.testing.assert_close(receiver.at(0, whole), values + 100)
    torch.testing.assert_close(receiver.at(1, whole), values + 20)
    if form not in wire.LOSSLESS:
        there[0, 1, 1] = short
        with pytest.raises(WireError, match="expected"):
            receiver.run(Post(1, there, arrived))


def test_a_picture_goes_as_bytes(made: TorchExecutor) -> None:
    whole, pixels = Region.whole(3, 2, 2), ir.Pixels((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    levels = np.arange(12, dtype=np.uint8).reshape(1, 3, 2, 2) * 20
    mean, std = (np.asarray(each, np.float32).reshape(1, 3, 1, 1) for each in (pixels.mean, pixels.std))
    picture = (levels.astype(np.float32) / np.float32(255) - mean) / std
    there = Messages()
    sender = _lone(made, ir.Send(0, 0, whole, 0, 1, pixels=pixels))
    receiver = _lone(made, ir.Recv(0, 0, whole, 0, 1, pixels=pixels))
    for values, size in ((picture, 12), (picture + np.float32(1e-3), 48)):
        sender.at(0, whole).copy_(torch.from_numpy(values))
        sender.run(Post(1, there, threading.Condition()))
        there[0, 1, 1] = there.pop((1, 0, 1))
        assert len(there[0, 1, 1]) == size
        receiver.run(Post(1, there, threading.Condition()))
        np.testing.assert_array_equal(receiver.at(0, whole).cpu().numpy(), values)


def test_programs_share_weights_on_the_device_and_swapped_ones_are_read_each_time(made: TorchExecutor) -> None:
    spec, whole = ConvSpec(3, 3, 2, 2, (1, 1)), Region.whole(3, 2, 2)
    weight = np.ones(spec.weight_shape, np.float32)
    read: list[str] = []

    class Weights(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            read.append(key)
            return super().__getitem__(key)

    conv = ir.Conv(0, spec, "w", None, None, 0, whole, 1, whole)
    one, other = (_lone(made, conv, weights=Weights(w=weight)) for _ in range(2))
    assert read == ["w"]
    assert one.memory_bytes == other.memory_bytes == weight.nbytes + 2 * 4 * 12
    swapping = _lone(made, conv, weights=Weights(w=weight), swapped=("w",))
    assert swapping.memory_bytes == 2 * 4 * 12
    for _ in range(2):
        swapping.run(Post(1, {}, threading.Condition()))
    assert read == ["w", "w", "w"]


def test_a_layer_is_trained(made: TorchExecutor) -> None:
    """Asymmetric padding, strides, groups; results that are kept from run to run."""
    spec = ConvSpec(4, 6, 7, 5, (3, 2), (2, 1), (2, 0, 1, 0), (1, 2), 2, 2)
    random = np.random.default_rng(0)
    shapes = {"x": spec.input_shape, "w": spec.weight_shape, "g": spec.output_shape}
    values = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    names = ("y", "gx", "gw")
    steps: list[ir.AnyStep] = [ir.ArrayRecv(0, name, shapes[name], 0, tag) for tag, name in enumerate("xwg")]
    steps += [
        ir.ConvForward(0, spec, "x", "w", "y"),
        ir.ConvGradInput(0, spec, "g", "w", "gx"),
        ir.ConvGradWeight(0, spec, "x", "g", "gw"),
        *(ir.ArraySend(0, name, 0, tag) for tag, name in enumerate(names)),
        ir.ArrayFree(0, ("x", "g")),
    ]
    executable = _lone(made, *steps)
    there: dict[tuple[int, int, int], Any] = {(0, 1, tag): values[name].tobytes() for tag, name in enumerate("xwg")}
    executable.run(Post(1, there, threading.Condition()))
    executable.arrays.settle()
    expected = (
        reference.conv2d(values["x"], values["w"], None, spec),
        reference.conv2d_grad_input(values["g"], values["w"], spec),
        reference.conv2d_grad_weight(values["x"], values["g"], spec),
    )
    for tag, right in enumerate(expected):
        out = np.frombuffer(there[1, 0, tag], np.float32).reshape(right.shape)
        np.testing.assert_allclose(out, right, rtol=1e-4, atol=1e-5 * np.abs(right).max())
    with pytest.raises(ClusterError, match="no array x"):
        _lone(made, ir.ConvForward(0, spec, "x", "w", "y")).run(Post(1, {}, threading.Condition()))


def test_steps_have_times(made: TorchExecutor) -> None:
    proceeded: list[int] = []
    whole = Region.whole(3, 2, 2)
    program = Program(1, 2, 1, ("a",), (ir.Buffer("x", whole), ir.Buffer("y", whole)), (ir.Copy(0, 0, whole, 1),) * 3, {})
    proceed: Callable[[], None] = lambda: proceeded.append(1)  # noqa: E731
    executable = made(program, {}, proceed=proceed)
    assert len(proceeded) == 3
    executable.run(Post(1, {}, threading.Condition()), (), nothing)
    begins, ends = executable.times.T
    assert executable.times.shape == (3, 2) and (begins <= ends).all() and (ends[:-1] <= begins[1:]).all()


def test_whole_maps_are_counted_before_anything_is_loaded() -> None:
    """The usual executor computes such convs band by band, without the map between them."""
    graph = chain(32, 256, 32, size=128, kernel=1)
    lowered = lower(graph, plan(graph, Topology.uniform(2, 1e8, 1e10, 1e-7), PlanOptions("rows")))
    program, executor = lowered.programs[1], TorchExecutor(torch.device("cpu"))
    held = executor(program, lowered.weights).memory_bytes - sum(program.weight_bytes(key) for key in program.weights)
    banded, whole = footprint(program), footprint(program, whole_maps=True)
    assert banded.maps < held <= whole.maps
    limit = PROCESS_BYTES + (banded.total + whole.total) // 2
    loader = ProgramLoader(
        executor, threads=1, memory_limit_bytes=limit, keep_weights=True, adopt=lambda session, loading, executable: None
    )
    session = MasterSession("master", 1, m.Hello(b"", 1, 2, "test", 1.0))
    with pytest.raises(WorkerMemoryError, match=f"maps and messages: {whole.private / 1e6:.0f} MB"):
        list(loader.load(session, m.Load(1, 1), encode(program), nothing))
