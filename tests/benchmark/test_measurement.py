"""The fixed set, measured on an in-process cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from fogconv.benchmark import measurement
from fogconv.benchmark.comparison import compare
from fogconv.benchmark.fixed_set import KERNELS, QUICK, WHOLE
from fogconv.calibration.cache import default_folder, remembered_rates
from fogconv.cli.output.tables.comparison import machine_lines
from fogconv.cluster.connect import connect
from fogconv.errors import InputError
from fogconv.frontend.zoo_graphs import names
from fogconv.hardware.topology import KERNEL_CLASSES, kernel_class

BRIEF = replace(QUICK, nets=("squeezenet1_1",), passes=2, rounds=2, least_runs=2, net_s=0.0)

pytestmark = pytest.mark.alone


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measurement, "QUICK", BRIEF)
    monkeypatch.setattr(measurement, "LOOK_S", 0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_device_and_a_cluster_give_the_same_items_for_the_master() -> None:
    said: list[str] = []
    with connect("inproc://0") as session:
        alone = measurement.measure(session, "inproc://0", quick=True, progress=said.append)
    with connect("inproc://1", threads=1) as session:
        together = measurement.measure(session, "inproc://1", quick=True)
    ours, theirs = ({item.name for item in record.items} for record in (alone, together))
    assert len(ours) == len(KERNELS) + 1 and ours <= theirs
    assert len(theirs) == 2 * len(KERNELS) + 3 + 1
    assert [machine.rank for machine in together.machines] == [0, 1]
    assert all(item.seconds > 0 and item.quartiles[0] <= item.seconds <= item.quartiles[1] for item in together.items)
    assert "squeezenet1_1" in said and alone.skipped == {} and alone.cpu and alone.versions["fogconv"]


def test_a_net_without_room_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        measurement.psutil,
        "virtual_memory",
        lambda: SimpleNamespace(available=10_000_000, percent=99.0, total=1_000_000_000),
    )
    with connect("inproc://0") as session:
        found = measurement.measure(session, "inproc://0", quick=True)
    assert "10 MB are free" in found.skipped["squeezenet1_1"]
    assert all(item.group != "nets" for item in found.items)


def test_the_set_covers_every_kernel_class_and_its_nets_come_with_the_package() -> None:
    assert {kernel_class(spec) for spec in KERNELS.values()} == set(KERNEL_CLASSES)
    assert {*WHOLE.nets, *QUICK.nets} <= set(names())


def test_kernels_and_nets_in_8_bits_have_the_same_names() -> None:
    with connect("inproc://0") as session:
        exact = measurement.measure(session, "inproc://0", quick=True)
        found = measurement.measure(session, "inproc://0", quick=True, precision="int8")
        with pytest.raises(InputError, match="int4"):
            measurement.measure(session, "inproc://0", precision="int4")
    assert {item.name for item in found.items} == {item.name for item in exact.items}
    assert (exact.precision, found.precision) == ("fp32", "int8")
    [known] = remembered_rates(default_folder())
    assert "int8_direct" in known.device.gamma_s_per_mac
    compared = compare(exact, found, ("A", "B"))
    assert "A is in fp32, B in int8" in compared.cautions and not compared.only_first
    assert machine_lines(found)[0].endswith("; in int8") and "int8" not in machine_lines(exact)[0]
