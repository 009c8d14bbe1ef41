"""The unit of deploy/: a worker in a small room, in which it can still work."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.launch import ROOT, environment, free_port

UNIT = ROOT / "deploy" / "fogconv-worker.service"
MOST_EXPOSED = 2.0
"""By `systemd-analyze security`: 10 is everything open."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")

MASTER = """
import sys, numpy as np, fogconv
from tests.chains import chain
from fogconv.hardware.topology import Topology
graph = chain(16, 32, 32, size=8)
with fogconv.compile(graph, sys.argv[1], topology=Topology.uniform(2, 1e9, 1e12), scheme="star", threshold=0.0) as engine:
    print(engine(np.zeros((1, 16, 8, 8), np.float32)).shape, engine.events)
"""


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0].isupper():
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_has_neither_rights_nor_a_place_to_write() -> None:
    unit = settings()
    assert unit["User"] == ["fogconv"]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["CapabilityBoundingSet"] == [""]
    assert unit["LimitCORE"] == ["0"]
    assert unit["CacheDirectoryMode"] == ["0700"]
    # Its programs and keys lie in its home: what it could write there it would run at its next start.
    assert "StateDirectory" not in unit and "ReadWritePaths" not in unit
    assert unit["RestartPreventExitStatus"] == ["2"]


@needs_systemd
def test_systemd_calls_it_little_exposed() -> None:
    command = ["systemd-analyze", "security", "--offline=true", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze reads no files")
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def allowed() -> set[str]:
    """The system calls that the unit's filter lets through."""

    def of(name: str) -> set[str]:
        if not name.startswith("@"):
            return {name}
        text = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True).stdout
        lines = [line.strip() for line in text.splitlines()[1:]]
        return {call for line in lines if line and not line.startswith("#") for call in of(line)}

    permitted: set[str] = set()
    for value in settings()["SystemCallFilter"]:
        sets = {call for name in value.removeprefix("~").split() for call in of(name)}
        permitted = permitted - sets if value.startswith("~") else permitted | sets
    return permitted


@needs_systemd
@pytest.mark.alone
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_worker_makes_no_call_that_the_filter_forbids(tmp_path: Path) -> None:
    """From its start over a whole session to its end, compiling included."""
    folder, counts = tmp_path / "cache", tmp_path / "calls"
    env = environment(FOGCONV_CACHE_DIR=str(folder), TMPDIR=str(tmp_path))
    address = f"tcp://127.0.0.1:{free_port()}"
    traced = ["strace", "-f", "-qq", "-c", "-U", "name", "-o", str(counts), sys.executable, "-m", "fogconv", "worker"]
    worker = subprocess.Popen(
        [*traced, "--bind", address], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        assert worker.stderr is not None
        line = next((line for line in worker.stderr if "listening on" in line or "Operation not permitted" in line), "")
        if "listening" not in line:
            pytest.skip("nothing may be traced here")
        pid = int(line.rpartition("pid ")[2])
        master = [sys.executable, "-c", MASTER, address]
        done = subprocess.run(master, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False)
        assert done.stdout.strip() == "(1, 32, 8, 8) ()", done.stderr
        os.kill(pid, signal.SIGTERM)
        assert worker.wait(60) == 0
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    made = set(re.findall(r"^([a-z]\w+)$", counts.read_text(), re.MULTILINE)) - {"syscall", "total"}
    assert {"read", "mmap", "execve"} <= made
    assert made <= allowed(), made - allowed()
