"""Arrays: the steps on plain arrays, with which layers are trained.

A layer's arrays outlive its runs: weights stay until others bear their name, and a forward pass leaves its input for
the backward pass. Programs with the same ``Program.shares`` share one Arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fogconv import program as steps
from fogconv.cluster.mailbox import Mailbox, as_array
from fogconv.errors import ClusterError, WireError
from fogconv.geometry import ConvSpec
from fogconv.kernels.blocked import Blocked, pack, unpack
from fogconv.kernels.conv import prepare_conv2d

if TYPE_CHECKING:
    from fogconv.kernels.gradient import GradInput, GradWeight

Array = NDArray[np.float32]


class Running(Protocol):
    """What these steps need of one run."""

    mailbox: Mailbox
    outputs: dict[int, Array]
    ready_ns: int

    @property
    def inputs(self) -> Sequence[Array]: ...


class Arrays:
    """Arrays by name, and the kernels bound for them. Not for two threads at a time.

    What a conv step writes is overwritten when the same step runs again.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._forward: dict[tuple[type, str, ConvSpec], _Forward] = {}
        self._grad_input: dict[ConvSpec, tuple[GradInput, Array]] = {}
        self._grad_weight: dict[ConvSpec, tuple[GradWeight, Array]] = {}

    def do(self, step: steps.ArrayStep, run: Running, threads: int) -> None:
        """One step. Raises ClusterError for an array that is not here, and what the mailbox raises."""
        arrays = self._arrays
        match step:
            case steps.Bring():
                arrays[step.array] = run.inputs[step.index]
            case steps.Show():
                run.outputs[step.index] = self._pop(step.array)
            case steps.Give():
                array = np.ascontiguousarray(self._pop(step.array))
                run.mailbox.send(step.to, step.tag, array.reshape(-1).view(np.uint8).data)
            case steps.Take():
                payload = as_array(run.mailbox.receive(step.origin, step.tag))
                if payload.nbytes != 4 * math.prod(step.shape):
                    raise WireError(f"{step.array} of shape {step.shape} came as {payload.nbytes} bytes")
                arrays[step.array] = payload.view(np.float32).reshape(step.shape)
            case steps.ConvForward():
                forward = self._packed(step, step.spec, threads)
                arrays[step.out] = forward(self._get(step.x))
            case steps.ConvGradInput():
                mirrored = _mirrored(step.spec)
                if mirrored is not None:
                    back = self._packed(step, mirrored, threads)
                    arrays[step.out] = back(self._get(step.grad_out))
                else:
                    kernel, out = self._input_kernel(step.spec)
                    arrays[step.out] = kernel.run(self._get(step.grad_out), self._get(step.weight), out)
            case steps.ConvGradWeight():
                weight_kernel, out = self._weight_kernel(step.spec)
                arrays[step.out] = weight_kernel.run(self._get(step.x), self._get(step.grad_out), out)
            case steps.Forget():
                for name in step.arrays:
                    arrays.pop(name, None)

    def _packed(self, step: steps.ConvForward | steps.ConvGradInput, used: ConvSpec, threads: int) -> _Forward:
        """The kernel of a step for the weights of this name, packed again if they are others than before."""
        weight = self._get(step.weight)
        key = (type(step), step.weight, step.spec)
        known = self._forward.get(key)
        if known is None or known.weight is not weight:
            turned = _mirror(weight, step.spec) if isinstance(step, steps.ConvGradInput) else weight
            self._forward[key] = known = _Forward(used, weight, turned, threads, known)
        return known

    # Imported where they are first used: inference needs no gradients, and a small device imports slowly.

    def _input_kernel(self, spec: ConvSpec) -> tuple[GradInput, Array]:
        from fogconv.kernels.gradient import GradInput

        if spec not in self._grad_input:
            self._grad_input[spec] = GradInput(spec), np.empty(spec.input_shape, np.float32)
        return self._grad_input[spec]

    def _weight_kernel(self, spec: ConvSpec) -> tuple[GradWeight, Array]:
        from fogconv.kernels.gradient import GradWeight

        if spec not in self._grad_weight:
            self._grad_weight[spec] = GradWeight(spec), np.empty(spec.weight_shape, np.float32)
        return self._grad_weight[spec]

    def _get(self, name: str) -> Array:
        if name not in self._arrays:
            raise ClusterError(f"there is no array {name} here")
        return self._arrays[name]

    def _pop(self, name: str) -> Array:
        array = self._get(name)
        del self._arrays[name]
        return array


class _Forward:
    """A forward kernel with its weights packed. Maps and result are those of the one before, and of every call."""

    def __init__(self, spec: ConvSpec, weight: Array, packed: Array, threads: int, before: _Forward | None) -> None:
        self.weight = weight
        prepared = prepare_conv2d(spec, packed, threads=threads)
        if before is None:
            self._x = prepared.empty_input()
            self._out = Blocked.empty(*spec.output_shape)
            self._result = np.empty(spec.output_shape, np.float32)
        else:
            self._x, self._out, self._result = before._x, before._out, before._result
        self._run: Callable[[], Any] = prepared.bind(self._x, self._out)

    def __call__(self, x: Array) -> Array:
        pack(np.ascontiguousarray(x), out=self._x)
        self._run()
        return unpack(self._out, out=self._result)


def _mirrored(spec: ConvSpec) -> ConvSpec | None:
    """The forward conv that computes grad_input, which it can for a stride of 1: with Winograd's kernels twice as fast.

    A padding beyond the kernel's reach would have to be cropped instead.
    """
    reach = [d * (k - 1) for d, k in zip(spec.dilation, spec.kernel, strict=True)]
    top, bottom, left, right = spec.padding
    around = (reach[0] - top, reach[0] - bottom, reach[1] - left, reach[1] - right)
    if spec.stride != (1, 1) or min(around) < 0 or spec.depthwise:
        return None
    return replace(
        spec,
        in_channels=spec.out_channels,
        out_channels=spec.in_channels,
        height=spec.out_height,
        width=spec.out_width,
        padding=around,
    )


def _mirror(weight: Array, spec: ConvSpec) -> Array:
    """(f, c/g, K_h, K_w) → (c, f/g, K_h, K_w), turned by 180°."""
    f, c = spec.out_channels // spec.groups, spec.in_channels // spec.groups
    grouped = weight.reshape(spec.groups, f, c, *spec.kernel).transpose(0, 2, 1, 3, 4)[..., ::-1, ::-1]
    return np.ascontiguousarray(grouped.reshape(spec.in_channels, f, *spec.kernel))
