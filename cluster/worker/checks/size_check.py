"""Size check: whether a conv is one that a worker can bind and compute, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Mapping

from fogconv.cluster.worker.checks.limits import (
    MOST_CHANNELS,
    MOST_COORDINATE,
    MOST_LISTED,
    MOST_MACS,
    MOST_PIXELS,
    MOST_SIDE,
    PIECE_BYTES,
)
from fogconv.errors import WireError, WorkerMemoryError
from fogconv.ir.geometry import BLOCK, BYTES_PER_ELEMENT, ConvSpec, PoolSpec


def check_conv(where: str, spec: ConvSpec) -> None:
    """Check that a conv's numbers are within the limits of binding and of a step. Its shapes are those of its maps."""
    most = {"channels": MOST_CHANNELS, "groups": MOST_SIDE, "height": MOST_COORDINATE, "width": MOST_COORDINATE}
    for name, values in {**sizes(spec), "output": (spec.out_height, spec.out_width)}.items():
        for value in values:
            if value > most.get(name, MOST_SIDE):
                raise WireError(f"{where} has the {name} {short(value)}; the limit is {most.get(name, MOST_SIDE)}")
    pixels = spec.batch * spec.out_height * spec.out_width
    if pixels > MOST_PIXELS:
        raise WireError(f"{where} has an output of {pixels:.1e} pixels; the limit is {MOST_PIXELS:.1e}")
    pieces = min(spec.out_height, BYTES_PER_ELEMENT * spec.in_channels * spec.height * spec.width // PIECE_BYTES)
    if spec.groups * (1 + pieces) > MOST_LISTED:
        raise WireError(f"{where} has {spec.groups} groups over {pieces} pieces of its input; that is too many to list")
    if spec.macs > MOST_MACS:
        raise WireError(f"{where} has {spec.macs:.1e} multiply-adds; the limit for one step is {MOST_MACS:.1e}")


def sizes(spec: ConvSpec | PoolSpec) -> Mapping[str, tuple[int, ...]]:
    named: dict[str, tuple[int, ...]] = {
        "kernel": spec.kernel,
        "stride": spec.stride,
        "padding": spec.padding,
        "dilation": spec.dilation,
        "height": (spec.height,),
        "width": (spec.width,),
    }
    if isinstance(spec, ConvSpec):
        named |= {"channels": (spec.in_channels, spec.out_channels), "groups": (spec.groups,)}
    return named


def maps(spec: ConvSpec) -> int:
    """Elements of a conv's maps: the blocked input in its padding, and the blocked output."""
    top, bottom, left, right = spec.padding
    padded = (top + spec.height + bottom) * (left + spec.width + right) * lanes(spec.in_channels)
    return spec.batch * (padded + spec.out_height * spec.out_width * lanes(spec.out_channels))


def lanes(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK


def check_memory(where: str, n_bytes: int, memory_bytes: int) -> None:
    if n_bytes > memory_bytes:
        raise WorkerMemoryError(
            f"{where} takes what is needed to {short(n_bytes // 10**6)} MB, but this worker may use "
            f"{memory_bytes / 1e6:.0f} MB: give it less work, or raise --memory"
        )


def short(value: int) -> str:
    """A number for a sentence, whatever its length."""
    return str(value) if abs(value) < 10**20 else f"of {value.bit_length()} bits"
