"""Published accuracies: what the zoo's models reach on ImageNet-1K, by their publishers' figures.

fogconv/zoo/data/accuracy.json holds them, with their source (`python -m bench.zoo_graphs` writes it).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import msgspec


class Accuracy(msgspec.Struct, frozen=True):
    """Of one model's default weights: the share of test images, in percent, whose class is the first answer, or among the
    first five. ``source`` where it is not the file's."""

    weights: str
    top1: float = msgspec.field(name="acc@1")
    top5: float | None = msgspec.field(name="acc@5", default=None)
    source: str = ""


class _File(msgspec.Struct):
    source: str
    models: dict[str, Accuracy]


@cache
def _file() -> _File:
    data = resources.files("fogconv.zoo").joinpath("data/accuracy.json").read_bytes()
    return msgspec.json.decode(data, type=_File)


def accuracies() -> Mapping[str, Accuracy]:
    """By the model's name."""
    return _file().models


def source() -> str:
    """Where they were published."""
    return _file().source
