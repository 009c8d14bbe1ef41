"""A worker that the system's OOM killer ends, as it compiles or in the middle of runs, is a lost worker like any other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.fog.cgroup import Cgroup, find_cgroup
from fogconv.cluster.connect import connect
from fogconv.errors import ClusterError, DependencyError
from fogconv.hardware.topology import Topology
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from tests.cluster.fault_cluster import assert_right, image, network
from tests.cluster.launch import free_port, process, wait_until_listening

pytestmark = [
    pytest.mark.alone,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make control groups"),
]

TOPOLOGY = Topology.uniform(3, 1e9, 1e10, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7)
STEADY = RunOptions(adapt=False)
HOG = "b = bytearray(b'x') * 300_000_000; import time; time.sleep(60)"


@pytest.fixture
def group() -> Iterator[Cgroup]:
    try:
        made = find_cgroup(f"fogconv-test-{os.getpid()}")
        made.create()
    except (DependencyError, ClusterError) as error:
        pytest.skip(str(error))
    yield made
    made.remove()


def in_group(group: Cgroup, *command: str) -> tuple[str, ...]:
    enter = "; ".join(f"echo $$ > {file}" for file in group.members)
    return ("sh", "-c", f'{enter}; exec "$@"', "sh", *command)


def workers(stack: ExitStack, group: Cgroup, cache: Path) -> tuple[list[str], subprocess.Popen[str]]:
    """Two workers, the second of which is in the group: their addresses, and that one."""
    addresses = []
    for number in range(2):
        port = free_port()
        addresses.append(f"tcp://127.0.0.1:{port}")
        command = [sys.executable, "-m", "fogconv", "worker", "--bind", addresses[-1], "--threads", "1"]
        wrapped = in_group(group, *command) if number else tuple(command)
        last = stack.enter_context(process(*wrapped, FOGCONV_CACHE_DIR=str(cache / str(number))))
        wait_until_listening(port)
    return addresses, last


def anonymous_bytes(pid: int) -> int:
    """What a process holds that is in no file: pages of libraries count for whoever read them first."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def test_who_is_killed_while_it_compiles_is_lost_and_the_others_answer(group: Cgroup, tmp_path: Path) -> None:
    with ExitStack() as stack:
        addresses, victim = workers(stack, group, tmp_path)
        group.set_memory(anonymous_bytes(victim.pid) + 15_000_000)  # importing the compiler's parts takes 50 MB more
        session = stack.enter_context(connect(addresses, connect_timeout_s=30.0))
        engine = Engine(network(), session, TOPOLOGY, PlanOptions("rows"), STEADY)
        assert_right(engine.run(image()).output)
        assert victim.wait(timeout=60.0) == -signal.SIGKILL
        assert engine.ranks == (0, 1)
        assert any("worker 2" in event and "is lost" in event for event in engine.events)


def test_who_is_killed_in_the_middle_of_runs_is_lost_and_none_is_missing(group: Cgroup, tmp_path: Path) -> None:
    group.set_memory(400_000_000)
    with ExitStack() as stack:
        addresses, victim = workers(stack, group, tmp_path)
        session = stack.enter_context(connect(addresses, connect_timeout_s=30.0))
        engine = Engine(network(), session, TOPOLOGY, PlanOptions("rows"), STEADY)
        assert_right(engine.run(image()).output)
        assert engine.ranks == (0, 1, 2)
        # Of the two that share the group, the kernel is to end the worker.
        Path(f"/proc/{victim.pid}/oom_score_adj").write_text("1000")
        stack.enter_context(process(*in_group(group, sys.executable, "-I", "-S", "-c", HOG)))
        deadline = time.monotonic() + 60.0
        while len(engine.ranks) == 3:
            assert time.monotonic() < deadline, "the worker was not killed"
            assert_right(engine.run(image()).output)
        assert victim.wait(timeout=60.0) == -signal.SIGKILL
        assert_right(engine.run(image()).output)
        assert engine.ranks == (0, 1)
