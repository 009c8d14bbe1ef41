"""Interpreter: a worker's Program bound to tensors on one device of torch.

It computes the same programs as `fogconv.cluster.executor.executable`, and its messages are the same; maps are plain
(N, C, H, W), since their layout ends at the wire. Steps of the master's are not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import get_args
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from fogconv.accelerator.array_steps import Arrays
from fogconv.accelerator.device import device_of, fingerprint, settle, wait_for
from fogconv.accelerator.map_steps import KERNELS
from fogconv.accelerator.payload import flat, write
from fogconv.cluster.executor.interface import BoundSteps, Call, HostCalls, Run, nothing
from fogconv.cluster.executor.mailbox import Mailbox, as_array
from fogconv.cluster.protocol.codec import Frame
from fogconv.errors import ClusterError, KernelError, WireError, shown
from fogconv.ir import steps
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BYTES_PER_ELEMENT, Region
from fogconv.ir.memory.sharing import memories
from fogconv.ir.program import Program
from fogconv.kernels.maps import wire
from fogconv.kernels.maps.pixels import PixelTables

Tensor = torch.Tensor


class TorchExecutor:
    """An executor on one device; see `fogconv.cluster.executor.interface.Executor`. Programs share weights on the device.

    ``kernels`` tells its rates from those of other executors.
    """

    whole_maps = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kernels = fingerprint(device)
        self._weights: WeakValueDictionary[str, Tensor] = WeakValueDictionary()

    def __call__(
        self,
        program: Program,
        weights: Mapping[str, Array],
        *,
        threads: int = 1,
        host: HostCalls | None = None,
        proceed: Callable[[], None] = nothing,
    ) -> TorchExecutable:
        settle(self.device, threads)
        return TorchExecutable(program, weights, self.device, self._weights, proceed)


class TorchExecutable:
    """One worker's program, ready to run. Not re-entrant: one run at a time.

    ``memory_bytes``: of buffers and weights, on the device. Raises KernelError or ClusterError for a program that can't be
    bound.
    """

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, Array],
        device: torch.device,
        shared: WeakValueDictionary[str, Tensor],
        proceed: Callable[[], None] = nothing,
    ) -> None:
        missing = [key for key in program.weights if key not in weights]
        if missing:
            raise ClusterError(f"rank {program.rank}: {len(missing)} weights of the program are missing, first {missing[0]}")
        narrow = next((buffer for buffer in program.buffers if buffer.precision.element != "fp32"), None)
        if narrow is not None:
            raise KernelError(
                f"--executor torch computes in float32, and {shown(narrow.tensor)} is kept in {narrow.precision.element}: "
                "serve models of 8 and 16 bits with --executor numba"
            )
        self.program, self.device = program, device
        self.arrays = Arrays(device)
        self._plain, self._shared = weights, shared
        self._held: dict[str, Tensor] = {}
        self._buffers = self._allocated()
        calls = []
        for step in program.steps:
            proceed()
            calls.append(self._bind(step))
        self._bound = BoundSteps(calls)
        held = {tensor.data_ptr(): tensor for tensor in self._held.values()}
        self.memory_bytes = self._map_bytes + sum(each.nbytes for each in held.values())
        if not program.swapped:
            self._plain = {}

    def run(self, mailbox: Mailbox, inputs: Sequence[Array] = (), meanwhile: Callable[[], None] = nothing) -> list[Array]:
        """See `fogconv.cluster.executor.interface.Runnable`."""
        with torch.inference_mode():
            return self._bound.run(mailbox, inputs, meanwhile)

    @property
    def times(self) -> NDArray[np.int64]:
        """See `fogconv.cluster.executor.interface.BoundSteps`."""
        return self._bound.times

    def _allocated(self) -> list[Tensor]:
        """(N, C, H, W) for each buffer; those that are never in use at the same time share memory."""
        program = self.program
        shapes = [(program.batch, *buffer.region.shape) for buffer in program.buffers]
        places = memories(program)
        sizes: dict[int, int] = {}
        for place, shape in zip(places, shapes, strict=True):
            sizes[place] = max(sizes.get(place, 0), int(np.prod(shape)))
        memory = {place: torch.zeros(size, device=self.device) for place, size in sizes.items()}
        self._map_bytes = BYTES_PER_ELEMENT * sum(sizes.values())
        return [memory[place][: int(np.prod(shape))].reshape(shape) for place, shape in zip(places, shapes, strict=True)]

    def at(self, buffer: int, region: Region) -> Tensor:
        """A view of a region of a buffer. Raises ClusterError where it is outside."""
        origin = self.program.buffers[buffer].region
        if region not in origin:
            raise ClusterError(f"rank {self.program.rank}: {region} is not in buffer {buffer}, which holds {origin}")
        return self._buffers[buffer][
            :,
            region.channels.slice(origin.channels.start),
            region.rows.slice(origin.rows.start),
            region.columns.slice(origin.columns.start),
        ]

    def weight(self, key: str) -> Callable[[], Tensor]:
        """A weight on the device; one that the program swaps is read from the disk at each call."""
        if key in self.program.swapped:
            return lambda: self._on_device(key)
        if key not in self._held:
            known = self._shared.get(key)
            self._held[key] = self._shared[key] = self._on_device(key) if known is None else known
        held = self._held[key]
        return lambda: held

    def _on_device(self, key: str) -> Tensor:
        plain = self._plain[key]
        return torch.from_numpy(plain if plain.flags.writeable else plain.copy()).to(self.device)

    def _bind(self, step: steps.AnyStep) -> Call:
        match step:
            case steps.Send():
                return self._send(step)
            case steps.Recv():
                return self._receive(step)
        kernel = KERNELS.get(type(step))
        if kernel is not None:
            compute = kernel(self, step)

            def call(run: Run) -> None:
                compute()
                wait_for(self.device)  # so that a step's time is its own

            return call
        if isinstance(step, _ARRAY_STEPS):
            return lambda run: self.arrays.do(step, run)
        raise KernelError(f"--executor torch is for workers; {type(step).__name__} is a step of the master's")

    def _send(self, step: steps.Send) -> Call:
        form, to, tag = step.wire, step.to, step.tag
        sources = [self.at(part.buffer, part.region) for part in step.parts]
        spans, elements = wire.spans(self.program.batch, [part.region.shape for part in step.parts])
        tables = None if step.pixels is None else PixelTables(step.pixels.mean, step.pixels.std)
        if form in wire.LOSSLESS:
            wire.warm_up(form)

        def cut() -> Tensor:
            if len(sources) == 1:
                return flat(sources[0])
            whole = torch.zeros(elements, device=self.device)
            for source, span in zip(sources, spans, strict=True):
                whole[span] = flat(source)
            return whole

        def call(run: Run) -> None:
            payload = cut()
            if form in _SHORT:
                payload = payload.to(_SHORT[form]).view(torch.int16)
            plain = payload.cpu().numpy()
            coded = None if tables is None else tables.encode(plain)
            if coded is not None:
                run.mailbox.send(to, tag, coded)
            elif form in wire.LOSSLESS:
                run.mailbox.send(to, tag, wire.encode(plain, form))
            else:
                run.mailbox.send(to, tag, plain.view(np.uint8).data)

        return call

    def _receive(self, step: steps.Recv) -> Call:
        origin, tag, form = step.origin, step.tag, step.wire
        targets = [self.at(part.buffer, part.region) for part in step.parts]
        spans, elements = wire.spans(self.program.batch, [part.region.shape for part in step.parts])
        tables = None if step.pixels is None else PixelTables(step.pixels.mean, step.pixels.std)
        if form in wire.LOSSLESS:
            wire.warm_up(form)

        def values(frame: Frame) -> Tensor:
            payload = as_array(frame)
            if tables is not None and len(payload) == elements:
                return torch.from_numpy(tables.decode(payload)).to(self.device)
            if form in wire.LOSSLESS:
                return torch.from_numpy(np.array(wire.decode(frame, form, elements))).to(self.device)
            short = _SHORT.get(form)
            n_bytes = elements * (BYTES_PER_ELEMENT if short is None else short.itemsize)
            if len(payload) != n_bytes:
                raise WireError(f"received a payload of {len(payload)} bytes; expected {n_bytes}")
            # A copy: the peer's memory may be read-only, and is lent for a moment.
            raw = torch.from_numpy(payload.copy()).to(self.device)
            return raw.view(torch.float32 if short is None else short).to(torch.float32)

        def call(run: Run) -> None:
            payload = run.mailbox.receive(origin, tag)
            run.ready_ns = time.perf_counter_ns()
            whole = values(payload)
            for number, (target, span) in enumerate(zip(targets, spans, strict=True)):
                write(whole[span], target, add=step.accumulate and not number)
            wait_for(self.device)

        return call


_SHORT = {"fp16": torch.float16, "bf16": torch.bfloat16}
_ARRAY_STEPS = get_args(steps.ArrayStep)


def on_device(name: str) -> TorchExecutor:
    """The executor on a device by torch's name of it; "" is the processor. Raises InputError for one that is not there."""
    return TorchExecutor(device_of(name))
