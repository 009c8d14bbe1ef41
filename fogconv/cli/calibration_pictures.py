"""Calibration pictures: files and folders of them, as a network's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fogconv.cli.pictures import inputs, opened
from fogconv.errors import InputError, shown
from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.zoo.card import ModelCard

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".npy")
MOST = 512
"""Pictures: more take longer and change nothing."""


def batches(names: Sequence[str], card: ModelCard, graph: LayerGraph) -> list[list[Array]]:
    """The pictures as inputs of the graph, in its batches. Raises InputError, ModelError."""
    if len(graph.inputs) != 1:
        raise InputError(f"{graph.name} has {len(graph.inputs)} inputs; pictures calibrate a model of one")
    files = [file for name in names for file in _files(name)][:MOST]
    found, tensor = [], graph.picture
    for start in range(0, len(files), tensor.batch):
        group = opened(files[start : start + tensor.batch])
        group = tuple(group[at % len(group)] for at in range(tensor.batch))
        found.append([inputs(card, group, tensor.shape).x])
    return found


def _files(name: str) -> list[str]:
    """Those of a folder by their names' suffixes."""
    folder = Path(name)
    if not folder.is_dir():
        return [name]
    try:
        files = sorted(str(path) for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise InputError(f"--calibrate {shown(name)}: can't be read: {error.strerror or error}") from error
    if not files:
        raise InputError(f"--calibrate {shown(name)}: the folder has no picture ({', '.join(SUFFIXES)})")
    return files
