"""Calibration: what a session measures becomes a topology, and is remembered per pair of hosts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fogconv.calibration.devices import FULL, QUICK, TINY, calibrate, calibrate_quickly, device_samples
from fogconv.errors import WorkerLostError
from fogconv.hardware.topology import KERNEL_CLASSES, kernel_class
from fogconv.ir.geometry import ConvSpec
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


@dataclass(frozen=True)
class Trip:
    there_s: float
    back_s: float


@dataclass(frozen=True)
class Answer:
    seconds: Sequence[float]
    copy_bytes_per_s: float = 2e9


@dataclass
class FakeSession:
    """Devices of known γ on links of known α and β (the way back is half as fast)."""

    gammas: tuple[float, ...] = (1e-10, 4e-10)
    alpha: float = 1e-3
    s_per_byte: float = 8e-8
    scheme: str = "tcp"
    measured: list[tuple[int, ...]] = field(default_factory=list)
    dying: frozenset[int] = frozenset()
    """Ranks that are lost as soon as they are asked to measure."""
    mute: frozenset[int] = frozenset()
    """Ranks that are lost as soon as they are pinged."""
    lost: frozenset[int] = frozenset()

    @property
    def ranks(self) -> int:
        return len(self.gammas) + 1

    @property
    def workers(self) -> list[FakeWorker]:
        present = sorted(set(range(1, self.ranks)) - self.lost)
        return [FakeWorker(rank, f"tcp://h{rank}:5555", f"h{rank}") for rank in present]

    def refresh(self) -> frozenset[int]:
        return self.lost

    def lose(self, ranks: frozenset[int]) -> None:
        if ranks:
            self.lost |= ranks
            raise WorkerLostError(f"workers {sorted(ranks)} are lost", min(ranks))

    def ping(self, rank: int, nbytes: int = 0, back_bytes: int | None = None) -> Trip:
        self.lose(self.mute & {rank})
        back = nbytes if back_bytes is None else back_bytes
        return Trip(2 * self.alpha + nbytes * self.s_per_byte, 2 * self.alpha + 2 * back * self.s_per_byte)

    def measure(
        self, specs: Sequence[ConvSpec], *, ranks: Sequence[int] | None = None, repeats: int = 3
    ) -> dict[int, Answer]:
        assert ranks is not None
        self.measured.append(tuple(ranks))
        self.lose(self.dying & set(ranks))
        return {rank: Answer(seconds(specs, self.gammas[rank - 1])) for rank in ranks}


def seconds(specs: Sequence[ConvSpec], gamma: float) -> list[float]:
    return [STEP + spec.macs * gamma * (3 if spec.depthwise else 1) for spec in specs]


def local(specs: Sequence[ConvSpec], repeats: int) -> list[float]:
    return seconds(specs, 5e-11)


def test_gamma_alpha_and_beta_are_found_again(tmp_path: Path) -> None:
    topology = calibrate_quickly(FakeSession(), cache=tmp_path, local=local)
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


def test_a_pair_of_hosts_is_measured_once(tmp_path: Path) -> None:
    session = FakeSession()
    first = calibrate_quickly(session, cache=tmp_path, local=local)
    again = calibrate_quickly(session, cache=tmp_path, local=local)
    assert session.measured == [(1, 2)]
    assert again == first
    calibrate_quickly(session, cache=tmp_path, local=local, refresh=True)
    assert session.measured == [(1, 2), (1, 2)]


def test_only_the_newcomer_is_measured(tmp_path: Path) -> None:
    calibrate_quickly(FakeSession((1e-10,)), cache=tmp_path, local=local)
    session = FakeSession((1e-10, 2e-10))
    topology = calibrate_quickly(session, cache=tmp_path, local=local)
    assert session.measured == [(2,)]
    assert topology.devices[2].gamma("winograd") == pytest.approx(2e-10, rel=0.02)


def test_another_way_of_talking_is_another_link(tmp_path: Path) -> None:
    calibrate_quickly(FakeSession(scheme="tcp"), cache=tmp_path, local=local)
    session = FakeSession(scheme="mpi")
    calibrate_quickly(session, cache=tmp_path, local=local)
    assert session.measured == [(1, 2)]


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
    assert len(calibrate_quickly(FakeSession(), cache=tmp_path / "file" / "cache", local=local)) == 3


def test_no_worker_is_a_cluster_of_one(tmp_path: Path) -> None:
    assert len(calibrate_quickly(FakeSession(()), cache=tmp_path, local=local)) == 1


@pytest.mark.parametrize("how", ["dying", "mute"])
def test_a_worker_that_is_lost_meanwhile_is_taken_for_as_slow_as_the_slowest(tmp_path: Path, how: str) -> None:
    session = FakeSession((1e-10, 2e-10, 4e-10), **{how: frozenset({2})})
    topology = calibrate_quickly(session, cache=tmp_path, local=local)
    assert len(topology) == 4, "the others keep their ranks"
    assert topology.devices[1].gamma() == pytest.approx(1e-10, rel=0.02)
    assert topology.devices[2] == topology.devices[3]
    assert topology.link(2, 0) == topology.link(3, 0)


def test_where_all_are_lost_meanwhile_the_master_is_a_cluster_of_one(tmp_path: Path) -> None:
    session = FakeSession(dying=frozenset({1, 2}))
    assert len(calibrate_quickly(session, cache=tmp_path, local=local)) == 1


def test_a_loss_of_nobody_is_an_error(tmp_path: Path) -> None:
    session = FakeSession(dying=frozenset({1}))
    session.lose = lambda ranks: (_ for _ in ()).throw(WorkerLostError("?", 1))  # type: ignore[method-assign]
    with pytest.raises(WorkerLostError):
        calibrate_quickly(session, cache=tmp_path, local=local)


def test_the_long_way_measures_every_class_and_says_how_sure_it_is() -> None:
    profile = calibrate(FakeSession(), local=local)
    assert set(profile.devices[1].gamma_s_per_mac) == {*KERNEL_CLASSES, "default"}
    assert profile.spreads["gamma rank 1 winograd"] == 0 and profile.spreads["beta 0→1"] == 0
    assert profile.topology().link(2, 0).s_per_byte == pytest.approx(16e-8)


def test_a_disturbed_measurement_shows_in_the_spread() -> None:
    noise = iter([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])

    def noisy(specs: Sequence[ConvSpec], repeats: int) -> list[float]:
        factor = next(noise)
        return [value * factor for value in local(specs, repeats)]

    assert calibrate(FakeSession(()), local=noisy).spreads["gamma rank 0 winograd"] == pytest.approx(0.5)


def test_samples_for_predictors_come_from_every_rank() -> None:
    found = device_samples(FakeSession(), FULL[:3], local=local)
    assert set(found) == {0, 1, 2}
    assert [sample.spec for sample in found[2]] == list(FULL[:3])
    assert found[2][0].seconds > found[1][0].seconds


def test_what_is_measured_covers_the_classes() -> None:
    assert {kernel_class(spec) for spec in FULL} == set(KERNEL_CLASSES)
    assert set(QUICK) <= set(FULL)
    assert TINY.macs < 2000


def test_rates_that_others_could_have_written_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "rates"
    calibrate_quickly(FakeSession(), cache=folder)
    planted = next(folder.iterdir())
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
