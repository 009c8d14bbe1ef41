"""LayerGraph: a CNN as the planner sees it. No torch here; `fogconv.frontend.torch.export` makes one from a torch model.

Every tensor is written once, and the layers are in an order in which everything is written before it is read. What a layer
is: `fogconv.ir.layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.layers import Conv, Host, Hosted, Layer, Tensor
from fogconv.ir.shard import Work


@dataclass(frozen=True, slots=True)
class Port:
    """One of the model's inputs or outputs: map number ``tensor``, whose elements the model takes or gives in ``shape`` (a
    head's (N, classes, 1, 1) map is given as (N, classes)).

    What is no map, such as a list of indices, stays with the master's Host layers: ``tensor`` is None, and ``value`` its key
    in their ``values``; an input's is its number. Its shape may depend on the picture (None then). ``dtype`` of an input is
    what it is converted to, by NumPy's name.
    """

    name: str
    tensor: int | None
    shape: tuple[int, ...] | None
    value: str | int | None = None
    dtype: str = "float32"


Structure = Any
"""How a model nests its results: the number of an output, None, a tuple, or a dict of structures."""


@dataclass(frozen=True)
class LayerGraph:
    """``inputs`` and ``outputs`` in the model's order, the first input a batch of pictures; ``structure`` is how the model
    nests its outputs. ``weights`` holds every array by its key."""

    name: str
    tensors: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: Mapping[str, Array] = field(compare=False, repr=False)
    structure: Structure = 0
    info: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def single(
        cls,
        name: str,
        tensors: tuple[Tensor, ...],
        layers: tuple[Layer, ...],
        given: int,
        result: int,
        shape: tuple[int, ...],
        weights: Mapping[str, Array],
    ) -> Self:
        """A graph with one input and one output, maps by number; the output is returned in ``shape``."""
        source = Port("input", given, tensors[given].shape if tensors else ())
        return cls(name, tensors, layers, (source,), (Port("output", result, shape),), weights)

    @property
    def hosted(self) -> tuple[Hosted, ...]:
        """What stays on the master because workers can't do it."""
        return tuple(each for layer in self.layers if isinstance(layer, Host) for each in layer.operations)

    @property
    def on_master_share(self) -> float:
        """What workers can't do, of all multiply-adds (0 to 1)."""
        hosted, shared = sum(each.macs for each in self.hosted), 0
        for layer in self.layers:
            if not isinstance(layer, Host) and not layer.relabels:
                work = layer.computes(self.tensors, Work(0, self.tensors[layer.target].region))
                shared += work.macs if isinstance(work, ConvSpec) else 0
        return hosted / (hosted + shared) if hosted else 0.0

    @property
    def picture(self) -> Tensor:
        """The first input's map."""
        number = self.inputs[0].tensor
        assert number is not None
        return self.tensors[number]

    @property
    def given(self) -> tuple[int, ...]:
        """The maps that are inputs."""
        return tuple(dict.fromkeys(port.tensor for port in self.inputs if port.tensor is not None))

    @property
    def results(self) -> tuple[int, ...]:
        """The maps that are outputs, each once."""
        return tuple(dict.fromkeys(port.tensor for port in self.outputs if port.tensor is not None))

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The convolutions that the paper's scheme may distribute (linear layers are not among them)."""
        return tuple(layer for layer in self.layers if isinstance(layer, Conv) and not layer.linear)
