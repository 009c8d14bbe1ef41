"""Runs the convolution kernels on arrays that end, then on arrays that begin, at a page that nobody may touch.

Every kind of kernel, with margins of exactly the padding, on each instruction set. A kernel that reads or writes outside its
arrays kills this process: `test_guard_pages_conv` looks at how it ended.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from fogconv.ir.geometry import BLOCK, NARROW, ConvSpec
from fogconv.ir.memory.algorithm import HALF
from fogconv.ir.precision.elements import HALVES, WEIGHTS_OF, Half
from fogconv.ir.precision.halves import rounded
from fogconv.kernels.codegen.isa import AVX2, NEON, Isa, host_isa
from fogconv.kernels.conv import depthwise, direct, halves, winograd
from fogconv.kernels.conv.select import prepare_kernel, reads_narrow
from fogconv.kernels.maps import blocked
from fogconv.kernels.maps import scratch as scratches
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.halves import bind_narrow, bind_widen
from fogconv.kernels.maps.scratch import Scratch
from tests.kernels import guarded
from tests.kernels.algorithms import algorithms

P1 = (1, 1, 1, 1)

SPECS = (
    ConvSpec(3, 5, 7, 7, (3, 3), (2, 2), P1),
    ConvSpec(4, 5, 7, 7, (3, 3), (1, 1), P1),
    ConvSpec(21, 37, 5, 7, (3, 3), (1, 1), P1, batch=2),
    ConvSpec(16, 16, 3, 5, (3, 3), (1, 1), (1, 0, 0, 1)),
    ConvSpec(32, 16, 4, 7, (1, 1), (2, 2)),
    ConvSpec(24, 24, 5, 7, (3, 3), (1, 1), P1, groups=24),
    ConvSpec(16, 16, 5, 7, (3, 3), (2, 2), P1, groups=4),
    ConvSpec(42, 10, 4, 7, (3, 3), (1, 1), P1, groups=2),
    ConvSpec(16, 16, 4, 9, (1, 7), (1, 1), (0, 0, 3, 3)),
)


def run(spec: ConvSpec, isa: Isa) -> None:
    for algorithm in algorithms(spec, isa):
        weight, bias = guarded.filled(*spec.weight_shape), guarded.filled(spec.out_channels)
        kernel = prepare_kernel(algorithm, spec, isa, weight, bias, "relu", Scratch())
        kernel.warm(2)
        lanes = (BLOCK, NARROW) if reads_narrow(spec) else (BLOCK,)
        for margin, width in itertools.product((Margin(*spec.padding), kernel.wanted_margin), lanes):
            x = Blocked.empty(*spec.input_shape, margin, width)
            x.interior[...] = 1.0
            out, residual = Blocked.empty(*spec.output_shape), Blocked.empty(*spec.output_shape)
            for more in (None, residual):
                for threads in (1, 2):
                    for thread in range(threads):
                        kernel.bind(x, out, more, thread, threads)()
            assert np.isfinite(out.data).all()


def run_halves(spec: ConvSpec, isa: Isa, half: Half) -> None:
    spec, kind = replace(spec, element=half), np.dtype(WEIGHTS_OF[half])
    for algorithm in algorithms(spec, isa):
        weight, bias = rounded(guarded.filled(*spec.weight_shape), half), guarded.filled(spec.out_channels)
        kernel = prepare_kernel(algorithm, spec, isa, weight, bias, "relu", Scratch())
        kernel.warm(2)
        reads = np.dtype(WEIGHTS_OF[getattr(kernel, "reads", "fp32")])
        made = (kind, np.dtype(np.float32)) if algorithm == HALF or reads == kind else (np.dtype(np.float32),)
        for margin, each in itertools.product({Margin(*spec.padding), kernel.wanted_margin}, made):
            x = Blocked.empty(*spec.input_shape, margin, kind=reads)
            out, residual = (Blocked.empty(*spec.output_shape, kind=each) for _ in range(2))
            for more, threads in itertools.product((None, residual), (1, 2)):
                for thread in range(threads):
                    kernel.bind(x, out, more, thread, threads)()


def run_eights(spec: ConvSpec) -> None:
    """The kernel for aarch64's fp16."""
    spec = replace(spec, element="fp16")
    weight, bias = rounded(guarded.filled(*spec.weight_shape), "fp16"), guarded.filled(spec.out_channels)
    kernel = direct.DirectKernel.prepare(spec, halves.halves_isa(NEON, "fp16"), weight, bias, "relu", reads="fp16")
    x = Blocked.empty(*spec.input_shape, Margin(*spec.padding), kind=np.float16)
    for made in (np.float16, np.float32):
        out, residual = (Blocked.empty(*spec.output_shape, kind=made) for _ in range(2))
        kernel.bind(x, out, residual, 0, 1)()


def run_conversions(half: Half) -> None:
    for channels in (3, 16, 21):
        wide, narrow = (Blocked.empty(2, channels, 3, 5, kind=kind) for kind in (np.float32, np.dtype(WEIGHTS_OF[half])))
        bind_narrow(wide, narrow)()
        bind_widen(narrow, wide)()


def main() -> None:
    for module in (blocked, depthwise, direct, winograd, scratches):
        module.aligned_zeros = lambda shape, alignment=64, kind=np.float32: guarded.guarded(shape, kind)  # AVX2 needs 32
    for flush in (True, False):
        guarded.at_end = flush
        for spec in SPECS:
            for isa in {host_isa(), AVX2, NEON}:
                run(spec, isa)
        for half in HALVES:
            run_conversions(half)
            for spec in (SPECS[0], SPECS[2], SPECS[4], SPECS[5], SPECS[7], SPECS[8]):
                for isa in {host_isa(), NEON}:
                    run_halves(spec, isa, half)
        for spec in (SPECS[0], SPECS[2], SPECS[4], ConvSpec(42, 32, 4, 7, (3, 3), (1, 1), P1, groups=2)):
            run_eights(spec)


if __name__ == "__main__":
    main()
