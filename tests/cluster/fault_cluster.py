"""A small network and in-process workers that fail on cue: at the n-th message, of their own or of all."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.inproc import Hub
from fogconv.cluster.worker.server import Worker
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Add, Conv, Host, Layer, Tensor
from fogconv.ir.program import Program
from fogconv.ir.steps import AnyStep
from fogconv.ir.steps import Conv as ConvStep
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from tests.cluster.cluster_of import eventually

PAD = (1, 1, 1, 1)


@cache
def network() -> LayerGraph:
    """Five convs, one with a residual, and a sum: (1, 16, 12, 12) → (1, 32, 12, 12)."""
    rng = np.random.default_rng(7)
    weights: dict[str, NDArray[Any]] = {}
    tensors = [Tensor("x", 1, 16, 12, 12)]
    layers: list[Layer] = []

    def conv(source: int, channels: int, *, residual: int | None = None, kernel: int = 3) -> int:
        c = tensors[source].channels
        padding = PAD if kernel == 3 else (0, 0, 0, 0)
        spec = ConvSpec(c, channels, 12, 12, (kernel, kernel), padding=padding)
        target = len(tensors)
        tensors.append(Tensor(f"t{target}", 1, channels, 12, 12))
        scale = np.float32(1.0 / np.sqrt(c * kernel * kernel))
        weights[f"w{target}"] = rng.standard_normal(spec.weight_shape, np.float32) * scale
        weights[f"b{target}"] = rng.standard_normal(channels, np.float32)
        layers.append(Conv(f"conv{target}", source, target, spec, f"w{target}", f"b{target}", "relu", residual))
        return target

    a = conv(0, 64)
    b = conv(a, 64)
    c = conv(b, 64, residual=a)
    d = conv(c, 32, kernel=1)
    e = conv(c, 32)
    tensors.append(Tensor("sum", 1, 32, 12, 12))
    layers.append(Add("sum", (d, e), len(tensors) - 1, None))
    return LayerGraph.single("small", tuple(tensors), tuple(layers), 0, len(tensors) - 1, (1, 32, 12, 12), weights)


def spread(graph: LayerGraph, ranks: int) -> tuple[str, ...]:
    """Pins that put each layer on another rank than the one before, since of equal ranks none would be chosen."""
    return tuple(
        f"{layer.name}={(i + 1) % ranks}"
        for i, layer in enumerate(graph.layers)
        if not layer.relabels and not isinstance(layer, Host)
    )


@cache
def image(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((1, 16, 12, 12), np.float32)


@cache
def answer(seed: int = 0) -> NDArray[Any]:
    from tests.graph_reference import run_graph  # torch: not wherever this network is run

    return run_graph(network(), image(seed))


def assert_right(output: NDArray[Any], seed: int = 0, tolerance: float = 1e-4) -> None:
    assert_near(output, answer(seed), tolerance)


def assert_near(output: NDArray[Any], expected: NDArray[Any], tolerance: float = 1e-4) -> None:
    assert output.shape == expected.shape
    assert np.max(np.abs(output - expected)) <= tolerance * np.max(np.abs(expected))


class FaultyHub(Hub):
    """``strike(message)`` is called before each message (sender, receiver, number) is delivered; True drops it."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.strike: Callable[[str, str, int], bool] = lambda origin, to, number: False

    def _route(self, origin: str, to: str, frames: Sequence[Frame]) -> None:
        self.number += 1
        if not self.strike(origin, to, self.number):
            super()._route(origin, to, frames)


class SlowHub(FaultyHub):
    """Every message takes its time on the wire: ``rate(sender, receiver)`` is in bytes/s, and links don't share it.

    A message waits for the one before it on its link, and only its receiver waits for a message.
    """

    LATENCY_S = 1e-3

    def __init__(self, bytes_per_s: float) -> None:
        super().__init__()
        self.bytes_per_s = bytes_per_s
        self.rate: Callable[[str, str], float] = lambda origin, to: self.bytes_per_s
        self._links: dict[tuple[str, str], queue.SimpleQueue[Sequence[Frame] | None]] = {}

    def _route(self, origin: str, to: str, frames: Sequence[Frame]) -> None:
        with self._lock:
            link = self._links.get((origin, to))
            if link is None:
                link = self._links[origin, to] = queue.SimpleQueue()
                threading.Thread(target=self._carry, args=(origin, to, link), daemon=True).start()
        # What is sent is what the buffer holds now: a card copies, and the sender goes on.
        link.put([bytes(frame) for frame in frames])

    def _carry(self, origin: str, to: str, link: queue.SimpleQueue[Sequence[Frame] | None]) -> None:
        while (frames := link.get()) is not None:
            time.sleep(self.LATENCY_S + sum(len(frame) for frame in frames) / self.rate(origin, to))
            super()._route(origin, to, frames)

    def close(self) -> None:
        for link in self._links.values():
            link.put(None)


class SlowExecutable(Executable):
    """Takes as long for a conv as a device of RATE MACs/s would."""

    RATE = 1e8

    def compute(self, step: AnyStep) -> Callable[[], None]:
        call = super().compute(step)
        if not isinstance(step, ConvStep):
            return call

        def slow() -> None:
            end = time.perf_counter() + step.spec.macs / self.RATE
            call()
            time.sleep(max(0.0, end - time.perf_counter()))

        return slow


class Gate:
    """Builds as the interpreter does, once it is open: a worker slow to get ready. ``built``: each program's ranks."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self.built: list[int] = []

    def __call__(self, program: Program, weights: Any, *, threads: int = 1, **_: Any) -> Executable:
        self.reached.set()
        assert self.open.wait(60.0)
        self.built.append(program.ranks)
        return Executable(program, weights, threads=threads)


class FaultCluster:
    """``workers`` in-process workers with the real interpreter; ``engine`` runs the small network on them."""

    def __init__(
        self,
        workers: int = 3,
        *,
        build: Any = Executable,
        hub: FaultyHub | None = None,
        memory_limit_bytes: int = 0,
        **options: Any,
    ) -> None:
        self.hub = hub or FaultyHub()
        self.names = [f"worker/{number}" for number in range(1, workers + 1)]
        self.alive: dict[str, tuple[Worker, threading.Thread]] = {}
        self.dead: list[tuple[Worker, threading.Thread]] = []
        self._build = build
        self._memory_limit_bytes = memory_limit_bytes
        for name in self.names:
            self.start(name)
        self.session = Session(self.hub.endpoint("master"), self.names, timeout_s=options.pop("timeout_s", 20.0), **options)

    def start(self, name: str, build: Any = None) -> Worker:
        """A worker under this name, as a new process of it would be."""
        worker = Worker(self.hub.endpoint(name), build=build or self._build, memory_limit_bytes=self._memory_limit_bytes)
        thread = threading.Thread(target=worker.serve, daemon=True)
        thread.start()
        self.alive[name] = worker, thread
        return worker

    def cut(self, rank: int) -> None:
        """Pull a worker's cable for good."""
        name = self.names[rank - 1]
        self.dead.append(self.alive.pop(name))
        self.hub.cut(name, "its cable was pulled")

    def restart(self, rank: int, build: Any = None) -> Worker:
        return self.start(self.names[rank - 1], build)

    def take_back(self, rank: int, engine: Engine) -> None:
        """Restart a worker, and run inferences until it takes part."""
        self.restart(rank)

        def part() -> bool:
            assert_right(engine.run(image()).output)
            return rank in engine.ranks

        eventually(part)

    def cut_at(self, rank: int, number: int) -> None:
        """Pull the cable just before the ``number``-th message from now on would be delivered."""
        at = self.hub.number + number

        def strike(origin: str, to: str, sent: int) -> bool:
            if sent >= at and self.names[rank - 1] in self.alive:
                self.cut(rank)
            return False

        self.hub.strike = strike

    def engine(self, scheme: str = "auto", *, adapt: bool = False, rehearse: bool = False, **options: Any) -> Engine:
        """Rates and links under which every scheme distributes."""
        topology = Topology.uniform(self.session.ranks, 1e9, 1e10, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7)
        pins = spread(network(), self.session.ranks) if scheme == "offload" else ()
        plan_options = PlanOptions(scheme, **{"threshold": 0.0, "pins": pins, **options})
        return Engine(network(), self.session, topology, plan_options, RunOptions(adapt=adapt, rehearse=rehearse))

    def close(self) -> None:
        self.session.close()
        for worker, thread in [*self.alive.values(), *self.dead]:
            worker.stop()
            thread.join(60.0)
            assert not thread.is_alive(), "a worker did not stop"

    def __enter__(self) -> FaultCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
