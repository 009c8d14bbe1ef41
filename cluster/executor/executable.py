"""Interpreter: a Program bound to this rank's memory and kernels.

Binding does all expensive work once: it allocates buffers, packs weights, compiles kernels and resolves addresses. A run
then only makes the bound calls: except in torch, nothing is compiled or allocated during an inference.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.array_steps import Arrays
from fogconv.cluster.executor.bands.bound_walk import BoundWalk, idle
from fogconv.cluster.executor.bands.direct_messages import DirectMessages, DirectReceive, DirectSend
from fogconv.cluster.executor.bands.joined_steps import Computing, after_margins, joined
from fogconv.cluster.executor.buffer_widths import narrow_buffers
from fogconv.cluster.executor.coded_gather import bind_gather
from fogconv.cluster.executor.half.steps import bind_halves
from fogconv.cluster.executor.interface import Binder, BoundSteps, Call, HostCalls, Packed, Run, nothing
from fogconv.cluster.executor.mailbox import SHORT_BYTES, Mailbox, as_array
from fogconv.cluster.executor.map_steps import KERNELS, OF_ANY_TYPE
from fogconv.cluster.executor.quantized.steps import QUANTIZED, prepared
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.channel import FRONT_BYTES, message_memory
from fogconv.cluster.transport.endpoint import DIRECT_BYTES
from fogconv.errors import ClusterError, InputError, KernelError, WireError, shown
from fogconv.ir import steps
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, BYTES_PER_ELEMENT, NARROW, Region
from fogconv.ir.memory.algorithm import QUANTIZED as QUANTIZED_ALGORITHM
from fogconv.ir.memory.algorithm import compact
from fogconv.ir.memory.bands import banded
from fogconv.ir.memory.footprint import Packing, byte_packings, footprint, packings
from fogconv.ir.memory.sharing import NOWHERE
from fogconv.ir.precision.elements import HALVES, Element
from fogconv.ir.program import Program, buffers_of
from fogconv.kernels.conv.conv import PreparedConv2d, algorithm_of, prepare_conv2d
from fogconv.kernels.maps import wire
from fogconv.kernels.maps.blocked import Blocked, Margin, aligned_zeros
from fogconv.kernels.maps.bound import Bound, sequence
from fogconv.kernels.maps.margins import bind_margin
from fogconv.kernels.maps.pixels import PixelTables
from fogconv.kernels.maps.scratch import Scratch
from fogconv.kernels.maps.transpose import packer, unpacker
from fogconv.kernels.quantized.conv import PreparedBytes
from fogconv.kernels.threads import compiled_steps
from fogconv.storage.mapped_array import give_back
from fogconv.storage.swap_file import SwapFolder

DTYPES: Mapping[Element, type[np.generic]] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": np.uint16,
    "uint8": np.uint8,
    "int32": np.int32,
}
"""Of buffers, by their elements."""


class Executable:
    """One rank's program, ready to run. Not re-entrant: one run at a time.

    ``memory_bytes``: buffers and packed weights. ``proceed`` is called before each step is bound, and may raise. Raises
    KernelError or ClusterError for a program that can't be bound.
    """

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, Array],
        *,
        threads: int = 1,
        host: HostCalls | None = None,
        proceed: Callable[[], None] = nothing,
    ) -> None:
        missing = [key for key in program.weights if key not in weights]
        if missing:
            raise ClusterError(f"rank {program.rank}: {len(missing)} weights of the program are missing, first {missing[0]}")
        self._weights: Mapping[str, Array] = weights
        self._threads = threads
        self._host = host
        self.arrays = Arrays()
        narrow = narrow_buffers(program)
        bands = banded(program, threads, algorithm_of)
        self.program, sizes = msgspec.structs.replace(program, buffers=bands.buffers), bands.sizes
        shared = {place: aligned_zeros((size // BYTES_PER_ELEMENT,)) for place, size in sizes.items()}
        self._buffers = {
            number: Blocked.within(
                shared[place].view(DTYPES[buffer.precision.element]),
                *(program.batch, *buffer.region.shape, Margin(*buffer.margin)),
                NARROW if number in narrow else BLOCK,
            )
            for number, (buffer, place) in enumerate(zip(bands.buffers, bands.places, strict=True))
            if place != NOWHERE
        }
        for number, memory in self._buffers.items():
            if zero := bands.buffers[number].precision.zero:
                memory.data[...] = zero  # margins, and lanes beyond the last channel
        size = footprint(program, threads=threads, choose=algorithm_of)
        self.memory_bytes = sum(sizes.values()) + size.staging + size.scratch + size.widened + size.slot
        self.wide = Scratch()
        self.wide.reserve(size.widened // BYTES_PER_ELEMENT, 1)
        self._scratch = Scratch()
        self._scratch.reserve(size.scratch // (BYTES_PER_ELEMENT * threads), threads)
        self._prepared: dict[Packing, PreparedConv2d] = {}
        self._prepared_bytes: dict[Packing, PreparedBytes] = {}
        # How many packings of each weight are still to come: after the last one the plain weight is not needed.
        self._swapped = frozenset(program.swapped)
        self._unpacked = Counter(packing.weight for packing in packings(program, algorithm_of))
        self._byte_packings = byte_packings(program, algorithm_of)
        self._walks = {walk.first: BoundWalk(walk, self, self._kernel, proceed) for walk in bands.walks}
        walked = {number for walk in bands.walks for number in range(walk.first, walk.first + walk.count)}
        calls = []
        for number, step in enumerate(program.steps):
            proceed()
            call = self._bind(step) if number not in walked else self._walks.get(number, idle)
            calls.append(self._with_margins(bands.cleared.get(number, ()), call))
        direct = any(isinstance(call, DirectSend | DirectReceive) for call in calls)
        messages = DirectMessages(calls) if direct else None
        self._bound = BoundSteps(list(joined(calls, messages)), messages)
        self._let_go_of_plain_weights()

    def run(self, mailbox: Mailbox, inputs: Sequence[Array] = (), meanwhile: Callable[[], None] = nothing) -> list[Array]:
        """See `fogconv.cluster.executor.interface.Runnable`."""
        return self._bound.run(mailbox, inputs, meanwhile)

    def touch(self) -> None:
        """See `fogconv.cluster.executor.interface.Touches`."""
        for number, memory in self._buffers.items():
            memory.data[...] = self.program.buffers[number].precision.zero

    @property
    def times(self) -> NDArray[np.int64]:
        """See `fogconv.cluster.executor.interface.BoundSteps`; a walk's time is shared out among its steps."""
        times = self._bound.times
        if self._walks and len(times):
            times = times.copy()
            for walk in self._walks.values():
                walk.share_out(times)
        return times

    def _bind(self, step: steps.AnyStep) -> Call:
        bind = BINDERS.get(type(step))
        if bind is None:
            raise ClusterError(f"rank {self.program.rank} knows no step {type(step).__name__}")
        return bind(self, step)

    def _with_margins(self, buffers: Sequence[int], call: Call) -> Call:
        """A call before which the margins of some buffers become zeros."""
        if not buffers:
            return call
        maps = [(self._buffers[number], self.program.buffers[number].precision.zero) for number in buffers]
        if isinstance(call, Computing | BoundWalk):
            return Computing(after_margins(call.bound, maps))
        clear = sequence([bind_margin(x, zero) for x, zero in maps])

        def cleared(run: Run) -> None:
            clear()
            call(run)

        return cleared

    def compute(self, step: steps.AnyStep) -> Callable[[], None]:
        """The bound call of a step on buffers, which may be one that is not in the program's list."""
        return self._kernel(self, step)

    def _kernel(self, binder: Binder, step: steps.AnyStep) -> Bound:
        buffers = self.program.buffers
        elements = {buffers[number].precision.element for number in buffers_of(step)}
        if not elements.isdisjoint(HALVES) and not isinstance(step, OF_ANY_TYPE):
            return bind_halves(binder, step)
        kernels = KERNELS if elements == {"fp32"} or isinstance(step, OF_ANY_TYPE) else QUANTIZED
        bind = kernels.get(type(step))
        if bind is None:
            raise ClusterError(f"rank {self.program.rank} knows no step {type(step).__name__} of 8-bit maps")
        return bind(binder, step)

    def _map_step(self, step: steps.MapStep) -> Call:
        return Computing(self.compute(step))

    def _array_step(self, step: steps.ArrayStep) -> Call:
        return lambda run: self.arrays.do(step, run, self._threads)

    def _gather(self, step: steps.Gather) -> Call:
        return bind_gather(step, self)

    def prepare(self, step: steps.Conv) -> PreparedConv2d:
        """The conv with its weights packed; parts of one layer (interior and borders) share them."""
        swaps = step.weight in self._swapped
        algorithm = compact(step.spec) if swaps else algorithm_of(step.spec)
        packing = Packing.of(self.program, step, algorithm)
        known = self._prepared.get(packing)
        if known is None:
            shared = self._weights if isinstance(self._weights, Packed) else None
            found = shared.find(packing) if shared is not None else None
            known = found if isinstance(found, PreparedConv2d) else None
            self._unpacked[step.weight] -= 1
            if known is None:
                plain = self._weights[step.weight]
                known = prepare_conv2d(
                    step.spec,
                    plain,
                    None if step.bias is None else self._weights[step.bias],
                    activation=step.activation,
                    threads=self._threads,
                    scratch=self._scratch,
                    algorithm=algorithm if swaps else None,
                )
                if not self._unpacked[step.weight]:
                    give_back(plain)
                del plain
                if swaps:
                    known = known.stow((SwapFolder() if shared is None else shared.swap).store)
                if shared is not None:
                    shared.keep(packing, known, last=not self._unpacked[step.weight])
            self._prepared[packing] = known
            self.memory_bytes += known.weight_bytes
        return known if known.spec == step.spec and known.scratch is self._scratch else known.at(step.spec, self._scratch)

    def prepare_bytes(self, step: steps.Conv) -> PreparedBytes:
        """An 8-bit conv with its weights packed; parts of one layer, and programs with equal ones, share them."""
        packing = self._byte_packings[Packing.of(self.program, step, QUANTIZED_ALGORITHM)]
        known = self._prepared_bytes.get(packing)
        if known is None:
            shared = self._weights if isinstance(self._weights, Packed) else None
            found = shared.find(packing) if shared is not None else None
            self._unpacked[step.weight] -= 1
            known = found if isinstance(found, PreparedBytes) else self._packed_bytes(step, packing.algorithm)
            if shared is not None and known is not found:
                shared.keep(packing, known, last=not self._unpacked[step.weight])
            self._prepared_bytes[packing] = known
            self.memory_bytes += known.weight_bytes
        return known if known.spec == step.spec and known.scratch is self._scratch else known.at(step.spec, self._scratch)

    def _packed_bytes(self, step: steps.Conv, algorithm: str) -> PreparedBytes:
        return prepared(step, self.program, self._weights, self._threads, algorithm, self._scratch)

    def _let_go_of_plain_weights(self) -> None:
        """What is packed or bound needs them no more; what only a loss would need is packed when it comes to that."""
        later = {
            key
            for step in self.program.steps
            if isinstance(step, steps.Gather)
            for piece in step.pieces
            for key in (piece.spare.weight, piece.spare.bias)
        }
        self._weights = {key: self._weights[key] for key in later if key is not None}

    def view(self, buffer: int, region: Region) -> Blocked:
        """A view of a region, which starts at a block of 16 channels. Raises ClusterError where it is outside the
        buffer."""
        origin = self.program.buffers[buffer].region
        if region not in origin:
            raise ClusterError(f"rank {self.program.rank}: {region} is not in buffer {buffer}, which holds {origin}")
        return self._buffers[buffer].view(
            region.channels.slice(origin.channels.start),
            region.rows.slice(origin.rows.start),
            region.columns.slice(origin.columns.start),
        )

    def around(self, buffer: int, region: Region) -> tuple[Blocked, int]:
        """A view from the block in which the region starts, and the region's first lane in it."""
        origin = self.program.buffers[buffer].region.channels.start
        lane = (region.channels.start - origin) % BLOCK
        wider = region.with_channels(type(region.channels)(region.channels.start - lane, region.channels.stop))
        return self.view(buffer, wider), lane

    def _in_order(self, buffer: int, region: Region) -> memoryview | None:
        """The bytes of a region's payload, unchanged, where they are contiguous in memory."""
        view, lane = self.around(buffer, region)
        found = wire.in_order(view, lane, len(region.channels))
        return None if found is None else found.view(np.uint8).data

    def _unchanged(self, buffer: int, form: steps.Wire) -> bool:
        """Whether a message has the bytes of the buffer."""
        return form in wire.UNCHANGED or form == self.program.buffers[buffer].precision.element

    def _input(self, step: steps.Input) -> Call:
        packed, index = packer(self.view(step.target, step.region)), step.index

        def call(run: Run) -> None:
            packed(run.input(index))

        return call

    def _output(self, step: steps.Output) -> Call:
        unpacked, index = unpacker(self.view(step.source, step.region)), step.index

        def call(run: Run) -> None:
            run.outputs[index] = unpacked()

        return call

    def _host_output(self, step: steps.HostOutput) -> Call:
        def call(run: Run) -> None:
            if step.value not in run.values:
                raise KernelError(f"the master's own layers made no {shown(str(step.value))}, which is output {step.index}")
            run.outputs[step.index] = run.values[step.value]

        return call

    def _send(self, step: steps.Send) -> Call:
        form, plain = step.wire, step.wire not in wire.LOSSLESS
        spans, elements = self._spans(step)
        dtype = wire.DTYPES[form] if plain else np.dtype(np.float32)
        memory = message_memory(elements * dtype.itemsize)
        cut = memory[FRONT_BYTES:].view(dtype)
        to, tag, raw = step.to, step.tag, cut.view(np.uint8).data
        tables = None if step.pixels is None else PixelTables(step.pixels.mean, step.pixels.std)
        # Pixels are cut into an array of their own, which is coded.
        direct = not step.more and self._unchanged(step.source, form) and tables is None
        whole = self._in_order(step.source, step.region) if direct else None
        extracts = []
        for part, span in zip(step.parts, spans, strict=True):
            view, lane = self.around(part.buffer, part.region)
            extracts.append(wire.bind_extract(view, lane, len(part.region.channels), cut[span]))
        if plain and tables is None and compiled_steps(sequence(extracts)) is not None:
            return DirectSend(to, tag, memory, extracts)
        if whole is not None:

            def send_whole(run: Run) -> None:
                raw[:] = whole
                run.mailbox.send(to, tag, raw)

            return send_whole
        extract = sequence(extracts)

        def send_plain(run: Run) -> None:
            extract()
            run.mailbox.send(to, tag, raw)

        def send_coded(run: Run) -> None:
            extract()
            run.mailbox.send(to, tag, wire.encode(cut, form))

        def send_pixels(run: Run) -> None:
            assert tables is not None
            extract()
            coded = tables.encode(cut)
            run.mailbox.send(to, tag, raw if coded is None else coded)

        if tables is not None:
            return send_pixels
        if plain:
            return send_plain
        wire.warm_up(form)
        return send_coded

    def _spans(self, step: steps.Send | steps.Recv) -> tuple[list[slice], int]:
        """The spans of a message's parts, and its number of elements."""
        return wire.spans(self.program.batch, [part.region.shape for part in step.parts])

    def _receive(self, step: steps.Recv) -> Call:
        origin, tag, insert = step.origin, step.tag, self.insert(step)

        def call(run: Run) -> None:
            payload = run.mailbox.receive(origin, tag)
            run.ready_ns = time.perf_counter_ns()
            insert(payload)

        if step.wire in wire.LOSSLESS or step.pixels is not None:
            return call
        spans, elements = self._spans(step)
        dtype = wire.DTYPES[step.wire]
        n_bytes = elements * dtype.itemsize
        if n_bytes > DIRECT_BYTES:
            return call
        memory = message_memory(n_bytes)
        place = memory[FRONT_BYTES:].view(dtype)
        inserts: list[Bound] = []
        for part, span in zip(step.parts, spans, strict=True):
            view, lane = self.around(part.buffer, part.region)
            added = step.accumulate and not inserts
            inserts.append(wire.bind_insert(place[span], view, lane, len(part.region.channels), added))
        if compiled_steps(sequence(inserts)) is None:
            return call
        return DirectReceive(origin, tag, memory, inserts, call)

    def insert(self, step: steps.Recv) -> Callable[[Frame], None]:
        """Write a message's payload into its place. Raises WireError for one of another size."""
        elements = wire.wire_elements(self.program.batch, *step.region.shape)
        form, plain = step.wire, step.wire not in wire.LOSSLESS
        dtype = wire.DTYPES[form] if plain else np.dtype(np.float32)
        n_bytes = elements * dtype.itemsize
        if step.pixels is not None:
            return self._insert_pixels(step, step.pixels)
        whole = (
            self._in_order(step.target, step.region)
            if not step.more and not step.accumulate and self._unchanged(step.target, form)
            else None
        )
        if whole is not None:

            def insert_whole(payload: Frame) -> None:
                _expect(payload, n_bytes)
                whole[:] = payload

            return insert_whole
        # Copying a short one costs less than finding its address.
        if step.more or (plain and 0 < n_bytes <= SHORT_BYTES):
            return self._insert_staged(step)
        view, lane = self.around(step.target, step.region)
        insert = wire.bind_inserts(dtype, view, lane, len(step.region.channels), step.accumulate)

        def insert_plain(payload: Frame) -> None:
            _expect(payload, n_bytes)
            insert(as_array(payload).view(dtype))

        def insert_coded(payload: Frame) -> None:
            insert(wire.decode(payload, form, elements))

        if plain:
            return insert_plain
        wire.warm_up(form)
        return insert_coded

    def _insert_pixels(self, step: steps.Recv, pixels: steps.Pixels) -> Callable[[Frame], None]:
        """Insert a picture that came as bytes, or as it was where it is none."""
        elements = wire.wire_elements(self.program.batch, *step.region.shape)
        tables, place = PixelTables(pixels.mean, pixels.std), np.empty(elements, np.float32)
        view, lane = self.around(step.target, step.region)
        insert, raw = wire.bind_insert(place, view, lane, len(step.region.channels)), place.view(np.uint8).data

        def insert_pixels(payload: Frame) -> None:
            if len(payload) == elements:
                place[:] = tables.decode(np.frombuffer(payload, np.uint8))
            else:
                _expect(payload, len(raw))
                raw[:] = payload
            insert()

        return insert_pixels

    def _insert_staged(self, step: steps.Recv) -> Callable[[Frame], None]:
        """Insert through one staging buffer for all payloads of this step, from which each part is copied to its
        place."""
        form, plain = step.wire, step.wire not in wire.LOSSLESS
        spans, elements = self._spans(step)
        place = np.empty(elements, wire.DTYPES[form] if plain else np.float32)
        inserts: list[Callable[[], None]] = []
        for part, span in zip(step.parts, spans, strict=True):
            view, lane = self.around(part.buffer, part.region)
            added = step.accumulate and not inserts  # further parts are never accumulated
            inserts.append(wire.bind_insert(place[span], view, lane, len(part.region.channels), added))
        insert, raw = sequence(inserts), place.view(np.uint8).data

        def insert_plain(payload: Frame) -> None:
            _expect(payload, len(raw))
            raw[:] = payload
            insert()

        def insert_coded(payload: Frame) -> None:
            place[:] = wire.decode(payload, form, elements)
            insert()

        if plain:
            return insert_plain
        wire.warm_up(form)
        return insert_coded

    def weight(self, key: str) -> Array:
        return self._weights[key]

    def _call_host(self, step: steps.Host) -> Call:
        if self._host is None:
            raise ClusterError(f"rank {self.program.rank} has no torch to run {self.program.layers[step.layer]}")
        host, layer = self._host, step.layer
        sources = [unpacker(self.view(s, region)) for s, region in zip(step.sources, step.source_regions, strict=True)]
        targets = [packer(self.view(t, region)) for t, region in zip(step.targets, step.target_regions, strict=True)]

        def call(run: Run) -> None:
            results = host(layer, run.values, [unpacked() for unpacked in sources])
            for result, packed in zip(results, targets, strict=True):
                packed(result)

        return call


BINDERS: Mapping[type[steps.Step], Callable[[Executable, Any], Call]] = {
    steps.Input: Executable._input,
    steps.Output: Executable._output,
    steps.HostOutput: Executable._host_output,
    steps.Send: Executable._send,
    steps.Recv: Executable._receive,
    steps.Gather: Executable._gather,
    steps.Host: Executable._call_host,
    **dict.fromkeys((*KERNELS, *QUANTIZED), Executable._map_step),
    **dict.fromkeys(get_args(steps.ArrayStep), Executable._array_step),
}
"""How a step of each type is bound."""


def on_device(name: str) -> type[Executable]:
    """The executor for workers by `fogconv.cluster.executor.executors`: on the processor only. Raises InputError for a
    device."""
    if name:
        raise InputError(f"--executor numba:{name}: numba computes on the processor; write --executor numba")
    return Executable


def _expect(payload: Frame, n_bytes: int) -> None:
    if len(payload) != n_bytes:
        raise WireError(f"received a payload of {len(payload)} bytes; expected {n_bytes}")
