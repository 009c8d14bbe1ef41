"""Map steps in torch: what computes a step on tensors (N, C, H, W), by the step's type.

Everything that does not depend on values is done when a step is bound; the bound call only computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812

from fogconv.accelerator.functions import ACROSS, activation, function
from fogconv.ir import steps
from fogconv.ir.geometry import PoolSpec, Region, Span, Taps

Tensor = torch.Tensor
Compute = Callable[[], None]


class Binder(Protocol):
    """The part of an executable that the binding of a step uses."""

    device: torch.device

    def at(self, buffer: int, region: Region) -> Tensor:
        """A view of a region of a buffer."""
        ...

    def weight(self, key: str) -> Callable[[], Tensor]:
        """A weight, read from the disk at each call where the program swaps it."""
        ...


def _conv(it: Binder, step: steps.Conv) -> Compute:
    spec, after = step.spec, activation(step.activation)
    source, target = it.at(step.source, step.source_region), it.at(step.target, step.target_region)
    residual = None
    if step.residual is not None and step.residual_region is not None:
        residual = it.at(step.residual, step.residual_region)
    weight, bias = it.weight(step.weight), _optional(it, step.bias)
    top, bottom, left, right = spec.padding
    even = (top, left) == (bottom, right)
    around, padding = (0, 0, 0, 0) if even else (left, right, top, bottom), (top, left) if even else (0, 0)

    def call() -> None:
        x = source if even else F.pad(source, around)
        out = F.conv2d(x, weight(), bias, spec.stride, padding, spec.dilation, spec.groups)
        target.copy_(after(out if residual is None else out + residual))

    return call


def _pool(it: Binder, step: steps.Pool) -> Compute:
    spec, source, target = step.spec, step.source_region, step.target_region
    rows, before, after = _reach(spec, 0, source.rows, target.rows)
    columns, left, right = _reach(spec, 1, source.columns, target.columns)
    x = it.at(step.source, Region(source.channels, rows, columns))
    out, around = it.at(step.target, target), (left, right, before, after)

    def greatest() -> None:
        padded = F.pad(x, around, value=float("-inf"))
        out.copy_(F.max_pool2d(padded, spec.kernel, spec.stride, 0, spec.dilation))

    if spec.kind == "max":
        return greatest
    counts = [_counts(spec, axis, span) for axis, span in ((0, target.rows), (1, target.columns))]
    shared = torch.outer(*(torch.tensor(each, dtype=torch.float32) for each in counts)).clamp(min=1.0)
    divisor: Tensor | int = spec.divisor or shared.to(it.device)

    def mean() -> None:
        out.copy_(F.avg_pool2d(F.pad(x, around), spec.kernel, spec.stride, divisor_override=1) / divisor)

    return mean


def _reach(spec: PoolSpec, axis: int, there: Span, out: Span) -> tuple[Span, int, int]:
    """Of the inputs that are ``there`` those that the outputs' windows read, and what is beyond them on both sides."""
    stride = spec.stride[axis]
    first = out.start * stride - spec.padding[2 * axis]
    last = first + (len(out) - 1) * stride + spec.dilation[axis] * (spec.kernel[axis] - 1) + 1
    read = Span(max(first, there.start), max(max(first, there.start), min(last, there.stop)))
    return read, read.start - first, last - read.stop


def _counts(spec: PoolSpec, axis: int, out: Span) -> list[int]:
    """How many elements each output's window is the mean of, along one axis."""
    size = (spec.height, spec.width)[axis]
    before, after = spec.padding[2 * axis : 2 * axis + 2]
    found = []
    for index in range(out.start, out.stop):
        first = index * spec.stride[axis] - before
        stop = first + spec.kernel[axis]
        with_padding, inside = min(stop, size + after) - first, min(stop, size) - max(first, 0)
        found.append(with_padding if spec.count_include_pad else max(0, inside))
    return found


def _global_pool(it: Binder, step: steps.GlobalPool) -> Compute:
    source, target = it.at(step.source, step.source_region), it.at(step.target, step.target_region)
    return lambda: _into(target, source.sum((2, 3), keepdim=True) / step.divisor)


def _squares(it: Binder, step: steps.Squares) -> Compute:
    source, target = it.at(step.source, step.source_region), it.at(step.target, step.target_region)
    mean = it.at(step.mean, step.mean_region)
    return lambda: _into(target, ((source - _of_group(mean, step)) ** 2).sum((2, 3), keepdim=True) / step.divisor)


def _normalize(it: Binder, step: steps.Normalize) -> Compute:
    source, target = it.at(step.source, step.source_region), it.at(step.target, step.target_region)
    mean, squares = it.at(step.mean, step.mean_region), it.at(step.squares, step.squares_region)
    scaled, after = _scaled(it, step.scale, step.shift), activation(step.activation)

    def call() -> None:
        out = (source - _of_group(mean, step)) / (_of_group(squares, step) + step.eps).sqrt()
        target.copy_(after(scaled(out)))

    return call


def _of_group(values: Tensor, step: steps.Squares | steps.Normalize) -> Tensor:
    """(N, C, 1, 1): for each of the target's channels the mean over its group's."""
    batch, channels = values.shape[:2]
    means = values.reshape(batch, channels // step.per_group, step.per_group).mean(2)
    spread = means.repeat_interleave(step.per_group, 1)[:, step.first : step.first + len(step.target_region.channels)]
    return spread.reshape(batch, -1, 1, 1)


def _across(it: Binder, step: steps.AcrossChannels) -> Compute:
    source, target = it.at(step.source, step.source_region), it.at(step.target, step.target_region)
    scaled, op = _scaled(it, step.scale, step.shift), function(step.op, ACROSS)
    return lambda: _into(target, scaled(op(source, *step.parameters)))


def _add(it: Binder, step: steps.Add) -> Compute:
    sources, after = _sources(it, step), activation(step.activation)
    target = it.at(step.target, step.target_region)

    def call() -> None:
        total = sources[0]
        for source in sources[1:]:
            total = total + source
        target.copy_(after(total))

    return call


def _affine(it: Binder, step: steps.Affine) -> Compute:
    source, target = it.at(step.source, step.source_region), it.at(step.target, step.target_region)
    scaled, after = _scaled(it, step.scale, step.shift), activation(step.activation)
    residual = None
    if step.residual is not None and step.residual_region is not None:
        residual = it.at(step.residual, step.residual_region)

    def call() -> None:
        out = scaled(source)
        target.copy_(after(out if residual is None else out + residual))

    return call


def _elementwise(it: Binder, step: steps.Elementwise) -> Compute:
    operands, op = _sources(it, step), function(step.op)
    if step.constant is not None:
        operands = [*operands, it.weight(step.constant)()[None]]
    target = it.at(step.target, step.target_region)
    return lambda: _into(target, op(*operands, *step.parameters))


def _gate(it: Binder, step: steps.Gate) -> Compute:
    source, gate = it.at(step.source, step.source_region), it.at(step.gate, step.gate_region)
    target = it.at(step.target, step.target_region)
    return lambda: _into(target, source * gate)


def _permute(it: Binder, step: steps.Permute) -> Compute:
    source, target = it.at(step.source, step.source_region), it.at(step.target, step.target_region)
    order = torch.tensor(step.channels, device=it.device)
    return lambda: _into(target, source.index_select(1, order))


def _copy(it: Binder, step: steps.Copy) -> Compute:
    source, target = it.at(step.source, step.region), it.at(step.target, step.region.shift_channels(step.shift))
    return lambda: _into(target, target + source if step.accumulate else source)


def _resample(it: Binder, step: steps.Resample) -> Compute:
    source, target = it.at(step.source, step.source_region), it.at(step.target, step.target_region)
    rows, columns = (_tapped(taps, axis, it.device) for taps, axis in ((step.rows, 2), (step.columns, 3)))
    empty = [torch.tensor([start < 0 for start in taps.starts], device=it.device) for taps in (step.rows, step.columns)]
    nothing = empty[0][:, None] | empty[1][None, :]

    def call() -> None:
        target.copy_(columns(rows(source)))
        target.masked_fill_(nothing, step.fill)

    return call


def _tapped(taps: Taps, axis: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The weighted sums along one axis: tap by tap, each a choice of inputs."""
    starts = [max(start, 0) for start in taps.starts]
    if not taps.weights:
        chosen = torch.tensor(starts, device=device)
        return lambda x: x.index_select(axis, chosen)
    shape = [1, 1, 1, 1]
    shape[axis] = len(starts)
    each = []
    for tap in range(taps.most):
        own = [min(tap, max(0, len(weights) - 1)) for weights in taps.weights]
        weights = [row[tap] if tap < len(row) else 0.0 for row in taps.weights]
        places = torch.tensor([start + offset for start, offset in zip(starts, own, strict=True)], device=device)
        each.append((places, torch.tensor(weights, device=device).reshape(shape)))

    def call(x: Tensor) -> Tensor:
        (places, weights), *others = each
        out = x.index_select(axis, places) * weights
        for places, weights in others:
            out = out + x.index_select(axis, places) * weights
        return out

    return call


def _interleave(it: Binder, step: steps.Interleave) -> Compute:
    (s, t), target = step.factors, it.at(step.target, step.target_region)
    sources = [it.at(source, region) for source, region in zip(step.sources, step.source_regions, strict=True)]
    top, left = step.target_region.rows.start % s, step.target_region.columns.start % t

    def call() -> None:
        for number, source in enumerate(sources):
            # The first row and column of the target that are of this phase, and of the phase the first that it gives.
            row, column = (number // t - top) % s, (number % t - left) % t
            there = target[:, :, row::s, column::t]
            y, x = (row + top) // s, (column + left) // t
            there.copy_(source[:, :, y : y + there.shape[2], x : x + there.shape[3]])

    return call


def _into(target: Tensor, values: Tensor) -> None:
    target.copy_(values)


def _sources(it: Binder, step: steps.Add | steps.Elementwise) -> list[Tensor]:
    return [it.at(source, region) for source, region in zip(step.sources, step.source_regions, strict=True)]


def _optional(it: Binder, key: str | None) -> Tensor | None:
    return None if key is None else it.weight(key)()


def _scaled(it: Binder, scale: str | None, shift: str | None) -> Callable[[Tensor], Tensor]:
    """x · scale + shift, each where it is given, per channel."""
    scales, shifts = (None if key is None else it.weight(key)().reshape(1, -1, 1, 1) for key in (scale, shift))

    def call(x: Tensor) -> Tensor:
        x = x if scales is None else x * scales
        return x if shifts is None else x + shifts

    return call


KERNELS: Mapping[type[steps.Step], Callable[[Binder, Any], Compute]] = {
    steps.Conv: _conv,
    steps.Pool: _pool,
    steps.GlobalPool: _global_pool,
    steps.Squares: _squares,
    steps.Normalize: _normalize,
    steps.AcrossChannels: _across,
    steps.Add: _add,
    steps.Affine: _affine,
    steps.Elementwise: _elementwise,
    steps.Gate: _gate,
    steps.Permute: _permute,
    steps.Copy: _copy,
    steps.Resample: _resample,
    steps.Interleave: _interleave,
}
"""All steps that torch computes on buffers."""
