"""Network: a model that is ready to be planned, from torch or, if it was exported before, from the cache of graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fogconv.frontend.graph_cache import keep, kept, place
from fogconv.ir.graph import LayerGraph
from fogconv.zoo.card import ModelCard
from fogconv.zoo.model_request import ModelRequest

if TYPE_CHECKING:
    from fogconv.zoo.models import ZooModel


@dataclass(frozen=True)
class Network:
    """``load`` gives the model itself, in torch. ``keep`` writes the graph to the cache, unless it came from there."""

    card: ModelCard
    graph: LayerGraph
    load: Callable[[], ZooModel]
    keep: Callable[[], None]


def open_network(
    request: ModelRequest,
    *,
    batch: int = 1,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    labels: str | Path | None = None,
) -> Network:
    """A model by name or from a ``.pt2`` file, for inputs of ``batch`` pictures.

    ``mean`` and ``std`` per channel and ``labels`` (a file) override the model's own. Raises ModelError, DependencyError
    as `fogconv.zoo.load` and the export do.
    """
    path = place(request, batch)
    found = kept(path)
    if found is not None:
        card, graph = found
        return Network(card.with_(mean, std, labels), graph, lambda: _loaded(request), lambda: None)
    model = _loaded(request)
    graph = _exported(model, batch)

    def keep_it() -> None:
        from fogconv.zoo.models import checkpoint

        published = checkpoint(request.name) if model.weights_origin.startswith("pretrained: torchvision") else None
        keep(path, request, model, graph, published)

    return Network(model.with_(mean, std, labels), graph, lambda: model, keep_it)


def network_graph(request: ModelRequest, *, batch: int = 1) -> LayerGraph:
    """The graph alone. An exported graph is stored for the next time."""
    network = open_network(request, batch=batch)
    network.keep()
    return network.graph


def _loaded(request: ModelRequest) -> ZooModel:
    from fogconv.zoo.models import load_model

    return load_model(request.name, weights=request.weights, size=request.size, trust=request.trust)


def _exported(model: ZooModel, batch: int) -> LayerGraph:
    from fogconv.frontend.torch.export import export

    return export(model.module, model.example(batch), model.name)
