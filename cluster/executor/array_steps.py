"""Arrays: the steps on plain arrays, with which layers are trained.

A layer's arrays outlive its runs: weights stay until another array takes their name, and a forward pass keeps its input
for the backward pass. Programs with the same ``Program.shares`` share one Arrays.

A conv writes its result to the existing array of the result's name, if there is one (the master provides the place in the
whole result); else to memory from which it is sent without a copy, or to the step's own memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fogconv.cluster.executor.mailbox import Mailbox, as_array
from fogconv.cluster.transport.zeromq.shared_memory import is_lent
from fogconv.errors import ClusterError, WireError
from fogconv.ir import steps
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec, mirrored
from fogconv.kernels.conv.conv import prepare_conv2d
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.pack import unpack
from fogconv.kernels.maps.transpose import bind_pack

if TYPE_CHECKING:
    from fogconv.kernels.gradient.gradient import GradInput, GradWeight


class Running(Protocol):
    """The part of a run that these steps use."""

    mailbox: Mailbox
    outputs: dict[int, Array]
    meanwhile: Callable[[], None]
    ready_ns: int

    def input(self, index: int) -> Array: ...


class Arrays:
    """Arrays by name, and the kernels bound for them. Not for two threads at a time.

    A conv step's result is overwritten when the same step runs again.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._lent: set[str] = set()
        self._read: dict[str, ConvSpec] = {}
        self._held: dict[str, GradWeight] = {}
        self._results: dict[tuple[str, tuple[int, ...]], Array] = {}
        self._forward: dict[tuple[type, str, ConvSpec], _Forward] = {}
        self._grad_input: dict[ConvSpec, GradInput] = {}
        self._grad_weight: dict[ConvSpec, GradWeight] = {}

    def do(self, step: steps.ArrayStep, run: Running, threads: int) -> None:
        """Run one step. Raises ClusterError for a missing array, and the mailbox's errors."""
        arrays = self._arrays
        match step:
            case steps.ArrayInput():
                self._set(step.array, run.input(step.index))
            case steps.ArrayOutput():
                run.outputs[step.index] = self._pop(step.array)
            case steps.ArraySend():
                array = np.ascontiguousarray(self._pop(step.array))
                run.mailbox.send(step.to, step.tag, array.reshape(-1).view(np.uint8).data)
            case steps.ArrayRecv():
                run.meanwhile()
                frame = run.mailbox.receive(step.origin, step.tag)
                payload = as_array(frame)
                (self._lent.add if is_lent(frame) else self._lent.discard)(step.array)
                if payload.nbytes != 4 * math.prod(step.shape):
                    raise WireError(f"{step.array} of shape {step.shape} was received as {payload.nbytes} bytes")
                array = payload.view(np.float32).reshape(step.shape)
                if step.into == "new":
                    self._set(step.array, array)
                else:
                    self._write(step.array, array, step.into == "sum")
            case steps.ConvForward():
                forward = self._packed(step, step.spec, threads)
                self._read[step.x] = step.spec
                out = self._place(step.out, step.spec.output_shape, 1, run)
                self._keep(step.out, forward(self._of(step.x, step.spec.input_shape), out))
            case steps.ConvGradInput():
                out = self._place(step.out, step.spec.input_shape, step.spec.groups, run)
                turned = mirrored(step.spec)
                if turned is not None:
                    back = self._packed(step, turned, threads)
                    self._keep(step.out, back(self._of(step.grad_out, step.spec.output_shape), out))
                else:
                    kernel = self._input_kernel(step.spec)
                    self._keep(step.out, kernel.run(self._get(step.grad_out), self._get(step.weight), out))
            case steps.ConvGradWeight():
                out = self._place(step.out, step.spec.weight_shape, step.spec.groups, run)
                weight_kernel = self._weight_kernel(step.spec)
                x = None
                if self._held.get(step.x) is not weight_kernel:
                    x = self._get(step.x)
                    self._clear(weight_kernel)
                self._keep(step.out, weight_kernel.run(x, self._get(step.grad_out), out))
            case steps.ArrayFree():
                for name in step.arrays:
                    arrays.pop(name, None)
                    self._held.pop(name, None)

    def settle(self) -> None:
        """After a run: the input of a forward pass is packed for its gradient. Other kept arrays in a peer's memory are
        copied, because the peer needs that memory back."""
        for name in self._read.keys() & self._arrays.keys():
            kernel = self._weight_kernel(self._read[name])
            self._clear(kernel)
            kernel.hold(self._arrays.pop(name))
            self._held[name] = kernel
        self._read.clear()
        for name in self._lent & self._arrays.keys():
            lent = self._arrays[name]
            self._arrays[name] = own = lent.copy()
            for forward in self._forward.values():
                if forward.weight is lent:
                    forward.weight = own
        self._lent.clear()

    def _place(self, name: str, shape: tuple[int, ...], groups: int, run: Running) -> Array:
        """The array for a result: its final place, if the kernels can write there."""
        there = self._arrays.get(name)
        if (
            there is not None
            and there.shape == shape
            and (there.flags.c_contiguous or (groups == 1 and _rows_follow(there)))
        ):
            return there
        room = None if there is not None else run.mailbox.room(4 * math.prod(shape))
        if room is not None:
            return np.frombuffer(room, np.float32).reshape(shape)
        if (name, shape) not in self._results:
            self._results[name, shape] = np.empty(shape, np.float32)
        return self._results[name, shape]

    def _keep(self, name: str, result: Array) -> None:
        if name in self._arrays:
            self._write(name, result, False)
        else:
            self._arrays[name] = result

    def _write(self, name: str, array: Array, add: bool) -> None:
        """Write into the array of this name, if it isn't the same array."""
        there = self._get(name)
        if there.shape != array.shape:
            raise ClusterError(f"{name} has the shape {there.shape}, the data for it {array.shape}")
        if add:
            np.add(there, array, out=there)
        elif there is not array:
            np.copyto(there, array)

    def _packed(self, step: steps.ConvForward | steps.ConvGradInput, used: ConvSpec, threads: int) -> _Forward:
        """The kernel of a step for the weights of this name, packed again if they have changed."""
        weight = self._of(step.weight, step.spec.weight_shape)
        key = (type(step), step.weight, step.spec)
        known = self._forward.get(key)
        if known is None or known.weight is not weight:
            turned = _mirror(weight, step.spec) if isinstance(step, steps.ConvGradInput) else weight
            self._forward[key] = known = _Forward(used, weight, turned, threads, known)
        return known

    # Imported on first use: inference needs no gradients, and a small device imports slowly.

    def _input_kernel(self, spec: ConvSpec) -> GradInput:
        from fogconv.kernels.gradient.gradient import GradInput

        if spec not in self._grad_input:
            self._grad_input[spec] = GradInput(spec)
        return self._grad_input[spec]

    def _weight_kernel(self, spec: ConvSpec) -> GradWeight:
        from fogconv.kernels.gradient.gradient import GradWeight

        if spec not in self._grad_weight:
            self._grad_weight[spec] = GradWeight(spec)
        return self._grad_weight[spec]

    def _clear(self, kernel: GradWeight) -> None:
        """The kernel's stored input becomes an array again."""
        for name in [name for name, holder in self._held.items() if holder is kernel]:
            self._get(name)

    def _set(self, name: str, array: Array) -> None:
        self._arrays[name] = array
        self._held.pop(name, None)

    def _get(self, name: str) -> Array:
        if name in self._held:
            self._arrays[name] = self._held.pop(name).held()
        if name not in self._arrays:
            raise ClusterError(f"this rank has no array {name}")
        return self._arrays[name]

    def _of(self, name: str, shape: tuple[int, ...]) -> Array:
        """The array of this name, where it has this shape."""
        array = self._get(name)
        if array.shape != shape:
            raise ClusterError(f"{name} has the shape {array.shape}; a step needs {shape}")
        return array

    def _pop(self, name: str) -> Array:
        array = self._get(name)
        del self._arrays[name]
        return array


class _Forward:
    """A forward kernel with its weights packed. The maps are shared with its predecessor and by all calls."""

    def __init__(self, spec: ConvSpec, weight: Array, packed: Array, threads: int, before: _Forward | None) -> None:
        self.weight = weight
        prepared = prepare_conv2d(spec, packed, threads=threads)
        if before is None:
            self._x = prepared.empty_input()
            self._out = Blocked.empty(*spec.output_shape)
        else:
            self._x, self._out = before._x, before._out
        self._run: Callable[[], Any] = prepared.bind(self._x, self._out)

    def __call__(self, x: Array, out: Array) -> Array:
        bind_pack(x if _rows_follow(x) else np.ascontiguousarray(x), self._x)()
        self._run()
        return unpack(self._out, out=out)


def _rows_follow(x: Array) -> bool:
    """Whether each channel's rows are contiguous, as packing needs them; there may be gaps between channels and
    images."""
    return x.strides[3] == 4 and x.strides[2] == 4 * x.shape[3]


def _mirror(weight: Array, spec: ConvSpec) -> Array:
    """(f, c/g, K_h, K_w) → (c, f/g, K_h, K_w), turned by 180°."""
    f, c = spec.out_channels // spec.groups, spec.in_channels // spec.groups
    grouped = weight.reshape(spec.groups, f, c, *spec.kernel).transpose(0, 2, 1, 3, 4)[..., ::-1, ::-1]
    return np.ascontiguousarray(grouped.reshape(spec.in_channels, f, *spec.kernel))
