"""Prepared convolutions on bytes: weights packed once, bound to blocked maps, then called."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.memory.algorithm import QUANTIZED_WINOGRAD, cheapest
from fogconv.ir.precision.elements import WeightType
from fogconv.kernels.codegen.isa import Isa, host_isa
from fogconv.kernels.conv.conv import check_maps
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.bound import Bound
from fogconv.kernels.maps.scratch import Scratch
from fogconv.kernels.quantized import depthwise
from fogconv.kernels.quantized.arithmetic import Product, Result, host_product
from fogconv.kernels.quantized.depthwise import DepthwiseBytes
from fogconv.kernels.quantized.direct import DirectBytes
from fogconv.kernels.quantized.numbers import Floats, Sums, Target, Weights
from fogconv.kernels.quantized.winograd import kernel as winograd
from fogconv.kernels.quantized.winograd.kernel import WinogradBytes
from fogconv.kernels.quantized.winograd.transforms import fits
from fogconv.kernels.threads import parallel


class PreparedBytes:
    """A convolution with packed weights and compiled code: bind it to maps, then call what ``bind`` returned."""

    def __init__(
        self, kernel: DirectBytes | DepthwiseBytes | WinogradBytes, zero_x: int, threads: int, scratch: Scratch
    ) -> None:
        self._kernel, self.zero_x, self._threads, self.scratch = kernel, zero_x, threads, scratch

    @property
    def spec(self) -> ConvSpec:
        return self._kernel.spec

    @property
    def result(self) -> Result:
        return self._kernel.dots.result

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights, biases and multipliers in memory."""
        return self._kernel.packed.nbytes

    @property
    def weight_type(self) -> WeightType:
        return "int8"

    @property
    def exact(self) -> bool:
        """Whether the weights can be had back."""
        return False

    def unpack(self) -> NoReturn:
        """Raises KernelError: what is packed holds the weights only together with zeros and corrections."""
        raise KernelError("quantised conv: packed weights can't be unpacked")

    @property
    def is_stowed(self) -> bool:
        """Whether the packed weights lie outside memory between two calls."""
        return False

    @property
    def wanted_margin(self) -> Margin:
        return Margin(*self.spec.padding)

    @property
    def wanted_lanes(self) -> int:
        """Lanes per pixel of the input with which it is fastest: 4 for up to 4 channels; 16 works as well."""
        return self._kernel.wanted_lanes

    def empty_input(self) -> Blocked:
        """A map of the input's zeros, with the margin and lanes that it wants."""
        margin, lanes = self.wanted_margin, self.wanted_lanes
        return Blocked.empty(*self.spec.input_shape, margin, lanes, kind=np.uint8, fill=self.zero_x)

    def empty_output(self) -> Blocked:
        """A map for what it gives: uint8, int32 or float32."""
        return Blocked.empty(*self.spec.output_shape, kind=self.result.kind)

    def at(self, spec: ConvSpec, scratch: Scratch | None = None) -> PreparedBytes:
        """The same layer at another input size, padding or batch, and with another scratch; the packed weights are shared.
        Raises KernelError for a spec of another layer."""
        old = self.spec
        if replace(spec, height=old.height, width=old.width, padding=old.padding, batch=old.batch) != old:
            raise KernelError(f"quantised conv: {spec} is not the same layer as {old} at another size")
        scratch = scratch or self.scratch
        return PreparedBytes(self._kernel.at(spec, scratch), self.zero_x, self._threads, scratch)

    def alone(self) -> PreparedBytes:
        """The same layer, computed by the thread that calls it."""
        return PreparedBytes(self._kernel, self.zero_x, 1, self.scratch)

    def bind(self, x: Blocked, out: Blocked) -> Bound:
        """Check the maps and resolve everything once. The returned call allocates nothing and must not run twice at the same
        time.

        ``x``: uint8, with a margin of at least the padding that holds the input's zero. ``out``: of the kind of ``result``.
        The lanes beyond the last channel of ``out`` become its zero. Raises KernelError for other maps.
        """
        check_maps(self.spec, x, out)
        return parallel([self._kernel.bind(x, out, thread, self._threads) for thread in range(self._threads)])

    def run(self, x: Blocked, out: Blocked) -> None:
        self.bind(x, out)()


def prepare(
    spec: ConvSpec,
    weight: Weights,
    bias: Sums | None,
    zero_x: int,
    *,
    multipliers: Floats | None = None,
    target: Target | None = None,
    threads: int = 1,
    isa: Isa | None = None,
    product: Product | None = None,
    algorithm: str | None = None,
    scratch: Scratch | None = None,
) -> PreparedBytes:
    """Pack int8 weights (f, c/g, K_h, K_w) and int32 biases (f,), and compile what the spec needs.

    With ``multipliers`` (f,) float32 and a ``target`` the output is uint8 (`reference.requantise`), with multipliers alone
    float32 (`reference.dequantise_sums`), with neither the int32 sums, which ``bias`` is part of if given. A linear layer is
    a convolution whose kernel covers its input. ``isa``, ``product`` and ``algorithm`` (one of
    `fogconv.ir.memory.algorithm.candidates`) force a way to compute it; by default they are the fastest. All give the same
    bits. Layers that never run at the same time can share a ``scratch``. Raises KernelError for weights of another shape or
    type.
    """
    _expect("the weight", weight, np.int8, spec.weight_shape)
    outputs = (spec.out_channels,)
    bias = np.zeros(outputs, np.int32) if bias is None else bias
    _expect("the bias", bias, np.int32, outputs)
    if target is not None and multipliers is None:
        raise KernelError("quantised conv: bytes need multipliers; none are given")
    result = Result.SUMS if multipliers is None else Result.FLOATS if target is None else Result.BYTES
    multipliers = np.zeros(outputs, np.float32) if multipliers is None else multipliers
    _expect("the multipliers", multipliers, np.float32, outputs)
    if threads < 1:
        raise KernelError(f"quantised conv: {threads} threads; at least 1 is needed")
    isa = isa or host_isa()
    product = product or host_product(isa)
    scratch = Scratch() if scratch is None else scratch
    arguments = spec, isa, product, result, weight, bias, zero_x, multipliers, target or Target(0)
    kernel: DirectBytes | DepthwiseBytes | WinogradBytes
    if depthwise.can_run(spec):
        kernel = DepthwiseBytes.prepare(*arguments)
    elif (
        (algorithm or cheapest(spec, isa.vector_length)) == QUANTIZED_WINOGRAD and winograd.can_run(product) and fits(weight)
    ):
        kernel = WinogradBytes.prepare(*arguments, scratch)
    else:
        kernel = DirectBytes.prepare(*arguments)
    return PreparedBytes(kernel, zero_x, threads, scratch)


def _expect(name: str, array: np.ndarray, kind: type, shape: tuple[int, ...]) -> None:
    if array.dtype != kind or array.shape != shape:
        raise KernelError(f"quantised conv: {name} must be {np.dtype(kind)} {shape}, not {array.dtype} {array.shape}")
