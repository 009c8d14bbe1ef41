"""ConvSpec: one conv layer at one input size.

c, f     input and output channels        (in_channels, out_channels)
g        groups
K_h·K_w  kernel size
H×W      input height and width           h×w  output height and width
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fogconv.errors import GeometryError
from fogconv.ir.geometry.blocks import lanes
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
    def map_elements(self) -> int:
        """Elements of the maps that it reads and makes, as they lie in memory (see `lanes`)."""
        read = lanes(self.in_channels) * self.height * self.width
        return self.batch * (read + lanes(self.out_channels) * self.out_height * self.out_width)

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
