"""Footprint: the bytes that a program takes on the rank that runs it.

A plan that the planner finds to fit is one that the worker accepts, as both ask this function.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fogconv.ir import steps as ir
from fogconv.ir.geometry import BLOCK, BYTES_PER_ELEMENT, ConvSpec
from fogconv.ir.layout import MASTER
from fogconv.ir.memory.algorithm import QUANTIZED, Choose, cheapest, compact, packed_bytes, scratch_elements
from fogconv.ir.memory.bands import banded
from fogconv.ir.memory.sharing import memory_bytes
from fogconv.ir.memory.widening import widened_elements
from fogconv.ir.precision.elements import HALVES
from fogconv.ir.precision.scale import Precision
from fogconv.ir.program import Program

PROCESS_BYTES = 300_000_000
"""What a worker takes beside its programs: the interpreter and its libraries take 120 MB, compiling kernels up to 160 MB
more (LLVM keeps what it made), and the transport the rest."""

MARGIN = 1.1
"""A process may pass its limit by this factor for a moment: pages are taken before the system takes others back."""

WIRE_BYTES = {"fp16": 2, "bf16": 2, "uint8": 1}
"""Of an element in a message; 4 in every other wire."""


class Packing(NamedTuple):
    """The weights of one layer as one algorithm reads them. Parts of a layer at several sizes share it; layers of equal
    weights but another geometry do not."""

    weight: str
    bias: str | None
    activation: str | None
    algorithm: str
    groups: int = 1
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    scales: str | None = None
    precisions: tuple[Precision, ...] = ()
    """On bytes: what it reads and what it makes, which are part of the packed biases and multipliers. In 16 bits: what it
    reads, as weights in fp32 may be those of another net in fp32, too."""

    @classmethod
    def of(cls, program: Program, conv: ir.Conv, algorithm: str) -> Packing:
        spec = conv.spec
        found = cls(conv.weight, conv.bias, conv.activation, algorithm, spec.groups, spec.stride, spec.dilation)
        if spec.element in HALVES:
            return found._replace(precisions=(Precision(spec.element),))
        if spec.element != "uint8":
            return found
        precisions = tuple(program.buffers[at].precision for at in (conv.source, conv.target))
        return found._replace(scales=conv.scales, precisions=precisions)


SHIPPED_BYTES = 32 << 20
"""The most bytes of weights on their way to one rank; there is room for one more weight."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes. ``packed``: weights as the kernels read them; ``plain``: weights that are used as they came; ``maps``: buffers
    and arrays; ``staging``: messages as they are put together and taken apart; ``scratch``: of all threads; ``widened``:
    copies in fp32 of maps of 16 bits; ``mail``: all messages of a run, as they may come early; ``transit``: the largest
    weight, which is there twice while it is packed;
    ``slot``: the largest of the swapped weights, of which one is here at a time; ``arrival``: the weights that stay, and
    those on their way to the disk, before anything else is there. ``disk`` is what those take there, as they came and
    packed."""

    packed: int = 0
    plain: int = 0
    maps: int = 0
    staging: int = 0
    scratch: int = 0
    widened: int = 0
    mail: int = 0
    transit: int = 0
    slot: int = 0
    disk: int = 0
    arrival: int = 0

    @property
    def private(self) -> int:
        """What two programs never share."""
        return self.maps + self.staging + self.scratch + self.widened + self.mail + self.slot

    @property
    def total(self) -> int:
        """Messages come only when all is packed."""
        ready = self.packed + self.plain + self.maps + self.staging + self.scratch + self.widened
        return max(ready + max(self.mail + self.slot, self.transit), self.arrival)


def room(limit_bytes: int) -> int:
    """What a limit leaves for programs."""
    return max(0, limit_bytes - PROCESS_BYTES)


def packings(program: Program, choose: Choose = cheapest) -> dict[Packing, ConvSpec]:
    """Every packing that a program's convs need, with a spec that needs it; those that only a loss would need included."""
    swapped = frozenset(program.swapped)
    found: dict[Packing, ConvSpec] = {}
    of_bytes: dict[Packing, ConvSpec] = {}
    for conv in _convs(program):
        if conv.spec.element == "uint8":
            layer = Packing.of(program, conv, QUANTIZED)
            of_bytes[layer] = max(of_bytes.get(layer, conv.spec), conv.spec, key=lambda spec: spec.output_elements)
        else:
            found[Packing.of(program, conv, compact(conv.spec) if conv.weight in swapped else choose(conv.spec))] = conv.spec
    for layer, spec in of_bytes.items():
        found[layer._replace(algorithm=compact(spec) if layer.weight in swapped else choose(spec))] = spec
    return found


def byte_packings(program: Program, choose: Choose) -> dict[Packing, Packing]:
    """For each packing of an 8-bit conv by the algorithm `QUANTIZED`, the one that all parts of this layer share: the
    largest part's. Both algorithms give the same bits, and one of them takes eight times the memory of the other."""
    needed = packings(program, choose)
    return {packing._replace(algorithm=QUANTIZED): packing for packing, spec in needed.items() if spec.element == "uint8"}


def footprint(
    program: Program,
    *,
    threads: int = 1,
    choose: Choose = cheapest,
    packed: Collection[Packing] = (),
    whole_maps: bool = False,
) -> Footprint:
    """What a program takes with so many threads, where the ``packed`` ones are there already. ``whole_maps``: of an executor
    that keeps every map as a whole, also where the usual one computes band by band."""
    needed = packings(program, choose)
    absent = {packing: spec for packing, spec in needed.items() if packing not in packed}
    swapped, slices = frozenset(program.swapped), _Slices()
    new = {packing: spec for packing, spec in absent.items() if packing.weight not in swapped}
    algorithms = {
        packing._replace(algorithm=QUANTIZED): packing.algorithm
        for packing, spec in needed.items()
        if spec.element == "uint8"
    }
    scratch = max((_scratch(program, conv, algorithms, choose) for conv in _convs(program)), default=0)
    widened = max((widened_elements(program, step) for step in program.steps), default=0)
    used_packed = {packing.weight for packing in needed}
    arrays = [math.prod(step.shape) for step in program.steps if isinstance(step, ir.ArrayRecv)]
    for step in program.steps:
        if isinstance(step, ir.ConvForward | ir.ConvGradInput | ir.ConvGradWeight):
            # Blocked maps in and out, the packed weight, and the plain result.
            arrays.append(step.spec.input_elements + step.spec.output_elements)
            arrays.append(packed_bytes(step.spec, cheapest(step.spec)) // BYTES_PER_ELEMENT)
            arrays.append(max(step.spec.input_elements, step.spec.output_elements))
    sizes = {key: program.weight_bytes(key) for key in program.weights}
    received = [recv for step in program.steps for recv in _received(step)]
    staged: list[ir.Send | ir.Recv] = [step for step in program.steps if isinstance(step, ir.Send)]
    staged += [recv for recv in received if recv.more]
    plain = sum(size for key, size in sizes.items() if key not in used_packed)
    for packing, spec in needed.items():
        if packing.weight in swapped:
            slices.add(packed_bytes(spec, packing.algorithm), sizes[packing.weight] if packing in absent else 0)
    maps = memory_bytes(program) if whole_maps else banded(program, threads, choose).sizes
    stay = plain + sum(sizes[weight] for weight in {packing.weight for packing in new})
    return Footprint(
        packed=sum(packed_bytes(spec, packing.algorithm) for packing, spec in new.items()),
        plain=plain,
        maps=BYTES_PER_ELEMENT * sum(arrays) + sum(maps.values()),
        staging=program.batch * sum(_message_bytes(step) for step in staged),
        scratch=BYTES_PER_ELEMENT * threads * scratch,
        widened=BYTES_PER_ELEMENT * widened,
        mail=program.batch * sum(_message_bytes(recv) for recv in received),
        transit=max([slices.transit, *(sizes[packing.weight] for packing in new)]),
        slot=slices.largest,
        disk=slices.disk,
        # The master has its weights already.
        arrival=stay + SHIPPED_BYTES + slices.transit if slices.transit and program.rank != MASTER else 0,
    )


def _scratch(program: Program, conv: ir.Conv, algorithms: Mapping[Packing, str], choose: Choose) -> int:
    """Elements; ``algorithms``: of 8-bit layers."""
    layer = Packing.of(program, conv, QUANTIZED)
    return scratch_elements(conv.spec, algorithms.get(layer) or choose(conv.spec))


@dataclass(slots=True)
class _Slices:
    """Bytes of swapped weights: the ``largest``, packed; the largest while it is packed; the most on the disk."""

    largest: int = 0
    transit: int = 0
    disk: int = 0

    def add(self, packed: int, plain: int) -> None:
        """``plain`` is 0 for what is packed already."""
        self.largest = max(self.largest, packed)
        if plain:
            self.transit = max(self.transit, packed + plain)
            self.disk += packed + plain


def _convs(program: Program) -> Iterator[ir.Conv]:
    for step in program.steps:
        if isinstance(step, ir.Conv):
            yield step
        elif isinstance(step, ir.Gather):
            yield from (piece.spare for piece in step.pieces)


def _received(step: ir.AnyStep) -> tuple[ir.Recv, ...]:
    if isinstance(step, ir.Gather):
        return ir.gathers(step)
    return (step,) if isinstance(step, ir.Recv) else ()


def _message_bytes(step: ir.Send | ir.Recv) -> int:
    """Of one image; each part begins at a multiple of 16 elements."""
    elements = sum(-(-part.region.elements // BLOCK) * BLOCK for part in step.parts)
    return elements * WIRE_BYTES.get(step.wire, BYTES_PER_ELEMENT)
