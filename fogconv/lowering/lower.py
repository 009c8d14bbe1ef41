"""Lowering: a Plan becomes one Program per rank.

The layers are processed once, in order, and every rank's steps are written in that order: regions that a layer needs and
a rank lacks are sent and received (`fogconv.ir.layout.transfers`), the rank's work is done, and a partial result is
summed where the plan says so. All of a layer's sends come before its receives and no send waits, so no order of ranks can
deadlock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fogconv.guards.gather import gather_pieces
from fogconv.guards.placement import extra_reads
from fogconv.ir import steps as step
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import Region
from fogconv.ir.graph import LayerGraph, Port
from fogconv.ir.layers import Conv, Host, Layer
from fogconv.ir.layout import MASTER, Layout
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.program import Program
from fogconv.ir.shard import Work
from fogconv.ir.stages import made_before
from fogconv.lowering.buffers import Held
from fogconv.lowering.layer_steps import MAKERS, Maker
from fogconv.lowering.order import ordered
from fogconv.lowering.overlap import interior_first
from fogconv.lowering.plan_check import check_fits
from fogconv.lowering.program_builder import Parcel, Partial, ProgramBuilder
from fogconv.lowering.weight_slices import Shapes, spans_around


@dataclass(frozen=True)
class Lowered:
    """One program per rank, and every array that they name, by content hash. Ranks without a step get an empty program."""

    programs: tuple[Program, ...]
    weights: Mapping[str, Array]


def lower(graph: LayerGraph, plan: Plan) -> Lowered:
    """Raises PlannerError, or GeometryError, when the plan is not for this graph or would not compute it."""
    check_fits(plan, graph)
    return _Lowering(graph, plan).run()


def outline(graph: LayerGraph, plan: Plan) -> tuple[Program, ...]:
    """The programs without their weights, under arbitrary keys: faster, and enough to count their memory.

    Raises PlannerError, or GeometryError, when the plan is not for this graph or would not compute it.
    """
    check_fits(plan, graph)
    return _Lowering(graph, plan, Shapes(graph.weights)).run().programs


class _Lowering(ProgramBuilder):
    def run(self) -> Lowered:
        graph = self.graph
        self.index = len(graph.layers)
        for number, port in enumerate(graph.inputs):
            if port.tensor is not None:
                self.input(number, port.tensor)
        parcels: list[Parcel] = []
        early = self.early_results()
        for stage in self.plan.stages(graph):
            self.stage(stage)
            self.index = len(graph.layers)
            done = early & {tensor for index in stage for tensor in graph.layers[index].writes}
            parcels += self.send(self.at_master(done))
        self.index = len(graph.layers)
        self.receive(parcels)
        self.receive(self.send(self.at_master(graph.results)))
        for number, port in enumerate(graph.outputs):
            self.output(number, port)
        names = (*(layer.name for layer in graph.layers), "in/out")
        programs = tuple(
            Program(
                rank,
                self.plan.ranks,
                graph.picture.batch,
                names,
                tuple(self.residency.buffers[rank]),
                tuple(self.steps[rank] if self.plan.layer_by_layer else ordered(self.steps[rank])),
                self.named[rank],
                swapped=tuple(dict.fromkeys(self.swapped[rank])),
                weight_types=self.types[rank],
            )
            for rank in range(self.plan.ranks)
        )
        return Lowered(programs, self.weights)

    # The ends

    def input(self, number: int, tensor: int) -> None:
        self.written(
            MASTER,
            tensor,
            self.graph.tensors[tensor].region,
            lambda out: self.steps[MASTER].append(step.Input(self.index, number, out.buffer, out.place)),
        )

    def early_results(self) -> frozenset[int]:
        """The outputs that no layer reads: they are sent as soon as they are made, and received at the end. What the master
        may need before would be sent twice."""
        read = {tensor for layer in self.graph.layers for tensor in layer.reads}
        return frozenset(self.graph.results) - read

    def at_master(self, tensors: Iterable[int]) -> dict[int, dict[int, list[Region]]]:
        return {tensor: {MASTER: [self.graph.tensors[tensor].region]} for tensor in sorted(tensors)}

    def output(self, number: int, port: Port) -> None:
        if port.tensor is None:
            assert port.value is not None
            self.steps[MASTER].append(step.HostOutput(self.index, number, port.value))
            return
        whole = self.ensure(MASTER, port.tensor, self.graph.tensors[port.tensor].region)
        self.steps[MASTER].append(step.Output(self.index, number, whole.buffer, whole.place))

    # Layers

    def stage(self, stage: tuple[int, ...]) -> None:
        """Send first everything that its layers need of earlier stages, do the work that needs no waiting, then the
        rest."""
        there = made_before(self.graph, stage)
        needed: dict[int, dict[int, tuple[Region, ...]]] = {}
        first = None
        ready = []
        for index in stage:
            layer, placement = self.graph.layers[index], self.plan.placements[index]
            if layer.relabels or placement.via:
                continue
            readers = self.readers(layer, placement)
            if readers.keys() <= there:
                ready.append(index)
            for tensor, by_rank in readers.items():
                for rank, regions in by_rank.items():
                    for source, region in (part for each in regions for part in self.parts(tensor, each, there)):
                        first = index if first is None else first
                        so_far = needed.setdefault(source, {})
                        so_far[rank] = (*so_far.get(rank, ()), region)
        late: dict[int, tuple[Work, ...]] = {}
        if first is not None:
            self.index = first
            parcels = self.send(needed, ahead=True)
            for index in ready:
                self.index = index
                late[index] = self.early(self.graph.layers[index], self.plan.placements[index])
            self.index = first
            self.receive(parcels)
        for index in stage:
            self.index = index
            self.layer(self.graph.layers[index], self.plan.placements[index], late.get(index))

    def parts(self, tensor: int, region: Region, there: frozenset[int]) -> Iterator[tuple[int, Region]]:
        """The region of a tensor that is ``there``, or the parts that are of one that consists of such tensors: a
        concatenation's first parts are there before its last ones are made."""
        if tensor in there:
            yield tensor, region
        elif tensor in self.pieces:
            for source, offset in self.pieces[tensor]:
                if part := region.shift_channels(-offset) & self.graph.tensors[source].region:
                    yield from self.parts(source, part, there)

    def readers(self, layer: Layer, placement: Placement) -> dict[int, dict[int, tuple[Region, ...]]]:
        """Tensor → rank → what the regions of it that this rank, which computes a part of the layer or guards it,
        reads."""
        found: dict[int, dict[int, tuple[Region, ...]]] = defaultdict(dict)
        for work in placement.work:
            for tensor, region in layer.needs(self.graph.tensors, work):
                found[tensor][work.rank] = (*found[tensor].get(work.rank, ()), region)
        for rank, tensor, region in extra_reads(self.graph, layer, placement):
            found[tensor][rank] = (*found[tensor].get(rank, ()), region)
        return found

    def layer(self, layer: Layer, placement: Placement, late: tuple[Work, ...] | None) -> None:
        """``late`` is the remaining work where the inputs were fetched with the stage's."""
        if layer.relabels:
            self.residency.relabel(layer.writes[0], layer.pieces(self.graph.tensors))
            return
        for tensor, layout in placement.via:
            self.fetch(tensor, dict(enumerate(layout.regions)))
        if late is None:
            parcels = self.send(self.readers(layer, placement), ahead=True)
            late = self.early(layer, placement)
            self.receive(parcels)
        summands = [part for work in late if (part := self.work(layer, work))]
        if isinstance(layer, Host):
            return
        if summands:
            assert placement.target is not None
            if placement.guard is not None:
                assert isinstance(layer, Conv)
                raw = [(work, part.buffer) for work, part in zip(late, summands, strict=True)]
                gathered = gather_pieces(self, layer, placement.guard, raw)
                summands = [Partial(MASTER, buffer, region) for region, buffer in gathered.items()]
            self.reduce(layer, placement.target, summands)
        elif placement.target is not None:
            self.fetch(layer.target, dict(enumerate(placement.target.regions)))

    # Transfers

    def early(self, layer: Layer, placement: Placement) -> tuple[Work, ...]:
        """Do the work that can be done before any message arrives. Returns the remaining work."""
        if not isinstance(layer, Conv):
            return placement.work
        pixels = self.graph.tensors[layer.target].shape[2:]
        late: list[Work] = []
        for work in placement.work:
            held = self.residency.held(work.rank, layer.source)
            # Weights that are swapped would be read for each part.
            if layer.is_partial(work) or work.output.shape[1:] == pixels or not held or self.slices(work.rank):
                late.append(work)
                continue
            parts = interior_first(
                self.graph,
                layer,
                work,
                lambda tensor, region, rank=work.rank: self.residency.readable(rank, tensor, region) is not None,  # type: ignore[misc]
            )
            if parts is None:
                late.append(work)
            else:
                self.work(layer, parts[0])
                late.extend(parts[1])
        return tuple(late)

    # Work

    def work(self, layer: Layer, work: Work) -> Partial | None:
        """Write the steps of one rank's work. A summand is returned instead of being recorded as held."""
        if isinstance(layer, Host):
            self.host(layer, work)
            return None
        rank = work.rank
        make = MAKERS[type(layer)]
        needs, lanes = layer.needs(self.graph.tensors, work), layer.from_lanes
        inputs = [self.ensure(rank, tensor, region, lanes=lanes) for tensor, region in needs]
        if layer.is_partial(work):
            buffer = self.summand_buffer(rank, layer, work.output)
            self.make(make, layer, work, inputs, Held(work.output, buffer, 0))
            return Partial(rank, buffer, work.output)
        self.written(rank, layer.target, work.output, lambda out: self.make(make, layer, work, inputs, out))
        return None

    def make(self, make: Maker, layer: Layer, work: Work, inputs: Sequence[Held], out: Held) -> None:
        """The step of a rank's work, or one for each slice where weights are swapped, and one for what is not."""
        steps, slices = self.steps[work.rank], self.slices(work.rank)
        if not slices:
            steps.append(make(self, layer, work, inputs, out))
            return
        for span in spans_around(work.output.channels, slices):
            part = replace(work, output=work.output.with_channels(span))
            needs = layer.needs(self.graph.tensors, part)
            read = [replace(held, region=region) for held, (_, region) in zip(inputs, needs, strict=True)]
            made = make(self, layer, part, read, replace(out, region=part.output))
            assert isinstance(made, step.Conv)
            if span in slices:
                self.swapped[work.rank].append(made.weight)
            steps.append(made)

    def host(self, layer: Host, work: Work) -> None:
        read = [self.ensure(work.rank, tensor, self.graph.tensors[tensor].region) for tensor in layer.reads]
        write = [self.place(work.rank, tensor, self.graph.tensors[tensor].region) for tensor in layer.writes]
        self.steps[work.rank].append(
            step.Host(
                self.index,
                tuple(held.buffer for held in read),
                tuple(held.place for held in read),
                tuple(held.buffer for held in write),
                tuple(held.place for held in write),
            )
        )
        for tensor, written in zip(layer.writes, write, strict=True):
            self.settle(work.rank, tensor, written)

    # Sums

    def reduce(self, layer: Layer, target: Layout, summands: list[Partial]) -> None:
        """Sum the partial results where the target layout needs them, then add the residual and apply the activation."""
        tensor = layer.target  # type: ignore[union-attr]
        residual = layer.residual if isinstance(layer, Conv) else None
        if residual is not None:
            self.fetch(residual, dict(enumerate(target.regions)))
        jobs = []
        for rank, boxes in enumerate(target.regions):
            for box in boxes:
                # Summands of a grid's column share one region; columns don't overlap.
                for whole in dict.fromkeys(part.region for part in summands):
                    if common := box & whole:
                        jobs.append((rank, common, [part for part in summands if part.region == whole]))
        tags: dict[tuple[int, int], int] = {}
        for number, (rank, box, parts) in enumerate(jobs):
            for part in parts:
                if part.rank != rank:
                    tag = tags[number, part.rank] = self.next_tag()
                    wire = self.wire_of(part.rank, part.buffer)
                    self.steps[part.rank].append(step.Send(self.index, part.buffer, box, rank, tag, wire))
        for number, (rank, box, parts) in enumerate(jobs):
            origins = {part.rank: tags[number, part.rank] for part in parts if part.rank != rank}
            own = next((part for part in parts if part.rank == rank), None)
            self.sum(layer, tensor, rank, box, own, origins, residual)

    def sum(
        self,
        layer: Layer,
        tensor: int,
        rank: int,
        box: Region,
        own: Partial | None,
        origins: dict[int, int],
        residual: int | None,
    ) -> None:
        home = self.residency.home(rank, tensor)
        at_home = Held(box, home.buffer, home.shift)
        sums, made = (self.graph.tensors[number].precision for number in (layer.reads[0], tensor))
        if own is not None and self.residency.aligned(rank, own.buffer, box):
            total = Held(box, own.buffer, 0)
        elif own is None and sums.sums == made and self.residency.writable(rank, home.buffer, at_home.place):
            total = at_home
        else:
            total = Held(box, self.summand_buffer(rank, layer, box), 0)
            if own is not None:
                self.copy(rank, Held(box, own.buffer, 0), total)
        for number, (origin, tag) in enumerate(origins.items()):
            add = own is not None or number > 0
            wire = self.wire_of(rank, total.buffer)
            self.steps[rank].append(step.Recv(self.index, total.buffer, total.place, origin, tag, add, wire))
        addend = None if residual is None else self.ensure(rank, residual, box)
        activation = layer.activation if isinstance(layer, Conv) else None
        if total == at_home and addend is None and activation is None:
            self.residency.hold(rank, tensor, at_home)
            return

        def finish(out: Held) -> None:
            if isinstance(layer, Conv) and layer.scales is not None:
                scales = self.weight(rank, layer.scales, (box.channels.slice(),))
                unit = self.graph.tensors[layer.source].precision.scale
                places = (total.buffer, total.place, out.buffer, out.place)
                self.steps[rank].append(step.Convert(self.index, *places, scales, unit, activation))
                return
            self.steps[rank].append(
                step.Affine(
                    self.index,
                    total.buffer,
                    total.place,
                    out.buffer,
                    out.place,
                    activation=activation,
                    residual=None if addend is None else addend.buffer,
                    residual_region=None if addend is None else addend.place,
                )
            )

        self.written(rank, tensor, box, finish)
