"""Pins: layers that one rank computes whole, and the tensors before the first pooling, which stay on the master.

features.0=1      the layer features.0, and all beneath that name, on rank 1
features.0-4=0    features.0 to features.4, and all beneath, on the master
layer1-3=2        layer1 to layer3
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fogconv.errors import InputError, shown, unknown
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import GlobalPool, Host, Pool
from fogconv.ir.layout import MASTER
from fogconv.values import table

_RANGE = re.compile(r"(.*?)([0-9]{1,9})-([0-9]{1,9})", re.DOTALL)
LONGEST = 255
FORM = "write LAYER=RANK or FIRST-LAST=RANK, such as features.0-4=0"


@dataclass(frozen=True, slots=True)
class Pin:
    """``layers`` as it is written, ``rank`` the one that computes them."""

    layers: str
    rank: int

    @staticmethod
    def parse(text: str) -> Pin:
        """Raises InputError for anything but LAYERS=RANK."""
        layers, equals, rank = text.rpartition("=")
        if not equals or not layers or len(layers) > LONGEST or not layers.isprintable():
            raise InputError(f"pin {shown(text)}: {FORM}")
        try:
            return Pin(layers, int(table.RANK.read(rank)))
        except InputError as error:
            raise InputError(f"pin {shown(text)}: the rank {error}") from None

    def __str__(self) -> str:
        return f"{self.layers}={self.rank}"

    def holds(self, name: str) -> bool:
        """Whether it pins the layer of this name."""
        if name == self.layers or name.startswith(self.layers + "."):
            return True
        ends = _RANGE.fullmatch(self.layers)
        if ends is None:
            return False
        number = re.fullmatch(re.escape(ends[1]) + r"([0-9]{1,9})(\..*)?", name, re.DOTALL)
        return number is not None and int(ends[2]) <= int(number[1]) <= int(ends[3])


def pinned(graph: LayerGraph, pins: Iterable[Pin], ranks: int) -> dict[int, int]:
    """Tensor → the only rank that may compute it. Raises InputError for a pin of no layer or no rank, for two pins of one
    layer, and for one that takes a layer from the master that only the master knows."""
    found: dict[int, int] = {}
    by: dict[int, Pin] = {}
    for pin in pins:
        if pin.rank >= ranks:
            raise InputError(f"--pin {pin}: there are ranks 0 to {ranks - 1}")
        layers = [layer for layer in graph.layers if pin.holds(layer.name)]
        if not layers:
            names = {layer.name for layer in graph.layers if not layer.relabels}
            raise InputError(f"--pin {shown(str(pin))}: {unknown('layer', pin.layers, names)}")
        for layer in layers:
            if layer.relabels or not layer.writes:
                continue
            if isinstance(layer, Host) and pin.rank != MASTER:
                raise InputError(f"--pin {pin}: {layer.name} runs outside of fogconv, on the master only")
            for tensor in layer.writes:
                if found.setdefault(tensor, pin.rank) != pin.rank:
                    raise InputError(f"--pin {by[tensor]} and --pin {pin} contradict each other: both pin {layer.name}")
                by.setdefault(tensor, pin)
    return found


def before_pooling(graph: LayerGraph) -> frozenset[int]:
    """The input, and every tensor that comes of it without a pooling between. Raises InputError where there is none."""
    if not any(isinstance(layer, Pool | GlobalPool) for layer in graph.layers):
        raise InputError(
            f"--keep-input-home ends at the first pooling, and {graph.name} has none: --pin its first layers to 0"
        )
    found = set(graph.given)
    for layer in graph.layers:
        if isinstance(layer, Pool | GlobalPool):
            continue
        # A concatenation or a sum still holds what any of its parts shows.
        if any(tensor in found for tensor in layer.reads):
            found |= set(layer.writes)
    return frozenset(found)


def check_together(graph: LayerGraph, at: dict[int, int], still: frozenset[int]) -> None:
    """Raises InputError where a pin would send a tensor that stays on the master."""
    for layer in graph.layers:
        rank = at.get(layer.writes[0], MASTER) if layer.writes else MASTER
        kept = [tensor for tensor in layer.reads if tensor in still]
        if rank != MASTER and kept:
            raise InputError(
                f"--pin puts {layer.name} on rank {rank}, and --keep-input-home keeps {graph.tensors[kept[0]].name}, which "
                "it reads, on the master; leave one out"
            )


def among(pins: Sequence[Pin], ranks: Sequence[int]) -> tuple[Pin, ...]:
    """The pins in a cluster of these ranks, renumbered; what a lost rank had, the master computes."""
    new = {old: i for i, old in enumerate(ranks)}
    return tuple(Pin(pin.layers, new.get(pin.rank, MASTER)) for pin in pins)
