"""Which buffers of a program are narrow, and that running it is the same."""

from __future__ import annotations

import numpy as np
import pytest

from fogconv.cluster.executor.buffer_widths import narrow_buffers
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.executor.microbenchmark import NoMailbox
from fogconv.ir import steps as ir
from fogconv.ir.arrays import weight_key
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.program import Program
from fogconv.kernels import reference

SPEC = ConvSpec(3, 4, 9, 9, (3, 3), (2, 2), (1, 1, 1, 1))
IMAGE, OUT = Region.whole(3, 9, 9), Region.whole(4, 5, 5)
WEIGHT = np.random.default_rng(0).standard_normal(SPEC.weight_shape, dtype=np.float32)
KEY = weight_key(WEIGHT)
CONV = ir.Conv(0, SPEC, KEY, None, None, 0, IMAGE, 1, OUT)
PLAIN: tuple[ir.AnyStep, ...] = (ir.Input(0, 0, 0, IMAGE), CONV, ir.Output(0, 0, 1, OUT))


def program(*steps: ir.AnyStep) -> Program:
    buffers = (ir.Buffer("x", IMAGE, (1, 1, 1, 1)), ir.Buffer("y", OUT), ir.Buffer("z", IMAGE, (1, 1, 1, 1)))
    return Program(0, 2, 1, ("conv",), buffers, steps, {KEY: SPEC.weight_shape})


def test_the_image_that_the_first_layer_reads_is_narrow_and_its_output_is_not() -> None:
    assert narrow_buffers(program(*PLAIN)) == {0}


def test_a_part_that_travels_is_narrow_on_both_sides() -> None:
    half = Region.whole(3, 4, 9)
    assert narrow_buffers(program(ir.Input(0, 0, 0, IMAGE), ir.Send(0, 0, half, 1, 1), CONV)) == {0}
    assert narrow_buffers(program(ir.Recv(0, 0, IMAGE, 1, 1), CONV, ir.Send(0, 1, OUT, 1, 2))) == {0}


def test_what_is_interleaved_and_then_only_unpacked_or_sent_is_narrow_and_right() -> None:
    coarse, fine = Region.whole(3, 4, 5), Region.whole(3, 8, 10)
    buffers = (*(ir.Buffer(name, coarse) for name in "abcd"), ir.Buffer("fine", fine), ir.Buffer("sum", fine))
    inputs = [ir.Input(0, number, number, coarse) for number in range(4)]
    join = ir.Interleave(0, (0, 1, 2, 3), (coarse,) * 4, 4, fine, (2, 2))
    run = Program(0, 2, 1, ("up",), buffers, (*inputs, join, ir.Output(0, 0, 4, fine)), {})
    assert narrow_buffers(run) == {4}
    random = np.random.default_rng(2)
    given = [random.standard_normal((1, 3, 4, 5), dtype=np.float32) for _ in range(4)]
    [y] = Executable(run, {}).run(NoMailbox(), given)
    for phase, x in enumerate(given):
        np.testing.assert_array_equal(y[:, :, phase // 2 :: 2, phase % 2 :: 2], x)
    more = (*inputs, join, ir.Add(0, (4, 4), (fine, fine), 5, fine), ir.Output(0, 0, 5, fine))
    assert not narrow_buffers(Program(0, 2, 1, ("up",), buffers, more, {})), "a sum needs 16 lanes"


@pytest.mark.parametrize(
    "step",
    [
        ir.Copy(0, 0, IMAGE, 2),
        ir.Copy(0, 2, IMAGE, 0),
        ir.Add(0, (2, 0), (IMAGE, IMAGE), 2, IMAGE),
        ir.Affine(0, 2, IMAGE, 0, IMAGE),
        ir.Affine(0, 2, IMAGE, 2, IMAGE, residual=0, residual_region=IMAGE),
        ir.Gate(0, 2, IMAGE, 0, IMAGE, 2, IMAGE),
        ir.Conv(0, ConvSpec(3, 3, 9, 9, (1, 1), groups=3), KEY, None, None, 0, IMAGE, 2, IMAGE),
        ir.Conv(0, ConvSpec(3, 3, 9, 9, (1, 1)), KEY, None, None, 2, IMAGE, 0, IMAGE),
    ],
    ids=lambda step: type(step).__name__,
)
def test_a_step_that_needs_16_lanes_keeps_them(step: ir.AnyStep) -> None:
    assert 0 not in narrow_buffers(program(*PLAIN, step))


def test_a_map_that_no_convolution_reads_stays_as_it_is() -> None:
    assert narrow_buffers(program(ir.Input(0, 0, 0, IMAGE), ir.Output(0, 0, 0, IMAGE))) == set()


def test_results_and_the_image_itself_come_out_right() -> None:
    executable = Executable(program(*PLAIN, ir.Output(0, 1, 0, IMAGE)), {KEY: WEIGHT})
    x = np.random.default_rng(1).standard_normal(SPEC.input_shape, dtype=np.float32)
    y, same = executable.run(NoMailbox(), [x])
    np.testing.assert_array_equal(same, x)
    exact = reference.conv2d(x, WEIGHT, None, SPEC)
    assert np.abs(y - exact).max() <= 5e-6 * np.abs(exact).max()
