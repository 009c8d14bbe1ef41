"""Single steps are timed as programs run them: of every kind, at the size that was asked for, under the load that was."""

from __future__ import annotations

import numpy as np
import pytest

from fogconv.calibration.sample_sizes import random_maps
from fogconv.cluster.executor.executors import executor
from fogconv.cluster.executor.interface import Touches
from fogconv.cluster.executor.microbenchmark import NoMailbox, conv_program, map_program, step_times
from fogconv.cluster.worker.checks.measurement_check import check_measurement
from fogconv.cluster.worker.checks.program_check import check_program
from fogconv.errors import KernelError, WireError, WorkerMemoryError
from fogconv.hardware.latency.features import MAP_KINDS
from fogconv.hardware.latency.samples import DeviceLoad
from fogconv.ir.geometry import ConvSpec, MapSpec

SMALL = {kind: MapSpec(kind, 5, 4, 3, 2 if kind in ("add", "maximum") else 1) for kind in MAP_KINDS}
SMALL["pool"] = MapSpec("pool", 5, 4, 3, kernel=(3, 2), stride=(2, 1), batch=2)
SUMS = (MapSpec("copy", 5, 4, 3, 2), MapSpec("affine", 5, 4, 3, 2), MapSpec("add", 5, 4, 3, 5))


@pytest.mark.parametrize("spec", [*SMALL.values(), *SUMS], ids=lambda spec: f"{spec.kind} of {spec.sources}")
def test_the_program_of_a_step_computes_that_step_and_runs(spec: MapSpec) -> None:
    program = map_program(spec)
    [step] = program.steps
    assert step.work(program.batch) == spec
    check_program(program, 1 << 20)
    executor()(program, {}, threads=1).run(NoMailbox())


@pytest.mark.parametrize("spec", random_maps(60, seed=4), ids=str)
def test_random_steps_can_be_timed(spec: MapSpec) -> None:
    check_measurement([spec], 3, 1 << 30)
    assert map_program(spec).steps[0].work(1) == spec


@pytest.mark.parametrize("spec", [ConvSpec(20, 24, 5, 6, (3, 3), padding=(1, 1, 1, 1), element="uint8")], ids=str)
def test_a_conv_of_bytes_can_be_timed(spec: ConvSpec) -> None:
    program, weights = conv_program(spec)
    check_program(program, 1 << 20)
    executor()(program, weights, threads=1).run(NoMailbox())
    assert program.work(program.steps[0]) == spec and program.weight_bytes(next(iter(weights))) == spec.weight_elements


def test_times_come_with_the_load_since_the_step_began() -> None:
    """A load that was seen while a step was compiled is not the step's."""

    class Meter:
        asked = looked = 0

        def look(self) -> None:
            self.looked += 1

        def load(self) -> DeviceLoad:
            self.asked += 1
            return DeviceLoad(0.1 * self.asked)

    meter = Meter()
    specs = (ConvSpec(16, 16, 4, 4, (1, 1)), SMALL["pool"])
    times = step_times(specs, executor(), repeats=1, least_s=0.0, least_map_s=0.0, meter=meter)
    assert np.allclose([each.load.cpu for each in times], [0.2, 0.4])
    assert meter.looked == 2, "once a run"
    assert all(0 < each.fastest_s <= each.mean_s for each in times)


def test_measurements_of_other_steps_have_limits_too() -> None:
    with pytest.raises(WireError, match="channels"):
        check_measurement([MapSpec("permute", 1 << 40, 1, 1)], 1, 1 << 40)
    with pytest.raises(WireError, match="sources"):
        check_measurement([MapSpec("add", 1, 1, 1, 1 << 30)], 1, 1 << 40)
    with pytest.raises(WireError, match="kernel"):
        check_measurement([MapSpec("pool", 1, 1, 1, kernel=(1 << 40, 1))], 1, 1 << 40)
    with pytest.raises(WorkerMemoryError):
        check_measurement([MapSpec("add", 1024, 1024, 1024, 2)], 1, 1 << 30)
    with pytest.raises(KernelError, match="'oracle' is not known; there are abs"):
        check_measurement([MapSpec("oracle", 1, 1, 1)], 1, 1 << 30)
    with pytest.raises(WireError, match="measure fewer"):
        check_measurement([MapSpec("add", 64, 512, 512, 2)] * 1024, 1000, 1 << 30)


def test_memory_that_is_read_is_written_before_it_is_timed() -> None:
    """Pages that were never written would all be one of zeros, which a cache holds."""
    done: list[str] = []

    class Recorder:
        memory_bytes = 0
        times = np.zeros((0, 2), np.int64)

        def touch(self) -> None:
            done.append("touch")

        def run(self, *_: object) -> list[np.ndarray]:  # type: ignore[type-arg]
            done.append("run")
            return []

    step_times([SMALL["pool"]], lambda *_, **__: Recorder(), repeats=1, least_map_s=0.0)
    assert done == ["touch", "run", "run"]
    assert isinstance(executor()(map_program(SMALL["pool"]), {}, threads=1), Touches)
