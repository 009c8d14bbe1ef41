"""Program: what one rank does in one inference, as data.

A program does not depend on a model: it names local buffers, weights by content hash, and steps in the order in which
they run. Each buffer is a region of some tensor in the blocked layout, and the regions of steps are in that tensor's
coordinates, the same on every rank. A Recv waits for its message; a Send does not wait. Every message of a run has its
own tag, so that the order on the wire does not matter.

Everything here is frozen and is sent as msgpack.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fogconv.ir.geometry import ConvSpec, MapSpec, PoolSpec, Region, Span, StepSpec, Taps
from fogconv.ir.precision.elements import ELEMENT_BYTES, WEIGHT_BYTES, Element, WeightType
from fogconv.ir.precision.scale import FP32, Precision

Wire = Literal["fp32", "fp16", "bf16", "zeros", "lz4", "zstd", "uint8", "int32"]
"""How a payload is coded: unchanged, in 16 bits, or losslessly (without its zeros, or compressed). What is no map in fp32 is
sent as it is kept, in "fp16", "bf16", "uint8" or "int32"."""

WIRE_BYTES: dict[Wire, float] = {
    "fp32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "zeros": 2.6,
    "lz4": 2.5,
    "zstd": 2.1,
    "uint8": 1.0,
    "int32": 4.0,
}
"""Bytes per element on the wire. The lossless ones depend on the values; these are for maps with 38 % zeros."""

WIRE_PASSES: dict[Wire, float] = {
    "fp32": 0.0,
    "fp16": 1.0,
    "bf16": 1.0,
    "zeros": 3.0,
    "lz4": 12.0,
    "zstd": 18.0,
    "uint8": 0.0,
    "int32": 0.0,
}
"""The cost of coding, in copies of the fp32 payload: lz4 codes 261 MB/s and zstd 178 MB/s where memory copies 3 GB/s."""


def wire_of(precision: Precision, wire: Wire) -> Wire:
    """How maps of this precision are sent where those in fp32 are sent as ``wire``."""
    return wire if precision.element == "fp32" else precision.element


def copied_bytes(element: Element, wire: Wire) -> float:
    """Bytes per element that go through memory where a map of these elements is cut, or joined, and coded."""
    kept = ELEMENT_BYTES[element]
    return kept if element == wire else kept * (1.0 + WIRE_PASSES[wire])


PIXEL_BYTES = 1.0
PIXEL_PASSES = 6.0
"""The same of a picture that is sent as bytes."""


class Pixels(msgspec.Struct, frozen=True):
    """A picture's normalisation: (byte / 255 − mean) / std, for each of the channels that are sent. Values of this form are
    sent as bytes, others as they are."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, channels: Span) -> Pixels:
        """Of some of the channels."""
        return Pixels(self.mean[channels.slice()], self.std[channels.slice()])


Activation = Annotated[str, msgspec.Meta(max_length=120)]
"""One of the workers' formulas of one input (`fogconv.kernels.codegen.formulas`), with its numbers if it takes any: "relu",
"leaky_relu(0.1)". Unknown ones are refused when the step is bound."""


class Buffer(msgspec.Struct, frozen=True):
    """A local array for ``region`` of a tensor, inside a margin (top, bottom, left, right) of zeros: in 8 bits, of the
    precision's ``zero``, which are zeros too."""

    tensor: str
    region: Region
    margin: tuple[int, int, int, int] = (0, 0, 0, 0)
    precision: Precision = FP32


class Step(msgspec.Struct, frozen=True, tag=True):
    """``layer`` is an index into ``Program.layers``; times are reported by it."""

    layer: int

    def work(self, batch: int) -> StepSpec | None:
        """What it computes, at its size; None for steps that do no work on maps, or whose cost is another."""
        return None


class Input(Step, frozen=True, tag=True):
    """Master: take the ``index``-th input of the run (NCHW) into a buffer."""

    index: int
    target: int
    region: Region


class Output(Step, frozen=True, tag=True):
    """Master: return a buffer as the ``index``-th output of the run (NCHW)."""

    index: int
    source: int
    region: Region


class HostOutput(Step, frozen=True, tag=True):
    """Master: return what host layers kept as ``value`` as the ``index``-th output of the run."""

    index: int
    value: str | int


class Part(msgspec.Struct, frozen=True):
    """A region of a buffer, as part of a message."""

    buffer: int
    region: Region


class Send(Step, frozen=True, tag=True):
    """Send ``region`` of a buffer to another rank, with the parts ``more`` in the same message."""

    source: int
    region: Region
    to: int
    tag: int
    wire: Wire = "fp32"
    more: tuple[Part, ...] = ()
    pixels: Pixels | None = None

    @property
    def element_bytes(self) -> float:
        """Of an element on the wire, as `WIRE_BYTES`."""
        return WIRE_BYTES[self.wire] if self.pixels is None else PIXEL_BYTES

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part(self.source, self.region), *self.more)

    @property
    def elements(self) -> int:
        """Of all parts, per image of the batch."""
        return sum(part.region.elements for part in self.parts)


class Recv(Step, frozen=True, tag=True):
    """Wait for a region from another rank and write it into a buffer, or add it where ``accumulate`` is set.

    ``more`` are the message's further parts, in the order in which they were sent; they are never added.
    """

    target: int
    region: Region
    origin: int
    tag: int
    accumulate: bool = False
    wire: Wire = "fp32"
    more: tuple[Part, ...] = ()
    pixels: Pixels | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part(self.target, self.region), *self.more)

    @property
    def elements(self) -> int:
        """Of all parts, per image of the batch."""
        return sum(part.region.elements for part in self.parts)


class Copy(Step, frozen=True, tag=True):
    """Copy (or add) a region of one buffer into another; ``shift`` is added to the channels on the way."""

    source: int
    region: Region
    target: int
    shift: int = 0
    accumulate: bool = False

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("copy", self.region, batch, sources=2 if self.accumulate else 1)


class Permute(Step, frozen=True, tag=True):
    """Copy single channels: the target region's k-th channel is the source region's ``channels[k]``-th."""

    source: int
    source_region: Region
    target: int
    target_region: Region
    channels: tuple[int, ...]

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("permute", self.target_region, batch)


class Conv(Step, frozen=True, tag=True):
    """``spec`` at the size of this shard: source region in, target region out.

    The source region is clipped to the image; ``spec.padding`` is the padding at the image's border. A residual of the
    target region's shape is added before the activation.

    An 8-bit source is multiplied by int8 weights, with an int32 bias, into exact int32 sums; these are the result where the
    target is of int32, and are rescaled by ``scales``, the weights' (f,) in float32, where it is not.

    A 16-bit source is multiplied by weights of the same 16 bits into sums of fp32; bias and activation are in fp32, and the
    result is rounded where the target has 16 bits.
    """

    spec: ConvSpec
    weight: str
    bias: str | None
    activation: Activation | None
    source: int
    source_region: Region
    target: int
    target_region: Region
    residual: int | None = None
    residual_region: Region | None = None
    scales: str | None = None

    def work(self, batch: int) -> ConvSpec:
        return self.spec


class Check(msgspec.Struct, frozen=True):
    """A check of one piece: ``signs`` (k, channels) · piece = the k channels of ``region`` in buffer ``source``."""

    source: int
    region: Region
    signs: str


class Piece(msgspec.Struct, frozen=True):
    """A part of a conv's result that comes from another rank. ``spare`` computes the same on the master, from its own
    input."""

    recv: Recv
    spare: Conv
    check: Check | None = None


class Gather(Step, frozen=True, tag=True):
    """Master: wait for all pieces, in any order, and replace those that are lost, late or wrong.

    ``code`` is the sum of all pieces, each padded with zero channels to the largest and starting at channel 0: with it,
    one missing piece is recovered by subtraction. Other missing pieces are computed here, and so are those not received
    after ``patience_s`` (0: wait as long as a Recv would).
    """

    pieces: tuple[Piece, ...]
    code: Recv | None = None
    patience_s: float = 0.0


class Pool(Step, frozen=True, tag=True):
    """``spec`` is the whole layer's; rows and columns of the regions give the part that is computed here."""

    spec: PoolSpec
    source: int
    source_region: Region
    target: int
    target_region: Region

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("pool", self.target_region, batch, kernel=self.spec.kernel, stride=self.spec.stride)


class GlobalPool(Step, frozen=True, tag=True):
    """target = sum over the source region's rows and columns ÷ ``divisor`` (the whole map's H·W)."""

    source: int
    source_region: Region
    target: int
    target_region: Region
    divisor: int

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("globalpool", self.source_region, batch)


class Squares(Step, frozen=True, tag=True):
    """target = sum over the source region's rows and columns of (source − mean)² ÷ ``divisor`` (the whole map's H·W).

    The means' region has all channels of the groups, of ``per_group`` channels, in which the target's channels lie; the
    target's are those from the ``first`` on.
    """

    source: int
    source_region: Region
    mean: int
    mean_region: Region
    target: int
    target_region: Region
    per_group: int
    first: int
    divisor: int

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("globalpool", self.source_region, batch)


class Normalize(Step, frozen=True, tag=True):
    """target = activation((source − mean) ÷ √(squares + eps) · scale + shift); mean and squares as in Squares."""

    source: int
    source_region: Region
    mean: int
    mean_region: Region
    squares: int
    squares_region: Region
    target: int
    target_region: Region
    per_group: int
    first: int
    eps: float
    scale: str | None = None
    shift: str | None = None
    activation: Activation | None = None

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("affine", self.target_region, batch)


class AcrossChannels(Step, frozen=True, tag=True):
    """target = op over all channels of each pixel; the executor looks up the operator by ``op``."""

    op: str
    source: int
    source_region: Region
    target: int
    target_region: Region
    parameters: tuple[float, ...] = ()
    scale: str | None = None
    shift: str | None = None

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of(self.op, self.target_region, batch)


class Add(Step, frozen=True, tag=True):
    """target = activation(sum of the sources)."""

    sources: tuple[int, ...]
    source_regions: tuple[Region, ...]
    target: int
    target_region: Region
    activation: Activation | None = None

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("add", self.target_region, batch, sources=len(self.sources))


class Elementwise(Step, frozen=True, tag=True):
    """target = op(sources, constant, parameters), element by element; the executor looks up the formula by ``op``.

    Regions of length 1 along an axis count everywhere along it. The constant is the key of an array (channels, rows,
    columns).
    """

    op: str
    sources: tuple[int, ...]
    source_regions: tuple[Region, ...]
    target: int
    target_region: Region
    parameters: tuple[float, ...] = ()
    constant: str | None = None

    def work(self, batch: int) -> MapSpec:
        operands = len(self.sources) + (self.constant is not None)
        return MapSpec.of(self.op, self.target_region, batch, sources=operands)


class Affine(Step, frozen=True, tag=True):
    """target = activation(source · scale + shift + residual); scale and shift are keys of arrays as long as
    the region's channels. The target may be the source."""

    source: int
    source_region: Region
    target: int
    target_region: Region
    scale: str | None = None
    shift: str | None = None
    activation: Activation | None = None
    residual: int | None = None
    residual_region: Region | None = None

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("affine", self.target_region, batch, sources=1 if self.residual is None else 2)


class Convert(Step, frozen=True, tag=True):
    """target = activation(source), from the one's precision to the other's.

    Sums of an 8-bit conv (int32) are rescaled by ``scales``, the conv's, and ``unit``, its source's scale.
    """

    source: int
    source_region: Region
    target: int
    target_region: Region
    scales: str | None = None
    unit: float = 1.0
    activation: Activation | None = None

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("convert", self.target_region, batch)


class Gate(Step, frozen=True, tag=True):
    """target = source · gate; the gate region is 1×1."""

    source: int
    source_region: Region
    gate: int
    gate_region: Region
    target: int
    target_region: Region

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("gate", self.target_region, batch)


class Resample(Step, frozen=True, tag=True):
    """target = weighted sums of the source region's rows and columns; ``fill`` where a row or a column has no tap. The taps
    are those of this part: inputs and outputs count from the regions' first."""

    source: int
    source_region: Region
    target: int
    target_region: Region
    rows: Taps
    columns: Taps
    fill: float = 0.0

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("resample", self.target_region, batch, kernel=(self.rows.most, self.columns.most))


class Interleave(Step, frozen=True, tag=True):
    """target's pixel (y, x) = pixel (y ÷ s, x ÷ t) of source (y mod s)·t + (x mod t), for ``factors`` (s, t) and whole
    layers; the sources' regions begin at the target region's first row and column ÷ (s, t)."""

    sources: tuple[int, ...]
    source_regions: tuple[Region, ...]
    target: int
    target_region: Region
    factors: tuple[int, int]

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("interleave", self.target_region, batch, sources=len(self.sources), stride=self.factors)


class Host(Step, frozen=True, tag=True):
    """Master: run the graph's ``layer``-th layer in torch."""

    sources: tuple[int, ...]
    source_regions: tuple[Region, ...]
    targets: tuple[int, ...]
    target_regions: tuple[Region, ...]


# Steps on plain arrays (C order, float32), by name: training uses them. Unlike buffers, arrays stay from one run to the
# next, and programs with the same ``Program.shares`` share them: a backward pass finds the input of its forward pass.


class ArrayInput(Step, frozen=True, tag=True):
    """Master: the run's ``index``-th input becomes an array, without a copy."""

    index: int
    array: str


class ArrayOutput(Step, frozen=True, tag=True):
    """Master: an array becomes the run's ``index``-th output, and is dropped."""

    array: str
    index: int


class ArraySend(Step, frozen=True, tag=True):
    """Send an array to another rank, and drop it."""

    array: str
    to: int
    tag: int


class ArrayRecv(Step, frozen=True, tag=True):
    """Wait for an array of this shape from another rank; write it into the array of this name, or add it if ``into`` says
    so."""

    array: str
    shape: tuple[int, ...]
    origin: int
    tag: int
    into: Literal["new", "place", "sum"] = "new"


class ConvForward(Step, frozen=True, tag=True):
    """out (N, f, h, w) = conv(x, weight), without a bias. Weights are packed again when the name refers to another
    array."""

    spec: ConvSpec
    x: str
    weight: str
    out: str


class ConvGradInput(Step, frozen=True, tag=True):
    """out (N, c, H, W) = the gradient of the input."""

    spec: ConvSpec
    grad_out: str
    weight: str
    out: str


class ConvGradWeight(Step, frozen=True, tag=True):
    """out (f, c/g, K_h, K_w) = the gradient of the weight."""

    spec: ConvSpec
    x: str
    grad_out: str
    out: str


class ArrayFree(Step, frozen=True, tag=True):
    """Drop arrays."""

    arrays: tuple[str, ...]


ArrayStep = ArrayInput | ArrayOutput | ArraySend | ArrayRecv | ConvForward | ConvGradInput | ConvGradWeight | ArrayFree

MapStep = (
    Copy
    | Permute
    | Conv
    | Pool
    | GlobalPool
    | Squares
    | Normalize
    | AcrossChannels
    | Add
    | Affine
    | Elementwise
    | Gate
    | Resample
    | Interleave
    | Convert
)
"""Steps that compute on buffers, each with its own kernel."""

AnyStep = Input | Output | HostOutput | Send | Recv | Gather | Host | MapStep | ArrayStep


class Program(msgspec.Struct, frozen=True):
    """``layers`` are names for the trace; ``weights`` are the content hashes that the steps refer to, with their shapes;
    ``weight_types`` has those that are not of fp32.

    ``shares`` names the arrays (see ArrayInput and the steps after it) that programs of one session have in common.
    ``swapped`` are those of the weights, of convs only, that lie on the rank's disk and are read before each use.
    """

    rank: int
    ranks: int
    batch: int
    layers: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[AnyStep, ...]
    weights: dict[str, tuple[int, ...]]
    shares: str = ""
    swapped: tuple[str, ...] = ()
    weight_types: dict[str, WeightType] = {}

    def work(self, step: AnyStep) -> StepSpec | None:
        """What a step computes, at its size and in its precision; None for steps that do no work on maps."""
        found = step.work(self.batch)
        if not isinstance(found, MapSpec):
            return found
        element = self.buffers[next(buffers_of(step))].precision.element
        return found if element == "fp32" else replace(found, element=element)

    def weight_bytes(self, key: str) -> int:
        """Of a weight, as it came."""
        return WEIGHT_BYTES[self.weight_types.get(key, "float32")] * math.prod(self.weights[key])

    @property
    def peers(self) -> frozenset[int]:
        """The ranks with which this one exchanges messages."""
        to = {step.to for step in self.steps if isinstance(step, Send | ArraySend)}
        origin = {step.origin for step in self.steps if isinstance(step, Recv | ArrayRecv)}
        gathered = {recv.origin for step in self.steps if isinstance(step, Gather) for recv in gathers(step)}
        return frozenset(to | origin | gathered)


def gathers(step: Gather) -> tuple[Recv, ...]:
    """All messages that a Gather may take."""
    return (*(piece.recv for piece in step.pieces), *(() if step.code is None else (step.code,)))


def buffers_of(step: AnyStep) -> Iterator[int]:
    """All buffers that a step reads or writes: its fields "source" and "target", and each that has a field of its region or
    regions beside it."""
    for name in _buffer_fields(type(step)):
        held = getattr(step, name)
        yield from held if isinstance(held, tuple) else () if held is None else (held,)
    if isinstance(step, Send | Recv):
        yield from (part.buffer for part in step.more)
    elif isinstance(step, Gather):
        for piece in step.pieces:
            yield from buffers_of(piece.spare)
            yield from () if piece.check is None else (piece.check.source,)
        for recv in gathers(step):
            yield from buffers_of(recv)


def places_of(step: MapStep) -> Iterator[tuple[int, Region]]:
    """The buffers that a step on maps reads or writes, with the region of each: the result's last."""
    fields = [name for name in _buffer_fields(type(step)) if name != "target"]
    for name in (*fields, "target"):
        held = getattr(step, name)
        if isinstance(held, tuple):
            yield from zip(held, getattr(step, f"{name.removesuffix('s')}_regions"), strict=True)
        elif held is not None:
            yield held, getattr(step, f"{name}_region")


@cache
def _buffer_fields(kind: type[Step]) -> tuple[str, ...]:
    names = kind.__struct_fields__
    return tuple(
        name
        for name in names
        if name in ("source", "target") or f"{name}_region" in names or f"{name.removesuffix('s')}_regions" in names
    )


def expendable(programs: Iterable[Program]) -> frozenset[int]:
    """The ranks without whose messages a run can end: everything that they send is gathered, nothing is received by a
    Recv."""
    gathered: set[int] = set()
    awaited: set[int] = set()
    for program in programs:
        for step in program.steps:
            if isinstance(step, Gather):
                gathered |= {recv.origin for recv in gathers(step)}
            elif isinstance(step, Recv | ArrayRecv):
                awaited.add(step.origin)
    return frozenset(gathered - awaited - {0})


def encode(program: Program) -> bytes:
    return msgspec.msgpack.encode(program)


def decode(data: bytes) -> Program:
    """Decode a Program. Raises msgspec.ValidationError (or DecodeError) for other data."""
    return _DECODER.decode(data)


_DECODER = msgspec.msgpack.Decoder(Program)


def weight_key(array: NDArray[Any]) -> str:
    """The content hash that identifies an array on the wire: BLAKE2b over dtype, shape and bytes, as 32 hex digits."""
    digest = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
