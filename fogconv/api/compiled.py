"""CompiledModel: a model on a cluster, planned, loaded and ready; call it like the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fogconv.api.model import AnyModel, graph_of
from fogconv.api.planned import PlannedModel, options_of
from fogconv.calibration.calibration import calibrate_quickly
from fogconv.calibration.narrow import elements_of
from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.frontend.ports import Given, Results, arrays_of, results_of
from fogconv.hardware.topology import Topology
from fogconv.ir.arrays import Array
from fogconv.planning.plan_options import PlanOptions
from fogconv.quantization.precision import in_precision
from fogconv.runtime.engine import Engine, Inference
from fogconv.runtime.run_options import RunOptions
from fogconv.simulation.simulator import Timeline


class CompiledModel:
    """Made by `compile`. Not thread-safe: one call at a time.

    ``engine(x)`` and ``engine.stream(frames)`` take arrays or tensors (N, C, H, W) of the shape that was compiled, and
    return the same kind, nested as the model nests its results: one, a tuple or a dict. A model with several inputs takes
    a tuple of them in its order, or a dict by name. A lost worker costs time, but does not change the answer; ``events``
    reports what happened.
    """

    def __init__(self, engine: Engine, own: Session | None) -> None:
        self._engine, self._own = engine, own

    def __call__(self, x: Given, *more: Any) -> Any:
        """The model's results for ``x``, or for several inputs one after the other. Raises InputError for another shape,
        ClusterError when the cluster fails."""
        given = (x, *more) if more else x
        return _all_like(given, results_of(self._engine.graph, self._engine.run(given).outputs))

    def run(self, x: Given) -> Inference:
        """One inference with its latency in seconds, every step's times and its events; ``outputs`` are arrays by name,
        and ``output`` is the first of them."""
        return self._engine.run(x)

    def stream(self, frames: Iterable[Any], depth: int | None = None) -> Iterator[Any]:
        """The results in the order of the frames, with at most ``depth`` inferences in flight (None: as many as the plan
        states, or three): more frames per second."""
        given: deque[Any] = deque()

        def noted() -> Iterator[Given]:
            for frame in frames:
                given.append(frame)
                yield frame

        for results in self._engine.stream(noted(), depth):
            yield _all_like(given.popleft(), results)

    @property
    def plan(self) -> PlannedModel:
        """The current plan; a loss replaces it."""
        return PlannedModel(self._engine.graph, self._engine.topology.subset(self._engine.ranks), self._engine.plan)

    def simulate(self, **options: Any) -> Timeline:
        """`PlannedModel.simulate` of the current plan, on the measured devices and links."""
        return self.plan.simulate(**options)

    @property
    def events(self) -> tuple[str, ...]:
        """Messages about losses, returns and new plans so far."""
        return tuple(self._engine.events)

    def close(self) -> None:
        """Unload the model, and close the cluster if `compile` opened it."""
        self._engine.close()
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def compile(
    model: AnyModel,
    cluster: Session | str | Sequence[str] | Path,
    *,
    example: Any = None,
    options: PlanOptions | None = None,
    run: RunOptions = RunOptions(),
    topology: Topology | None = None,
    weights: str = "pretrained",
    size: int | tuple[int, int] | None = None,
    trust: bool = False,
    precision: str = "fp32",
    calibrate: Sequence[Any] = (),
    **keywords: Any,
) -> CompiledModel:
    """Plan a model for a cluster, send its weights, and prepare every worker.

    ``model`` is a torch.nn.Module (then ``example``, an input (N, C, H, W) or a tuple of inputs, is needed), a name of
    `fogconv.zoo.names()`, or the path of a ``.pt2`` or ``.onnx`` file. ``cluster`` is a result of `connect`, or its
    argument: then the cluster is closed with the model. Devices and links are measured unless a ``topology`` gives their
    rates. Plan options are ``options`` or its fields as keywords (``scheme="rows", wire="fp16"``); ``run`` are the options
    for losses and, for a cluster that is opened here, for the connection. A ``.pt2`` file that would run code when it is
    loaded is refused, unless ``trust`` says that you know its maker. ``precision`` is "fp32" (the model as it is), "fp16"
    or "bf16" (rounded to 16 bits), "int8" or "auto"; for these two a model in fp32 is quantised with the inputs
    ``calibrate``, each like ``example``. For such inputs weights of 16 bits are rounded, where there are any. Raises
    InputError, ModelError, PlannerError, ClusterError.
    """
    choices = options_of(options, keywords)
    graph = graph_of(model, example=example, weights=weights, size=size, trust=trust)
    graph = in_precision(graph, precision, [arrays_of(graph, each) for each in calibrate])
    own = None
    if not isinstance(cluster, Session):
        own = connect(
            cluster,
            timeout_s=run.timeout_s,
            heartbeat_s=run.heartbeat_s,
            threads=run.threads or None,
            keys=run.keys,
            insecure=run.insecure,
        )
    session = own if own is not None else cluster
    assert isinstance(session, Session)
    try:
        measured = (
            calibrate_quickly(session, refresh=run.measure, disks=choices.allow_swap, elements=elements_of(graph))
            if topology is None
            else None
        )
        figures = topology if measured is None else measured.topology
        assert figures is not None
        return CompiledModel(Engine(graph, session, figures, choices, run, lessons=measured), own)
    except BaseException:
        if own is not None:
            own.close()
        raise


def _like(given: Given, output: Array) -> Any:
    """A tensor where the inputs are tensors."""
    if isinstance(given, Mapping | Sequence):
        given = next(iter(given.values() if isinstance(given, Mapping) else given), None)
    if not hasattr(given, "detach"):
        return output
    import torch

    return torch.from_numpy(output).to(given.device)


def _all_like(given: Given, results: Results) -> Any:
    if isinstance(results, Mapping):
        return {key: _all_like(given, inner) for key, inner in results.items()}
    if isinstance(results, tuple):
        return tuple(_all_like(given, inner) for inner in results)
    return _like(given, results) if isinstance(results, np.ndarray) else results
