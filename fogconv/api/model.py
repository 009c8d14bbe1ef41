"""The types accepted as a model, and their conversion to a LayerGraph."""

from __future__ import annotations

from collections.abc import Mapping
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
    model: AnyModel,
    *,
    example: Any = None,
    weights: str = "pretrained",
    size: int | tuple[int, int] | None = None,
    trust: bool = False,
) -> LayerGraph:
    """The LayerGraph of a model.

    ``example`` is an input (N, C, H, W), an array or a tensor, or a tuple of several inputs: a module needs one; for
    other models it gives the batch and the size, and the shapes of further inputs. ``weights`` ('pretrained', 'random'
    or a state_dict's path) and ``size`` in pixels (one number, or (H, W)) are for models by name; ``trust`` lets a
    ``.pt2`` file run code when it is loaded. Raises InputError where the example is missing or has another shape,
    ModelError for a model that can't be exported.
    """
    if isinstance(model, LayerGraph):
        return model
    if isinstance(model, str | Path):
        batch, pixels = (1, size) if example is None else _extent(example, size)
        return network_graph(ModelRequest(str(model), weights, pixels, trust, _shapes(example)), batch=batch)
    from fogconv.frontend.torch.export import export
    from fogconv.zoo.models import ZooModel

    if isinstance(model, ZooModel):
        return export(model.module, model.examples() if example is None else _tensors(example), model.name)
    import torch

    if not isinstance(model, torch.nn.Module):
        known = "a torch.nn.Module, a name of fogconv.zoo.names(), or a .pt2 or .onnx file"
        raise InputError(f"{type(model).__name__} is not a model; give {known}")
    if example is None:
        raise InputError("a torch module needs an example of its input: compile(model, cluster, example=x)")
    sequences = any(isinstance(part, torch.nn.Conv1d | torch.nn.ConvTranspose1d) for part in model.modules())
    return export(model, _tensors(example, sequences=sequences), type(model).__name__)


def _extent(example: Any, size: int | tuple[int, int] | None) -> tuple[int, int | tuple[int, int] | None]:
    """The batch and the size in pixels of an example: of the first of its inputs that is (N, C, H, W). Sequences (N, C, L)
    have none: ``size`` stays as it is."""
    shapes = [shape for _, shape in _shapes(example)]
    shape = next((each for each in shapes if len(each) == 4), None)
    if shape is None and shapes and len(shapes[0]) == 3:
        return shapes[0][0], size
    if shape is None:
        raise InputError(f"the example has the shape {', '.join(map(str, shapes))}; it must be (N, C, H, W), or (N, C, L)")
    height, width = (int(side) for side in shape[2:])
    return int(shape[0]), height if height == width else (height, width)


def _shapes(example: Any) -> tuple[tuple[str | int, tuple[int, ...]], ...]:
    """The inputs' shapes by name, where they are given by name, else by number."""
    if example is None:
        return ()
    if isinstance(example, Mapping):
        return tuple((str(name), tuple(np.shape(value))) for name, value in example.items())
    several = example if isinstance(example, tuple) else (example,)
    return tuple((number, tuple(np.shape(value))) for number, value in enumerate(several))


def _tensors(example: Any, *, sequences: bool = False) -> tuple[torch.Tensor, ...]:
    """The example's inputs, those of floats in float32. ``sequences``: the first may be (N, C, L)."""
    import torch

    several = example if isinstance(example, tuple) else (example,)
    found = [each if isinstance(each, torch.Tensor) else torch.from_numpy(np.asarray(each)) for each in several]
    if found[0].ndim not in ((3, 4) if sequences else (4,)):
        raise InputError(f"the example has the shape {tuple(found[0].shape)}; it must be (N, C, H, W), or (N, C, L)")
    return tuple(each.detach().to(torch.float32) if each.is_floating_point() else each for each in found)
