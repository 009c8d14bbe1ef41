"""Steps on 8-bit maps: which kernel computes each, by the step's type and by the precisions of the buffers that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fogconv.cluster.executor.interface import Binder
from fogconv.errors import KernelError, shown
from fogconv.ir import steps
from fogconv.ir.geometry import PoolSpec
from fogconv.ir.precision.scale import Precision
from fogconv.ir.program import Program
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.bound import Bound, sequence
from fogconv.kernels.maps.elementwise import bind_affine
from fogconv.kernels.maps.scratch import Scratch
from fogconv.kernels.quantized import elementwise, pooling, reference
from fogconv.kernels.quantized.conv import PreparedBytes, prepare
from fogconv.kernels.quantized.numbers import Floats, Scale, Target, multiplier, multipliers

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
    return int(reference.quantise(np.array([real], np.float32), _scale(precision))[0])


def _scale(precision: Precision) -> Scale:
    return Scale(precision.scale, precision.zero)


def _precision(binder: Binder, buffer: int) -> Precision:
    return binder.program.buffers[buffer].precision


def _conv(binder: Binder, step: steps.Conv) -> Bound:
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    bound = binder.prepare_bytes(step).bind(source, target)
    if _precision(binder, step.target).element == "fp32":
        return _activated(bound, target, step.activation)
    return bound


def prepared(
    step: steps.Conv,
    program: Program,
    weights: Mapping[str, Any],
    threads: int,
    algorithm: str | None = None,
    scratch: Scratch | None = None,
) -> PreparedBytes:
    """An 8-bit conv with its weights packed."""
    read, made = program.buffers[step.source].precision, program.buffers[step.target].precision
    factors, bounds = None, None
    if made.element != "int32":
        if step.scales is None:
            raise KernelError("the sums of an 8-bit conv can't become real numbers without the scales of its weights")
        factors = _factors(weights[step.scales], read.scale, made)
        bounds = target_of(made, step.activation) if made.quantized else None
    bias = None if step.bias is None else weights[step.bias]
    return prepare(
        *(step.spec, weights[step.weight], bias, read.zero),
        multipliers=factors,
        target=bounds,
        threads=threads,
        algorithm=algorithm,
        scratch=scratch,
    )


def _factors(scales: Any, unit: float, made: Precision) -> Floats:
    return multipliers(unit, scales, made.scale if made.quantized else 1.0)


def _activated(bound: Bound, target: Blocked, activation: str | None) -> Bound:
    """The same, and then an activation in fp32."""
    return bound if activation is None else sequence([bound, bind_affine(target, target, None, None, activation)])


def _convert(binder: Binder, step: steps.Convert) -> Bound:
    read, made = _precision(binder, step.source), _precision(binder, step.target)
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    if read.element == "int32":
        if step.scales is None:
            raise KernelError("sums can't become real numbers without the scales of the weights")
        factors = _factors(binder.weight(step.scales), step.unit, made)
        bounds = target_of(made, step.activation) if made.quantized else None
        bound = elementwise.bind_requantise([source], target, None, factors, bounds)
        return bound if made.quantized else _activated(bound, target, step.activation)
    if step.activation is not None:
        raise KernelError("only the sums of a conv get an activation as they are converted")
    match read.element, made.element:
        case "fp32", "uint8":
            return elementwise.bind_quantise(source, target, _scale(made))
        case "uint8", "fp32":
            return elementwise.bind_dequantise(source, target, _scale(read))
        case "uint8", "uint8":
            factor = multiplier(read.scale, over=made.scale)
            return elementwise.bind_rescale(source, target, read.zero, factor, Target(made.zero))
    raise KernelError(f"a map of {read.element} can't be converted to {made.element}")


def _add(binder: Binder, step: steps.Add) -> Bound:
    if len(step.sources) != 2:
        raise KernelError(f"a sum of 8-bit maps has 2 of them, not {len(step.sources)}")
    one, other = (binder.view(*each) for each in zip(step.sources, step.source_regions, strict=True))
    (a, b), made = [_precision(binder, source) for source in step.sources], _precision(binder, step.target)
    factors = multiplier(a.scale, over=made.scale), multiplier(b.scale, over=made.scale)
    target = binder.view(step.target, step.target_region)
    return elementwise.bind_add(one, other, target, (a.zero, b.zero), factors, target_of(made, step.activation))


def _elementwise(binder: Binder, step: steps.Elementwise) -> Bound:
    if len(step.sources) != 1 or step.constant is not None:
        raise KernelError(f"{step.op} of 8-bit maps is a table, of one map and no constant")
    read, made = _precision(binder, step.sources[0]), _precision(binder, step.target)
    source, target = binder.view(step.sources[0], step.source_regions[0]), binder.view(step.target, step.target_region)
    activation = f"{step.op}({', '.join(map(repr, step.parameters))})" if step.parameters else step.op
    entries = reference.activation_table(_scale(read), _scale(made), activation)
    return elementwise.bind_table(source, target, entries)


def _gate(binder: Binder, step: steps.Gate) -> Bound:
    a, b, made = (_precision(binder, buffer) for buffer in (step.source, step.gate, step.target))
    source, gate = binder.view(step.source, step.source_region), binder.view(step.gate, step.gate_region)
    factor, target = multiplier(a.scale, b.scale, over=made.scale), binder.view(step.target, step.target_region)
    return elementwise.bind_multiply(source, gate, target, (a.zero, b.zero), factor, Target(made.zero))


def _pool(binder: Binder, step: steps.Pool) -> Bound:
    read, made = _precision(binder, step.source), _precision(binder, step.target)
    source, target = step.source_region, step.target_region
    places = (
        binder.view(step.source, source),
        source.rows.start,
        source.columns.start,
        binder.view(step.target, target),
        target.rows.start,
        target.columns.start,
    )
    if step.spec.kind == "max":
        if read != made:
            raise KernelError("a maximum of 8-bit maps keeps their scale")
        return pooling.bind_max_pool(step.spec, *places)
    ratio = float(np.float64(read.scale) / np.float64(made.scale))
    return pooling.bind_average_pool(step.spec, *places, read.zero, ratio, Target(made.zero))


def _global_pool(binder: Binder, step: steps.GlobalPool) -> Bound:
    read, made = _precision(binder, step.source), _precision(binder, step.target)
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    if made.element == "int32":
        return pooling.bind_global_sums(source, target, read.zero)
    whole = (source.height, source.width)
    spec = PoolSpec("avg", source.channels, *whole, whole, whole, divisor=step.divisor, batch=source.batch)
    ratio = float(np.float64(read.scale) / np.float64(made.scale))
    return pooling.bind_average_pool(spec, source, 0, 0, target, 0, 0, read.zero, ratio, Target(made.zero))


QUANTIZED: Mapping[type[steps.Step], Bind] = {
    steps.Conv: _conv,
    steps.Convert: _convert,
    steps.Add: _add,
    steps.Elementwise: _elementwise,
    steps.Gate: _gate,
    steps.Pool: _pool,
    steps.GlobalPool: _global_pool,
}
"""All steps that compute on 8-bit maps, or on what becomes one."""
