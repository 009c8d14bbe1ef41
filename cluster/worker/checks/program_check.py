"""Program check: checks a program against its own buffers, weights and regions before anything is bound.

Binding lists tiles, allocates memory and compiles, so a single wrong number could cost hours or all memory. A checked
program stays within the worker's memory, computes at most ``MOST_MACS`` per step, and accesses only its buffers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fogconv.cluster.protocol.codec import MAX_PAYLOAD_BYTES
from fogconv.cluster.worker.checks.limits import (
    MOST_BUFFERS,
    MOST_CHANNELS,
    MOST_COORDINATE,
    MOST_DIMENSIONS,
    MOST_FIGURE,
    MOST_LISTED,
    MOST_MACS,
    MOST_PARTS,
    MOST_PATIENCE_S,
    MOST_PIXELS,
    MOST_SIDE,
    MOST_STEPS,
    MOST_TAG,
    MOST_WEIGHTS,
)
from fogconv.cluster.worker.checks.precision_check import unknown_precisions
from fogconv.cluster.worker.checks.size_check import check_conv, check_memory, maps, short, sizes
from fogconv.errors import WireError
from fogconv.ir import steps as ir
from fogconv.ir.geometry import BLOCK, BYTES_PER_ELEMENT, Region, Span
from fogconv.ir.layout import MASTER
from fogconv.ir.precision.scale import LEAST_SCALE, MOST_SCALE
from fogconv.ir.program import Program

_FOR_THE_MASTER = (ir.Input, ir.Output, ir.HostOutput, ir.Host, ir.Gather, ir.ArrayInput, ir.ArrayOutput)


def check_program(program: Program, memory_bytes: int) -> None:
    """Raises WireError for a program that contradicts itself or exceeds the limits, WorkerMemoryError for one that needs
    more than ``memory_bytes``."""
    _Checked(program, memory_bytes).all()


class _Checked:
    """The state of one program's check."""

    def __init__(self, program: Program, memory_bytes: int) -> None:
        self.program = program
        self.memory_bytes = memory_bytes
        self.where = "the program"
        self.swapped = frozenset(program.swapped)
        self.taken = 0

    def all(self) -> None:
        program = self.program
        for name, count, most in (
            ("steps", len(program.steps), MOST_STEPS),
            ("buffers", len(program.buffers), MOST_BUFFERS),
            ("weights", len(program.weights), MOST_WEIGHTS),
            ("layers", len(program.layers), MOST_STEPS),
        ):
            self.require(count <= most, f"has {count} {name}; the limit is {most}")
        self.within("ranks", program.ranks, 1, 1 << 16)
        self.within("rank", program.rank, 0, program.ranks - 1)
        self.within("batch", program.batch, 1, MOST_PIXELS)
        for number, buffer in enumerate(program.buffers):
            self.where = f"buffer {number}"
            self.buffer(buffer)
        largest = 0
        for key, shape in program.weights.items():
            self.where = f"weight {key[:80]}"
            self.require(1 <= len(key) <= 80, "has a key that is empty or longer than 80 characters")
            elements = self.elements(shape)
            if key in self.swapped:
                largest = max(largest, elements)
            else:
                self.take_bytes(program.weight_bytes(key))
        self.where = "the largest of the swapped weights"
        self.take(2 * largest)  # as it came, and packed
        self.where = "the program"
        untyped = program.weight_types.keys() - program.weights.keys()
        self.require(not untyped, f"has a type of weights {min(untyped, default='')[:80]}, which it does not list")
        strange = self.swapped - program.weights.keys()
        self.require(not strange, f"swaps weights {min(strange, default='')[:80]}, which it does not list")
        for number, step in enumerate(program.steps):
            self.where = f"step {number} ({type(step).__name__})"
            self.within("layer", step.layer, 0, len(program.layers) - 1)
            self.require(
                program.rank == MASTER or not isinstance(step, _FOR_THE_MASTER), "is for the master, not for a worker"
            )
            self.step(step)

    # Errors

    def require(self, fits: bool, what: str) -> None:
        if not fits:
            raise WireError(f"a malformed program: {self.where} {what}")

    def within(self, name: str, value: int, least: int, most: int) -> None:
        self.require(least <= value <= most, f"has the {name} {short(value)}; it must be {least} to {most}")

    def take(self, elements: int) -> None:
        """Count memory that binding, or a run, needs."""
        self.take_bytes(BYTES_PER_ELEMENT * elements)

    def take_bytes(self, n_bytes: int) -> None:
        self.taken += n_bytes
        check_memory(self.where, self.taken, self.memory_bytes)

    # References of the steps

    def buffer(self, buffer: ir.Buffer) -> None:
        channels, rows, columns = self.region(buffer.region)
        self.within("number of channels", channels, 1, MOST_CHANNELS)
        for side in buffer.margin:
            self.within("margin", side, 0, MOST_SIDE)
        top, bottom, left, right = buffer.margin
        lanes = -(-channels // BLOCK) * BLOCK
        elements = self.program.batch * lanes * (top + rows + bottom) * (left + columns + right)
        self.take_bytes(buffer.precision.bytes * elements)

    def region(self, region: Region) -> tuple[int, int, int]:
        for span in (region.channels, region.rows, region.columns):
            self.require(0 <= span.start < span.stop <= MOST_COORDINATE, f"has the region {_box(region)}, which is none")
        return region.shape

    def elements(self, shape: Sequence[int]) -> int:
        self.require(len(shape) <= MOST_DIMENSIONS, f"has {len(shape)} dimensions; the limit is {MOST_DIMENSIONS}")
        for size in shape:
            self.within("size", size, 0, MOST_COORDINATE)
        return math.prod(shape)

    def inside(self, buffer: int, region: Region) -> tuple[int, int, int]:
        """The shape of a region inside a buffer."""
        self.within("buffer", buffer, 0, len(self.program.buffers) - 1)
        shape = self.region(region)
        held = self.program.buffers[buffer].region
        self.require(region in held, f"has the region {_box(region)}, which is not in buffer {buffer} of {_box(held)}")
        return shape

    def weight(self, key: str | None, shape: tuple[int, ...], *, swaps: bool = False) -> None:
        """``swaps``: it may lie on the disk."""
        if key is None:
            return
        self.require(swaps or key not in self.swapped, f"needs weights {key[:80]} in memory, which the program swaps")
        found = self.program.weights.get(key)
        self.require(found is not None, f"names weights {key[:80]}, which the program does not list")
        self.require(found == shape, f"has weights of {found}; {shape} is needed")

    def same(self, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        self.require(shape == wanted, f"has {name} of {shape}; {wanted} is needed")

    def peer(self, rank: int, tag: int) -> None:
        self.within("other rank", rank, 0, self.program.ranks - 1)
        self.require(rank != self.program.rank, "is a message from a rank to itself")
        self.within("tag", tag, 0, MOST_TAG)

    # Steps

    def step(self, step: ir.AnyStep) -> None:
        self.shapes(step)
        misfit = unknown_precisions(self.program, step)
        self.require(misfit is None, str(misfit))

    def shapes(self, step: ir.AnyStep) -> None:
        match step:
            case ir.Input() | ir.Output():
                self.within("index", step.index, 0, MOST_STEPS)
                self.inside(step.target if isinstance(step, ir.Input) else step.source, step.region)
            case ir.Send():
                self.peer(step.to, step.tag)
                self.message(step)
            case ir.Recv():
                self.receive(step)
            case ir.Gather():
                self.gather(step)
            case ir.Copy():
                self.inside(step.source, step.region)
                self.within("shift", step.shift, -MOST_COORDINATE, MOST_COORDINATE)
                self.inside(step.target, step.region.shift_channels(step.shift))
            case ir.Permute():
                source = self.inside(step.source, step.source_region)
                target = self.inside(step.target, step.target_region)
                self.same("an input", source[1:], target[1:])
                self.same("channels", (len(step.channels),), target[:1])
                for channel in step.channels:
                    self.within("channel", channel, 0, source[0] - 1)
            case ir.Conv():
                self.conv(step, swaps=step.spec.groups == 1)
            case ir.Pool():
                self.pool(step)
            case ir.GlobalPool():
                source = self.inside(step.source, step.source_region)
                self.same("an output", self.inside(step.target, step.target_region), (source[0], 1, 1))
                self.within("divisor", step.divisor, 1, MOST_TAG)
            case ir.Squares():
                source = self.inside(step.source, step.source_region)
                self.same("an output", self.inside(step.target, step.target_region), (source[0], 1, 1))
                self.groups(step, source[0], self.inside(step.mean, step.mean_region))
                self.within("divisor", step.divisor, 1, MOST_TAG)
            case ir.Normalize():
                target = self.inside(step.target, step.target_region)
                self.same("a source", self.inside(step.source, step.source_region), target)
                self.groups(step, target[0], self.inside(step.mean, step.mean_region))
                self.groups(step, target[0], self.inside(step.squares, step.squares_region))
                self.weight(step.scale, target[:1])
                self.weight(step.shift, target[:1])
            case ir.AcrossChannels():
                target = self.inside(step.target, step.target_region)
                self.same("a source", self.inside(step.source, step.source_region), target)
                self.weight(step.scale, target[:1])
                self.weight(step.shift, target[:1])
            case ir.Add():
                self.within("number of sources", len(step.sources), 1, MOST_PARTS)
                target = self.inside(step.target, step.target_region)
                for shape in self.pairs(step.sources, step.source_regions):
                    self.same("a source", shape, target)
            case ir.Elementwise():
                self.elementwise(step)
            case ir.Affine():
                target = self.inside(step.target, step.target_region)
                self.same("a source", self.inside(step.source, step.source_region), target)
                self.weight(step.scale, target[:1])
                self.weight(step.shift, target[:1])
                self.residual(step, target)
            case ir.Convert():
                target = self.inside(step.target, step.target_region)
                self.same("a source", self.inside(step.source, step.source_region), target)
                self.weight(step.scales, target[:1])
                self.require(LEAST_SCALE <= step.unit <= MOST_SCALE, f"has a unit of {step.unit}")
            case ir.Gate():
                target = self.inside(step.target, step.target_region)
                self.same("a source", self.inside(step.source, step.source_region), target)
                self.same("a gate", self.inside(step.gate, step.gate_region), (target[0], 1, 1))
            case ir.Resample():
                self.resample(step)
            case ir.Interleave():
                self.interleave(step)
            case ir.Host():
                for _ in self.pairs((*step.sources, *step.targets), (*step.source_regions, *step.target_regions)):
                    pass
            case ir.ArrayInput() | ir.ArrayOutput():
                self.within("index", step.index, 0, MOST_STEPS)
            case ir.ArraySend():
                self.peer(step.to, step.tag)
            case ir.ArrayRecv():
                self.peer(step.origin, step.tag)
                self.take(self.elements(step.shape))
            case ir.ConvForward() | ir.ConvGradInput() | ir.ConvGradWeight():
                check_conv(self.where, step.spec)
                pairs = math.prod(min(s, n) for s, n in zip(step.spec.stride, step.spec.input_shape[2:], strict=True))
                self.within("number of groups and phases", step.spec.groups * pairs, 1, MOST_LISTED)
                self.take(maps(step.spec) + 4 * step.spec.weight_elements)
            case ir.ArrayFree():
                pass

    def groups(self, step: ir.Squares | ir.Normalize, channels: int, means: tuple[int, int, int]) -> None:
        self.within("number of channels in a group", step.per_group, 1, MOST_CHANNELS)
        self.within("first channel", step.first, 0, MOST_CHANNELS)
        fits = means[1:] == (1, 1) and means[0] % step.per_group == 0 and step.first + channels <= means[0]
        wanted = f"whole groups of {step.per_group}, and {channels} channels from {step.first} on"
        self.require(fits, f"has means of {means}; they must be {wanted}")

    def elementwise(self, step: ir.Elementwise) -> None:
        self.within("number of sources", len(step.sources), 1, MOST_PARTS)
        target = self.inside(step.target, step.target_region)
        shapes: list[tuple[int, ...]] = [*self.pairs(step.sources, step.source_regions)]
        if step.constant is not None:
            shapes.append(self.program.weights.get(step.constant, ()))
            self.weight(step.constant, shapes[-1])
            self.take(math.prod(target))  # the constant as a map
        for shape in shapes:
            fits = len(shape) == len(target) and all(n in (1, m) for n, m in zip(shape, target, strict=True))
            self.require(fits, f"has a source of {shape}; {target} is needed, or 1 along some axes")

    def pairs(self, buffers: Sequence[int], regions: Sequence[Region]) -> Iterable[tuple[int, int, int]]:
        self.require(len(buffers) == len(regions), f"has {len(buffers)} buffers, but {len(regions)} regions")
        return [self.inside(buffer, region) for buffer, region in zip(buffers, regions, strict=True)]

    def message(self, step: ir.Send | ir.Recv) -> None:
        self.within("number of parts", len(step.more), 0, MOST_PARTS)
        for part in step.parts:
            self.inside(part.buffer, part.region)
        elements = self.program.batch * step.elements
        n_bytes = BYTES_PER_ELEMENT * elements
        self.require(n_bytes <= MAX_PAYLOAD_BYTES, f"has {n_bytes} bytes; a message carries {MAX_PAYLOAD_BYTES}")
        self.take(elements)
        if step.pixels is not None:
            channels, figures = len(step.region.channels), (*step.pixels.mean, *step.pixels.std)
            self.require(
                len(step.pixels.mean) == len(step.pixels.std) == channels <= BLOCK
                and step.wire == "fp32"
                and not step.more
                and not (isinstance(step, ir.Recv) and step.accumulate),
                f"sends pixels of {channels} channels otherwise than as one part, with a mean and a std of each",
            )
            # All of these are false of a NaN.
            finite = all(abs(figure) <= MOST_FIGURE for figure in figures)
            apart = all(abs(figure) >= 1 / MOST_FIGURE for figure in step.pixels.std)
            self.require(finite and apart, f"has pixels with a mean of {step.pixels.mean} and a std of {step.pixels.std}")

    def receive(self, step: ir.Recv) -> None:
        self.peer(step.origin, step.tag)
        self.require(not (step.accumulate and step.more), "adds a message of several parts")
        self.message(step)

    def gather(self, step: ir.Gather) -> None:
        self.within("number of pieces", len(step.pieces), 0, MOST_PARTS)
        self.require(0.0 <= step.patience_s <= MOST_PATIENCE_S, f"waits {step.patience_s} s; the limit is {MOST_PATIENCE_S}")
        for piece in step.pieces:
            self.receive(piece.recv)
            self.conv(piece.spare)
            if piece.check is not None:
                sums, _, _ = self.inside(piece.check.source, piece.check.region)
                self.weight(piece.check.signs, (sums, len(piece.recv.region.channels)))
        if step.code is not None:
            self.receive(step.code)

    def conv(self, step: ir.Conv, *, swaps: bool = False) -> None:
        check_conv(self.where, step.spec)
        batch = self.program.batch
        source = self.inside(step.source, step.source_region)
        target = self.inside(step.target, step.target_region)
        self.same("an input", (batch, *source), step.spec.input_shape)
        self.same("an output", (batch, *target), step.spec.output_shape)
        self.weight(step.weight, step.spec.weight_shape, swaps=swaps)
        self.weight(step.bias, target[:1])
        self.weight(step.scales, target[:1])
        self.residual(step, target)
        there = self.margin(step.source, step.source_region)
        fits = all(needed <= has for needed, has in zip(step.spec.padding, there, strict=True))
        self.require(fits, f"has a padding of {step.spec.padding}; the buffer has {there} around its input")

    def margin(self, buffer: int, region: Region) -> tuple[int, int, int, int]:
        """Rows and columns of a buffer around a region: above, below, left, right."""
        held = self.program.buffers[buffer]
        top, bottom, left, right = held.margin
        rows, columns = _around(held.region.rows, region.rows), _around(held.region.columns, region.columns)
        return (top + rows[0], bottom + rows[1], left + columns[0], right + columns[1])

    def residual(self, step: ir.Conv | ir.Affine, target: tuple[int, int, int]) -> None:
        if step.residual is None or step.residual_region is None:
            self.require(step.residual is None and step.residual_region is None, "has half a residual")
            return
        self.same("a residual", self.inside(step.residual, step.residual_region), target)

    def pool(self, step: ir.Pool) -> None:
        spec = step.spec
        source = self.inside(step.source, step.source_region)
        target = self.inside(step.target, step.target_region)
        self.same("an input", source[:1], target[:1])
        self.same("a batch", (spec.batch,), (self.program.batch,))
        for name, values in sizes(spec).items():
            for value in values:
                self.within(name, value, 0, MOST_COORDINATE)
        self.within("divisor", 1 if spec.divisor is None else spec.divisor, -MOST_COORDINATE, MOST_COORDINATE)
        window = math.prod(min(pair) for pair in zip(spec.kernel, (spec.height, spec.width), strict=True))
        work = self.program.batch * math.prod(target) * window
        self.require(work <= MOST_MACS, f"pools {work:.1e} values; the limit is {MOST_MACS:.1e}")

    def resample(self, step: ir.Resample) -> None:
        source = self.inside(step.source, step.source_region)
        target = self.inside(step.target, step.target_region)
        self.same("an input", source, (target[0], step.rows.size, step.columns.size))
        self.same("taps", (len(step.rows.starts), len(step.columns.starts)), target[1:])
        work = self.program.batch * math.prod(target) * step.rows.most * step.columns.most
        self.require(work <= MOST_MACS, f"sums {work:.1e} values; the limit is {MOST_MACS:.1e}")

    def interleave(self, step: ir.Interleave) -> None:
        for factor in step.factors:
            self.within("factor", factor, 1, MOST_PARTS)
        self.same("sources", (len(step.sources),), (math.prod(step.factors),))
        target = self.inside(step.target, step.target_region)
        spans = zip((step.target_region.rows, step.target_region.columns), step.factors, strict=True)
        rows, columns = ((span.stop - 1) // factor - span.start // factor + 1 for span, factor in spans)
        for shape in self.pairs(step.sources, step.source_regions):
            self.same("a source", shape, (target[0], rows, columns))


def _around(whole: Span, part: Span) -> tuple[int, int]:
    return (part.start - whole.start, whole.stop - part.stop)


def _box(region: Region) -> str:
    spans = (region.channels, region.rows, region.columns)
    return "[" + ", ".join(f"{short(span.start)}:{short(span.stop)}" for span in spans) + "]"
