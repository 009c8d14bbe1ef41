"""Arrays: the steps on plain arrays, with which layers are trained, in torch. Arrays stay from run to run, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn import grad

from fogconv.cluster.executor.interface import Run
from fogconv.cluster.executor.mailbox import as_array
from fogconv.errors import ClusterError, KernelError, WireError
from fogconv.ir import steps
from fogconv.ir.geometry import ConvSpec

Tensor = torch.Tensor

_grad_input_of: Callable[..., Tensor] = grad.conv2d_input  # they have no types
_grad_weight_of: Callable[..., Tensor] = grad.conv2d_weight


class Arrays:
    """Tensors by name, on one device. Programs with the same ``Program.shares`` share one of these."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._arrays: dict[str, Tensor] = {}

    def do(self, step: steps.ArrayStep, run: Run) -> None:
        """Run one step of a worker. Raises ClusterError for a missing array, KernelError for a step of the master's, and
        the mailbox's errors."""
        match step:
            case steps.ArraySend():
                sent = self._get(step.array).cpu().contiguous().numpy()
                del self._arrays[step.array]
                run.mailbox.send(step.to, step.tag, sent.reshape(-1).view(np.uint8).data)
            case steps.ArrayRecv():
                run.meanwhile()
                payload = as_array(run.mailbox.receive(step.origin, step.tag))
                if payload.nbytes != 4 * math.prod(step.shape):
                    raise WireError(f"{step.array} of shape {step.shape} was received as {payload.nbytes} bytes")
                # A copy: the peer needs its memory back, and the array stays.
                array = torch.from_numpy(payload.copy().view(np.float32).reshape(step.shape)).to(self._device)
                if step.into == "new":
                    self._arrays[step.array] = array
                else:
                    self._keep(step.array, array, add=step.into == "sum")
            case steps.ConvForward():
                x, weight = self._of(step.x, step.spec.input_shape), self._of(step.weight, step.spec.weight_shape)
                self._keep(step.out, F.conv2d(_padded(x, step.spec), weight, None, *_rest(step.spec)))
            case steps.ConvGradInput():
                back, weight = self._of(step.grad_out, step.spec.output_shape), self._of(step.weight, step.spec.weight_shape)
                self._keep(step.out, _grad_input(step.spec, back, weight))
            case steps.ConvGradWeight():
                x, back = self._of(step.x, step.spec.input_shape), self._of(step.grad_out, step.spec.output_shape)
                shape = step.spec.weight_shape
                self._keep(step.out, _grad_weight_of(_padded(x, step.spec), shape, back, *_rest(step.spec)))
            case steps.ArrayFree():
                for name in step.arrays:
                    self._arrays.pop(name, None)
            case _:
                raise KernelError(f"--executor torch is for workers; {type(step).__name__} is a step of the master's")

    def settle(self) -> None:
        """After a run: nothing is left to do."""

    def _keep(self, name: str, result: Tensor, *, add: bool = False) -> None:
        there = self._arrays.get(name)
        if there is None and not add:
            self._arrays[name] = result
            return
        there = self._get(name)
        if there.shape != result.shape:
            raise ClusterError(f"{name} has the shape {tuple(there.shape)}, the data for it {tuple(result.shape)}")
        self._arrays[name] = there + result if add else result

    def _get(self, name: str) -> Tensor:
        if name not in self._arrays:
            raise ClusterError(f"this rank has no array {name}")
        return self._arrays[name]

    def _of(self, name: str, shape: tuple[int, ...]) -> Tensor:
        array = self._get(name)
        if array.shape != shape:
            raise ClusterError(f"{name} has the shape {tuple(array.shape)}; a step needs {shape}")
        return array


def _rest(spec: ConvSpec) -> tuple[Any, ...]:
    """The arguments of torch's convs after the padding that `_padded` has done."""
    return spec.stride, 0, spec.dilation, spec.groups


def _padded(x: Tensor, spec: ConvSpec) -> Tensor:
    top, bottom, left, right = spec.padding
    return F.pad(x, (left, right, top, bottom))


def _grad_input(spec: ConvSpec, back: Tensor, weight: Tensor) -> Tensor:
    top, bottom, left, right = spec.padding
    shape = (spec.batch, spec.in_channels, spec.height + top + bottom, spec.width + left + right)
    padded = _grad_input_of(shape, weight, back, *_rest(spec))
    return padded[:, :, top : top + spec.height, left : left + spec.width].contiguous()
