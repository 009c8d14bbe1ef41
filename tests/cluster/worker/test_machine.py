"""Which computer a process runs on, and how much of it is its own."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.worker.machine import OtherWork, cpu_quota, machine
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
