"""Program: what one rank does in one inference, as data.

A program does not depend on a model: it names local buffers, weights by content hash, and steps (`fogconv.ir.steps`) in the
order in which they run. Each buffer is a region of some tensor in the blocked layout, and the regions of steps are in that
tensor's coordinates, the same on every rank. Every message of a run has its own tag, so that the order on the wire does not
matter.

Everything here is frozen and is sent as msgpack.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache

import msgspec

from fogconv.ir.geometry import MapSpec, Region, StepSpec
from fogconv.ir.precision.elements import WEIGHT_BYTES, WeightType
from fogconv.ir.steps import (
    AnyStep,
    ArrayRecv,
    ArraySend,
    Buffer,
    Copy,
    Gather,
    Host,
    Input,
    MapStep,
    Recv,
    Send,
    gathers,
)
from fogconv.ir.steps.step import Step


class Program(msgspec.Struct, frozen=True):
    """``layers`` are names for the trace; ``weights`` are the content hashes that the steps refer to, with their shapes;
    ``weight_types`` has those that are not of fp32.

    ``shares`` names the arrays (see ArrayInput and the steps after it) that programs of one session have in common.
    ``swapped`` are those of the weights, of convs only, that lie on the rank's disk and are read before each use.
    """

    rank: int
    ranks: int
    batch: int
    layers: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[AnyStep, ...]
    weights: dict[str, tuple[int, ...]]
    shares: str = ""
    swapped: tuple[str, ...] = ()
    weight_types: dict[str, WeightType] = {}

    def work(self, step: AnyStep) -> StepSpec | None:
        """What a step computes, at its size and in its precision; None for steps that do no work on maps."""
        found = step.work(self.batch)
        if not isinstance(found, MapSpec):
            return found
        element = self.buffers[next(buffers_of(step))].precision.element
        return found if element == "fp32" else replace(found, element=element)

    def weight_bytes(self, key: str) -> int:
        """Of a weight, as it came."""
        return WEIGHT_BYTES[self.weight_types.get(key, "float32")] * math.prod(self.weights[key])

    @property
    def peers(self) -> frozenset[int]:
        """The ranks with which this one exchanges messages."""
        to = {step.to for step in self.steps if isinstance(step, Send | ArraySend)}
        origin = {step.origin for step in self.steps if isinstance(step, Recv | ArrayRecv)}
        gathered = {recv.origin for step in self.steps if isinstance(step, Gather) for recv in gathers(step)}
        return frozenset(to | origin | gathered)


def buffers_of(step: AnyStep) -> Iterator[int]:
    """All buffers that a step reads or writes: its fields "source" and "target", and each that has a field of its region or
    regions beside it."""
    for name in _buffer_fields(type(step)):
        held = getattr(step, name)
        yield from held if isinstance(held, tuple) else () if held is None else (held,)
    if isinstance(step, Send | Recv):
        yield from (part.buffer for part in step.more)
    elif isinstance(step, Gather):
        for piece in step.pieces:
            yield from buffers_of(piece.spare)
            yield from () if piece.check is None else (piece.check.source,)
        for recv in gathers(step):
            yield from buffers_of(recv)


def places_of(step: MapStep) -> Iterator[tuple[int, Region]]:
    """The buffers that a step on maps reads or writes, with the region of each: the result's last."""
    fields = [name for name in _buffer_fields(type(step)) if name != "target"]
    for name in (*fields, "target"):
        held = getattr(step, name)
        if isinstance(held, tuple):
            yield from zip(held, getattr(step, f"{name.removesuffix('s')}_regions"), strict=True)
        elif held is not None:
            yield held, getattr(step, f"{name}_region")


def written(step: AnyStep) -> Iterator[tuple[int, Region]]:
    """The buffers that a step writes, with the region of each."""
    match step:
        case Input():
            yield step.target, step.region
        case Host():
            yield from zip(step.targets, step.target_regions, strict=True)
        case Recv():
            yield from ((part.buffer, part.region) for part in step.parts)
        case Gather():
            for recv in gathers(step):
                yield from written(recv)
        case Copy():
            yield step.target, step.region.shift_channels(step.shift)
        case _ if isinstance(step, MapStep):
            yield step.target, step.target_region


@cache
def _buffer_fields(kind: type[Step]) -> tuple[str, ...]:
    names = kind.__struct_fields__
    return tuple(
        name
        for name in names
        if name in ("source", "target") or f"{name}_region" in names or f"{name.removesuffix('s')}_regions" in names
    )


def expendable(programs: Iterable[Program]) -> frozenset[int]:
    """The ranks without whose messages a run can end: everything that they send is gathered, nothing is received by a
    Recv."""
    gathered: set[int] = set()
    awaited: set[int] = set()
    for program in programs:
        for step in program.steps:
            if isinstance(step, Gather):
                gathered |= {recv.origin for recv in gathers(step)}
            elif isinstance(step, Recv | ArrayRecv):
                awaited.add(step.origin)
    return frozenset(gathered - awaited - {0})


def encode(program: Program) -> bytes:
    return msgspec.msgpack.encode(program)


def decode(data: bytes) -> Program:
    """Decode a Program. Raises msgspec.ValidationError (or DecodeError) for other data."""
    return _DECODER.decode(data)


_DECODER = msgspec.msgpack.Decoder(Program)
