"""ProgramBuilder: the programs of all ranks while they are built: steps, buffers, weights, transfers between ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fogconv.guards.placement import extra_reads
from fogconv.ir import steps as step
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Host, Layer
from fogconv.ir.layout import MASTER, Layout, merge, transfers
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.precision.elements import WeightType
from fogconv.ir.steps import AnyStep
from fogconv.lowering.buffers import Held, Residency
from fogconv.lowering.weight_slices import Cuts


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message that is still to be received: regions of tensors, from rank ``source`` to rank ``target``."""

    source: int
    target: int
    tag: int
    content: tuple[tuple[int, Region], ...]


@dataclass(frozen=True, slots=True)
class Partial:
    """A summand of a layer's output: ``region`` is in ``buffer`` of ``rank``."""

    rank: int
    buffer: int
    region: Region


class ProgramBuilder:
    """``index`` is the current layer; ``named[rank]`` are the weights that a rank needs, with their shapes, ``types[rank]``
    the types of those that are not of fp32, and ``swapped[rank]`` those of them on its disk."""

    def __init__(self, graph: LayerGraph, plan: Plan, weights: Cuts | None = None) -> None:
        self.graph = graph
        self.plan = plan
        self.steps: list[list[AnyStep]] = [[] for _ in range(plan.ranks)]
        self.named: list[dict[str, tuple[int, ...]]] = [{} for _ in range(plan.ranks)]
        self.types: list[dict[str, WeightType]] = [{} for _ in range(plan.ranks)]
        self.weights = Cuts(graph.weights) if weights is None else weights
        self.pieces = {layer.writes[0]: layer.pieces(graph.tensors) for layer in graph.layers if layer.relabels}
        self._wanted = wanted(graph, plan)
        self.residency = Residency(graph, plan.ranks, self._wanted)
        self.index = 0
        self.swapped: list[list[str]] = [[] for _ in range(plan.ranks)]
        self._slices = {(swap.layer, swap.rank): swap.channels for swap in plan.swaps}
        self._tag = 0

    def next_tag(self) -> int:
        """A tag that no other message of the run has."""
        self._tag += 1
        return self._tag - 1

    def all_wanted(self, tensor: int, rank: int) -> tuple[Region, ...]:
        """All regions of a tensor that a rank will need, as disjoint boxes."""
        return merge((), self._wanted[tensor, rank])

    def fetch(self, tensor: int, needed: Mapping[int, Sequence[Region]]) -> None:
        """Send each rank the regions of ``needed`` that it lacks, into its home buffer."""
        self.receive(self.send({tensor: needed}))

    def send(self, needed: Mapping[int, Mapping[int, Sequence[Region]]], *, ahead: bool = False) -> list[Parcel]:
        """The sending half of ``fetch``, for several tensors: one message from a rank to another, whatever its parts
        (one for each precision).

        ``ahead``: where there is a message, regions of these tensors that its receiver needs later are sent with it,
        because a longer message costs less than one more message. They never cause a message of their own.
        """
        pairs: dict[tuple[int, int, step.Wire], list[tuple[int, Region]]] = defaultdict(list)
        met: set[tuple[int, int, step.Wire]] = set()
        for tensor, by_rank in needed.items():
            boxes = [
                (*by_rank.get(rank, ()), *(self.all_wanted(tensor, rank) if ahead and rank in by_rank else ()))
                for rank in range(self.plan.ranks)
            ]
            layout = Layout(tuple(merge((), several) for several in boxes))
            for move in transfers(self.residency.layout(tensor), layout):
                pair = move.source, move.target, step.wire_of(self.graph.tensors[tensor].precision, self.plan.wire)
                pairs[pair].append((tensor, move.region))
                if any(move.region & region for region in by_rank[move.target]):
                    met.add(pair)
        # Each rank sends to the next rank first, so that not all send to the same one at the same time.
        order = sorted(met, key=lambda pair: ((pair[1] - pair[0]) % self.plan.ranks, pair))
        parcels = [Parcel(*pair[:2], self.next_tag(), tuple(pairs[pair])) for pair in order]
        for parcel in parcels:
            held = [self.residency.find(parcel.source, tensor, region) for tensor, region in parcel.content]
            first, *more = [step.Part(each.buffer, each.place) for each in held]
            self.steps[parcel.source].append(
                step.Send(
                    self.index,
                    first.buffer,
                    first.region,
                    parcel.target,
                    parcel.tag,
                    self._wire(parcel),
                    tuple(more),
                    self._pixels(parcel),
                )
            )
        return parcels

    def _pixels(self, parcel: Parcel) -> step.Pixels | None:
        """The normalisation, where a message is a region of the picture, and nothing else."""
        [(tensor, region), *more] = parcel.content
        if self.plan.pixels is None or more or tensor != self.graph.inputs[0].tensor:
            return None
        return self.plan.pixels.of(region.channels)

    def _wire(self, parcel: Parcel) -> step.Wire:
        precision = self.graph.tensors[parcel.content[0][0]].precision
        return step.wire_of(precision, self.plan.wire if self._pixels(parcel) is None else "fp32")

    def receive(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            parts = []
            for tensor, region in parcel.content:
                home = self.residency.home(parcel.target, tensor)
                held = Held(region, home.buffer, home.shift)
                parts.append(step.Part(home.buffer, held.place))
                self.residency.hold(parcel.target, tensor, held)
            first, *more = parts
            self.steps[parcel.target].append(
                step.Recv(
                    self.index,
                    first.buffer,
                    first.region,
                    parcel.source,
                    parcel.tag,
                    wire=self._wire(parcel),
                    more=tuple(more),
                    pixels=self._pixels(parcel),
                )
            )

    def ensure(self, rank: int, tensor: int, region: Region, *, lanes: bool = False) -> Held:
        """The region in one aligned buffer of this rank, copied together where it is spread over several. With ``lanes`` it
        may begin in any lane of one block."""
        found = self.residency.readable(rank, tensor, region, lanes=lanes)
        if found is not None:
            return found
        home = self.residency.home(rank, tensor)
        at_home = Held(region, home.buffer, home.shift)
        if not self.residency.aligned(rank, home.buffer, at_home.place):
            at_home = Held(region, self.residency.new_buffer(rank, tensor, region), 0)
        missing: tuple[Region, ...] = (region,)
        for held in list(self.residency.held(rank, tensor)):
            pieces, missing = _cut(missing, held.region)
            if (held.buffer, held.shift) == (at_home.buffer, at_home.shift):
                continue
            for piece in pieces:
                self.copy(rank, Held(piece, held.buffer, held.shift), Held(piece, at_home.buffer, at_home.shift))
        self.residency.hold(rank, tensor, at_home)
        return at_home

    def copy(self, rank: int, source: Held, target: Held) -> None:
        self.steps[rank].append(
            step.Copy(self.index, source.buffer, source.place, target.buffer, target.shift - source.shift)
        )

    def written(self, rank: int, tensor: int, region: Region, write: Callable[[Held], None]) -> None:
        """Let a kernel write a region into the tensor's home; where it would overwrite other channels, into a temporary
        buffer that is then copied."""
        out = self.place(rank, tensor, region)
        write(out)
        self.settle(rank, tensor, out)

    def place(self, rank: int, tensor: int, region: Region) -> Held:
        """A place where a kernel may write a region in whole blocks of 16 channels."""
        home = self.residency.home(rank, tensor)
        at_home = Held(region, home.buffer, home.shift)
        if self.residency.writable(rank, home.buffer, at_home.place):
            return at_home
        return Held(region, self.residency.new_buffer(rank, tensor, region, margin=False), 0)

    def settle(self, rank: int, tensor: int, written: Held) -> None:
        """Record the written region as held at home."""
        home = self.residency.home(rank, tensor)
        at_home = Held(written.region, home.buffer, home.shift)
        if written != at_home:
            self.copy(rank, written, at_home)
        self.residency.hold(rank, tensor, at_home)

    def slices(self, rank: int) -> tuple[Span, ...]:
        """The output channels of the current layer whose weights this rank reads from its disk, slice by slice."""
        return self._slices.get((self.index, rank), ())

    def weight(self, rank: int, key: str, cut: tuple[slice, ...]) -> str:
        """The content hash of a part of a weight; records that this rank needs it."""
        return self._named(rank, self.weights.cut(key, cut))

    def derived_weight(self, rank: int, make: Callable[[], Array]) -> str:
        """The same for an array that is not part of the graph's weights: the result of ``make``, which must be the same
        each time."""
        return self._named(rank, self.weights.derive(make))

    def _named(self, rank: int, name: str) -> str:
        self.named[rank][name] = self.weights.shape(name)
        kind = self.weights.kind(name)
        if kind is not None:
            self.types[rank][name] = kind
        return name

    def summand_buffer(self, rank: int, layer: Layer, region: Region) -> int:
        """A new buffer for a summand of a layer's result: no kernel reads beyond it."""
        return self.residency.new_summand(rank, layer, region)

    def wire_of(self, rank: int, buffer: int) -> step.Wire:
        """How what a buffer holds is sent."""
        return step.wire_of(self.residency.buffers[rank][buffer].precision, self.plan.wire)


def wanted(graph: LayerGraph, plan: Plan) -> dict[tuple[int, int], list[Region]]:
    """(tensor, rank) → every region of it that this rank will produce, receive or read."""
    boxes: dict[tuple[int, int], list[Region]] = defaultdict(list)
    for tensor in (*graph.given, *graph.results):
        boxes[tensor, MASTER].append(graph.tensors[tensor].region)
    for layer, placement in zip(graph.layers, plan.placements, strict=True):
        moved = list(placement.via)
        if placement.target is not None and not isinstance(layer, Host):
            moved.append((layer.target, placement.target))
            if isinstance(layer, Conv) and layer.residual is not None and _summed(layer, placement):
                moved.append((layer.residual, placement.target))
        for tensor, layout in moved:
            for rank, regions in enumerate(layout.regions):
                boxes[tensor, rank].extend(regions)
        for work in placement.work:
            for tensor, region in layer.needs(graph.tensors, work):
                boxes[tensor, work.rank].append(region)
            if isinstance(layer, Host):
                for tensor in layer.writes:
                    boxes[tensor, work.rank].append(graph.tensors[tensor].region)
            elif not layer.is_partial(work):
                boxes[layer.target, work.rank].append(work.output)
        for rank, tensor, region in extra_reads(graph, layer, placement):
            boxes[tensor, rank].append(region)
    # What is read of a concatenation is read of its parts, which may be sent before it is complete.
    for layer in reversed(graph.layers):
        for source, offset in layer.pieces(graph.tensors) if layer.relabels else ():
            for rank in range(plan.ranks):
                for box in boxes.get((layer.writes[0], rank), ()):
                    if part := box.shift_channels(-offset) & graph.tensors[source].region:
                        boxes[source, rank].append(part)
    return boxes


def _summed(layer: Layer, placement: Placement) -> bool:
    return any(layer.is_partial(work) for work in placement.work)


def _cut(missing: tuple[Region, ...], box: Region) -> tuple[list[Region], tuple[Region, ...]]:
    """The parts of the missing boxes inside ``box``, and the parts that are still missing after that."""
    inside = [common for part in missing if (common := part & box)]
    return inside, tuple(rest for part in missing for rest in part.minus(box))
