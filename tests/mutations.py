"""Mutations: what is packed as MessagePack with a few of its values changed, for fuzzers that know the structure."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec

ODD = (
    *(-1, 0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 64, 2**16, 2**16 - 1, 2**31, 2**31 - 1, 2**32),
    *(2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63)),
)  # fmt: skip


def mutated(packed: bytes, generator: random.Random) -> bytes:
    """One value of a tree changed, two of a kind exchanged, or one of its ``steps`` left out, doubled or moved."""
    try:
        tree = msgspec.msgpack.decode(packed)
        paths = [path for path in _paths(tree) if path]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return packed
    if not paths:
        return packed
    match generator.randrange(8):
        case 0 if isinstance(tree, dict):
            steps = tree.get("steps") or [None]
            place = generator.randrange(len(steps))
            moved = steps.pop(place)
            for _ in range(generator.choice([0, 1, 2])):
                steps.insert(generator.randrange(len(steps) + 1), moved)
            tree["steps"] = steps
        case 1 | 2:
            one = generator.choice(paths)
            others = [path for path in paths if path[-1] == one[-1] and type(_at(tree, path)) is type(_at(tree, one))]
            other = generator.choice(others)
            a, b = _at(tree, one), _at(tree, other)
            _put(tree, one, b)
            _put(tree, other, a)
        case _:
            leaves = [path for path in paths if isinstance(_at(tree, path), int | float | str | None)]
            path = generator.choice(leaves or paths)
            _put(tree, path, _other(_at(tree, path), generator))
    try:
        return msgspec.msgpack.encode(tree)
    except (OverflowError, ValueError):
        return packed


def _other(value: Any, generator: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return generator.choice([True, False, None, 0, 1])
    if isinstance(value, int):
        return generator.choice([value + 1, value - 1, value * 2, value + 16, -value, generator.choice(ODD)])
    if isinstance(value, float):
        return generator.choice([0.0, -1.0, math.nan, math.inf, 1e308, value * 2])
    if isinstance(value, str):
        words = ("", "fp16", "bf16", "zeros", "lz4", "relu", "silu", "max", "avg", "leaky_relu", "maximum", "x" * 100)
        return generator.choice(words)
    return generator.choice(ODD)


def _paths(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += _paths(value, (*path, key))
    elif isinstance(tree, list):
        for place, value in enumerate(tree):
            found += _paths(value, (*path, place))
    return found


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    try:
        _at(tree, path[:-1])[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        return  # the first exchange moved the place of the second
