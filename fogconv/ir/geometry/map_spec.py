"""MapSpec: one step of another kind than a conv, at one size; PoolSpec: a pooling layer."""

from __future__ import annotations

from dataclasses import dataclass

from fogconv.errors import GeometryError
from fogconv.ir.geometry.blocks import lanes
from fogconv.ir.geometry.conv_spec import ConvSpec
from fogconv.ir.geometry.region import Region
from fogconv.ir.precision.elements import Element


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One step on maps that is not a conv, at one size: everything that its time depends on.

    ``kind``: "pool", "globalpool", "add", "affine", "gate", "permute", "copy", "resample", "interleave", "transpose"
    (from NCHW to blocks of channels, or back), or the name of an elementwise operator. The sizes are those of what it
    writes; a global pool's are those of what it reads. ``sources``: the maps that it reads. ``kernel`` and ``stride``
    are a pool's; a resampling's ``kernel`` are the most taps of a row and a column, an interleaving's ``stride`` its
    factors. ``element``: of the map that it reads. Raises GeometryError for sizes below 1.
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
        """Elements that go through memory, with all `lanes` of a map. Of the elements under a pool's kernel about half are
        still in a register."""
        plain = float(self.elements)
        blocked = plain / self.channels * lanes(self.channels)
        if self.kind == "globalpool":
            return blocked
        if self.kind == "transpose":
            return plain + blocked
        if self.kind in ("pool", "resample"):
            return blocked * (1 + self.kernel[0] * self.kernel[1] / 2)
        if self.kind == "interleave":
            return blocked * 2.0
        return blocked * (1.0 + self.sources)


StepSpec = ConvSpec | MapSpec
"""What a step computes, at its size."""


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
