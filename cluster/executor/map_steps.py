"""Map steps: the kernel that computes a step on buffers, by the step's type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fogconv.cluster.executor.interface import Binder
from fogconv.ir import steps
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import Region
from fogconv.kernels.conv.conv import check_maps
from fogconv.kernels.maps import across_channels, elementwise, interleaving, normalize, per_element, pooling, resampling
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.bound import Bound
from fogconv.kernels.quantized import elementwise as bytes_by_pixel

Bind = Callable[[Binder, Any], Bound]


def _conv(binder: Binder, step: steps.Conv) -> Bound:
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    residual = _optional(binder, step.residual, step.residual_region)
    check_maps(step.spec, source, target, residual)
    return binder.prepare(step).bind(source, target, residual)


def _pool(binder: Binder, step: steps.Pool) -> Bound:
    source, target = step.source_region, step.target_region
    return pooling.bind_pool(
        step.spec,
        binder.view(step.source, source),
        source.rows.start,
        source.columns.start,
        binder.view(step.target, target),
        target.rows.start,
        target.columns.start,
    )


def _global_pool(binder: Binder, step: steps.GlobalPool) -> Bound:
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    return pooling.bind_global_pool(source, target, step.divisor)


def _squares(binder: Binder, step: steps.Squares) -> Bound:
    source, mean = binder.view(step.source, step.source_region), binder.view(step.mean, step.mean_region)
    target = binder.view(step.target, step.target_region)
    return normalize.bind_squares(source, mean, target, step.per_group, step.first, step.divisor)


def _normalize(binder: Binder, step: steps.Normalize) -> Bound:
    return normalize.bind_normalize(
        binder.view(step.source, step.source_region),
        binder.view(step.mean, step.mean_region),
        binder.view(step.squares, step.squares_region),
        binder.view(step.target, step.target_region),
        step.per_group,
        step.first,
        step.eps,
        _weight(binder, step.scale),
        _weight(binder, step.shift),
        step.activation,
    )


def _across(binder: Binder, step: steps.AcrossChannels) -> Bound:
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    weights = (_weight(binder, key) for key in (step.scale, step.shift))
    return across_channels.bind_across(step.op, source, target, step.parameters, *weights)


def _weight(binder: Binder, key: str | None) -> Array | None:
    return None if key is None else binder.weight(key)


def _add(binder: Binder, step: steps.Add) -> Bound:
    return elementwise.bind_add(_sources(binder, step), binder.view(step.target, step.target_region), step.activation)


def _affine(binder: Binder, step: steps.Affine) -> Bound:
    return elementwise.bind_affine(
        binder.view(step.source, step.source_region),
        binder.view(step.target, step.target_region),
        _weight(binder, step.scale),
        _weight(binder, step.shift),
        step.activation,
        _optional(binder, step.residual, step.residual_region),
    )


def _elementwise(binder: Binder, step: steps.Elementwise) -> Bound:
    target = binder.view(step.target, step.target_region)
    constant = _weight(binder, step.constant)
    return per_element.bind_elementwise(step.op, _sources(binder, step), target, step.parameters, constant)


def _gate(binder: Binder, step: steps.Gate) -> Bound:
    return elementwise.bind_gate(
        binder.view(step.source, step.source_region),
        binder.view(step.gate, step.gate_region),
        binder.view(step.target, step.target_region),
    )


def _permute(binder: Binder, step: steps.Permute) -> Bound:
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    return elementwise.bind_permute(source, target, step.channels)


def _copy(binder: Binder, step: steps.Copy) -> Bound:
    source, first = binder.around(step.source, step.region)
    target, target_first = binder.around(step.target, step.region.shift_channels(step.shift))
    if source.data.dtype == target.data.dtype == np.uint8 and first == target_first == 0 and not step.accumulate:
        # A compiled kernel, as bands need.
        return bytes_by_pixel.bind_table(source, target, np.arange(256, dtype=np.uint8))
    return elementwise.bind_shift_copy(source, first, target, target_first, len(step.region.channels), step.accumulate)


def _resample(binder: Binder, step: steps.Resample) -> Bound:
    source, target = binder.view(step.source, step.source_region), binder.view(step.target, step.target_region)
    return resampling.bind_resample(source, target, step.rows, step.columns, step.fill)


def _interleave(binder: Binder, step: steps.Interleave) -> Bound:
    target = step.target_region
    first = (target.rows.start % step.factors[0], target.columns.start % step.factors[1])
    around = [binder.around(source, region) for source, region in zip(step.sources, step.source_regions, strict=True)]
    sources, lanes = [view for view, _ in around], [lane for _, lane in around]
    return interleaving.bind_interleave(sources, binder.view(step.target, target), step.factors, first, lanes)


def _sources(binder: Binder, step: steps.Add | steps.Elementwise) -> list[Blocked]:
    return [binder.view(source, region) for source, region in zip(step.sources, step.source_regions, strict=True)]


def _optional(binder: Binder, buffer: int | None, region: Region | None) -> Blocked | None:
    return None if buffer is None or region is None else binder.view(buffer, region)


KERNELS: Mapping[type[steps.Step], Bind] = {
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
"""All steps that the executor's kernels compute in fp32."""

OF_ANY_TYPE = (steps.Copy, steps.Permute)
"""Those of them that move values and compute nothing."""
