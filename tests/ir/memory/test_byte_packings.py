"""All parts of an 8-bit layer share one algorithm, and what that takes is counted."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.executor.microbenchmark import conv_program
from fogconv.ir import steps as ir
from fogconv.ir.geometry import ConvSpec, Region, Span
from fogconv.ir.memory.algorithm import QUANTIZED, QUANTIZED_WINOGRAD, cheapest, packed_bytes, scratch_elements
from fogconv.ir.memory.bands import banded
from fogconv.ir.memory.footprint import byte_packings, footprint, packings
from fogconv.ir.program import Program
from fogconv.kernels.conv.conv import algorithm_of

SPEC = ConvSpec(64, 64, 28, 28, (3, 3), padding=(1, 1, 1, 1), element="uint8")


def in_parts() -> tuple[Program, dict[str, np.ndarray]]:
    """Its last row apart from the others."""
    program, weights = conv_program(SPEC)
    [conv] = program.steps
    assert isinstance(conv, ir.Conv)
    cuts = ((Span(0, 27), Span(0, 28), (1, 0)), (Span(27, 28), Span(26, 28), (0, 1)))
    parts = tuple(
        msgspec.structs.replace(
            conv,
            spec=replace(SPEC, height=len(read), padding=(*padding, 1, 1)),
            source_region=conv.source_region.with_rows(read),
            target_region=conv.target_region.with_rows(made),
        )
        for made, read, padding in cuts
    )
    return msgspec.structs.replace(program, steps=parts), weights


def test_a_row_apart_takes_the_algorithm_of_the_others() -> None:
    program, weights = in_parts()
    whole, row = (step.spec for step in program.steps if isinstance(step, ir.Conv))
    assert (cheapest(whole), cheapest(row)) == (QUANTIZED_WINOGRAD, QUANTIZED)
    [packing] = packings(program)
    assert packing.algorithm == QUANTIZED_WINOGRAD
    assert list(byte_packings(program, cheapest).values()) == [packing]
    counted = footprint(program)
    assert counted.packed == packed_bytes(whole, QUANTIZED_WINOGRAD) > packed_bytes(whole, QUANTIZED)
    assert counted.scratch == 4 * max(scratch_elements(spec, QUANTIZED_WINOGRAD) for spec in (whole, row))
    assert footprint(program, choose=lambda spec: QUANTIZED).scratch == 0
    for threads in (1, 2):
        found = Executable(program, weights, threads=threads).memory_bytes
        assert found <= footprint(program, threads=threads, choose=algorithm_of).total


def test_bands_leave_out_what_the_algorithm_computes_tile_by_tile() -> None:
    """Each thread of a band would work in the same scratch."""
    spec = replace(SPEC, height=224, width=224)
    program, _ = conv_program(spec)
    [conv] = program.steps
    assert isinstance(conv, ir.Conv)
    region = Region.whole(64, 224, 224)
    buffers = tuple(ir.Buffer(name, region, spec.padding, program.buffers[1].precision) for name in ("in", "between", "out"))
    two = tuple(
        msgspec.structs.replace(conv, source=at, source_region=region, target=at + 1, target_region=region) for at in (0, 1)
    )
    both = msgspec.structs.replace(program, buffers=buffers, steps=two)
    assert not banded(both).walks
    assert banded(both, choose=lambda spec: QUANTIZED).walks
