"""Which computer a process runs on, and how much of it is its own."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import msgspec
import pytest

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.worker import machine as machine_module
from fogconv.cluster.worker import system
from fogconv.cluster.worker.machine import LoadMeter, OtherWork, cpu_quota, machine
from fogconv.cluster.worker.process import cores
from fogconv.errors import WireError


def test_this_machine_has_the_cores_that_the_process_may_use() -> None:
    found = machine()
    assert found.identity and found.device
    assert len(found.cpus) == cores()


def test_a_quota_of_version_2_counts_from_the_least_group_above(tmp_path: Path) -> None:
    inner = tmp_path / "groups" / "a" / "b"
    inner.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    (inner / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path / "groups", own) == (0.0, "")
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    quota, group = cpu_quota(tmp_path / "groups", own)
    assert quota == 1.5 and group.endswith(str(inner.parent.stat().st_ino))


def test_a_quota_of_version_1_is_found_among_the_controllers(tmp_path: Path) -> None:
    inner = tmp_path / "groups" / "cpu,cpuacct" / "node"
    inner.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("8:pids:/\n2:cpu,cpuacct:/node\n")
    (inner / "cpu.cfs_quota_us").write_text("1000")
    (inner / "cpu.cfs_period_us").write_text("10000")
    assert cpu_quota(tmp_path / "groups", own)[0] == pytest.approx(0.1)
    (inner / "cpu.cfs_quota_us").write_text("-1")
    assert cpu_quota(tmp_path / "groups", own) == (0.0, "")


def test_where_there_are_no_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path / "neither") == (0.0, "")


def test_other_work_is_never_negative() -> None:
    others = OtherWork()
    sum(range(200_000))
    assert 0 <= others.cores() < 1e6


def test_a_load_is_what_others_did_since_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look begins a new span; one that follows too soon for the system's counting repeats the last."""
    now, busy = [0.0], [0.5 * len(machine().cpus), 4.0 * len(machine().cpus), 0.25 * len(machine().cpus)]
    monkeypatch.setattr(machine_module.OtherWork, "cores", lambda self: busy.pop(0))
    meter = LoadMeter(clock=lambda: now[0])
    found = []
    for at in (1.0, 2.0, 2.001, 3.0):
        now[0] = at
        found.append(meter.load().cpu)
    assert found == [0.5, 1.0, 1.0, 0.25], "a share is at most 1"


def test_a_load_can_be_told_when_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers may have them all; a worker's status is asked for then, too."""

    def none_left(*arguments: object, **options: object) -> None:
        raise OSError(24, "Too many open files")

    meter = LoadMeter(clock=iter(range(10)).__next__)
    for name in ("cpu_times", "cpu_freq", "virtual_memory"):
        monkeypatch.setattr(system.psutil, name, none_left)
    monkeypatch.setattr(Path, "read_text", none_left)
    assert 0 <= meter.load().cpu <= 1
    monkeypatch.undo()
    assert 0 <= meter.load().cpu <= 1, "the counters begin again"


def test_tasks_that_wait_are_counted_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, now = iter([2, 6, 6, 10, 4]), [0.0]
    monkeypatch.setattr(machine_module, "running_tasks", lambda: next(tasks))
    meter = LoadMeter(clock=lambda: now[0])
    for at in (0.001, 0.03, 0.031, 0.06):  # it looks twice: often enough
        now[0] = at
        meter.look()
    assert meter.load().queue == pytest.approx(6 / len(machine().cpus)), "the mean of 2, 6, 6 and 10"
    assert meter.load().queue == pytest.approx(7 / len(machine().cpus)), "of the last look and this one"


@pytest.mark.parametrize(
    ("busy", "idle", "others"),
    [(10.0, 0.0, 0.9), (10.6, 0.0, 0.9), (4.0, 5.95, 0.305), (0.0, 0.0, 0.0), (0.3, 0.0, 0.0)],
    ids=["saturated", "saturated, ticks off", "half idle", "nothing is counted", "little is counted"],
)
def test_work_of_others_is_what_is_neither_idle_nor_ours(
    busy: float, idle: float, others: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside many others a process gets a twentieth of a core: ticks of 10 ms are too coarse for that."""
    cores = len(machine().cpus)
    counted = iter([(5.0, 7.0), (5.0 + busy * cores, 7.0 + idle * cores)])
    monkeypatch.setattr(machine_module, "_busy_and_idle_s", lambda: next(counted))
    clock = iter([100.0, 110.0])
    own = iter([3.0, 3.0 + cores])
    monkeypatch.setattr(machine_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(machine_module.time, "process_time", lambda: next(own))
    assert OtherWork().cores() / cores == pytest.approx(others)


def test_the_system_is_read_or_said_not_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < system.memory_share() < 1
    monkeypatch.setattr(system, "_ZONES", tmp_path)
    monkeypatch.setattr(system, "_STAT", tmp_path / "stat")
    assert system.temperature_c() is None and system.running_tasks() == 0
    (tmp_path / "thermal_zone3").mkdir()
    (tmp_path / "thermal_zone3" / "temp").write_text("61250\n")
    (tmp_path / "stat").write_text("cpu 1 2 3\nprocs_running 5\nprocs_blocked 0\n")
    assert system.temperature_c() == 61.25 and system.running_tasks() == 5
    for low, current, high, share in ((600.0, 900.0, 1800.0, 0.5), (0.0, 2600.0, 0.0, None), (0.0, 2000.0, 1800.0, 1.0)):
        monkeypatch.setattr(system.psutil, "cpu_freq", lambda found=(current, low, high): Frequency(*found))
        assert system.frequency() == share


class Frequency(NamedTuple):
    current: float
    min: float
    max: float


class FakeNvml(ModuleType):
    """NVIDIA's library on a computer of two GPUs, of which one computes."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, broken: str = "") -> None:
        super().__init__("pynvml")
        self.broken = broken

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken == "driver":
            raise self.NVMLError("no driver")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        return number

    def nvmlDeviceGetUtilizationRates(self, number: int) -> SimpleNamespace:  # noqa: N802
        if self.broken == "gone":
            raise self.NVMLError("the GPU fell off the bus")
        return SimpleNamespace(gpu=70 * number, memory=0)

    def nvmlDeviceGetMemoryInfo(self, number: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=2 * (1 + number), total=8)

    def nvmlDeviceGetTemperature(self, number: int, sensor: int) -> int:  # noqa: N802
        return 50 + number


@pytest.mark.parametrize(
    ("broken", "state"),
    [("", system.GpuState(0.7, 0.5, 51.0)), ("driver", None), ("gone", None), ("absent", None)],
)
def test_gpus_are_read_where_there_are_some(
    broken: str, state: system.GpuState | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None if broken == "absent" else FakeNvml(broken))
    system._gpus.cache_clear()
    try:
        assert system.gpu_state() == state
        load = LoadMeter().load()
        assert (load.gpu, load.gpu_temperature_c) == ((None, None) if state is None else (0.7, 51.0))
    finally:
        system._gpus.cache_clear()


@pytest.mark.parametrize(
    "fields",
    [
        ["not a digest", "", [], 0.0],
        ["", "", [-1], 0.0],
        ["", "", [], -1.0],
        ["", "", [], math.inf],
        ["", "", [0] * 9000, 0.0],
    ],
)
def test_a_worker_that_lies_about_its_machine_is_not_understood(fields: list[object]) -> None:
    welcome = m.Welcome(1, "pi", 7, 4, 0, 0, "neon", "1", m.Machine(), "")
    body = msgspec.to_builtins(welcome)
    body[-2] = fields
    [header] = codec.encode(welcome)
    prelude = bytes(header)[: codec._PRELUDE.size]
    with pytest.raises(WireError, match="malformed Welcome"):
        codec.decode([prelude + msgspec.msgpack.encode(body)])
