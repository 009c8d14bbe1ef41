"""Values: what a model's values are while its graph is built.

A value of the model is one of

    Ref     a map (or the same elements in another shape: a flattened map, squeezed axes) that some layer wrote
    Const   a tensor that does not depend on the input: weights, and whatever is computed from them alone
    Hosted  anything else; the model's own framework computes it on the master
    Padded  a map with zeros around it that the following conv will add to its own padding
    Last    a map with its channels as the last axis: what ConvNeXt computes its layer norms and linear layers on
    Many    the results of an operation that has several
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Ref:
    """The elements of map number ``tensor``, in this shape."""

    tensor: int
    shape: Shape


@dataclass(frozen=True)
class Const:
    """In the framework's own type: a torch tensor, or a numpy array."""

    value: Any


@dataclass(frozen=True)
class Hosted:
    pass


@dataclass(frozen=True)
class Padded:
    """``tensor`` with (top, bottom, left, right) zeros around it."""

    tensor: int
    padding: tuple[int, int, int, int]


@dataclass(frozen=True)
class Last:
    """The elements of map number ``tensor`` as (N, H, W, C). Rules that know it compute on the map; for others the framework
    permutes on the master."""

    tensor: int


@dataclass(frozen=True)
class Many:
    values: tuple[Ref | None, ...]


Value = Ref | Const | Hosted | Padded | Last | Many


def as_sides(shape: Shape) -> tuple[int, int, int]:
    """Channels, rows and columns of a map for a value of this shape: a sequence (N, C, L) is a map of one row."""
    channels, *sides = shape[1:]
    return (channels, 1, sides[0]) if len(sides) == 1 else (channels, sides[0], sides[1])


def spread(one: Shape, other: Shape, result: Shape) -> bool:
    """Whether two 4-D operands of these shapes give the result where each may be of length 1 along axes of it."""
    return len(one) == len(other) == len(result) and all(
        {a, b} <= {1, n} and n in (a, b) for a, b, n in zip(one, other, result, strict=True)
    )
