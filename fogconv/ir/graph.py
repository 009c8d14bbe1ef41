"""LayerGraph: a CNN as the planner sees it. No torch here; `fogconv.frontend.torch.export` makes one from a torch model.

A Tensor is a map (N, C, H, W), in fp32 or in another `Precision`. A layer reads and writes tensors by number; every tensor
is written once, and the layers are in an order in which everything is written before it is read. A linear layer is a conv
whose kernel covers its whole input, so that it splits by the same rules. An operation that fogconv's workers don't know is
a Host layer: it runs in torch on the master; its inputs are gathered and its outputs are sent on.

Each type of layer defines what it reads, how it may be split and what it costs; code above asks the layer instead of
testing its type. A new elementwise operator needs no new type (see Elementwise).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar, Self

from fogconv.errors import GeometryError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec, MapSpec, PoolSpec, Region, Span, StepSpec, Taps
from fogconv.ir.precision.elements import Element
from fogconv.ir.precision.scale import FP32, Precision
from fogconv.ir.shard import Shard, Work, conv_shard, pool_input


@dataclass(frozen=True, slots=True)
class Tensor:
    """A map (batch, channels, height, width); ``name`` is for reports."""

    name: str
    batch: int
    channels: int
    height: int
    width: int
    precision: Precision = FP32

    @property
    def region(self) -> Region:
        return Region.whole(self.channels, self.height, self.width)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.channels, self.height, self.width)

    @property
    def elements(self) -> int:
        return self.batch * self.channels * self.height * self.width


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
        """The regions that it reads, without the residual of a conv whose sum is still partial. Raises GeometryError
        where a part would read only padding, or cut a group."""
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


@dataclass(frozen=True, slots=True)
class Conv(ToMap):
    """target = activation(conv(source) + bias + residual). ``weight`` and ``bias`` are keys of ``LayerGraph.weights``.

    ``activation`` is written as `Elementwise.activation` does.

    ``linear`` marks a fully connected layer (kernel = the whole input, no padding, output 1×1).

    Of an 8-bit source the weight is int8, the bias int32, and ``scales`` names the weight's scales (f,), float32; it has no
    residual then (see `fogconv.ir.precision.elements`).
    """

    by_channels: ClassVar[bool] = False
    weight_keys: ClassVar[tuple[str, ...]] = ("weight", "bias", "scales")

    name: str
    source: int
    target: int
    spec: ConvSpec
    weight: str
    bias: str | None = None
    activation: str | None = None
    residual: int | None = None
    linear: bool = False
    scales: str | None = None

    @property
    def reads(self) -> tuple[int, ...]:
        """The tensors that it reads, the residual included."""
        return (self.source,) if self.residual is None else (self.source, self.residual)

    @property
    def reaches(self) -> bool:
        return self.spec.kernel[0] > 1

    def shard(self, work: Work) -> Shard:
        return conv_shard(work.rank, self.spec, work.output, work.depth)

    def is_partial(self, work: Work) -> bool:
        return work.raw or self.shard(work).partial

    def computes(self, tensors: Sequence[Tensor], work: Work) -> ConvSpec:
        return self.shard(work).spec

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        shard = self.shard(work)
        read: Needs = ((self.source, shard.input),)
        if self.residual is not None and not (work.raw or shard.partial):
            read += ((self.residual, work.output),)
        return read


@dataclass(frozen=True, slots=True)
class Pool(FromMap):
    name: str
    source: int
    target: int
    spec: PoolSpec

    @property
    def reaches(self) -> bool:
        return self.spec.kernel[0] > 1

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return ((self.source, pool_input(self.spec, work.output)),)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        batch = tensors[self.target].batch
        sizes: dict[str, Any] = {"kernel": self.spec.kernel, "stride": self.spec.stride}
        return MapSpec.of("pool", work.output, batch, **sizes, element=self.element(tensors))


@dataclass(frozen=True, slots=True)
class GlobalPool(FromMap):
    """target (N, C, 1, 1) = the mean over rows and columns."""

    by_sums: ClassVar[bool] = True

    name: str
    source: int
    target: int

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        whole = tensors[self.source].region.with_channels(work.output.channels)
        return ((self.source, work.summed(whole)),)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        [(_, region)] = self.needs(tensors, work)
        return MapSpec.of("globalpool", region, tensors[self.target].batch, element=self.element(tensors))


@dataclass(frozen=True, slots=True)
class Squares(ToMap):
    """target (N, C, 1, 1) = the mean over rows and columns of (source − mean)², the second pass of a normalization.

    ``mean`` (N, C, 1, 1) has each channel's mean; what counts is its mean over the channel's group, of ``groups``
    equal ones.
    """

    by_sums: ClassVar[bool] = True

    name: str
    source: int
    mean: int
    target: int
    groups: int

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.source, self.mean)

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        whole = tensors[self.source].region.with_channels(work.output.channels)
        means = whole_groups(tensors[self.mean].region, work.output.channels, self.groups)
        return ((self.source, work.summed(whole)), (self.mean, means))

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        region = self.needs(tensors, work)[0][1]
        return MapSpec.of("globalpool", region, tensors[self.target].batch)


@dataclass(frozen=True, slots=True)
class Normalize(ToMap):
    """target = activation((source − mean) ÷ √(squares + eps) · scale + shift): instance norm, group norm, and layer norm
    over channels, rows and columns.

    ``mean`` and ``squares`` (N, C, 1, 1) have one value per channel (see `GlobalPool` and `Squares`); what counts is their
    mean over the channel's group, of ``groups`` equal ones. Scale and shift, keys of (C,) arrays, may be absent.
    """

    weight_keys: ClassVar[tuple[str, ...]] = ("scale", "shift")

    name: str
    source: int
    mean: int
    squares: int
    target: int
    groups: int
    eps: float
    scale: str | None = None
    shift: str | None = None
    activation: str | None = None

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.source, self.mean, self.squares)

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        means = whole_groups(tensors[self.mean].region, work.output.channels, self.groups)
        return ((self.source, work.output), (self.mean, means), (self.squares, means))

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        return MapSpec.of("affine", work.output, tensors[self.target].batch)


def whole_groups(whole: Region, channels: Span, groups: int) -> Region:
    """All channels of the groups, of equal size, in which some channels lie."""
    size = len(whole.channels) // groups
    return whole.with_channels(Span(channels.start // size * size, -(-channels.stop // size) * size))


@dataclass(frozen=True, slots=True)
class Convert(FromMap):
    """target = source, in the target's precision: quantising, dequantising, and from one scale to another."""

    name: str
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class AcrossChannels(FromMap):
    """target = op over all channels of each pixel: "softmax", "log_softmax", "layer_norm" (eps; scale and shift, keys of
    (C,) arrays, may be absent), "lrn" (size, alpha, beta, bias). See `fogconv.kernels.maps.across_channels`."""

    by_channels: ClassVar[bool] = False
    weight_keys: ClassVar[tuple[str, ...]] = ("scale", "shift")

    name: str
    op: str
    source: int
    target: int
    parameters: tuple[float, ...] = ()
    scale: str | None = None
    shift: str | None = None

    @property
    def kind(self) -> str:
        return self.op

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        if work.output.channels != tensors[self.target].region.channels:
            raise GeometryError(f"{self.op} is computed over all channels of a pixel, not over {work.output.channels}")
        return ((self.source, work.output),)


@dataclass(frozen=True, slots=True)
class Add(FromMaps):
    """target = activation(sum of the sources), all of one shape."""

    name: str
    sources: tuple[int, ...]
    target: int
    activation: str | None = None


@dataclass(frozen=True, slots=True)
class Affine(FromMap):
    """target = activation(source · scale + shift), scale and shift per channel (keys of (C,) arrays) or absent."""

    weight_keys: ClassVar[tuple[str, ...]] = ("scale", "shift")

    name: str
    source: int
    target: int
    scale: str | None = None
    shift: str | None = None
    activation: str | None = None


@dataclass(frozen=True, slots=True)
class Elementwise(FromMaps):
    """target = op(sources, constant, parameters), element by element.

    ``op`` names one of the workers' formulas (`fogconv.kernels.codegen.formulas`). The sources are of the target's shape,
    or of length 1 along some of channels, rows and columns: then that one value counts everywhere. So is the constant, the
    key of an array (C, H, W).
    """

    weight_keys: ClassVar[tuple[str, ...]] = ("constant",)

    name: str
    op: str
    sources: tuple[int, ...]
    target: int
    parameters: tuple[float, ...] = ()
    constant: str | None = None

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return tuple((source, work.output.cut_to(tensors[source].region)) for source in self.sources)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        operands = len(self.sources) + (self.constant is not None)
        element = self.element(tensors)
        return MapSpec.of(self.kind, work.output, tensors[self.target].batch, sources=operands, element=element)

    @property
    def kind(self) -> str:
        return self.op

    @property
    def activation(self) -> str:
        """The operator as another layer's activation: "mish", "clip(-1.0, 6.0)"."""
        numbers = ", ".join(map(repr, self.parameters))
        return f"{self.op}({numbers})" if numbers else self.op


@dataclass(frozen=True, slots=True)
class Gate(ToMap):
    """target = source · gate, the gate being (N, C, 1, 1): squeeze-and-excitation."""

    name: str
    source: int
    gate: int
    target: int

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.source, self.gate)

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        gate = tensors[self.gate].region.with_channels(work.output.channels)
        return ((self.source, work.output), (self.gate, gate))

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        return MapSpec.of("gate", work.output, tensors[self.target].batch, element=self.element(tensors))


@dataclass(frozen=True, slots=True)
class Concat(FromMaps):
    """target = the sources one after the other along the channels."""

    relabels: ClassVar[bool] = True

    name: str
    sources: tuple[int, ...]
    target: int

    def pieces(self, tensors: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
        starts = accumulate((tensors[source].channels for source in self.sources), initial=0)
        return tuple(zip(self.sources, starts, strict=False))

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return ()


@dataclass(frozen=True, slots=True)
class Slice(FromMap):
    """target = the channels from ``start`` on, as many as the target has."""

    relabels: ClassVar[bool] = True

    name: str
    source: int
    target: int
    start: int

    def pieces(self, tensors: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
        return ((self.source, -self.start),)

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return ()


@dataclass(frozen=True, slots=True)
class Shuffle(FromMap):
    """Channel shuffle: channel i·(C/groups)+j of the source becomes channel j·groups+i of the target."""

    by_channels: ClassVar[bool] = False

    name: str
    source: int
    target: int
    groups: int

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return ((self.source, work.output.with_channels(tensors[self.source].region.channels)),)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        return MapSpec.of("permute", work.output, tensors[self.target].batch, element=self.element(tensors))


@dataclass(frozen=True, slots=True)
class Resample(FromMap):
    """target = weighted sums of the source's rows and columns (see Taps): resizing, slicing with steps, padding.

    ``fill`` stands where a row or a column has no tap.
    """

    name: str
    source: int
    target: int
    rows: Taps
    columns: Taps
    fill: float = 0.0

    @property
    def reaches(self) -> bool:
        return True

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        out = work.output
        return ((self.source, Region(out.channels, self.rows.reach(out.rows), self.columns.reach(out.columns))),)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        kernel = (self.rows.part(work.output.rows).most, self.columns.part(work.output.columns).most)
        return MapSpec.of("resample", work.output, tensors[self.target].batch, kernel=kernel)


@dataclass(frozen=True, slots=True)
class Interleave(FromMaps):
    """target's pixel (y, x) = pixel (y ÷ s, x ÷ t) of source (y mod s)·t + (x mod t), for ``factors`` (s, t): the s·t
    sources are the phases of a finer grid, all of one shape. Rows and columns beyond the target's size are left out.

    Transposed convolutions end so, each phase being an ordinary convolution, and depth-to-space.
    """

    from_lanes: ClassVar[bool] = True

    name: str
    sources: tuple[int, ...]
    target: int
    factors: tuple[int, int]

    @property
    def reaches(self) -> bool:
        return True

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        rows, columns = (
            Span(span.start // factor, (span.stop - 1) // factor + 1)
            for span, factor in zip((work.output.rows, work.output.columns), self.factors, strict=True)
        )
        return tuple((source, Region(work.output.channels, rows, columns)) for source in self.sources)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        return MapSpec.of(
            "interleave", work.output, tensors[self.target].batch, sources=len(self.sources), stride=self.factors
        )


@dataclass(frozen=True, slots=True)
class Hosted:
    """One operation of a Host layer: its operator in the model's framework, its node's name, why it is not a layer of its
    own, and its multiply-adds for the whole batch."""

    operator: str
    node: str
    why: str
    macs: int = 0


@dataclass(frozen=True, slots=True)
class Host(Operator):
    """Operations of the model's own framework, on the master: reads and writes maps by number.

    ``call(values, *maps)`` gets one NCHW array per read and returns one per write; ``values`` is a dict, new for each
    inference, with the inference's inputs by their numbers, in which calls keep values that are not maps (token sequences,
    masks) for later calls, and as results.
    """

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    call: Callable[..., Sequence[Array]] = field(compare=False, repr=False)
    operations: tuple[Hosted, ...] = ()

    @property
    def ops(self) -> tuple[str, ...]:
        """Its operators, each once."""
        return tuple(sorted({each.operator for each in self.operations}))

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return tuple((source, tensors[source].region) for source in self.reads)


@dataclass(frozen=True, slots=True)
class Port:
    """One of the model's inputs or outputs: map number ``tensor``, whose elements the model takes or gives in ``shape`` (a
    head's (N, classes, 1, 1) map is given as (N, classes)).

    What is no map, such as a list of indices, stays with the master's Host layers: ``tensor`` is None, and ``value`` its key
    in their ``values``; an input's is its number. Its shape may depend on the picture (None then). ``dtype`` of an input is
    what it is converted to, by NumPy's name.
    """

    name: str
    tensor: int | None
    shape: tuple[int, ...] | None
    value: str | int | None = None
    dtype: str = "float32"


Structure = Any
"""How a model nests its results: the number of an output, None, a tuple, or a dict of structures."""


Layer = (
    Conv
    | Pool
    | GlobalPool
    | Squares
    | Normalize
    | AcrossChannels
    | Add
    | Affine
    | Elementwise
    | Gate
    | Concat
    | Slice
    | Shuffle
    | Resample
    | Interleave
    | Convert
    | Host
)


@dataclass(frozen=True)
class LayerGraph:
    """``inputs`` and ``outputs`` in the model's order, the first input a batch of pictures; ``structure`` is how the model
    nests its outputs. ``weights`` holds every array by its key."""

    name: str
    tensors: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: Mapping[str, Array] = field(compare=False, repr=False)
    structure: Structure = 0
    info: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def single(
        cls,
        name: str,
        tensors: tuple[Tensor, ...],
        layers: tuple[Layer, ...],
        given: int,
        result: int,
        shape: tuple[int, ...],
        weights: Mapping[str, Array],
    ) -> Self:
        """A graph with one input and one output, maps by number; the output is returned in ``shape``."""
        source = Port("input", given, tensors[given].shape if tensors else ())
        return cls(name, tensors, layers, (source,), (Port("output", result, shape),), weights)

    @property
    def hosted(self) -> tuple[Hosted, ...]:
        """What stays on the master because workers can't do it."""
        return tuple(each for layer in self.layers if isinstance(layer, Host) for each in layer.operations)

    @property
    def on_master_share(self) -> float:
        """What workers can't do, of all multiply-adds (0 to 1)."""
        hosted, shared = sum(each.macs for each in self.hosted), 0
        for layer in self.layers:
            if not isinstance(layer, Host) and not layer.relabels:
                work = layer.computes(self.tensors, Work(0, self.tensors[layer.target].region))
                shared += work.macs if isinstance(work, ConvSpec) else 0
        return hosted / (hosted + shared) if hosted else 0.0

    @property
    def picture(self) -> Tensor:
        """The first input's map."""
        number = self.inputs[0].tensor
        assert number is not None
        return self.tensors[number]

    @property
    def given(self) -> tuple[int, ...]:
        """The maps that are inputs."""
        return tuple(dict.fromkeys(port.tensor for port in self.inputs if port.tensor is not None))

    @property
    def results(self) -> tuple[int, ...]:
        """The maps that are outputs, each once."""
        return tuple(dict.fromkeys(port.tensor for port in self.outputs if port.tensor is not None))

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The convolutions that the paper's scheme may distribute (linear layers are not among them)."""
        return tuple(layer for layer in self.layers if isinstance(layer, Conv) and not layer.linear)
