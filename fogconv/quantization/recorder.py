"""Recorder: all maps of a graph for some pictures, computed by this device's own kernels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph, Port
from fogconv.ir.plan import Plan, at_home
from fogconv.lowering.lower import lower


class Recorder:
    """``maps`` are the numbers of those that are wanted, in fp32; all that there are by default."""

    def __init__(self, graph: LayerGraph, maps: Collection[int] | None = None, threads: int = 1) -> None:
        # Late: plans of quantised models need no kernels.
        from fogconv.cluster.executor.executors import executor
        from fogconv.cluster.executor.microbenchmark import NoMailbox

        wanted = range(len(graph.tensors)) if maps is None else sorted(set(maps))
        self.maps = [number for number in wanted if graph.tensors[number].precision.element == "fp32"]
        ports = tuple(Port(str(number), number, graph.tensors[number].shape) for number in self.maps)
        shown = replace(graph, outputs=ports, structure=tuple(range(len(ports))))
        plan = Plan(graph.name, 1, "local", tuple(at_home(shown, layer) for layer in shown.layers))
        lowered = lower(shown, plan)

        def host(layer: int, values: dict[Any, Any], maps: Sequence[Array]) -> Sequence[Array]:
            found: Sequence[Array] = graph.layers[layer].call(values, *maps)  # type: ignore[union-attr]
            return found

        self._mailbox = NoMailbox()
        self._runnable = executor()(lowered.programs[0], lowered.weights, threads=threads, host=host)

    def of(self, inputs: Sequence[Array]) -> Mapping[int, Array]:
        """By number."""
        return dict(zip(self.maps, self._runnable.run(self._mailbox, inputs), strict=True))
