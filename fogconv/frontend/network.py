"""Network: a model that is ready to be planned: from torch, from the cache of graphs, or from an ``.onnx`` file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fogconv.errors import DependencyError, ModelError, with_extra
from fogconv.frontend.building.values import as_sides
from fogconv.frontend.graph_cache import keep, kept, place
from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.zoo.card import ModelCard, packaged_labels
from fogconv.zoo.model_request import ModelRequest
from fogconv.zoo.preprocessing import Preprocessing
from fogconv.zoo.wheels.download import kept_model
from fogconv.zoo.wheels.registry import WHEEL_MODELS, is_wheel_onnx

if TYPE_CHECKING:
    from fogconv.zoo.models import ZooModel


@dataclass(frozen=True)
class Alone:
    """A model in its own framework, on this device alone. ``run`` maps its inputs to its outputs, in the graph's order."""

    framework: str
    run: Callable[[Sequence[Array]], list[Array]]


@dataclass(frozen=True)
class Network:
    """``in_framework`` loads the model in its own framework, for so many threads. ``keep`` writes the graph to the cache,
    unless it came from there. ``rounded`` says in words which size a model of any size got for the first picture's."""

    card: ModelCard
    graph: LayerGraph
    in_framework: Callable[[int], Alone]
    keep: Callable[[], None]
    rounded: str | None = None

    def alone(self, threads: int = 0) -> Alone:
        """The model in its own framework. 0 threads: as many as ONNX Runtime likes; torch has a setting of its own."""
        return self.in_framework(threads)


def open_network(
    request: ModelRequest,
    *,
    batch: int = 1,
    frame: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    labels: str | Path | None = None,
) -> Network:
    """A model by name, or from a ``.pt2`` or ``.onnx`` file, for inputs of ``batch`` pictures.

    ``frame`` is the first picture's size (H, W), for a model of any size where the request has none: rounded up to what the
    net wants. ``mean`` and ``std`` per channel and ``labels`` (a file) override the model's own. Raises ModelError,
    DependencyError as `fogconv.zoo.load` and the export do.
    """
    if request.name.endswith(".onnx") or is_wheel_onnx(request.name):
        found = _from_onnx(request, batch, frame)
        return replace(found, card=found.card.with_(mean, std, labels))
    path = place(request, batch)
    known = kept(path)
    if known is not None:
        card, graph = known
        return Network(card.with_(mean, std, labels), graph, lambda threads: _in_torch(_loaded(request)), lambda: None)
    model = _loaded(request)
    graph = _exported(model, batch)

    def keep_it() -> None:
        from fogconv.zoo.models import checkpoint

        published = checkpoint(request.name) if model.weights_origin.startswith("pretrained: torchvision") else None
        keep(path, request, model, graph, published)

    return Network(model.with_(mean, std, labels), graph, lambda threads: _in_torch(model), keep_it)


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

    return export(model.module, model.examples(batch), model.name)


def _in_torch(model: ZooModel) -> Alone:
    import torch

    from fogconv.frontend.torch.export import leaves

    @torch.inference_mode()
    def run(inputs: Sequence[Array]) -> list[Array]:
        return [leaf.numpy() for leaf in leaves(model.module(*map(torch.from_numpy, inputs)))]

    return Alone("torch", run)


def _from_onnx(request: ModelRequest, batch: int, frame: tuple[int, int] | None) -> Network:
    """Without the cache of graphs: a file is read faster than torch is imported."""
    known = WHEEL_MODELS.get(request.name)
    path = Path(request.name) if known is None else kept_model(known)
    if request.weights != "pretrained":
        raise ModelError(f"{request.name} contains its own weights; omit --weights")
    try:
        from fogconv.frontend.onnx.model_file import characters, read_model, seeded_origin
        from fogconv.frontend.onnx.read import graph_of
        from fogconv.frontend.onnx.runtime import in_onnx_runtime
    except ImportError as error:
        raise DependencyError(f"{path} needs {error.name}, which is not installed: {with_extra('onnx')}") from error
    size = (request.size, request.size) if isinstance(request.size, int) else request.size
    asked = size
    if known is not None:
        size = known.fitting.usual if size is None else known.fitting.rounded_up(size)
    model = read_model(
        path,
        size=size,
        batch=batch,
        shapes=dict(request.shapes),
        frame=frame,
        states_size=known is None or known.states_size,
    )
    graph = graph_of(model, path.stem if known is None else known.name)
    crop = as_sides(model.shape)[1:]
    shape = graph.outputs[0].shape
    classes = shape[-1] if len(graph.outputs) == 1 and shape is not None and len(shape) == 2 else 0
    labels = packaged_labels() if classes == 1000 else ()
    preprocessing = Preprocessing(crop, round(min(crop) * 256 / 224))
    if known is not None:
        origin = f"pretrained: {known.wheel.package} {known.wheel.version}"
        card = ModelCard(
            known.name, preprocessing, known.labels or characters(model), origin, task=known.task, fitting=known.fitting
        )
    else:
        origin = ", ".join(filter(None, (seeded_origin(model), f"as saved in {path.name}")))
        card = ModelCard(path.stem, preprocessing, labels, origin)
    rounded = None
    if known is not None and asked is not None and asked != crop:
        rounded = "{}×{}, {}×{} rounded up to multiples of {}".format(*crop, *asked, known.fitting.multiple)
    elif model.multiple and frame is not None:
        (height, width), sides = crop, "×".join(map(str, frame))
        rounded = f"{height}×{width}, the first picture's {sides} rounded up to multiples of {model.multiple}"

    def in_framework(threads: int) -> Alone:
        return Alone("ONNX Runtime", in_onnx_runtime(model, threads))

    return Network(card, graph, in_framework, lambda: None, rounded)
