"""What a worker refuses before it binds anything; that honest programs pass is held in tests/lowering."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from fogconv.cluster.worker.checks.measurement_check import check_measurement
from fogconv.cluster.worker.checks.program_check import check_program
from fogconv.errors import KernelError, WireError, WorkerMemoryError
from fogconv.ir import steps as ir
from fogconv.ir.geometry import ConvSpec, PoolSpec, Region, Span
from fogconv.ir.program import Program
from tests.cluster.launch import ROOT, environment
from tests.cluster.worker.wedges import LIMIT_BYTES, WEDGES, honest

MB = 1 << 20


def changed(steps: tuple[ir.AnyStep, ...] | None = None, **fields: Any) -> Program:
    program = honest()
    return msgspec.structs.replace(program, **({} if steps is None else {"steps": steps}), **fields)


def step_of(kind: type[ir.AnyStep]) -> Any:
    return next(step for step in honest().steps if isinstance(step, kind))


def test_an_honest_program_passes() -> None:
    check_program(honest(), 10 * MB)


@pytest.mark.parametrize("name", WEDGES)
def test_what_wedged_a_worker_is_refused(name: str) -> None:
    wedge = WEDGES[name]()
    with pytest.raises((WireError, WorkerMemoryError, KernelError)):
        if isinstance(wedge, Program):
            check_program(wedge, LIMIT_BYTES)
        else:
            check_measurement([wedge], 3, LIMIT_BYTES)


@pytest.mark.parametrize("name", WEDGES)
def test_a_worker_answers_a_wedge_and_then_serves_an_honest_program(name: str) -> None:
    """In a process of its own, with little memory: what binds it never comes back, or takes all there is."""
    command = [sys.executable, "-m", "tests.cluster.worker.wedges", name]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.fail(f"{name} wedges a worker")
    assert done.returncode == 0, done.stderr[-2000:]


def whole(channels: int, rows: int, columns: int) -> Region:
    return Region.whole(channels, rows, columns)


NOWHERE = Region(Span(0, 3), Span(0, 9), Span(0, 9))
BACKWARDS = Region(Span(0, 3), Span(2**40, 5), Span(0, 8))


def refused() -> Mapping[str, Program]:
    conv, pool, send, recv = (step_of(kind) for kind in (ir.Conv, ir.Pool, ir.Send, ir.Recv))
    change = msgspec.structs.replace
    return {
        "a region outside its buffer": changed((change(conv, source_region=NOWHERE),)),
        "a region that is backwards": changed((change(send, region=BACKWARDS),)),
        "a region before its buffer": changed((change(recv, region=Region(Span(-16, 3), Span(0, 8), Span(0, 8))),)),
        "a buffer that is none": changed((change(recv, target=9),)),
        "a buffer before the first": changed((change(recv, target=-1),)),
        "regions swapped": changed((change(conv, source_region=conv.target_region, target_region=conv.source_region),)),
        "more padding than margin": changed(buffers=(ir.Buffer("x", whole(3, 8, 8)), *honest().buffers[1:])),
        "a weight of another shape": changed(weights={**honest().weights, conv.weight: (5, 3, 3, 2)}),
        "a weight that is not listed": changed(weights={}),
        "a size below zero": changed(weights={**honest().weights, "more": (-1, 3)}),
        "too many dimensions": changed(weights={**honest().weights, "more": (2**62,) * 100_000}),
        "a layer that is none": changed((change(send, layer=7),)),
        "pixels of other channels": changed((change(recv, pixels=ir.Pixels((0.0,) * 99, (1.0,) * 99)),)),
        "pixels without a deviation": changed((change(recv, pixels=ir.Pixels((0.0,) * 3, (0.0,) * 3)),)),
        "pixels that are no number": changed((change(recv, pixels=ir.Pixels((float("nan"),) * 3, (1.0,) * 3)),)),
        "pixels that are coded as well": changed((change(recv, wire="fp16", pixels=ir.Pixels((0.0,) * 3, (1.0,) * 3)),)),
        "a rank that is none": changed((change(send, to=5),)),
        "a message to itself": changed((change(send, to=1),)),
        "a tag below zero": changed((change(recv, tag=-1),)),
        "a step for the master": changed((ir.Input(0, 0, 0, whole(3, 8, 8)),)),
        "half a residual": changed((change(conv, residual=1),)),
        "no batch": changed(batch=0),
        "a negative rank": changed(rank=-1),
        "more steps than are bound": changed((send,) * 100_001),
        "more buffers than are bound": changed(buffers=honest().buffers * 60_000),
        "a margin below zero": changed(buffers=(ir.Buffer("x", whole(3, 8, 8), (-1, 1, 1, 1)), *honest().buffers[1:])),
        "a divisor of zero": changed((ir.GlobalPool(0, 1, whole(5, 8, 8), 2, Region.whole(5, 1, 1), 0),)),
        "a pool of another batch": changed((change(pool, spec=replace(pool.spec, batch=7)),)),
        "a sum of nothing": changed((ir.Add(0, (), (), 1, whole(5, 8, 8)),)),
        "fewer regions than sources": changed((ir.Add(0, (1, 1), (whole(5, 8, 8),), 1, whole(5, 8, 8)),)),
        "a channel that is none": changed((ir.Permute(0, 1, whole(5, 8, 8), 1, whole(5, 8, 8), (0, 1, 2, 3, 9)),)),
        "a shift beyond the buffer": changed((ir.Copy(0, 1, whole(5, 8, 8), 1, 2**63),)),
        "an array of a negative size": changed((ir.ArrayRecv(0, "a", (-2, -3), 0, 1),)),
        "swapped weights that are not listed": changed(swapped=("more",)),
        "a bias that is swapped": changed(
            (change(conv, bias="b"),), weights={**honest().weights, "b": (5,)}, swapped=("b",)
        ),
        "weights of groups that are swapped": changed(
            (change(conv, spec=replace(conv.spec, in_channels=3, out_channels=3, groups=3)),), swapped=(conv.weight,)
        ),
        "swapped weights that a loss would need": changed(
            (ir.Gather(0, (ir.Piece(recv, conv),)),), rank=0, swapped=(conv.weight,)
        ),
        "a patience without end": changed((ir.Gather(0, (), None, float("nan")),), rank=0),
    }


@pytest.mark.parametrize("name", refused())
def test_a_program_that_contradicts_itself_is_refused(name: str) -> None:
    with pytest.raises(WireError, match=r"^a malformed program: ") as error:
        check_program(refused()[name], 10 * MB)
    assert len(str(error.value)) < 400


def test_swapped_weights_take_memory_for_one_of_them_only() -> None:
    conv = step_of(ir.Conv)
    many = {f"w{number}": (1000, 100, 3, 3) for number in range(20)}
    with pytest.raises(WorkerMemoryError):
        check_program(changed(weights={**honest().weights, **many}), 10 * MB)
    swapped = changed(weights={**honest().weights, **many}, swapped=(conv.weight, *many))
    check_program(swapped, 10 * MB)
    with pytest.raises(WorkerMemoryError, match="the largest of the swapped weights"):
        check_program(swapped, 7 * 10**6)


def test_want_of_memory_is_told_as_such() -> None:
    """The master gives such a worker less; of a malformed program it could only complain."""
    large = changed(buffers=(ir.Buffer("x", whole(3, 8, 8), (1, 1, 1, 1)), ir.Buffer("y", whole(2000, 999, 999))))
    with pytest.raises(WorkerMemoryError, match="may use 10 MB"):
        check_program(large, 10 * 10**6)
    with pytest.raises(WorkerMemoryError):
        check_program(changed(weights={**honest().weights, "w": (1000, 1000, 9)}), 10 * MB)
    with pytest.raises(WorkerMemoryError):
        check_measurement([ConvSpec(64, 64, 900, 900, (3, 3))], 3, 10 * MB)


def test_measurements_have_an_end() -> None:
    vgg = ConvSpec(512, 512, 28, 28, (3, 3), padding=(1, 1, 1, 1))
    check_measurement([vgg] * 100, 3, 1 << 30)
    with pytest.raises(WireError, match="measure fewer"):
        check_measurement([vgg] * 1024, 1000, 1 << 30)


def test_a_window_larger_than_the_map_is_no_work() -> None:
    """A pool's kernel may be as large as it likes: only what lies inside the map is read."""
    spec = PoolSpec("avg", 5, 8, 8, (2**20, 2**20), (1, 1), (2**19, 2**19, 2**19, 2**19))
    step = ir.Pool(0, spec, 1, whole(5, 8, 8), 2, whole(5, 4, 4))
    check_program(changed((step,)), 10 * MB)
    assert np.isfinite(spec.out_height)
