"""Calibration: what a session measures becomes a topology, and is remembered per device and per link."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from fogconv.calibration.cache import remembered_rates
from fogconv.calibration.calibration import Calibration, calibrate, calibrate_quickly, too_fast_to_tell
from fogconv.calibration.devices import (
    DISK_BYTES,
    FULL,
    FULL_MAPS,
    QUICK,
    QUICK_MAPS,
    TINY,
    Answer,
    Figures,
    device_samples,
    disturbed,
    measure_devices,
    turns,
)
from fogconv.calibration.members import machine_cores, machines_of, master, priors_of
from fogconv.calibration.narrow import INT8
from fogconv.cluster.protocol.messages import Machine
from fogconv.errors import SwapError, WorkerLostError
from fogconv.hardware.latency.features import MAP_KINDS, computed
from fogconv.hardware.latency.samples import IDLE, DeviceLoad
from fogconv.hardware.profile import Profile
from fogconv.hardware.topology import INT8_CLASSES, KERNEL_CLASSES, USUAL_READ_BYTES_PER_S, Device, kernel_class
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec, StepSpec
from fogconv.ir.memory.algorithm import Vectors
from fogconv.storage.swap_file import SwapFolder
from tests.strangers import give_away

pytestmark = pytest.mark.alone

STEP = 1e-5


@dataclass(frozen=True)
class FakeWorker:
    rank: int
    address: str
    host: str
    threads: int = 4
    memory_limit_bytes: int = 900_000_000
    isa: str = "neon"
    software: str = "1"
    machine: Machine = Machine()
    kernels: str = "abc"
    multiplies: tuple[Literal["uint8"], ...] = ()
    vectors: Vectors | None = Vectors(4, True)


@dataclass(frozen=True)
class Trip:
    there_s: float
    back_s: float


@dataclass
class FakeSession:
    """Devices of known γ on links of known α and β (the way back is half as fast)."""

    gammas: tuple[float, ...] = (1e-10, 4e-10)
    alpha: float = 1e-3
    s_per_byte: float = 8e-8
    scheme: str = "tcp"
    walked: bool = False
    measured: list[tuple[int, ...]] = field(default_factory=list)
    dying: frozenset[int] = frozenset()
    """Ranks that are lost as soon as they are asked to measure."""
    mute: frozenset[int] = frozenset()
    """Ranks that are lost as soon as they are pinged."""
    lost: frozenset[int] = frozenset()
    pings: list[int] = field(default_factory=list)
    machine: Machine | None = None
    """That all workers run on; None: each on one of its own."""
    threads: int = 4
    stretch: float = 1.05
    other_cores: float = 0.0
    kernels: str = "abc"
    multiplies: tuple[Literal["uint8"], ...] = ()
    read: list[int] = field(default_factory=list)
    """Ranks that measured their disks."""
    without_disk: frozenset[int] = frozenset()

    @property
    def ranks(self) -> int:
        return len(self.gammas) + 1

    @property
    def workers(self) -> list[FakeWorker]:
        present = sorted(set(range(1, self.ranks)) - self.lost)
        if self.machine is not None:
            here, known = master().host, {"kernels": self.kernels, "multiplies": self.multiplies}
            return [
                FakeWorker(r, f"{self.scheme}://{r}", here, self.threads, machine=self.machine, **known)  # type: ignore[arg-type]
                for r in present
            ]
        return [FakeWorker(rank, f"tcp://h{rank}:5555", f"h{rank}", self.threads) for rank in present]

    def refresh(self) -> frozenset[int]:
        return self.lost

    def lose(self, ranks: frozenset[int]) -> None:
        if ranks:
            self.lost |= ranks
            raise WorkerLostError(f"workers {sorted(ranks)} are lost", min(ranks))

    def ping(self, rank: int, nbytes: int = 0, back_bytes: int | None = None) -> Trip:
        self.pings.append(rank)
        self.lose(self.mute & {rank})
        back = nbytes if back_bytes is None else back_bytes
        return Trip(2 * self.alpha + nbytes * self.s_per_byte, 2 * self.alpha + 2 * back * self.s_per_byte)

    def idle(self, seconds: float) -> None:
        """Nothing comes, and waiting costs nothing."""

    def measure(
        self, specs: Sequence[StepSpec], *, ranks: Sequence[int] | None = None, repeats: int = 3
    ) -> dict[int, Answer]:
        assert ranks is not None
        self.measured.append(tuple(ranks))
        self.lose(self.dying & set(ranks))
        # Ranks that compute at the same time on one machine of two cores are in each other's way.
        crowd = max(1.0, len(ranks) * self.threads / 2) if self.machine is not None else 1.0
        return {
            rank: answer(seconds(specs, self.gammas[rank - 1] * crowd), self.stretch, self.other_cores) for rank in ranks
        }

    def read_rate(self, rank: int, disk_bytes: int) -> float:
        if rank in self.without_disk:
            raise SwapError("the disk is full")
        self.read.append(rank)
        return 1e6 * disk_bytes / rank


def seconds(specs: Sequence[StepSpec], gamma: float) -> list[float]:
    return [STEP + own_s(spec, gamma) for spec in specs]


def own_s(spec: StepSpec, gamma: float) -> float:
    if isinstance(spec, ConvSpec):
        return spec.macs * gamma * (3 if spec.depthwise else 1)
    return spec.touched * BYTES_PER_ELEMENT * gamma * len(spec.kind)


def answer(means: Sequence[float], stretch: float = 1.05, other_cores: float = 0.0) -> Answer:
    return Answer(means, 2e9, [mean / stretch for mean in means], other_cores)


def local(specs: Sequence[StepSpec], repeats: int) -> Answer:
    return answer(seconds(specs, 5e-11))


def test_gamma_alpha_and_beta_are_found_again(tmp_path: Path) -> None:
    topology = calibrate_quickly(FakeSession(), cache=tmp_path, local=local).topology
    assert len(topology) == 3
    for rank, gamma in enumerate((5e-11, 1e-10, 4e-10)):
        assert topology.devices[rank].gamma("winograd") == pytest.approx(gamma, rel=0.02)
        assert topology.devices[rank].gamma("depthwise") == pytest.approx(3 * gamma, rel=0.02)
    assert topology.devices[1].step_s == pytest.approx(STEP, rel=0.02)
    linear = QUICK[-1]
    assert topology.devices[1].conv_s(linear) == pytest.approx(STEP + linear.macs * 1e-10, rel=0.02)
    assert topology.devices[1].weight_s_per_byte == pytest.approx(0.95 * 1e-10 / 4, rel=0.02)
    assert topology.devices[1].memory_bytes == 900_000_000
    there, back = topology.link(0, 2), topology.link(2, 0)
    assert there.latency_s == back.latency_s == pytest.approx(1e-3)
    assert there.s_per_byte == pytest.approx(8e-8) and back.s_per_byte == pytest.approx(16e-8)


def test_the_cost_of_every_other_step_is_found_again(tmp_path: Path) -> None:
    """Each kind of step by itself: a channel shuffle takes ten times as long as a sum of maps."""
    quick = calibrate_quickly(FakeSession(), cache=tmp_path, local=local).topology
    for topology, specs in ((quick, QUICK_MAPS), (calibrate(FakeSession(), local=local).topology(), FULL_MAPS)):
        for rank, gamma in enumerate((5e-11, 1e-10, 4e-10)):
            for spec in specs:
                assert topology.devices[rank].work_s(spec) == pytest.approx(STEP + own_s(spec, gamma), rel=0.02)


def test_a_device_is_measured_once(tmp_path: Path) -> None:
    session = FakeSession()
    first = calibrate_quickly(session, cache=tmp_path, local=local)
    again = calibrate_quickly(session, cache=tmp_path, local=local)
    assert session.measured == [(1, 2)]
    assert again.topology == first.topology
    calibrate_quickly(session, cache=tmp_path, local=local, refresh=True)
    assert session.measured == [(1, 2), (1, 2)]


def test_only_the_newcomer_is_measured(tmp_path: Path) -> None:
    calibrate_quickly(FakeSession((1e-10,)), cache=tmp_path, local=local)
    session = FakeSession((1e-10, 2e-10))
    topology = calibrate_quickly(session, cache=tmp_path, local=local).topology
    assert session.measured == [(2,)]
    assert topology.devices[2].gamma("winograd") == pytest.approx(2e-10, rel=0.02)


def test_another_way_of_talking_is_another_link(tmp_path: Path) -> None:
    calibrate_quickly(FakeSession(scheme="tcp"), cache=tmp_path, local=local)
    session = FakeSession(scheme="mpi")
    calibrate_quickly(session, cache=tmp_path, local=local)
    assert {1, 2} <= set(session.pings) and not session.measured, "the devices are the same"


@pytest.mark.parametrize("spoil", ["", "{}", "[1]", "old", "from the future"])
def test_a_spoilt_or_old_memory_is_measured_again(tmp_path: Path, spoil: str) -> None:
    calibrate_quickly(FakeSession(), cache=tmp_path, local=local)
    for path in tmp_path.glob("*.json"):
        if spoil in ("old", "from the future"):  # a clock that was set anew
            document = json.loads(path.read_text())
            path.write_text(json.dumps(document | {"measured_at": 0.0 if spoil == "old" else 4e9}))
        else:
            path.write_text(spoil)
    session = FakeSession()
    calibrate_quickly(session, cache=tmp_path, local=local)
    assert session.measured == [(1, 2)]


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(calibrate_quickly(FakeSession(), cache=tmp_path / "file" / "cache", local=local).topology) == 3


def test_no_worker_is_a_cluster_of_one(tmp_path: Path) -> None:
    assert len(calibrate_quickly(FakeSession(()), cache=tmp_path, local=local).topology) == 1


@pytest.mark.parametrize("how", ["dying", "mute"])
def test_a_worker_that_is_lost_meanwhile_is_taken_for_as_slow_as_the_slowest(tmp_path: Path, how: str) -> None:
    leaving: dict[str, Any] = {how: frozenset({2})}
    session = FakeSession((1e-10, 2e-10, 4e-10), **leaving)
    topology = calibrate_quickly(session, cache=tmp_path, local=local).topology
    assert len(topology) == 4, "the others keep their ranks"
    assert topology.devices[1].gamma() == pytest.approx(1e-10, rel=0.02)
    assert topology.devices[2] == topology.devices[3]
    assert topology.link(2, 0) == topology.link(3, 0)


def test_a_worker_that_was_never_measured_has_the_hostfiles_rate(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("#fogconv port=5555 rate=1\nh1\n#fogconv port=5555 rate=3\nh2\n#fogconv port=5555\nh3\n")
    assert priors_of(str(hosts)) == {1: 1.0, 2: 3.0} and priors_of("inproc://2") == priors_of("") == {}
    session = FakeSession((1e-10, 1e-10, 1e-10), dying=frozenset({2, 3}))
    found = calibrate_quickly(session, cache=tmp_path / "cache", local=local, priors=priors_of(str(hosts)))
    assert gammas(found, 2) == pytest.approx(gammas(found, 1) / 3)
    assert gammas(found, 3) == gammas(found, 1)
    assert [source.origin for source in found.sources[1:]] == ["measured now", "hostfile", "assumed"]


def test_where_all_are_lost_meanwhile_the_master_is_a_cluster_of_one(tmp_path: Path) -> None:
    session = FakeSession(dying=frozenset({1, 2}))
    assert len(calibrate_quickly(session, cache=tmp_path, local=local).topology) == 1


def test_a_loss_of_nobody_is_an_error(tmp_path: Path) -> None:
    session = FakeSession(dying=frozenset({1}))
    session.lose = lambda ranks: (_ for _ in ()).throw(WorkerLostError("?", 1))  # type: ignore[method-assign]
    with pytest.raises(WorkerLostError):
        calibrate_quickly(session, cache=tmp_path, local=local)


def test_the_long_way_measures_every_class_and_says_how_sure_it_is() -> None:
    profile = calibrate(FakeSession(), local=local)
    assert set(profile.devices[1].gamma_s_per_mac) == {*KERNEL_CLASSES, *INT8_CLASSES, "default", "int8_default"}
    assert profile.spreads["gamma rank 1 winograd"] == 0 and profile.spreads["beta 0→1"] == 0
    assert profile.topology().link(2, 0).s_per_byte == pytest.approx(16e-8)


def test_a_link_is_no_faster_than_memory_is_copied(tmp_path: Path) -> None:
    """Threads of a process hand a payload on: its time is noise, of which β made 1.42 Tbit/s."""
    session = FakeSession((1e-10,), s_per_byte=5.6e-12, alpha=1e-6)
    for topology in (
        calibrate_quickly(session, cache=tmp_path, local=local).topology,
        calibrate(session, local=local).topology(),
    ):
        assert topology.link(0, 1).s_per_byte == topology.link(1, 0).s_per_byte == pytest.approx(1 / 2e9)
    profile = calibrate(session, local=local)
    assert all(too_fast_to_tell(profile, link) for link in profile.links)
    wire = calibrate(FakeSession((1e-10,)), local=local)
    assert not any(too_fast_to_tell(wire, link) for link in wire.links)


def test_a_disturbed_measurement_shows_in_the_spread() -> None:
    noise = iter([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])

    def noisy(specs: Sequence[StepSpec], repeats: int) -> Answer:
        factor = next(noise)
        return answer([value * factor for value in local(specs, repeats).seconds])

    assert calibrate(FakeSession(()), local=noisy).spreads["gamma rank 0 winograd"] == pytest.approx(0.5)


def test_samples_for_predictors_come_from_every_rank() -> None:
    session = FakeSession()
    found = device_samples(session, FULL[:3], ranks=machines_of(session), local=local)
    assert set(found) == {0, 1, 2}
    assert [sample.spec for sample in found[2]] == list(FULL[:3])
    assert found[2][0].seconds > found[1][0].seconds
    assert all(sample.load == IDLE for sample in found[2]), "this worker does not look at its load"


def test_samples_say_under_which_load_they_were_taken() -> None:
    def loaded(specs: Sequence[StepSpec], repeats: int) -> Answer:
        return replace(local(specs, repeats), loads=[DeviceLoad(0.1 * number) for number in range(len(specs))])

    session = FakeSession(())
    [samples] = device_samples(session, FULL[:3], ranks=machines_of(session), local=loaded).values()
    assert [sample.load.cpu for sample in samples] == [0.0, 0.1, 0.2]


def test_what_is_measured_covers_the_classes() -> None:
    assert {kernel_class(spec) for spec in FULL} == set(KERNEL_CLASSES)
    assert {kernel_class(spec) for spec in INT8} == set(INT8_CLASSES)
    assert set(QUICK) <= set(FULL) and set(QUICK_MAPS) <= set(FULL_MAPS)
    assert {spec.kind for spec in FULL_MAPS} == set(MAP_KINDS)
    assert TINY.macs < 2000


HERE = Machine("a" * 32, "d" * 32, (0, 1))


def gammas(found: Calibration, rank: int = 1) -> float:
    return found.topology.devices[rank].gamma("winograd")


def test_seven_ranks_on_two_cores_leave_the_rates_of_one_as_they_are(tmp_path: Path) -> None:
    """After a cluster of seven workers in one process, one of one worker was given the rates of a crowd for a week."""
    fresh = calibrate_quickly(FakeSession((1e-10,), scheme="inproc", machine=HERE, threads=1), cache=tmp_path / "fresh")
    seven = FakeSession((1e-10,) * 7, scheme="inproc", machine=HERE, threads=1)
    crowd = calibrate_quickly(seven, cache=tmp_path, local=local)
    assert seven.measured == [(1,)], "equal ranks of one machine are measured once, and alone"
    assert gammas(crowd) == pytest.approx(gammas(crowd, 7)) == pytest.approx(1e-10, rel=0.02)
    one = FakeSession((1e-10,), scheme="inproc", machine=HERE, threads=1)
    after = calibrate_quickly(one, cache=tmp_path, local=local)
    assert one.measured == [(1,)], "another share of the machine is measured for itself"
    assert gammas(after) == pytest.approx(gammas(fresh))


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 1},
        {"machine": Machine("a" * 32, "d" * 32, (0,))},
        {"machine": Machine("a" * 32, "d" * 32, (0, 1), 0.5)},
        {"machine": Machine("a" * 32, "e" * 32, (0, 1))},
        {"gammas": (1e-10, 1e-10)},
        {"multiplies": ("uint8",)},
    ],
    ids=["threads", "affinity", "quota", "device", "ranks", "instructions"],
)
def test_what_changes_a_rate_is_in_its_key(tmp_path: Path, change: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"gammas": (1e-10,), "machine": HERE, "threads": 2}
    # The master runs on a machine of its own, so that only the workers' keys change.
    calibrate_quickly(FakeSession(**usual), cache=tmp_path, local=local)
    again = FakeSession(**usual)
    calibrate_quickly(again, cache=tmp_path, local=local)
    assert not again.measured
    other = FakeSession(**usual | change)
    calibrate_quickly(other, cache=tmp_path, local=local)
    assert other.measured


def test_ranks_of_one_machine_measure_one_after_the_other() -> None:
    assert turns({0: "a", 1: "a", 2: "b", 3: "a", 4: ""}) == [[0, 2, 4], [1], [3]]


def test_what_is_measured_beside_other_work_is_marked_and_measured_again(tmp_path: Path) -> None:
    busy = FakeSession((1e-10,), machine=HERE, threads=2, stretch=1.6, other_cores=1.0)
    found = calibrate_quickly(busy, cache=tmp_path, local=local)
    assert found.disturbed == {1}
    shown = found.sources[1].as_json()
    assert shown["beside_other_work"] is True and shown["spread"] == pytest.approx(0.6) and shown["other_cores"] == 1.0
    quiet = FakeSession((1e-10,), machine=HERE, threads=2)
    assert not calibrate_quickly(quiet, cache=tmp_path, local=local).disturbed
    assert quiet.measured == [(1,)], "measured again, the master not"


@pytest.mark.parametrize("gammas", [(), (1e-10,)], ids=["the master alone", "with a worker"])
def test_in_one_process_what_was_measured_beside_other_work_serves_for_an_hour(
    tmp_path: Path, gammas: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = FakeSession(gammas, scheme="inproc", machine=HERE, threads=2, stretch=1.6, other_cores=1.0)
    calls: list[int] = []

    def busy(specs: Sequence[StepSpec], repeats: int) -> Answer:
        calls.append(1)
        return answer(seconds(specs, 5e-11), 2.0, 1.0)

    def measured(**options: Any) -> bool:
        before = len(calls) + len(session.measured)
        assert 0 in calibrate_quickly(session, cache=tmp_path, local=busy, **options).disturbed
        return len(calls) + len(session.measured) > before

    assert measured()
    assert not measured()
    assert measured(refresh=True)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 4000)
    assert measured()


@pytest.mark.parametrize(
    ("stretch", "other_cores", "threads", "quota", "is_disturbed"),
    [
        (0.1, 0.0, 2, 0.0, False),
        (0.6, 0.0, 2, 0.0, True),
        (0.1, 1.0, 2, 0.0, True),
        (0.1, 1.0, 1, 0.0, False),
        (9.0, 0.0, 1, 0.1, False),
    ],
    ids=["quiet", "spread", "load", "a core is free", "a quota stays"],
)
def test_what_other_work_is(stretch: float, other_cores: float, threads: int, quota: float, is_disturbed: bool) -> None:
    figures = Figures({"default": 1e-10}, 0.0, 0.0, 0.0, {}, stretch, other_cores)
    assert disturbed(figures, threads, Machine("a", "d", (0, 1), quota)) is is_disturbed


def test_no_rank_is_slower_than_one_with_fewer_threads_on_its_computer(tmp_path: Path) -> None:
    """The master was measured beside other work, its workers of one thread each were not."""

    def busy(specs: Sequence[StepSpec], repeats: int) -> Answer:
        return answer(seconds(specs, 9e-10), stretch=1.6, other_cores=9.0)

    session = FakeSession((1e-10,), machine=master().machine, threads=1, kernels=master().kernels)
    found = calibrate_quickly(session, cache=tmp_path, local=busy)
    assert gammas(found, 0) == gammas(found, 1) == pytest.approx(1e-10, rel=0.02)
    apart = FakeSession((1e-10,), machine=HERE, threads=1, kernels=master().kernels)
    found = calibrate_quickly(apart, cache=tmp_path / "apart", local=busy)
    assert gammas(found, 0) == pytest.approx(9e-10, rel=0.02), "another computer tells nothing of it"


def test_every_rate_says_where_it_comes_from_and_how_old_it_is(tmp_path: Path) -> None:
    first = calibrate_quickly(FakeSession(), cache=tmp_path, local=local)
    assert {source.origin for source in first.sources} == {"measured now"}
    again = calibrate_quickly(FakeSession(), cache=tmp_path, local=local)
    assert {source.origin for source in again.sources} == {"remembered"}
    assert all(source.age_s is not None and 0 <= source.age_s < 60 for source in again.sources)
    lost = calibrate_quickly(FakeSession((1e-10, 2e-10), dying=frozenset({1})), cache=tmp_path / "other", local=local)
    assert [source.origin for source in lost.sources] == ["measured now", "assumed", "measured now"]


def test_what_runs_teach_is_remembered_until_it_is_measured_in_peace(tmp_path: Path) -> None:
    busy: dict[str, Any] = {"stretch": 1.6, "other_cores": 9.0}
    found = calibrate_quickly(FakeSession(**busy), cache=tmp_path, local=local)
    found.learn({1: 0.25}, {(0, 2): 10.0})
    session = FakeSession((2e-10, 4e-10), **busy)
    after = calibrate_quickly(session, cache=tmp_path, local=local)
    assert gammas(after) == pytest.approx(0.25e-10, rel=0.02), "not displaced by what was measured beside other work"
    assert after.sources[1].origin == "learnt from runs"
    assert 2 in session.pings and 1 not in session.pings[-12:], "a link that was found to be thin is measured again"
    quiet = FakeSession()
    after = calibrate_quickly(quiet, cache=tmp_path, local=local)
    assert quiet.measured == [(1, 2)] and gammas(after) == pytest.approx(1e-10, rel=0.02)
    assert after.sources[1].origin == "measured now"


def test_who_was_found_slower_is_measured_again(tmp_path: Path) -> None:
    calibrate_quickly(FakeSession(), cache=tmp_path, local=local).learn({2: 3.0}, {})
    session = FakeSession()
    calibrate_quickly(session, cache=tmp_path, local=local)
    assert session.measured == [(2,)]


def test_one_of_several_equal_ranks_teaches_nothing_of_their_device(tmp_path: Path) -> None:
    usual: dict[str, Any] = {"gammas": (1e-10,) * 3, "machine": HERE, "threads": 1}
    calibrate_quickly(FakeSession(**usual), cache=tmp_path, local=local).learn({1: 0.25}, {})
    after = calibrate_quickly(FakeSession(**usual), cache=tmp_path, local=local)
    assert gammas(after) == pytest.approx(1e-10, rel=0.02)


def test_ranks_of_one_machine_know_the_cores_that_they_share() -> None:
    pinned = [Machine("a", "d", (0,)), Machine("a", "d", (1, 2)), Machine("b", "e", (0, 1, 2, 3), 1.5), Machine()]
    assert machine_cores(pinned) == {"a": 3, "b": 1.5}


def test_the_memory_can_be_listed(tmp_path: Path) -> None:
    assert not list(remembered_rates(tmp_path / "nothing"))
    calibrate_quickly(FakeSession(), cache=tmp_path, local=local)
    assert sorted(known.device.name for known in remembered_rates(tmp_path)) == sorted(["h1", "h2", master().host])


def test_rates_that_others_could_have_written_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "rates"
    calibrate_quickly(FakeSession(), cache=folder)
    for planted in folder.iterdir():
        planted.chmod(0o666)
    session = FakeSession()
    calibrate_quickly(session, cache=folder)
    assert session.measured, "measured anew"
    folder.chmod(0o777)
    again = FakeSession()
    with pytest.warns(RuntimeWarning, match="no measured rates are read"):
        calibrate_quickly(again, cache=folder)
    assert again.measured
    folder.chmod(0o700)
    give_away(folder, monkeypatch)
    again = FakeSession()
    with pytest.warns(RuntimeWarning, match="belongs to"):
        calibrate_quickly(again, cache=folder)
    assert again.measured


def test_disks_are_measured_where_they_matter_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SwapFolder, "bytes_per_s", lambda self, nbytes, proceed: 7e6)
    session = FakeSession()
    assert [
        device.read_bytes_per_s for device in calibrate_quickly(session, cache=tmp_path, local=local).topology.devices
    ] == [
        0,
        0,
        0,
    ]
    assert not session.read
    for _ in range(2):
        found = calibrate_quickly(session, cache=tmp_path, local=local, disks=True).topology
        assert [device.read_bytes_per_s for device in found.devices] == [7e6, 1e6 * DISK_BYTES, 0.5e6 * DISK_BYTES]
        assert session.read == [1, 2], "the second time they are remembered"
    kept = Profile.of(found).topology()
    assert [device.read_bytes_per_s for device in kept.devices] == [device.read_bytes_per_s for device in found.devices]


def test_a_rank_without_room_on_its_disk_has_no_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SwapFolder, "bytes_per_s", lambda self, nbytes, proceed: 7e6)
    session = FakeSession(without_disk=frozenset({2}))
    found = calibrate_quickly(session, cache=tmp_path, local=local, disks=True).topology
    assert [device.read_bytes_per_s for device in found.devices] == [7e6, 1e6 * DISK_BYTES, 0.0]
    assert found.devices[2].read_s(USUAL_READ_BYTES_PER_S) == 1.0


def test_what_maps_cost_in_a_cache_and_beyond_it_is_found_again() -> None:
    """Convs cost MACs, and bytes of their maps; large maps cost more of both kinds of steps."""
    near, far, gamma, step_s = {"conv": 5e-12, "affine": 1e-11}, {"conv": 2e-11, "default": 1.5e-11}, 1e-11, 1e-6
    device = Device("pi", {"default": gamma}, step_s=step_s, map_s_per_byte=near, far_s_per_byte=far, effort=computed)

    def timer(specs: Sequence[StepSpec], repeats: int) -> Answer:
        return answer([device.work_s(spec) for spec in specs])

    figures = measure_devices(FakeSession(), (*QUICK, *QUICK_MAPS), ranks={0: ""}, repeats=1, local=timer)[0]
    assert figures.map_s_per_byte["conv"] == pytest.approx(near["conv"], rel=0.2)
    assert figures.map_s_per_byte["affine"] == pytest.approx(near["affine"], rel=0.05)
    assert figures.far_s_per_byte["conv"] == pytest.approx(far["conv"], rel=0.1)
    assert figures.far_s_per_byte["default"] == pytest.approx(far["default"], rel=0.1)
    assert figures.gamma_s_per_mac["direct1x1"] == pytest.approx(gamma, rel=0.05)
