"""Fully connected layers: convs whose kernel covers the whole input, so that there is one output pixel.

    out[n, o] = activation(Σ over blocks, rows, columns, lanes of x[n, …] · w[…, o] + bias[o] + residual[n, o])

Every weight is used once per image, so memory bandwidth is the limit: the weights are stored in exactly the order in
which they are read (see `fogconv.kernels.maps.panels`), and up to four images share one pass over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import extending, types

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array, is_blank
from fogconv.ir.geometry import BLOCK, ConvSpec
from fogconv.ir.memory.algorithm import is_linear as is_linear
from fogconv.kernels.codegen import activation as activations
from fogconv.kernels.codegen import formulas, vector
from fogconv.kernels.codegen.emit import cpu_family, lane_splat
from fogconv.kernels.codegen.isa import host_isa
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.conv.grouped import nothing
from fogconv.kernels.maps.blocked import Blocked, Margin, aligned_zeros, blocks
from fogconv.kernels.maps.bound import Bound, address_of, bind, place
from fogconv.kernels.maps.panels import bind_pack_panels, bind_unpack_panels, empty_panels
from fogconv.kernels.maps.scratch import Scratch
from fogconv.kernels.threads import parallel

cgutils: Any = _cgutils  # no annotations in this library

IMAGES = 4
"""The most images that share one pass over the weights."""

CHAINS = 8
"""Registers that sum side by side: two multiplications per cycle, each added to four cycles later. More would spill where a
vector of 16 floats takes several registers."""

AHEAD = 4096
"""How far ahead weights are prefetched, in bytes: past the page at which the CPU's own prefetcher stops."""


class PreparedLinear:
    """A fully connected layer whose weights are packed; the interface is that of
    `fogconv.kernels.conv.conv.PreparedConv2d`."""

    algorithm = "linear"
    wanted_margin = Margin()

    def __init__(self, spec: ConvSpec, panels: Array, bias: Array, activation: str | None, threads: int) -> None:
        self.spec = spec
        self._panels, self._bias, self._activation, self._threads = panels, bias, activation, threads

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights."""
        return self._panels.nbytes + self._bias.nbytes

    def unpack(self) -> tuple[Array, Array]:
        """Weight and bias as they were given; zeros where there was no bias."""
        weight = np.empty(self.spec.weight_shape, np.float32)
        bind_unpack_panels(self._panels, weight[None])()
        return weight, self._bias[: self.spec.out_channels].copy()

    def bind(self, x: Blocked, out: Blocked, residual: Blocked | None = None) -> Bound:
        """The call that computes out = activation(W·x + bias + residual); it must not run twice at the same time.

        ``x`` is (N, c, H, W), ``out`` and ``residual`` are (N, f, 1, 1). Raises KernelError for other shapes.
        """
        spec = self.spec
        for name, view, wanted in (
            ("input", x, spec.input_shape),
            ("output", out, spec.output_shape),
            ("residual", residual or out, spec.output_shape),
        ):
            shape = (view.batch, view.channels, view.height, view.width)
            if shape != wanted:
                raise KernelError(f"linear: the {name} must have the shape {wanted}, not {shape}")
        a, b = place("input", x), place("output", out)
        r = place("residual", residual) if residual is not None else b
        total = blocks(spec.out_channels)
        threads = max(1, min(self._threads, total))
        chosen = formulas.activation(self._activation)
        lanes = formulas.lanes(() if chosen is None else chosen.parameters)
        calls = []
        for thread in range(threads):
            first, stop = total * thread // threads, total * (thread + 1) // threads
            sums = aligned_zeros((IMAGES, BLOCK))
            numbers = (
                *a,
                *(b.address, b.image, b.block, r.address, r.image, r.block),
                *(address_of(self._panels), address_of(self._bias), address_of(sums)),
                *(spec.batch, blocks(spec.in_channels), *spec.kernel, first, stop, spec.out_channels, address_of(lanes)),
            )
            registers = BLOCK // host_isa().vector_length
            kernel = _linear(None if chosen is None else chosen.name, residual is not None, registers)
            calls.append(bind(kernel, numbers, self, x.data, out.data, residual, sums, lanes))
        return parallel(calls)

    def run(self, x: Blocked, out: Blocked, residual: Blocked | None = None) -> None:
        """bind(x, out, residual)()."""
        self.bind(x, out, residual)()

    def at(self, spec: ConvSpec) -> PreparedLinear:
        """The same layer at another batch. Raises KernelError for a spec that differs in more."""
        if replace(spec, batch=self.spec.batch) != self.spec:
            raise KernelError(f"linear: {spec} is not the same layer as {self.spec} at another batch")
        return PreparedLinear(spec, self._panels, self._bias, self._activation, self._threads)

    def moved(self, place: Callable[[Array], Array]) -> PreparedLinear:
        """The same layer with its panels in the array that ``place`` gives for them, of equal content."""
        return PreparedLinear(self.spec, place(self._panels), self._bias, self._activation, self._threads)


def prepare_linear(
    spec: ConvSpec, weight: Array, bias: Array | None = None, *, activation: str | None = None, threads: int = 1
) -> PreparedLinear:
    """Pack a weight (f, c, K_h, K_w) and a bias (f,), both float32.

    Raises KernelError where the kernel does not cover the input (see `is_linear`), and for other shapes.
    """
    if not is_linear(spec):
        raise KernelError(f"linear: the kernel must cover the whole unpadded input in one group, unlike {spec}")
    if weight.shape != spec.weight_shape or weight.dtype != np.float32:
        raise KernelError(f"linear: the weight must be float32 {spec.weight_shape}, not {weight.dtype} {weight.shape}")
    if bias is not None and bias.shape != (spec.out_channels,):
        raise KernelError(f"linear: the bias has the shape {bias.shape}; there are {spec.out_channels} outputs")
    if threads < 1:
        raise KernelError(f"linear: {threads} threads; at least 1 is needed")
    formulas.activation(activation)
    panels = empty_panels(1, spec.out_channels, spec.in_channels, spec.kernel[0] * spec.kernel[1])
    pack = bind_pack_panels(np.ascontiguousarray(weight[:1] if is_blank(weight) else weight)[None], panels)
    if not is_blank(weight):
        pack()
    terms = aligned_zeros((blocks(spec.out_channels) * BLOCK,))
    if bias is not None:
        terms[: spec.out_channels] = bias
    return PreparedLinear(spec, panels, terms, activation, threads)


def emit_dot(
    builder: Any,
    weights: Any,
    x: Any,
    x_image: Any,
    x_block: Any,
    x_row: Any,
    blocks_: Any,
    rows: Any,
    columns: Any,
    sums: Any,
    *,
    images: int,
    registers: int,
) -> None:
    """Emit sums[image] = the 16 outputs of one block of panels for ``images`` images at once; a vector of 16 floats takes so
    many ``registers``."""
    chains = max(1, CHAINS // registers // images)
    vec, word = ir.VectorType(ir.FloatType(), BLOCK), ir.IntType(64)
    by_lane = cpu_family(builder) == "aarch64"
    # Stack slots that LLVM turns into registers: several chains of additions hide each one's latency.
    slots = [[cgutils.alloca_once(builder, vec) for _ in range(chains)] for _ in range(images)]
    for slot in (slot for row in slots for slot in row):
        builder.store(activations.constant(vec, 0.0), slot)
    at = cgutils.alloca_once_value(builder, weights)
    with (
        cgutils.for_range(builder, blocks_) as block,
        cgutils.for_range(builder, rows) as row,
        cgutils.for_range(builder, columns) as column,
    ):
        panel = builder.load(at)
        pixel = builder.add(builder.mul(block.index, x_block), builder.mul(row.index, x_row))
        pixel = builder.add(x, builder.add(pixel, builder.shl(column.index, word(6))))
        starts = [builder.add(pixel, builder.mul(x_image, word(image))) for image in range(images)]
        wide = [vector.emit_load(builder, start) for start in starts] if by_lane else []
        for lane in range(BLOCK):
            address = builder.add(panel, word(lane * BLOCK * 4))
            vector.emit_prefetch(builder, builder.add(address, word(AHEAD)))
            weight = vector.emit_load(builder, address)
            for image in range(images):
                if by_lane:  # aarch64 multiplies by a lane of a register
                    value = lane_splat(builder, wide[image], lane, BLOCK)
                else:
                    value = vector.emit_load_splat(builder, builder.add(starts[image], word(lane * 4)))
                slot = slots[image][lane % chains]
                builder.store(activations.fma(builder, weight, value, builder.load(slot)), slot)
        builder.store(builder.add(panel, word(BLOCK * BLOCK * 4)), at)
    for image, row_of_slots in enumerate(slots):
        values = [builder.load(slot) for slot in row_of_slots]
        while len(values) > 1:
            values = [builder.fadd(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
        vector.emit_store(builder, builder.add(sums, word(image * BLOCK * 4)), values[0])


@cache
def _dot(images: int, registers: int) -> Any:
    """`emit_dot` as a function of jitted code."""

    @extending.intrinsic
    def dot(typingctx, weights, x, x_image, x_block, x_row, blocks_, rows, columns, sums):  # type: ignore[no-untyped-def]
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit_dot(builder, *args, images=images, registers=registers)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return dot


@cache
def _linear(activation: str | None, has_residual: bool, registers: int) -> Any:
    apply = formulas.applied(activation)
    dot1, dot2, dot4 = (_dot(images, registers) for images in (1, 2, 4))

    @jit
    def linear(a):  # type: ignore[no-untyped-def]
        x, x_image, x_block, x_row = a[0], a[1], a[2], a[3]
        out, out_image, out_block, residual, r_image, r_block = a[4], a[5], a[6], a[7], a[8], a[9]
        panels, bias, sums = a[10], a[11], a[12]
        batch, in_blocks, rows, columns, first, stop, channels = a[13], a[14], a[15], a[16], a[17], a[18], a[19]
        p, q, r = vector.load(a[20]), vector.load(a[20] + 64), vector.load(a[20] + 128)
        for block in range(first, stop):
            weights = panels + block * in_blocks * rows * columns * 1024
            n = 0
            while n < batch:
                source = x + n * x_image
                if batch - n >= 4:
                    images = 4
                    dot4(weights, source, x_image, x_block, x_row, in_blocks, rows, columns, sums)
                elif batch - n >= 2:
                    images = 2
                    dot2(weights, source, x_image, x_block, x_row, in_blocks, rows, columns, sums)
                else:
                    images = 1
                    dot1(weights, source, x_image, x_block, x_row, in_blocks, rows, columns, sums)
                for image in range(n, n + images):
                    value = vector.add(vector.load(sums + (image - n) * 64), vector.load(bias + block * 64))
                    if has_residual:
                        value = vector.add(value, vector.load(residual + image * r_image + block * r_block))
                    value = apply(value, value, p, q, r)
                    lanes = min(16, channels - block * 16)
                    vector.store_between(out + image * out_image + block * out_block, value, 0, lanes)
                n += images

    return linear


class LinearKernel:
    """A `PreparedLinear`, which splits itself over threads."""

    algorithm = "linear"
    exact = True

    def __init__(self, linear: PreparedLinear) -> None:
        self._linear = linear

    @staticmethod
    def prepare(spec: ConvSpec, weight: Array, bias: Array | None, activation: str | None, threads: int) -> LinearKernel:
        return LinearKernel(prepare_linear(spec, weight, bias, activation=activation, threads=threads))

    def at(self, spec: ConvSpec, scratch: Scratch | None = None) -> LinearKernel:
        return LinearKernel(self._linear.at(spec))

    def moved(self, place: Callable[[Array], Array]) -> LinearKernel:
        return LinearKernel(self._linear.moved(place))

    def unpack(self) -> tuple[Array, Array | None]:
        return self._linear.unpack()

    @property
    def spec(self) -> ConvSpec:
        return self._linear.spec

    @property
    def wanted_margin(self) -> Margin:
        return Margin()

    @property
    def weight_bytes(self) -> int:
        return self._linear.weight_bytes

    def warm(self, threads: int) -> None:
        """Compile what ``bind`` needs, by binding maps of the right shapes."""
        spec = self.spec.with_batch(1)
        out = Blocked.empty(*spec.output_shape)
        for residual in (None, out):
            self._linear.at(spec).bind(Blocked.empty(*spec.input_shape), out, residual)

    def bind(self, x: Blocked, out: Blocked, residual: Blocked | None, thread: int, threads: int) -> Bound:
        return nothing if thread else self._linear.bind(x, out, residual)
