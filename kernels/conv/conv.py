"""conv2d, the simple entry point (NCHW arrays), and prepare_conv2d, the fast one (blocked maps, weights packed once)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, ConvSpec
from fogconv.ir.memory.algorithm import HALF
from fogconv.ir.precision.elements import HALVES, WEIGHTS_OF, Element, WeightType
from fogconv.kernels.codegen import formulas
from fogconv.kernels.codegen.isa import Isa, host_isa
from fogconv.kernels.conv.direct import DirectKernel, lanes_for
from fogconv.kernels.conv.grouped import nothing
from fogconv.kernels.conv.select import Kernel, choose, prepare_kernel
from fogconv.kernels.conv.winograd import WinogradKernel
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.bound import Bound, sequence
from fogconv.kernels.maps.scratch import Scratch
from fogconv.kernels.maps.transpose import bind_pack, bind_unpack
from fogconv.kernels.threads import parallel

Precision = Literal["fast", "strict"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The options of a prepared layer: everything except its shapes and weights."""

    isa: Isa
    activation: str | None
    threads: int
    strict: bool
    scratch: Scratch
    algorithm: str | None
    weights: WeightType = "float32"

    def choose(self, spec: ConvSpec) -> str:
        return self.algorithm or choose(spec, self.isa, self.strict)


class Stowed(Protocol):
    """Packed weights that are not in memory: they are read by ``fetch`` before each use, and go with ``drop`` after it."""

    array: Array

    def fetch(self) -> None: ...

    def drop(self) -> None: ...


class PreparedConv2d:
    """A conv2d with packed weights and compiled code: bind it to maps, then call what ``bind`` returned."""

    def __init__(self, kernel: Kernel, recipe: Recipe, stowed: Stowed | None = None) -> None:
        self._kernel, self._recipe, self._stowed = kernel, recipe, stowed
        kernel.warm(recipe.threads)

    @property
    def spec(self) -> ConvSpec:
        return self._kernel.spec

    @property
    def algorithm(self) -> str:
        """The algorithm's name: "direct", "winograd4", …"""
        return self._kernel.algorithm

    @property
    def reads(self) -> Element:
        """The element of the maps that it reads: fp32, also for specs of 16 bits, where the CPU can't multiply these."""
        return self._kernel.reads if isinstance(self._kernel, DirectKernel | WinogradKernel) else "fp32"

    @property
    def makes_halves(self) -> bool:
        """Whether it can write a map of 16 bits (and add a residual of such): it rounds in its registers, after a clamp."""
        activation = self._recipe.activation
        rounds = self.algorithm == HALF or (isinstance(self._kernel, WinogradKernel) and self.spec.element in HALVES)
        return rounds and (activation is None or formulas.clamp(activation) is not None)

    @property
    def wanted_margin(self) -> Margin:
        """The input margin with which it is fastest. The minimum is the padding."""
        return self._kernel.wanted_margin

    @property
    def wanted_lanes(self) -> int:
        """Lanes per pixel of the input with which it is fastest: 4 (see `fogconv.kernels.maps.blocked`) for a first
        layer; 16 works as well."""
        return lanes_for(self.spec) if self.algorithm == "direct" else BLOCK

    def empty_input(self) -> Blocked:
        """A map of zeros for its input, of what it reads, with the preferred margin and lanes."""
        kind = WEIGHTS_OF[self.reads]
        return Blocked.empty(*self.spec.input_shape, self.wanted_margin, self.wanted_lanes, kind)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights in memory: next to none where they are stowed."""
        return self._kernel.weight_bytes - (0 if self._stowed is None else self._stowed.array.nbytes)

    @property
    def is_stowed(self) -> bool:
        """Whether the packed weights lie outside memory between two calls; see ``stow``."""
        return self._stowed is not None

    def stow(self, place: Callable[[Array], Stowed]) -> PreparedConv2d:
        """The same layer with its packed weights where ``place`` puts them: every call fetches them first, and drops them
        at its end."""
        found: list[Stowed] = []

        def moved(weights: Array) -> Array:
            found.append(place(weights))
            return found[0].array

        kernel = self._kernel.moved(moved)
        return PreparedConv2d(kernel, self._recipe, *found)

    def alone(self) -> PreparedConv2d:
        """The same layer, computed by the thread that calls it."""
        return PreparedConv2d(self._kernel, replace(self._recipe, threads=1), self._stowed)

    def bind(self, x: Blocked, out: Blocked, residual: Blocked | None = None) -> Bound:
        """Check the maps and resolve everything once. The returned call computes out = activation(conv(x) + bias +
        residual), allocates nothing and must not run twice at the same time.

        ``x`` needs a margin of at least the padding. ``out`` may have one, which is not written. ``residual`` may be
        ``out`` itself. Raises KernelError for maps that have other sizes, lack the margin, are not float32 or are not
        aligned.
        """
        check_maps(self.spec, x, out, residual)
        if _overlap(x.interior, out.interior):
            raise KernelError("conv2d: the output overlaps the input; it needs memory of its own")
        threads = self._recipe.threads
        shares = [self._kernel.bind(x, out, residual, thread, threads) for thread in range(threads)]
        compute = parallel([share for share in shares if share is not nothing])
        stowed = self._stowed
        return compute if stowed is None else sequence([stowed.fetch, compute, stowed.drop])

    def run(self, x: Blocked, out: Blocked, residual: Blocked | None = None) -> None:
        """bind(x, out, residual)()."""
        self.bind(x, out, residual)()

    @property
    def scratch(self) -> Scratch:
        return self._recipe.scratch

    @property
    def weight_type(self) -> WeightType:
        """What the weights consist of as they were given."""
        return self._recipe.weights

    @property
    def exact(self) -> bool:
        """Whether ``unpack`` gives back the weights."""
        return self._kernel.exact and (self.weight_type == "float32" or self.algorithm == HALF)

    def unpack(self) -> tuple[Array, Array | None]:
        """The weight and the bias as they were given (zeros for no bias). Raises KernelError where not ``exact``."""
        if self._stowed is None:
            return self._kernel.unpack()
        self._stowed.fetch()
        found = self._kernel.unpack()
        self._stowed.drop()
        return found

    def at(self, spec: ConvSpec, scratch: Scratch | None = None) -> PreparedConv2d:
        """The same layer at another input size, padding or batch, or with another scratch. The packed weights are shared,
        unless another algorithm is faster at that size. Raises KernelError for a spec of another layer, and where another
        algorithm is better but these weights can't be unpacked (see `exact`)."""
        old = self.spec
        if replace(spec, height=old.height, width=old.width, padding=old.padding, batch=old.batch) != old:
            raise KernelError(f"conv2d: {spec} is not the same layer as {old} at another size")
        recipe = self._recipe if scratch is None else replace(self._recipe, scratch=scratch)
        algorithm = recipe.choose(spec)
        if algorithm == self.algorithm:
            return PreparedConv2d(self._kernel.at(spec, scratch), recipe, self._stowed)
        weight, bias = self.unpack()
        kernel = prepare_kernel(algorithm, spec, recipe.isa, weight, bias, recipe.activation, recipe.scratch, recipe.threads)
        return PreparedConv2d(kernel, recipe)


def algorithm_of(spec: ConvSpec) -> str:
    """The algorithm by which `prepare_conv2d` will compute a spec on this machine."""
    return choose(spec, host_isa(), strict=False)


def prepare_conv2d(
    spec: ConvSpec,
    weight: Array,
    bias: Array | None = None,
    *,
    activation: str | None = None,
    threads: int = 1,
    precision: Precision = "fast",
    scratch: Scratch | None = None,
    algorithm: str | None = None,
) -> PreparedConv2d:
    """Pack the weights (f, c/g, K_h, K_w) and the bias (f,), both float32, and compile what the spec needs. Of a spec of 16
    bits the weights are float16, or uint16 for bf16, and stay so, but for depthwise and grouped convs; or they are float32.

    ``activation`` is None or a formula of one input (`fogconv.kernels.codegen.formulas`), with its numbers: "relu",
    "leaky_relu(0.1)". ``precision`` "strict" allows direct kernels only; "fast" also Winograd's (errors below 1e-4 of the
    largest output, see `fogconv.kernels.conv.select`; an infinity in the input spoils a whole tile of outputs, and becomes
    NaN). Layers that never run at the same time can share a ``scratch``: only one bound call of the pool may run at a time.
    ``algorithm`` forces one. Raises KernelError for weights of another shape or type, an unknown activation, precision or
    algorithm.
    """
    if spec.element not in ("fp32", *HALVES):
        raise KernelError(f"conv2d: maps of {spec.element} have kernels of their own")
    kind = WEIGHTS_OF[spec.element] if np.asarray(weight).dtype != np.float32 else "float32"
    weight = _of_type("the weight", weight, spec.weight_shape, kind)
    if bias is not None:
        bias = _of_type("the bias", bias, (spec.out_channels,))
    formulas.activation(activation)
    if precision not in ("fast", "strict"):
        raise KernelError(f"conv2d: precision is {precision!r}; it must be 'fast' or 'strict'")
    if threads < 1:
        raise KernelError(f"conv2d: {threads} threads; at least 1 is needed")
    recipe = Recipe(host_isa(), activation, threads, precision == "strict", scratch or Scratch(), algorithm, kind)
    kernel = prepare_kernel(recipe.choose(spec), spec, recipe.isa, weight, bias, activation, recipe.scratch, threads)
    return PreparedConv2d(kernel, recipe)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    activation: str | None = None,
    precision: Precision = "fast",
) -> Array:
    """torch's conv2d on numpy arrays: x (N, C, H, W), weight (f, C/groups, K_h, K_w), bias (f,), all float32 → (N, f, h, w).

    ``padding`` is one number, (rows, columns) or (top, bottom, left, right). Arrays need not be contiguous. Each call
    packs everything again: use `prepare_conv2d` for layers that run often. Raises KernelError (GeometryError for
    impossible shapes) for arguments that describe no convolution.
    """
    x, weight = np.asarray(x), np.asarray(weight)
    for name, array in (("x", x), ("the weight", weight)):
        if array.ndim != 4 or array.dtype != np.float32:
            raise KernelError(f"conv2d: {name} must be a float32 array of 4 dimensions, not {array.dtype} {array.shape}")
    batch, channels, height, width = x.shape
    if 0 in weight.shape or channels == 0:
        raise KernelError(f"conv2d: nothing to compute for an input {x.shape} and a weight {weight.shape}")
    if weight.shape[1] * groups != channels:
        raise KernelError(f"conv2d: {groups} groups of {weight.shape[1]} input channels do not make {channels}")
    spec = ConvSpec(
        channels,
        weight.shape[0],
        height,
        width,
        (weight.shape[2], weight.shape[3]),
        _pair("stride", stride),
        _four(padding),
        _pair("dilation", dilation),
        groups,
        max(1, batch),
    )
    if batch == 0:
        return np.empty((0, *spec.output_shape[1:]), np.float32)
    prepared = prepare_conv2d(spec, weight, bias, activation=activation, precision=precision)
    out = Blocked.empty(*spec.output_shape)
    blocked = prepared.empty_input()
    bind_pack(np.ascontiguousarray(x), blocked)()
    prepared.run(blocked, out)
    y = np.empty(spec.output_shape, np.float32)
    bind_unpack(out, y)()
    return y


def check_maps(spec: ConvSpec, x: Blocked, out: Blocked, residual: Blocked | None = None) -> None:
    """Raises KernelError for maps of other sizes than the spec's, and for an input without the margin for its padding.

    Preparing a conv lists its tiles, which a spec that fits no map can have billions of: check first.
    """
    _expect("the input", x, spec.input_shape)
    _expect("the output", out, spec.output_shape)
    if residual is not None:
        _expect("the residual", residual, spec.output_shape)
    if any(has < needs for has, needs in zip(x.margin, spec.padding, strict=True)):
        raise KernelError(f"conv2d: padding {spec.padding} needs a margin of that size; the input has {tuple(x.margin)}")


def _expect(name: str, x: Blocked, shape: tuple[int, int, int, int]) -> None:
    found = (x.batch, x.channels, x.height, x.width)
    if found != shape:
        raise KernelError(f"conv2d: {name} must have the shape {shape}, not {found}")


def _of_type(name: str, array: Array, shape: tuple[int, ...], kind: WeightType = "float32") -> Array:
    array = np.asarray(array)
    if array.dtype.name != kind or array.shape != shape:
        raise KernelError(f"conv2d: {name} must be {kind} {shape}, not {array.dtype} {array.shape}")
    return array


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    try:
        return bool(np.shares_memory(a, b, max_work=10_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return False


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int | np.integer) else tuple(value)
    if len(pair) != 2:
        raise KernelError(f"conv2d: {name} {value} must be one number or two")
    return int(pair[0]), int(pair[1])


def _four(padding: int | tuple[int, ...]) -> tuple[int, int, int, int]:
    values = (padding,) if isinstance(padding, int | np.integer) else tuple(padding)
    match [int(value) for value in values]:
        case [a]:
            return a, a, a, a
        case [rows, columns]:
            return rows, rows, columns, columns
        case [top, bottom, left, right]:
            return top, bottom, left, right
        case _:
            raise KernelError(f"conv2d: padding {padding} must be one number, two or four")
