"""The types accepted as a model, and their conversion to a LayerGraph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fogconv.errors import InputError
from fogconv.frontend.network import network_graph
from fogconv.ir.graph import LayerGraph
from fogconv.zoo.model_request import ModelRequest

if TYPE_CHECKING:
    import torch

AnyModel = Any
"""A torch.nn.Module, a name of `fogconv.zoo.names()` or a result of `fogconv.zoo.load`, the path of a ``.pt2`` or ``.onnx``
file, or a LayerGraph."""


def graph_of(
    model: AnyModel, *, example: Any = None, weights: str = "pretrained", size: int | None = None, trust: bool = False
) -> LayerGraph:
    """The LayerGraph of a model.

    ``example`` is an input (N, C, H, W), an array or a tensor: a module needs one; for other models it gives the batch
    and the size. ``weights`` ('pretrained', 'random' or a state_dict's path) and ``size`` in pixels are for models by
    name; ``trust`` lets a ``.pt2`` file run code when it is loaded. Raises InputError where the example is missing or has
    another shape, ModelError for a model that can't be exported.
    """
    if isinstance(model, LayerGraph):
        return model
    if isinstance(model, str | Path):
        batch, pixels = (1, size) if example is None else _extent(example)
        return network_graph(ModelRequest(str(model), weights, pixels, trust), batch=batch)
    from fogconv.frontend.torch.export import export
    from fogconv.zoo.models import ZooModel

    if isinstance(model, ZooModel):
        return export(model.module, model.example() if example is None else _tensor(example), model.name)
    import torch

    if not isinstance(model, torch.nn.Module):
        known = "a torch.nn.Module, a name of fogconv.zoo.names(), or a .pt2 or .onnx file"
        raise InputError(f"a {type(model).__name__} is not a model; give {known}")
    if example is None:
        raise InputError("a torch module needs an example of its input: compile(model, cluster, example=x)")
    return export(model, _tensor(example), type(model).__name__)


def _extent(example: Any) -> tuple[int, int | tuple[int, int]]:
    """The batch and the size in pixels of an example."""
    shape = tuple(np.shape(example))
    if len(shape) != 4:
        raise InputError(f"the example has the shape {shape}; it must be (N, C, H, W)")
    height, width = (int(side) for side in shape[2:])
    return int(shape[0]), height if height == width else (height, width)


def _tensor(example: Any) -> torch.Tensor:
    import torch

    found = example if isinstance(example, torch.Tensor) else torch.from_numpy(np.asarray(example))
    if found.ndim != 4:
        raise InputError(f"the example has the shape {tuple(found.shape)}; it must be (N, C, H, W)")
    return found.detach().to(torch.float32)
