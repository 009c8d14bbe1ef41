"""Shapes: one conv layer (ConvSpec), one step of another kind (MapSpec), one piece of a tensor (Region).

    c, f     input and output channels        (in_channels, out_channels)
    g        groups
    K_h·K_w  kernel size
    H×W      input height and width           h×w  output height and width

Everything here is exact integer arithmetic; no NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fogconv.errors import GeometryError
from fogconv.ir.precision.elements import ELEMENT_BYTES, Element

BYTES_PER_ELEMENT = ELEMENT_BYTES["fp32"]
"""Of a map in fp32."""


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """One conv2d at one input size: everything that determines its shapes, its work and its kernel.

    ``padding`` is (top, bottom, left, right), so that a shard of rows, which has a border on one side only,
    is a ConvSpec like any other. ``element`` is what is multiplied: fp32, or uint8 (by int8 weights). Raises GeometryError
    when the numbers describe no layer.
    """

    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    batch: int = 1
    element: Element = "fp32"

    def __post_init__(self) -> None:
        positive = {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "height": self.height,
            "width": self.width,
            "groups": self.groups,
            "batch": self.batch,
            "kernel": min(self.kernel),
            "stride": min(self.stride),
            "dilation": min(self.dilation),
        }
        for name, value in positive.items():
            if value < 1:
                raise GeometryError(f"conv2d: {name} is {value}; it must be at least 1")
        if min(self.padding) < 0:
            raise GeometryError(f"conv2d: padding {self.padding} is negative; crop the input instead")
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise GeometryError(f"conv2d: {name} {channels} is not divisible by groups {self.groups}")
        if self.out_height < 1 or self.out_width < 1:
            raise GeometryError(
                f"conv2d: the output would be {self.out_height}×{self.out_width}: a kernel of "
                f"{self.kernel[0]}×{self.kernel[1]} (dilation {self.dilation[0]}×{self.dilation[1]}) does not fit into "
                f"{self.height}×{self.width} with padding {self.padding}"
            )

    @property
    def out_height(self) -> int:
        top, bottom, _, _ = self.padding
        return (self.height + top + bottom - self.dilation[0] * (self.kernel[0] - 1) - 1) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        _, _, left, right = self.padding
        return (self.width + left + right - self.dilation[1] * (self.kernel[1] - 1) - 1) // self.stride[1] + 1

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(N, c, H, W)."""
        return (self.batch, self.in_channels, self.height, self.width)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(N, f, h, w)."""
        return (self.batch, self.out_channels, self.out_height, self.out_width)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(f, c/g, K_h, K_w)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates: N·h·w·K_h·K_w·(c/g)·f."""
        return self.batch * self.out_height * self.out_width * self.weight_elements

    @property
    def weight_elements(self) -> int:
        f, c_per_group, kh, kw = self.weight_shape
        return f * c_per_group * kh * kw

    @property
    def input_elements(self) -> int:
        return self.batch * self.in_channels * self.height * self.width

    @property
    def output_elements(self) -> int:
        return self.batch * self.out_channels * self.out_height * self.out_width

    @property
    def depthwise(self) -> bool:
        """One input channel per group (channel multipliers included)."""
        return self.groups > 1 and self.groups == self.in_channels

    def with_batch(self, batch: int) -> ConvSpec:
        return replace(self, batch=batch)


def mirrored(spec: ConvSpec) -> ConvSpec | None:
    """The forward conv that computes the input's gradient, for a stride of 1: with Winograd's kernels it is twice as fast.
    None for others; a padding larger than the kernel would need cropping."""
    reach = [d * (k - 1) for d, k in zip(spec.dilation, spec.kernel, strict=True)]
    top, bottom, left, right = spec.padding
    around = (reach[0] - top, reach[0] - bottom, reach[1] - left, reach[1] - right)
    if spec.stride != (1, 1) or min(around) < 0 or spec.depthwise:
        return None
    return replace(
        spec,
        in_channels=spec.out_channels,
        out_channels=spec.in_channels,
        height=spec.out_height,
        width=spec.out_width,
        padding=around,
    )


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One step on maps that is not a conv, at one size: everything that its time depends on.

    ``kind``: "pool", "globalpool", "add", "affine", "gate", "permute", "copy", "resample", "interleave", or the name of
    an elementwise operator. The sizes are those of what it writes; a global pool's are those of what it reads.
    ``sources``: the maps that it reads. ``kernel`` and ``stride`` are a pool's; a resampling's ``kernel`` are the most
    taps of a row and a column, an interleaving's ``stride`` its factors. ``element``: of the map that it reads. Raises
    GeometryError for sizes below 1.
    """

    kind: str
    channels: int
    height: int
    width: int
    sources: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    batch: int = 1
    element: Element = "fp32"

    def __post_init__(self) -> None:
        sizes = (self.channels, self.height, self.width, self.sources, *self.kernel, *self.stride, self.batch)
        if min(sizes) < 1:
            raise GeometryError(f"a step of kind {self.kind[:40]!r}: its sizes are {sizes}; they must be at least 1")

    @staticmethod
    def of(
        kind: str,
        region: Region,
        batch: int,
        *,
        sources: int = 1,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        element: Element = "fp32",
    ) -> MapSpec:
        return MapSpec(kind, *region.shape, sources, kernel, stride, batch, element)

    @property
    def costs_as(self) -> str:
        """Steps of one such name take a like time per byte: the kind, and of which elements where these are not fp32."""
        return self.kind if self.element == "fp32" else f"{self.element}_{self.kind}"

    @property
    def elements(self) -> int:
        return self.batch * self.channels * self.height * self.width

    @property
    def touched(self) -> float:
        """Elements that go through memory. Of the elements under a pool's kernel about half are still in a register."""
        if self.kind == "globalpool":
            return float(self.elements)
        if self.kind in ("pool", "resample"):
            return self.elements * (1 + self.kernel[0] * self.kernel[1] / 2)
        if self.kind == "interleave":
            return self.elements * 2.0
        return self.elements * (1.0 + self.sources)


StepSpec = ConvSpec | MapSpec
"""What a step computes, at its size."""


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


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """One max or average pooling at one input size, with torch's semantics.

    ``padding`` is (top, bottom, left, right). A max pool pads with −inf, an average pool with zeros that
    ``count_include_pad`` counts or not; ``divisor`` overrides the count; with ``ceil_mode`` a last window may hang over
    the padded border, but never starts beyond the input and its left padding. Raises GeometryError.
    """

    kind: str
    channels: int
    height: int
    width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("max", "avg"):
            raise GeometryError(f"pooling: kind is {self.kind!r}; it must be 'max' or 'avg'")
        sizes = (
            self.channels,
            self.height,
            self.width,
            self.batch,
            *self.kernel,
            *self.stride,
            *self.dilation,
        )
        if min(sizes) < 1:
            raise GeometryError(f"pooling: sizes must be at least 1: {self}")
        if min(self.padding) < 0 or self.divisor == 0:
            raise GeometryError(f"pooling: padding must not be negative nor the divisor zero: {self}")
        if self.out_height < 1 or self.out_width < 1:
            raise GeometryError(f"pooling: the output would be {self.out_height}×{self.out_width}: {self}")

    @property
    def out_height(self) -> int:
        return self._out(self.height, 0, self.padding[0], self.padding[1])

    @property
    def out_width(self) -> int:
        return self._out(self.width, 1, self.padding[2], self.padding[3])

    def _out(self, size: int, axis: int, before: int, after: int) -> int:
        span = size + before + after - self.dilation[axis] * (self.kernel[axis] - 1) - 1
        if not self.ceil_mode:
            return span // self.stride[axis] + 1
        out = -(-span // self.stride[axis]) + 1
        if (out - 1) * self.stride[axis] >= size + before:
            out -= 1
        return out


@dataclass(frozen=True, slots=True)
class Taps:
    """One axis of a resampling: each output along it is a weighted sum of neighbouring inputs.

    Output k is Σᵢ ``weights[k][i]`` · input[``starts[k]`` + i]. Empty ``weights`` mean that each output is one input,
    unchanged. An output whose start is −1 reads nothing: it is the resampling's fill value. A resize, a slice with
    steps, a flip and every kind of padding are such sums. ``size`` is the number of inputs. Raises GeometryError for a
    tap outside of them.
    """

    size: int
    starts: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1 or not self.starts:
            raise GeometryError(f"resampling: {self.size} inputs and {len(self.starts)} outputs; both must be at least 1")
        if self.weights and len(self.weights) != len(self.starts):
            raise GeometryError(f"resampling: {len(self.starts)} outputs have {len(self.weights)} lists of weights")
        if min(self.starts) < -1 or max(self._stops(Span(0, len(self.starts)))) > self.size:
            raise GeometryError(f"resampling: an output reads beyond the {self.size} inputs")

    @property
    def most(self) -> int:
        """The most inputs that one output reads."""
        return max(1, max(map(len, self.weights), default=1))

    def reach(self, out: Span) -> Span:
        """The inputs that the outputs ``out`` read. Raises GeometryError where a part of the outputs reads none."""
        first = min((start for start in self.starts[out.slice()] if start >= 0), default=-1)
        if first >= 0:
            return Span(first, max(self._stops(out)))
        if out == Span(0, len(self.starts)):
            return Span(0, self.size)
        raise GeometryError(f"output {out.start}:{out.stop} of a resampling reads only padding")

    def of(self, before: Taps) -> Taps:
        """Both in one, where neither has weights: these of what the taps ``before`` pick, all of which is an input."""
        return Taps(before.size, tuple(before.starts[start] if start >= 0 else -1 for start in self.starts))

    def part(self, out: Span) -> Taps:
        """The taps of the outputs ``out``, in an input that begins and ends where these reach."""
        inside = self.reach(out)
        starts = tuple(start - inside.start if start >= 0 else -1 for start in self.starts[out.slice()])
        return Taps(len(inside), starts, self.weights[out.slice()])

    def _stops(self, out: Span) -> list[int]:
        starts = self.starts[out.slice()]
        if not self.weights:
            return [start + 1 for start in starts]
        return [start + len(w) if start >= 0 else 0 for start, w in zip(starts, self.weights[out.slice()], strict=True)]


BLOCK = 16
"""Channels per block, the same on every instruction set; a kernel's vector length divides it."""


NARROW = 4
"""Lanes of a narrow map."""
