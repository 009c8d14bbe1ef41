"""Arrays: the steps on plain arrays, with which layers are trained.

A layer's arrays outlive its runs: weights stay until others bear their name, and a forward pass leaves its input for
the backward pass. Programs with the same ``Program.shares`` share one Arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fogconv import program as steps
from fogconv.cluster.mailbox import Mailbox
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
    """Arrays by name, and the kernels bound for them. Not for two threads at a time."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._forward: dict[tuple[str, ConvSpec], _Forward] = {}
        self._grad_input: dict[ConvSpec, GradInput] = {}
        self._grad_weight: dict[ConvSpec, GradWeight] = {}

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
                run.mailbox.send(step.to, step.tag, array.reshape(-1).view(np.uint8))
            case steps.Take():
                payload = run.mailbox.receive(step.origin, step.tag)
                if payload.nbytes != 4 * math.prod(step.shape):
                    raise WireError(f"{step.array} of shape {step.shape} came as {payload.nbytes} bytes")
                arrays[step.array] = payload.view(np.float32).reshape(step.shape)
            case steps.ConvForward():
                weight = self._get(step.weight)
                forward = self._forward.get((step.weight, step.spec))
                if forward is None or forward.weight is not weight:
                    forward = _Forward(step.spec, weight, threads, forward)
                    self._forward[step.weight, step.spec] = forward
                arrays[step.out] = forward(self._get(step.x))
            case steps.ConvGradInput():
                kernel = self._input_kernel(step.spec)
                arrays[step.out] = kernel.run(self._get(step.grad_out), self._get(step.weight))
            case steps.ConvGradWeight():
                arrays[step.out] = self._weight_kernel(step.spec).run(self._get(step.x), self._get(step.grad_out))
            case steps.Forget():
                for name in step.arrays:
                    arrays.pop(name, None)

    # Imported where they are first used: inference needs no gradients, and a small device imports slowly.

    def _input_kernel(self, spec: ConvSpec) -> GradInput:
        from fogconv.kernels.gradient import GradInput

        if spec not in self._grad_input:
            self._grad_input[spec] = GradInput(spec)
        return self._grad_input[spec]

    def _weight_kernel(self, spec: ConvSpec) -> GradWeight:
        from fogconv.kernels.gradient import GradWeight

        if spec not in self._grad_weight:
            self._grad_weight[spec] = GradWeight(spec)
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
    """A forward kernel with its weights packed; the maps of the one before are used again."""

    def __init__(self, spec: ConvSpec, weight: Array, threads: int, before: _Forward | None) -> None:
        self.weight = weight
        prepared = prepare_conv2d(spec, weight, threads=threads)
        if before is None:
            self._x = Blocked.empty(*spec.input_shape, prepared.wanted_margin)
            self._out = Blocked.empty(*spec.output_shape)
        else:
            self._x, self._out = before._x, before._out
        self._run: Callable[[], Any] = prepared.bind(self._x, self._out)

    def __call__(self, x: Array) -> Array:
        pack(np.ascontiguousarray(x), out=self._x)
        self._run()
        return unpack(self._out)
