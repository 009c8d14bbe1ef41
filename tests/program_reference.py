"""Programs run in float64 numpy, all ranks in one process: what the interpreter and the kernels are held to.

Buffers are plain (N, C, H, W) arrays that begin as NaN, so that reading an unwritten value is visible.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fogconv.ir import steps
from fogconv.ir.geometry import Region
from fogconv.ir.program import Program
from fogconv.kernels import reference
from tests.graph_reference import ACROSS, ELEMENTWISE, grouped_mean

Array = NDArray[Any]


def run(
    programs: Sequence[Program], weights: Mapping[str, Array], x: Array, host: Callable[..., Sequence[Array]] | None = None
) -> Array:
    """The first output for one input, see `run_outputs`."""
    return run_outputs(programs, weights, [x], host)[0]


def run_outputs(
    programs: Sequence[Program],
    weights: Mapping[str, Array],
    inputs: Sequence[Array],
    host: Callable[..., Sequence[Array]] | None = None,
) -> list[Array]:
    """The outputs of the master. Raises AssertionError for a dead-lock, a message sent twice, or one never received."""
    messages: dict[tuple[int, int, int], list[Array]] = {}
    outputs: dict[int, Array] = {}
    ranks = {program.rank: _rank(program, weights, inputs, messages, outputs, host) for program in programs}
    while ranks:
        moved = False
        for rank, walk in list(ranks.items()):
            for progressed in walk:
                if not progressed:
                    break
                moved = True
            else:
                del ranks[rank]
                moved = True
        assert moved, "dead-lock: every rank waits"
    assert not messages, f"never received: {sorted(messages)}"
    return [outputs[number] for number in range(len(outputs))]


FILTER_ROUNDING = 1.01 * 2.0**-24
"""Summed filters are float32, each off by half a unit in its last place at most; the 1 % is for what float64 rounds."""


def assert_rounded(found: Array, expected: Array, terms: Array) -> None:
    """That two sums differ by no more than filters rounded to float32 do. ``terms`` are the sums of absolute terms.

    However large these are, the sums may be near zero: no tolerance in parts of the sums, or fixed, would do.
    """
    off = np.abs(found - expected)
    assert np.all(off <= FILTER_ROUNDING * terms), f"a sum is off by {off.max()}, which is more than rounding"


def _rank(
    program: Program,
    weights: Mapping[str, Array],
    inputs: Sequence[Array],
    messages: dict[tuple[int, int, int], list[Array]],
    outputs: dict[int, Array],
    host: Callable[..., Sequence[Array]] | None,
) -> Generator[bool, None, None]:
    """Yields True after a step, False where it has to wait."""
    buffers = [np.full((program.batch, *buffer.region.shape), np.nan) for buffer in program.buffers]
    values: dict[Any, Any] = dict(enumerate(inputs))

    def at(buffer: int, region: Region) -> Array:
        origin = program.buffers[buffer].region
        assert region in origin, f"{region} is not in {origin}"
        return buffers[buffer][
            :,
            region.channels.slice(origin.channels.start),
            region.rows.slice(origin.rows.start),
            region.columns.slice(origin.columns.start),
        ]

    def optional(key: str | None) -> Array | None:
        if key is not None:
            assert key in program.weights
        return None if key is None else weights[key]

    for step in program.steps:
        match step:
            case steps.Input():
                at(step.target, step.region)[:] = inputs[step.index]
            case steps.Output():
                outputs[step.index] = at(step.source, step.region).copy()
            case steps.HostOutput():
                outputs[step.index] = values[step.value]
            case steps.Send():
                assert step.to != program.rank
                key = (program.rank, step.to, step.tag)
                assert key not in messages
                messages[key] = [at(part.buffer, part.region).copy() for part in step.parts]
                wrote = not any(np.isnan(part).any() for part in messages[key])
                assert wrote, f"rank {program.rank} sends what nobody wrote: {step}"
            case steps.Recv():
                key = (step.origin, program.rank, step.tag)
                while key not in messages:
                    yield False
                assert not (step.accumulate and step.more)
                for part, payload in zip(step.parts, messages.pop(key), strict=True):
                    target = at(part.buffer, part.region)
                    target[:] = target + payload if step.accumulate else payload
            case steps.Gather():
                for recv in steps.gathers(step):
                    key = (recv.origin, program.rank, recv.tag)
                    while key not in messages:
                        yield False
                    [at(recv.target, recv.region)[:]] = messages.pop(key)
                code = None if step.code is None else at(step.code.target, step.code.region)
                # The pieces summed up, and their absolute terms.
                coded, coded_terms = np.zeros((2, *(() if code is None else code.shape)))
                for piece in step.pieces:
                    part, spare = at(piece.recv.target, piece.recv.region), piece.spare
                    x, weight, bias = at(spare.source, spare.source_region), optional(spare.weight), optional(spare.bias)
                    assert weight is not None
                    again = reference.conv2d(x, weight, bias, spare.spec)
                    np.testing.assert_allclose(part, again, rtol=1e-9, atol=1e-9)
                    absolute = None if bias is None else np.abs(bias)
                    terms = reference.conv2d(np.abs(x), np.abs(weight), absolute, spare.spec)
                    if piece.check is not None:
                        rows = optional(piece.check.signs)
                        assert rows is not None
                        sums, sums_terms = (
                            np.einsum("kf,nfhw->nkhw", r, p) for r, p in ((rows, part), (np.abs(rows), terms))
                        )
                        assert_rounded(at(piece.check.source, piece.check.region), sums, sums_terms)
                    if code is not None:
                        coded[:, : part.shape[1]] += part
                        coded_terms[:, : part.shape[1]] += terms
                if code is not None:
                    assert_rounded(code, coded, coded_terms)
            case steps.Copy():
                target = at(step.target, step.region.shift_channels(step.shift))
                source = at(step.source, step.region)
                target[:] = target + source if step.accumulate else source
            case steps.Conv():
                weight = optional(step.weight)
                assert weight is not None
                source = at(step.source, step.source_region)
                out = reference.conv2d(source, weight, optional(step.bias), step.spec)
                if step.residual is not None and step.residual_region is not None:
                    out = out + at(step.residual, step.residual_region)
                at(step.target, step.target_region)[:] = reference.activate(out, step.activation)
            case steps.Pool():
                # Unknown rows are NaN in the whole map, so that a window that reaches for them shows.
                spec, source = step.spec, step.source_region
                channels = len(source.channels)
                whole = np.full((program.batch, channels, spec.height, spec.width), np.nan)
                whole[:, :, source.rows.slice(), source.columns.slice()] = at(step.source, source)
                pooled = reference.pool2d(whole, replace(spec, channels=channels, batch=program.batch))
                region = step.target_region
                at(step.target, region)[:] = pooled[:, :, region.rows.slice(), region.columns.slice()]
            case steps.GlobalPool():
                total = at(step.source, step.source_region).sum((2, 3), keepdims=True)
                at(step.target, step.target_region)[:] = total / step.divisor
            case steps.Squares():
                mean = _of_group(at(step.mean, step.mean_region), step)
                off = at(step.source, step.source_region) - mean
                at(step.target, step.target_region)[:] = (off**2).sum((2, 3), keepdims=True) / step.divisor
            case steps.Normalize():
                mean, squares = (
                    _of_group(at(buffer, region), step)
                    for buffer, region in ((step.mean, step.mean_region), (step.squares, step.squares_region))
                )
                out = (at(step.source, step.source_region) - mean) / np.sqrt(squares + step.eps)
                out = _scaled(out, optional(step.scale), optional(step.shift))
                at(step.target, step.target_region)[:] = reference.activate(out, step.activation)
            case steps.AcrossChannels():
                x = torch.from_numpy(at(step.source, step.source_region))
                out = ACROSS[step.op](x, *step.parameters).numpy()
                at(step.target, step.target_region)[:] = _scaled(out, optional(step.scale), optional(step.shift))
            case steps.Add():
                total = sum(at(s, r) for s, r in zip(step.sources, step.source_regions, strict=True))
                at(step.target, step.target_region)[:] = reference.activate(np.asarray(total), step.activation)
            case steps.Affine():
                out = at(step.source, step.source_region).copy()
                for key, combine in ((step.scale, np.multiply), (step.shift, np.add)):
                    if key is not None:
                        out = combine(out, weights[key][None, :, None, None])
                if step.residual is not None and step.residual_region is not None:
                    out = out + at(step.residual, step.residual_region)
                at(step.target, step.target_region)[:] = reference.activate(out, step.activation)
            case steps.Elementwise():
                maps = [torch.from_numpy(at(s, r)) for s, r in zip(step.sources, step.source_regions, strict=True)]
                if (constant := optional(step.constant)) is not None:
                    maps.append(torch.from_numpy(np.asarray(constant, np.float64))[None])
                at(step.target, step.target_region)[:] = ELEMENTWISE[step.op](*maps, *step.parameters).numpy()
            case steps.Gate():
                gated = at(step.source, step.source_region) * at(step.gate, step.gate_region)
                at(step.target, step.target_region)[:] = gated
            case steps.Permute():
                source = at(step.source, step.source_region)
                at(step.target, step.target_region)[:] = source[:, list(step.channels)]
            case steps.Resample():
                source = at(step.source, step.source_region)
                at(step.target, step.target_region)[:] = reference.resample(source, step.rows, step.columns, step.fill)
            case steps.Interleave():
                region = step.target_region
                first = (region.rows.start % step.factors[0], region.columns.start % step.factors[1])
                sources = [at(s, r) for s, r in zip(step.sources, step.source_regions, strict=True)]
                fine = reference.interleave(sources, step.factors, first, region.shape[1:])
                at(step.target, region)[:] = fine
            case steps.Host():
                assert host is not None
                read = [at(s, r) for s, r in zip(step.sources, step.source_regions, strict=True)]
                results = host(step.layer, values, read)
                for result, buffer, region in zip(results, step.targets, step.target_regions, strict=True):
                    at(buffer, region)[:] = result
        yield True


def _of_group(means: Array, step: steps.Squares | steps.Normalize) -> Array:
    """The means of the groups of the target's channels."""
    channels = len(step.target_region.channels)
    spread = grouped_mean(torch.from_numpy(means), means.shape[1] // step.per_group).numpy()
    return np.asarray(spread[:, step.first : step.first + channels])


def _scaled(x: Array, scale: Array | None, shift: Array | None) -> Array:
    if scale is not None:
        x = x * scale[None, :, None, None]
    return x if shift is None else x + shift[None, :, None, None]
