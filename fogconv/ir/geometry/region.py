"""Region: one piece of a tensor, by its channels, rows and columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fogconv.errors import GeometryError

ROW_START = 1.0
"""Pixels that are copied in the time that the start of a row takes. Halos of 1 to 4 columns took 1.1 to 1.9 times as long to
cut out, or to join, as those of as many rows (64 to 512 channels of 14 to 224 pixels, AVX-512)."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The integers start … stop-1. Empty when stop <= start."""

    start: int
    stop: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __bool__(self) -> bool:
        return self.stop > self.start

    def __and__(self, other: Span) -> Span:
        start = self.start if self.start > other.start else other.start
        stop = self.stop if self.stop < other.stop else other.stop
        return Span(start, stop if stop > start else start)

    def __contains__(self, other: object) -> bool:
        """Whether the other Span lies inside this one (an empty one always does)."""
        return isinstance(other, Span) and (not other or (self.start <= other.start and other.stop <= self.stop))

    def shift(self, by: int) -> Span:
        return Span(self.start + by, self.stop + by)

    def slice(self, origin: int = 0) -> slice:
        """The span as an index into an array whose element 0 is ``origin``."""
        return slice(self.start - origin, self.stop - origin)


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """A box of a tensor (N, C, H, W): channels × rows × columns, all images of the batch.

    Coordinates are those of the whole tensor, on every rank.
    """

    channels: Span
    rows: Span
    columns: Span

    @staticmethod
    def whole(channels: int, height: int, width: int) -> Region:
        return Region(Span(0, channels), Span(0, height), Span(0, width))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, rows, columns)."""
        return (len(self.channels), len(self.rows), len(self.columns))

    @property
    def elements(self) -> int:
        """Elements per image."""
        c, h, w = self.shape
        return c * h * w

    @property
    def copied(self) -> float:
        """As many elements per image, copied in one piece, take as long as it takes to copy these out of a larger map: its
        rows lie apart there, those of a halo of columns one by one."""
        c, h, w = self.shape
        return c * (h * w + (h - 1) * ROW_START)

    def __bool__(self) -> bool:
        return (
            self.channels.stop > self.channels.start
            and self.rows.stop > self.rows.start
            and self.columns.stop > self.columns.start
        )

    def __and__(self, other: Region) -> Region:
        # The planner intersects some 10⁵ boxes, most of them disjoint: the comparison of those ends at the first axis.
        channels = self.channels & other.channels
        if channels.stop <= channels.start:
            return NOTHING
        rows = self.rows & other.rows
        if rows.stop <= rows.start:
            return NOTHING
        columns = self.columns & other.columns
        return Region(channels, rows, columns) if columns.stop > columns.start else NOTHING

    def __contains__(self, other: object) -> bool:
        return isinstance(other, Region) and (
            not other or (other.channels in self.channels and other.rows in self.rows and other.columns in self.columns)
        )

    def minus(self, other: Region) -> tuple[Region, ...]:
        """This box minus the other: at most six disjoint boxes (channels cut first, then rows, then columns)."""
        common = self & other
        if not common:
            return (self,) if self else ()
        channels, rows, columns = common.channels, common.rows, common.columns
        # Written out, because a plan takes some 10⁵ of these.
        pieces = []
        if self.channels.start < channels.start:
            pieces.append(Region(Span(self.channels.start, channels.start), self.rows, self.columns))
        if channels.stop < self.channels.stop:
            pieces.append(Region(Span(channels.stop, self.channels.stop), self.rows, self.columns))
        if self.rows.start < rows.start:
            pieces.append(Region(channels, Span(self.rows.start, rows.start), self.columns))
        if rows.stop < self.rows.stop:
            pieces.append(Region(channels, Span(rows.stop, self.rows.stop), self.columns))
        if self.columns.start < columns.start:
            pieces.append(Region(channels, rows, Span(self.columns.start, columns.start)))
        if columns.stop < self.columns.stop:
            pieces.append(Region(channels, rows, Span(columns.stop, self.columns.stop)))
        return tuple(pieces)

    def with_channels(self, channels: Span) -> Region:
        return Region(channels, self.rows, self.columns)

    def with_rows(self, rows: Span) -> Region:
        return Region(self.channels, rows, self.columns)

    def cut_to(self, whole: Region) -> Region:
        """The part of a tensor, ``whole``, that is combined with this region of another one element by element: along axes
        where the tensor has length 1, that one value counts everywhere."""
        return Region(
            self.channels if len(whole.channels) > 1 else whole.channels,
            self.rows if len(whole.rows) > 1 else whole.rows,
            self.columns if len(whole.columns) > 1 else whole.columns,
        )

    def shift_channels(self, by: int) -> Region:
        return Region(self.channels.shift(by), self.rows, self.columns)

    def __str__(self) -> str:
        c, r, w = self.channels, self.rows, self.columns
        return f"[{c.start}:{c.stop}, {r.start}:{r.stop}, {w.start}:{w.stop}]"


NOTHING = Region(Span(0, 0), Span(0, 0), Span(0, 0))
"""The empty box."""


def subtract(region: Region, holes: Iterable[Region]) -> tuple[Region, ...]:
    """The region minus all the holes, as disjoint boxes."""
    left: tuple[Region, ...] = (region,) if region else ()
    for hole in holes:
        if not left:
            break
        left = tuple([piece for box in left for piece in box.minus(hole)])
    return left


def bounding(regions: Iterable[Region]) -> Region:
    """The smallest box that holds all the regions. Raises GeometryError where there are none."""
    boxes = [region for region in regions if region]
    if not boxes:
        raise GeometryError("no region to bound")
    return Region(
        Span(min([box.channels.start for box in boxes]), max([box.channels.stop for box in boxes])),
        Span(min([box.rows.start for box in boxes]), max([box.rows.stop for box in boxes])),
        Span(min([box.columns.start for box in boxes]), max([box.columns.stop for box in boxes])),
    )
