"""Operator: what planning, lowering and reports ask any layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fogconv.errors import GeometryError
from fogconv.ir.geometry import MapSpec, Region, StepSpec
from fogconv.ir.layers.tensor import Tensor
from fogconv.ir.precision.elements import Element
from fogconv.ir.shard import Work

Needs = tuple[tuple[int, Region], ...]
"""(tensor, region) for everything that a Work reads."""


class Operator:
    """The interface of all layers for planning, lowering and reports. A new type of layer overrides what differs.

    ``relabels``: it only renumbers channels; nothing is computed. ``by_channels``: some channels of its output need only
    the same channels of what it reads. ``by_sums``: it can be summed from parts over its input's rows and columns.
    ``from_lanes``: its kernel reads channels of one block from any lane on. ``weight_keys``: the attributes that name arrays
    in ``LayerGraph.weights``.
    """

    __slots__ = ()
    relabels: ClassVar[bool] = False
    by_channels: ClassVar[bool] = True
    by_sums: ClassVar[bool] = False
    from_lanes: ClassVar[bool] = False
    weight_keys: ClassVar[tuple[str, ...]] = ()

    @property
    def kind(self) -> str:
        """Its name in reports."""
        return type(self).__name__.lower()

    @property
    def reaches(self) -> bool:
        """Whether an output row needs input rows other than its own."""
        return False

    def pieces(self, tensors: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
        """(tensor, channel offset) of the parts of the output, where it relabels."""
        return ()

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        """The regions that it reads, without the residual of a conv whose sum is still partial. Raises GeometryError
        where a part would read only padding, or cut a group."""
        raise NotImplementedError

    def needs_if_any(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        """The same; nothing where the part would read only padding."""
        try:
            return self.needs(tensors, work)
        except GeometryError:
            return ()

    def is_partial(self, work: Work) -> bool:
        """Whether this work's result is only a summand: residual and activation follow after the sum."""
        return work.in_parts


class ToMap(Operator):
    """An operator with one map as its result, ``target``. By default it computes element by element: of each map that it
    reads it needs the region that it writes."""

    __slots__ = ()
    target: int

    @property
    def reads(self) -> tuple[int, ...]:
        """The numbers of the tensors that it reads."""
        raise NotImplementedError

    @property
    def writes(self) -> tuple[int, ...]:
        """The numbers of the tensors that it writes."""
        return (self.target,)

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return tuple((source, work.output) for source in self.reads)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> StepSpec:
        """What a rank's part of it computes, at its size: the same as its step says (`fogconv.ir.program.Program.work`)."""
        batch = tensors[self.target].batch
        return MapSpec.of(self.kind, work.output, batch, sources=len(self.reads), element=self.element(tensors))

    def element(self, tensors: Sequence[Tensor]) -> Element:
        """Of what it reads, and so of what it computes with."""
        return tensors[self.reads[0]].precision.element


class FromMap(ToMap):
    """An operator that reads one map, ``source``."""

    __slots__ = ()
    source: int

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.source,)


class FromMaps(ToMap):
    """An operator that reads several maps, ``sources``."""

    __slots__ = ()
    sources: tuple[int, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        return self.sources
