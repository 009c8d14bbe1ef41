"""Residency: which rank holds which regions of which tensor in which buffer, while programs are being built.

A tensor has at most one *home* buffer on a rank: the bounding box of everything that this rank produces, receives or
reads of it. A concatenation costs nothing where the home of a source can be inside the home of the result (same channel
alignment): then producing the source has already written the result. Otherwise the pieces are copied when they are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fogconv.errors import PlannerError
from fogconv.ir.geometry import BLOCK, Region, bounding, subtract
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Concat, Conv, Layer, Shuffle
from fogconv.ir.layout import Layout
from fogconv.ir.steps import Buffer

WINOGRAD_SLACK = 3
"""Rows and columns beyond the image that the tiles of F(4×4, 3×3) reach into; with them in the margin, none of these needs
special code. F(6×6, 3×3)'s reach up to two further: those at the lower and the right edge look where the map ends."""


@dataclass(frozen=True, slots=True)
class Held:
    """``region`` of a tensor is in ``buffer``, with its channels moved by ``shift``."""

    region: Region
    buffer: int
    shift: int

    @property
    def place(self) -> Region:
        """The region in the buffer's coordinates."""
        return self.region.shift_channels(self.shift)


@dataclass(frozen=True, slots=True)
class Home:
    buffer: int
    shift: int


class Residency:
    """All ranks' buffers and the regions that they hold so far. ``wanted[(tensor, rank)]`` is every region that the rank
    will hold."""

    def __init__(self, graph: LayerGraph, ranks: int, wanted: Mapping[tuple[int, int], list[Region]]) -> None:
        self._graph = graph
        self._wanted = {key: bounding(boxes) for key, boxes in wanted.items() if any(boxes)}
        self._containers = containers(graph)
        self._margins = margins(graph)
        self._homes: dict[tuple[int, int], Home] = {}
        self._held: list[dict[int, list[Held]]] = [defaultdict(list) for _ in range(ranks)]
        self.buffers: list[list[Buffer]] = [[] for _ in range(ranks)]

    def new_buffer(self, rank: int, tensor: int, region: Region, *, margin: bool = True) -> int:
        """In the tensor's precision."""
        whole = self._graph.tensors[tensor]
        around = self._margins[tensor] if margin else (0, 0, 0, 0)
        return self._buffer(rank, Buffer(whole.name, region, around, whole.precision))

    def new_summand(self, rank: int, layer: Layer, region: Region) -> int:
        """For a summand of a layer's result, which no kernel reads beyond: int32 of an 8-bit layer, else fp32."""
        tensors = self._graph.tensors
        sums = tensors[layer.reads[0]].precision.sums
        return self._buffer(rank, Buffer(tensors[layer.writes[0]].name, region, precision=sums))

    def _buffer(self, rank: int, buffer: Buffer) -> int:
        self.buffers[rank].append(buffer)
        return len(self.buffers[rank]) - 1

    def home(self, rank: int, tensor: int) -> Home:
        """The place of this tensor on this rank; inside another tensor's home where that saves a copy."""
        known = self._homes.get((tensor, rank))
        if known is None:
            known = self._homes[tensor, rank] = self._inside_another(rank, tensor) or Home(
                self.new_buffer(rank, tensor, self._wanted[tensor, rank]), 0
            )
        return known

    def _inside_another(self, rank: int, tensor: int) -> Home | None:
        region = self._wanted[tensor, rank]
        for container, offset in self._containers[tensor]:
            if (container, rank) not in self._wanted:
                continue
            host = self.home(rank, container)
            shift = offset + host.shift
            box = self.buffers[rank][host.buffer].region
            if region.shift_channels(shift) in box and self.aligned(rank, host.buffer, region.shift_channels(shift)):
                return Home(host.buffer, shift)
        return None

    def aligned(self, rank: int, buffer: int, place: Region) -> bool:
        """Whether a view of this place begins at a block of 16 channels."""
        return (place.channels.start - self.buffers[rank][buffer].region.channels.start) % BLOCK == 0

    def _in_one_block(self, rank: int, buffer: int, place: Region) -> bool:
        start = self.buffers[rank][buffer].region.channels.start
        return (place.channels.start - start) // BLOCK == (place.channels.stop - 1 - start) // BLOCK

    def writable(self, rank: int, buffer: int, place: Region) -> bool:
        """Whether a kernel may write whole blocks here without overwriting other channels."""
        box = self.buffers[rank][buffer].region.channels
        ends = (place.channels.stop - box.start) % BLOCK == 0 or place.channels.stop == box.stop
        return self.aligned(rank, buffer, place) and ends

    def held(self, rank: int, tensor: int) -> list[Held]:
        return self._held[rank][tensor]

    def layout(self, tensor: int) -> Layout:
        return Layout(tuple(tuple(h.region for h in held[tensor]) for held in self._held))

    def hold(self, rank: int, tensor: int, new: Held) -> None:
        """Record that a region is held now; neighbours in one buffer are merged into one box."""
        kept = []
        for old in self._held[rank][tensor]:
            if (old.buffer, old.shift) == (new.buffer, new.shift):
                both = bounding([old.region, new.region])
                if both.elements == old.region.elements + new.region.elements - (old.region & new.region).elements:
                    new = Held(both, new.buffer, new.shift)
                    continue
            kept.append(old)
        self._held[rank][tensor] = [*kept, new]

    def find(self, rank: int, tensor: int, region: Region) -> Held:
        """A buffer that holds the whole region. Raises PlannerError when there is none (a bug in the lowering)."""
        for held in self.held(rank, tensor):
            if region in held.region:
                return Held(region, held.buffer, held.shift)
        raise PlannerError(f"rank {rank} does not hold {region} of {self._graph.tensors[tensor].name}")

    def readable(self, rank: int, tensor: int, region: Region, *, lanes: bool = False) -> Held | None:
        """The region in one buffer, beginning at a block of 16 channels, or with ``lanes`` inside one; None where it first
        has to be copied together."""
        by_place: dict[tuple[int, int], list[Region]] = defaultdict(list)
        for held in self.held(rank, tensor):
            by_place[held.buffer, held.shift].append(held.region)
        for (buffer, shift), boxes in by_place.items():
            found = Held(region, buffer, shift)
            fits = self.aligned(rank, buffer, found.place) or (lanes and self._in_one_block(rank, buffer, found.place))
            if fits and not subtract(region, boxes):
                return found
        return None

    def relabel(self, target: int, sources: Iterable[tuple[int, int]]) -> None:
        """The target consists of (source, offset): regions held of those are regions held of the target. No data moves.

        A negative offset is a slice: only the part inside the target counts.
        """
        whole = self._graph.tensors[target].region
        for source, offset in sources:
            for rank, held in enumerate(self._held):
                for piece in list(held[source]):
                    region = piece.region.shift_channels(offset) & whole
                    if region:
                        self.hold(rank, target, Held(region, piece.buffer, piece.shift - offset))


def containers(graph: LayerGraph) -> dict[int, list[tuple[int, int]]]:
    """For each tensor the concatenations that contain it, with its channel offset there; the largest first.

    A concatenation whose sources are the first ones of a longer concatenation (DenseNet's growing list of features) is
    inside that one too.
    """
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    concats = [layer for layer in graph.layers if isinstance(layer, Concat)]
    for concat in concats:
        offset = 0
        for source in concat.sources:
            found[source].append((concat.target, offset))
            offset += graph.tensors[source].channels
        for longer in concats:
            if len(longer.sources) > len(concat.sources) and longer.sources[: len(concat.sources)] == concat.sources:
                found[concat.target].append((longer.target, 0))
    for places in found.values():
        places.sort(key=lambda place: -graph.tensors[place[0]].channels)
    return found


def margins(graph: LayerGraph) -> dict[int, tuple[int, int, int, int]]:
    """The zeros around each tensor's buffers: the widest padding of all convs that read tensors which may share its
    buffer."""
    own: dict[int, tuple[int, int, int, int]] = dict.fromkeys(range(len(graph.tensors)), (0, 0, 0, 0))
    for layer in graph.layers:
        if isinstance(layer, Conv) and not layer.linear:
            top, bottom, left, right = layer.spec.padding
            spec = layer.spec
            tiled = spec.kernel == (3, 3) and spec.stride == (1, 1) and spec.groups == 1 and spec.element == "fp32"
            slack = WINOGRAD_SLACK if tiled else 0
            wanted = (top, bottom + slack, left, right + slack)
            own[layer.source] = _widest(own[layer.source], wanted)
    shared = [(layer.writes[0], source) for layer in graph.layers if layer.relabels for source in layer.reads]
    changed = True
    while changed:
        changed = False
        for a, b in shared:
            both = _widest(own[a], own[b])
            changed |= (own[a], own[b]) != (both, both)
            own[a] = own[b] = both
    return own


def _widest(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return (max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))


def shuffled(layer: Shuffle, channels: int) -> tuple[int, ...]:
    """Which source channel each target channel is: i·(C/g)+j goes to j·g+i."""
    return tuple(i * (channels // layer.groups) + j for j in range(channels // layer.groups) for i in range(layer.groups))
