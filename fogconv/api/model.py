"""What may be given as a model, and the LayerGraph that it becomes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fogconv.errors import InputError
from fogconv.ir.graph import LayerGraph

if TYPE_CHECKING:
    import torch

AnyModel = Any
"""A torch.nn.Module, a name of `fogconv.zoo.names()` or what `fogconv.zoo.load` gave, the path of a ``.pt2`` file, or a
LayerGraph."""


def graph_of(
    model: AnyModel, *, example: Any = None, weights: str = "pretrained", size: int | None = None, trust: bool = False
) -> LayerGraph:
    """The LayerGraph of a model.

    ``example`` is an input (N, C, H, W), an array or a tensor: a module needs one, and elsewhere it says the batch and the
    size. ``weights`` ('pretrained', 'random' or a state_dict's path) and ``size`` in pixels are for models by name;
    ``trust`` lets a ``.pt2`` file run code when it is loaded.
    Raises InputError where the example is missing or has another shape, ModelError for a model that can't be exported.
    """
    if isinstance(model, LayerGraph):
        return model
    from fogconv.frontend.torch.export import export
    from fogconv.zoo.models import ZooModel, load_model

    if isinstance(model, str | Path):
        if size is None and example is not None:
            size = _tensor(example).shape[-1]
        model = load_model(str(model), weights=weights, size=size, trust=trust)
    if isinstance(model, ZooModel):
        return export(model.module, model.example() if example is None else _tensor(example), model.name)
    import torch

    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"a {type(model).__name__} is no model; give a torch.nn.Module, a name of fogconv.zoo.names(), or a .pt2 file"
        )
    if example is None:
        raise InputError("a torch module needs an example of its input: compile(model, cluster, example=x)")
    return export(model, _tensor(example), type(model).__name__)


def _tensor(example: Any) -> torch.Tensor:
    import torch

    found = example if isinstance(example, torch.Tensor) else torch.from_numpy(np.asarray(example))
    if found.ndim != 4:
        raise InputError(f"the example has the shape {tuple(found.shape)}; it must be (N, C, H, W)")
    return found.detach().to(torch.float32)
