"""Measurement check: checks the steps that a master wants timed, before any of them is bound."""

from __future__ import annotations

from collections.abc import Sequence

from fogconv.cluster.executor.microbenchmark import map_program
from fogconv.cluster.worker.checks.limits import MOST_MEASURED_CHANNELS, MOST_MEASURED_MACS, MOST_MEASURED_SOURCES, MOST_SIDE
from fogconv.cluster.worker.checks.program_check import check_program
from fogconv.cluster.worker.checks.size_check import check_conv, check_memory, maps, short
from fogconv.errors import WireError
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec, MapSpec, StepSpec


def check_measurement(specs: Sequence[StepSpec], repeats: int, memory_bytes: int) -> None:
    """Raises WireError and WorkerMemoryError, as `check_program` does, for steps that are to be timed; KernelError for one
    of an unknown kind."""
    for number, spec in enumerate(specs):
        where = f"step {number} of a measurement"
        if isinstance(spec, MapSpec):
            _check_map(where, spec)
            check_program(map_program(spec), memory_bytes)
            continue
        check_conv(where, spec)
        # Weights as received and packed, the padded input, the output.
        check_memory(where, BYTES_PER_ELEMENT * (2 * spec.weight_elements + maps(spec)), memory_bytes)
    total = sum(spec.macs if isinstance(spec, ConvSpec) else spec.touched for spec in specs) * (repeats + 1)
    if total > MOST_MEASURED_MACS:
        raise WireError(
            f"a measurement of {total:.1e} multiply-adds is over the limit of {MOST_MEASURED_MACS:.1e}: measure fewer or "
            "smaller steps, or repeat them less often"
        )


def _check_map(where: str, spec: MapSpec) -> None:
    """Check that a step's program can be made at all; `check_program` does the rest."""
    most = {"channels": MOST_MEASURED_CHANNELS, "sources": MOST_MEASURED_SOURCES}
    sizes: dict[str, tuple[int, ...]] = {"channels": (spec.channels,), "sources": (spec.sources,), "batch": (spec.batch,)}
    sizes |= {"height": (spec.height,), "width": (spec.width,), "kernel": spec.kernel, "stride": spec.stride}
    for name, values in sizes.items():
        for value in values:
            if value > most.get(name, MOST_SIDE):
                raise WireError(f"{where} has the {name} {short(value)}; the limit is {most.get(name, MOST_SIDE)}")
