"""Steps on 16-bit maps: the kernels of fp32 on copies of them, but where a kernel reads or writes 16 bits itself.

A step's maps of 16 bits are widened before it, and what it makes is rounded after it. Convolutions take weights of 16 bits
and round in their registers (see `fogconv.kernels.conv.conv.PreparedConv2d.makes_halves`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from fogconv.cluster.executor.interface import Binder
from fogconv.cluster.executor.map_steps import KERNELS
from fogconv.cluster.protocol.codec import Frame
from fogconv.errors import KernelError
from fogconv.ir import steps as ir
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, Region, Span
from fogconv.ir.memory.widening import copy_elements, margin_of, widened_elements
from fogconv.ir.program import places_of
from fogconv.kernels.conv.conv import PreparedConv2d
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.bound import Bound, sequence
from fogconv.kernels.maps.halves import bind_narrow, bind_widen
from fogconv.kernels.quantized.conv import PreparedBytes

MapPlace = tuple[int, Region]


def bind_halves(binder: Binder, step: ir.AnyStep) -> Bound:
    """The call of a step some of whose maps are of 16 bits. Raises KernelError for a step that can't have such."""
    if isinstance(step, ir.Convert):
        return _convert(binder, step)
    bind = KERNELS.get(type(step))
    if bind is None or not isinstance(step, ir.MapStep):
        raise KernelError(f"there is no step {type(step).__name__} of 16-bit maps")
    wide = Widened(binder, step, _as_they_are(binder, step))
    bound = bind(wide, step)
    return sequence([*wide.before, bound, *wide.after])


def _convert(binder: Binder, step: ir.Convert) -> Bound:
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    read, made = (binder.program.buffers[buffer].precision for buffer in (step.source, step.target))
    if read.is_half and made.element == "fp32":
        return bind_widen(source, target)
    if read.element == "fp32" and made.is_half:
        return bind_narrow(source, target)
    raise KernelError(f"a map of {read.element} can't be converted to {made.element}")


def _as_they_are(binder: Binder, step: ir.MapStep) -> frozenset[MapPlace]:
    """The maps of 16 bits that a step's kernel reads or writes itself."""
    if not isinstance(step, ir.Conv):
        return frozenset()
    prepared, buffers = binder.prepare(step), binder.program.buffers
    found: set[MapPlace] = set()
    if prepared.reads != "fp32":
        found.add((step.source, step.source_region))
    made = {(step.target, step.target_region)}
    if step.residual is not None and step.residual_region is not None:
        made.add((step.residual, step.residual_region))
    halves = all(buffers[buffer].precision.is_half for buffer, _ in made)
    # What is both source and residual is one map, in one form.
    if prepared.makes_halves and halves and (found or (step.source, step.source_region) not in made):
        found |= made
    return frozenset(found)


class Widened:
    """A binder that gives copies in fp32 for a step's maps of 16 bits, but for those ``as_they_are``. ``before`` fills them,
    ``after`` rounds what was made."""

    def __init__(self, binder: Binder, step: ir.MapStep, as_they_are: Collection[MapPlace] = ()) -> None:
        self.program, self.wide = binder.program, binder.wide
        self.before: list[Bound] = []
        self.after: list[Bound] = []
        self._binder, self._step, self._as_they_are = binder, step, as_they_are
        *read, self._made = places_of(step)
        self._read = frozenset(read)
        self._copies: dict[MapPlace, Blocked] = {}
        self._memory = binder.wide.borrow(widened_elements(binder.program, step))
        self._used = 0

    def view(self, buffer: int, region: Region) -> Blocked:
        place = buffer, region
        if not self.program.buffers[buffer].precision.is_half or place in self._as_they_are:
            return self._binder.view(buffer, region)
        if place not in self._copies:
            self._copies[place] = self._copy(buffer, region)
        return self._copies[place]

    def _copy(self, buffer: int, region: Region) -> Blocked:
        half, margin = self._binder.view(buffer, region), Margin(*margin_of(self._step, buffer))
        size = copy_elements(self.program, buffer, region, margin)
        memory = self._memory[self._used : self._used + size]
        self._used += size
        copy = Blocked.within(memory, self.program.batch, *region.shape, margin)
        if (buffer, region) == self._made:
            self.after.append(bind_narrow(copy, half))
        if (buffer, region) != self._made or self._made in self._read:
            self.before.append(bind_widen(half, copy, margin))
        return copy

    def around(self, buffer: int, region: Region) -> tuple[Blocked, int]:
        lane = (region.channels.start - self.program.buffers[buffer].region.channels.start) % BLOCK
        return self.view(buffer, region.with_channels(Span(region.channels.start - lane, region.channels.stop))), lane

    def prepare(self, step: ir.Conv) -> PreparedConv2d:
        return self._binder.prepare(step)

    def prepare_bytes(self, step: ir.Conv) -> PreparedBytes:
        return self._binder.prepare_bytes(step)

    def insert(self, step: ir.Recv) -> Callable[[Frame], None]:
        return self._binder.insert(step)

    def compute(self, step: ir.AnyStep) -> Callable[[], None]:
        return self._binder.compute(step)

    def weight(self, key: str) -> Array:
        return self._binder.weight(key)
