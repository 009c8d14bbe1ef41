"""Steps on 8-bit maps: which kernel computes each, by the step's type and by the precisions of the buffers that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.interface import Binder
from fogconv.cluster.executor.quantized.planes import planes, store
from fogconv.errors import KernelError, shown
from fogconv.ir import program as steps
from fogconv.ir.geometry import PoolSpec
from fogconv.ir.precision import Precision
from fogconv.ir.shard import pool_part
from fogconv.kernels.maps.bound import Bound, sequence
from fogconv.kernels.quantized import reference
from fogconv.kernels.quantized.conv import PreparedBytes, prepare
from fogconv.kernels.quantized.numbers import Floats, Scale, Sums, Target, multiplier, multipliers
from fogconv.kernels.reference import pool2d

Bind = Callable[[Binder, Any], Bound]


def target_of(precision: Precision, activation: str | None) -> Target:
    """The bytes that a result becomes: a ReLU, and a clip, are their bounds. Raises KernelError for other activations."""
    if activation is None:
        return Target(precision.zero)
    name, _, numbers = activation.partition("(")
    match name, [float(number) for number in numbers.rstrip(")").split(",") if number.strip()]:
        case "relu", []:
            return Target(precision.zero, precision.zero)
        case "relu6", []:
            return Target(precision.zero, precision.zero, _byte(6.0, precision))
        case "clip", [low, high]:
            return Target(precision.zero, _byte(low, precision), _byte(high, precision))
    raise KernelError(f"8-bit results are bounded by relu or clip, not by {shown(activation)}")


def _byte(real: float, precision: Precision) -> int:
    scale = Scale(precision.scale, precision.zero)
    return int(reference.quantise(np.array([real], np.float32), scale)[0])


def _precision(binder: Binder, buffer: int) -> Precision:
    return binder.program.buffers[buffer].precision


def _conv(binder: Binder, step: steps.Conv) -> Bound:
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    bound = binder.prepare_bytes(step).bind(source, target)
    if _precision(binder, step.target).element != "fp32" or step.activation is None:
        return bound
    function = _in_floats(step.activation)
    return sequence([bound, lambda: np.copyto(target.interior, function(target.interior))])


def prepared(step: steps.Conv, program: steps.Program, weights: Mapping[str, Any], threads: int) -> PreparedBytes:
    """An 8-bit conv with its weights packed."""
    read, made = program.buffers[step.source].precision, program.buffers[step.target].precision
    factors, bounds = None, None
    if made.element != "int32":
        if step.scales is None:
            raise KernelError("the sums of an 8-bit conv can't become real numbers without the scales of its weights")
        factors = multipliers(read.scale, weights[step.scales], made.scale if made.quantized else 1.0)
        bounds = target_of(made, step.activation) if made.quantized else None
    bias = None if step.bias is None else weights[step.bias]
    return prepare(step.spec, weights[step.weight], bias, read.zero, multipliers=factors, target=bounds, threads=threads)


def _finish(
    binder: Binder, scales: str | None, unit: float, made: Precision, activation: str | None
) -> Callable[[Sums, Sums | None], NDArray[Any]]:
    """What becomes of int32 sums: they are the result, or bytes, or real numbers."""
    if made.element == "int32":
        return lambda sums, bias: sums if bias is None else sums + bias.reshape(-1, 1, 1)
    if scales is None:
        raise KernelError("the sums of an 8-bit conv can't become real numbers without the scales of its weights")
    weights: Any = binder.weight(scales)
    if made.quantized:
        factors, bounds = multipliers(unit, weights, made.scale), target_of(made, activation)
        return lambda sums, bias: reference.requantise(sums, bias, factors, bounds)
    real, function = multipliers(unit, weights), _in_floats(activation)
    return lambda sums, bias: function(reference.dequantise_sums(sums, bias, real))


def _in_floats(activation: str | None) -> Callable[[Floats], Floats]:
    match activation:
        case None:
            return lambda x: x
        case "relu":
            return lambda x: np.maximum(x, np.float32(0))
    raise KernelError(f"an 8-bit conv with a result in fp32 has no activation {shown(activation)}")


def _convert(binder: Binder, step: steps.Convert) -> Bound:
    read, made = _precision(binder, step.source), _precision(binder, step.target)
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    change = _change(binder, step, read, made)
    return lambda: store(change(planes(source)), target, made.zero)


def _change(binder: Binder, step: steps.Convert, read: Precision, made: Precision) -> Callable[[Any], NDArray[Any]]:
    if read.element == "int32":
        finish = _finish(binder, step.scales, step.unit, made, step.activation)
        return lambda sums: finish(sums, None)
    if step.activation is not None:
        raise KernelError("only the sums of a conv get an activation as they are converted")
    match read.element, made.element:
        case "fp32", "uint8":
            return lambda x: reference.quantise(np.ascontiguousarray(x), Scale(made.scale, made.zero))
        case "uint8", "fp32":
            return lambda x: reference.dequantise(x, Scale(read.scale, read.zero))
        case "uint8", "uint8":
            entries = reference.rescaling(read.zero, multiplier(read.scale, over=made.scale), Target(made.zero))
            return lambda x: reference.table(x, entries)
    raise KernelError(f"a map of {read.element} can't be converted to {made.element}")


def _add(binder: Binder, step: steps.Add) -> Bound:
    if len(step.sources) != 2:
        raise KernelError(f"a sum of 8-bit maps has 2 of them, not {len(step.sources)}")
    one, other = (binder.view(*each) for each in zip(step.sources, step.source_regions, strict=True))
    reads, made = [_precision(binder, source) for source in step.sources], _precision(binder, step.target)
    target, bounds = binder.view(step.target, step.target_region), target_of(made, step.activation)
    zeros = (reads[0].zero, reads[1].zero)
    factors = (multiplier(reads[0].scale, over=made.scale), multiplier(reads[1].scale, over=made.scale))
    return lambda: store(reference.add(planes(one), planes(other), zeros, factors, bounds), target, made.zero)


def _pool(binder: Binder, step: steps.Pool) -> Bound:
    part = pool_part(step.spec, step.target_region)
    counted = None
    if step.spec.kind == "avg":
        whole = reference.pool_counts(step.spec)
        counted = whole[step.target_region.rows.slice(), step.target_region.columns.slice()]
    return _pooled(binder, step, part, counted)


def _global_pool(binder: Binder, step: steps.GlobalPool) -> Bound:
    channels, height, width = step.source_region.shape
    whole = (height, width)
    part = PoolSpec("avg", channels, height, width, whole, whole, batch=binder.program.batch)
    return _pooled(binder, step, part, np.full((1, 1), step.divisor))


def _pooled(binder: Binder, step: steps.Pool | steps.GlobalPool, part: PoolSpec, counts: NDArray[np.int64] | None) -> Bound:
    read, made = _precision(binder, step.source), _precision(binder, step.target)
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    if counts is None:
        if read != made:
            raise KernelError("a maximum of 8-bit maps keeps their scale")
        return lambda: store(reference.max_pool(part, planes(source)), target, made.zero)
    ratio, bounds, summing = np.float64(read.scale) / np.float64(made.scale), Target(made.zero), replace(part, divisor=1)
    factors = (ratio / counts).astype(np.float32)

    def average() -> None:
        sums = pool2d(planes(source).astype(np.float64) - read.zero, summing).astype(np.int32)
        means = np.multiply(sums, factors, dtype=np.float32, casting="unsafe")
        store(reference.to_bytes(means, bounds), target, made.zero)

    return average


QUANTIZED: Mapping[type[steps.Step], Bind] = {
    steps.Conv: _conv,
    steps.Convert: _convert,
    steps.Add: _add,
    steps.Pool: _pool,
    steps.GlobalPool: _global_pool,
}
"""All steps that compute on 8-bit maps, or on what becomes one."""
