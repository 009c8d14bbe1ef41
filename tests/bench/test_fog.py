"""The emulated cluster: does a bed limit what it says, cut and heal links, and leave nothing behind?"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.fog import FogBed
from bench.fog.alone import forms
from bench.fog.boards import BOARDS, Likeness, yardstick
from bench.fog.cgroup import CgroupV1, CgroupV2, Usage, find_cgroup, quota_and_period_us
from bench.fog.conversation import Contender, NodeEnd
from bench.fog.job import AloneJob, Baseline
from bench.fog.master import plan_facts
from bench.fog.rates import effort, fit
from bench.fog.run import Setup, Tally, summary
from bench.fog.scaling import Point, Series, draw, missing
from bench.fog.self_check import check, measure_link
from bench.fog.shaping import Rate, burst_bytes, shape
from bench.fog.testbed import BRIDGE_FILTERS, RUN, Card, sweep
from bench.fog.workload import Subject
from fogconv.errors import ClusterError, DependencyError, InputError
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec, MapSpec, StepSpec
from fogconv.kernels.maps.pixels import PixelTables
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from tests.chains import chain

pytestmark = pytest.mark.alone

CAN = os.geteuid() == 0 and shutil.which("ip") and shutil.which("tc")
needs_bed = pytest.mark.skipif(not CAN, reason="needs root and iproute2")
root = pytest.mark.root


# --- what is computed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("1gbit", 125e6), ("100mbit", 12.5e6), ("2.5 Gbit/s", 312.5e6), ("800kbit", 1e5)],
)
def test_a_rate_is_read_in_the_units_people_write(text: str, bytes_per_s: float) -> None:
    assert Rate.parse(text).bytes_per_s == bytes_per_s
    assert Rate.parse(str(Rate.parse(text))) == Rate.parse(text)


@pytest.mark.parametrize("text", ["", "fast", "0mbit", "-1gbit", "100", "100MB/s", "1tbit"])
def test_a_rate_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="100mbit"):
        Rate.parse(text)


@pytest.mark.parametrize(
    ("share", "quota", "period"),
    [(0.1, 1000, 10_000), (0.05, 1000, 20_000), (0.2, 1000, 5_000), (1.0, 10_000, 10_000), (1.8, 18_000, 10_000)],
)
def test_a_share_becomes_the_shortest_period_the_kernel_grants(share: float, quota: int, period: int) -> None:
    assert quota_and_period_us(share) == (quota, period)


@pytest.mark.parametrize("share", [0, -0.1, 1e-6, float("nan"), float("inf")])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="share"):
        quota_and_period_us(share)


def test_a_shaped_device_lets_out_two_frames_at_least() -> None:
    assert burst_bytes(Rate.parse("1mbit")) == 3200
    assert burst_bytes(Rate.parse("1gbit")) == 125_000
    assert all(command[:3] == ["tc", "-n", "ns"] for command in shape("ns", "eth0", Rate.parse("1gbit")))


@pytest.mark.parametrize("threshold", [0.0, float("inf")], ids=["distributed", "all at home"])
def test_a_star_gives_figures_whatever_it_decides(threshold: float) -> None:
    graph, topology = chain(64, 64, 64), Topology.uniform(5, 1e9, 1e8, 1e-4)
    found = plan(graph, topology, PlanOptions("star", threshold=threshold))
    facts = plan_facts(found, graph, lower(graph, found).programs)
    facts |= {"max_abs_error": 0.0, "max_abs_reference": 1.0}
    assert len(facts["footprint_bytes"]) == 5
    assert len(facts["card_bytes"]) == 5
    away = threshold == 0
    assert (max(map(max, facts["card_bytes"])) > 0) == away
    tallies = {
        name: Tally(facts | {"variant": "eager"}, [0.2, 0.1], {"max_abs_error": 0.0}, [Card(0, 0)] * 5, [0.1] * 5, 1.0, 2)
        for name in ("baseline", "one", "all")
    }
    row = summary(Setup("chain", scheme="star"), tallies, 10, None)
    assert row["predicted_s"] == found.predicted_s and row["bytes_busiest_card_planned"] == max(
        map(max, facts["card_bytes"])
    )
    assert row["speedup_vs_torch"] == 1.0
    tallies["all"].facts["card_bytes"], tallies["all"].cards = (), []
    assert summary(Setup("chain", scheme="star"), tallies, 10, None)["bytes_busiest_card_planned"] == 0


def test_a_picture_of_8_bits_is_one_that_travels_as_bytes() -> None:
    """With the model's own normalisation, and with the picture at the size that runs."""
    it = Subject("squeezenet1_1", (64, 96), picture=True)
    assert it.pixels is not None and it.image.shape == (1, 3, 64, 96)
    tables = PixelTables(it.pixels.mean, it.pixels.std)
    values = np.ascontiguousarray(it.image[0].transpose(1, 2, 0))
    coded = tables.encode(values.ravel())
    assert coded is not None and len(coded) == values.size
    noise = Subject("squeezenet1_1", (64, 96))
    assert noise.pixels is None and tables.encode(noise.image[0].transpose(1, 2, 0).ravel()) is None


@pytest.mark.parametrize(("baseline", "rivals"), [("usual", 2), ("torch", 2), ("faster", 3)])
def test_every_form_of_the_baseline_computes_the_same(baseline: Baseline, rivals: int) -> None:
    with torch.no_grad():
        found = [np.asarray(call()).squeeze() for call in forms(AloneJob("squeezenet1_1", (64, 96), baseline)).values()]
    assert len(found) == rivals
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5 * float(np.abs(found[0]).max()))


@pytest.fixture
def unified(tmp_path: Path) -> Path:
    """A folder that looks like a mounted cgroup version 2."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    return tmp_path


def test_version_2_groups_are_written_as_the_kernel_documents(unified: Path) -> None:
    group = find_cgroup("node", f"cgroup2 {unified} cgroup2 rw,relatime 0 0\n")
    assert group == CgroupV2("node", unified)
    group.create()
    assert (unified / "cgroup.subtree_control").read_text() == "+cpu +memory"
    group.set_cpu(0.05)
    assert (unified / "node/cpu.max").read_text() == "1000 20000"
    group.set_cpu(None)
    assert (unified / "node/cpu.max").read_text() == "max 100000"
    group.set_memory(900_000_000)
    assert (unified / "node/memory.max").read_text() == "900000000"
    (unified / "node/cpu.stat").write_text("usage_usec 1500000\nnr_periods 10\nnr_throttled 3\nthrottled_usec 250000\n")
    (unified / "node/memory.current").write_text("4096\n")
    assert group.usage() == Usage(cpu_s=1.5, throttled_s=0.25, peak_bytes=4096)
    assert group.members == [unified / "node/cgroup.procs"]


def test_a_version_2_mount_without_the_controllers_leaves_version_1(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    mounts = (
        "cgroup /c/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
        f"cgroup2 {tmp_path} cgroup2 rw 0 0\n"
        "cgroup /c/memory cgroup rw,memory 0 0\n"
    )
    group = find_cgroup("node", mounts)
    assert group == CgroupV1("node", Path("/c/cpu,cpuacct"), Path("/c/cpu,cpuacct"), Path("/c/memory"))
    assert group.members == [Path("/c/cpu,cpuacct/node/cgroup.procs"), Path("/c/memory/node/cgroup.procs")]


def test_a_machine_without_controllers_is_refused_by_name() -> None:
    with pytest.raises(DependencyError, match="cpu, cpuacct, memory"):
        find_cgroup("node", "proc /proc proc rw 0 0\n")


@pytest.mark.parametrize("nodes", [0, -1, 1000])
def test_a_bed_of_no_size_is_refused(nodes: int) -> None:
    with pytest.raises(InputError, match="nodes"):
        FogBed(nodes)


def test_shares_must_fit_the_nodes() -> None:
    with pytest.raises(InputError, match="2 CPU shares for 3 nodes"):
        FogBed(3, cpu=[0.1, 0.2])


# --- what root can show -------------------------------------------------------------------------------------------------


@pytest.fixture
def bed() -> Iterator[FogBed]:
    with FogBed(2, rate="200mbit") as it:
        yield it


def reachable(bed: FogBed, timeout_s: float = 0.5) -> bool:
    """Whether node 0 gets an answer (a refusal is one) from node 1."""
    code = f"import socket; socket.create_connection(({bed.nodes[1].address!r}, 9), timeout={timeout_s})"
    done = subprocess.run(bed.command(0, [sys.executable, "-I", "-S", "-c", code]), capture_output=True, text=True)
    return "ConnectionRefusedError" in done.stderr


def left_behind(name: str) -> list[str]:
    """Whatever of a bed is still on the machine."""
    places = (Path("/run/netns"), RUN, Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/"))
    return [str(path) for place in places if place.is_dir() for path in place.glob(f"{name}*")]


@root
@needs_bed
def test_links_and_cores_run_at_the_rate_they_claim(bed: FogBed) -> None:
    honesty = check(bed, [0.1, 0.2], link_s=0.3, work_s=1.0)
    assert honesty.within(0.2), honesty


@root
@needs_bed
def test_a_node_pauses_every_period_and_not_every_few(bed: FogBed) -> None:
    honesty = check(bed, [0.1, 0.05], link_s=0.3, work_s=2.0)
    assert max(honesty.slices) < 2, honesty


@root
@needs_bed
def test_tickers_end_with_who_started_them() -> None:
    script = textwrap.dedent(
        """
        import time
        from bench.fog.ticker import Tickers
        print(Tickers()._running[0].pid, flush=True)
        time.sleep(60)
        """
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    ticker = Path("/proc", owner.stdout.readline().strip())
    assert ticker.exists()
    owner.kill()
    owner.wait(timeout=30)
    until = time.monotonic() + 30
    while ticker.exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not ticker.exists()


@root
@needs_bed
def test_a_link_changes_its_rate_while_up(bed: FogBed) -> None:
    bed.set_rate(1, "20mbit")
    assert measure_link(bed, 0, 1, 0.5) == pytest.approx(2.5e6, rel=0.2)
    assert measure_link(bed, 1, 0, 0.5) == pytest.approx(2.5e6, rel=0.2)


@root
@needs_bed
def test_a_cut_link_carries_nothing_and_a_healed_one_does_again(bed: FogBed) -> None:
    assert reachable(bed)
    bed.cut(1)
    assert not reachable(bed)
    bed.heal(1)
    assert any(reachable(bed) for _ in range(20))


@root
@needs_bed
def test_a_card_counts_what_passed(bed: FogBed) -> None:
    before = bed.cards()
    measure_link(bed, 0, 1, 0.2)
    sent, received = (now - then for now, then in zip(bed.cards(), before, strict=True))
    assert sent.sent_bytes > 5e6
    assert received.received_bytes == pytest.approx(sent.sent_bytes, rel=0.01)
    assert received.sent_bytes < sent.sent_bytes / 10


@root
@needs_bed
@pytest.mark.skipif(not BRIDGE_FILTERS.exists(), reason="this machine has no filter on bridges")
def test_the_switch_filters_nothing(bed: FogBed) -> None:
    asked = ["ip", "netns", "exec", bed.switch, "cat", str(BRIDGE_FILTERS / "bridge-nf-call-iptables")]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == "0"


@root
@needs_bed
def test_a_node_that_takes_too_much_memory_is_ended() -> None:
    with FogBed(1, memory_bytes=64_000_000) as bed:
        hog = bed.popen(0, [sys.executable, "-I", "-S", "-c", "b = bytearray(300_000_000)"])
        assert hog.wait(timeout=30) == -signal.SIGKILL


@root
@needs_bed
def test_nothing_is_left_behind() -> None:
    with FogBed(2, cpu=0.1) as bed:
        sleeper = bed.popen(1, ["sleep", "600"])
        time.sleep(0.2)
        assert left_behind(bed.name)
    assert sleeper.returncode == -signal.SIGKILL
    assert left_behind(bed.name) == []
    bed.down()  # a second time does nothing


@root
@needs_bed
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_bed_whose_process_is_ended_goes_away(end: signal.Signals) -> None:
    script = textwrap.dedent(
        """
        import signal, sys, time
        from bench.fog import FogBed
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born without
        with FogBed(2) as bed:
            bed.popen(1, ["sleep", "600"])
            print(bed.name, flush=True)
            time.sleep(600)
        """
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert owner.stdout is not None
    name = owner.stdout.readline().strip()
    assert left_behind(name)
    owner.send_signal(end)
    owner.wait(timeout=30)
    sweep()  # what a SIGKILL leaves, the next bed clears away
    assert left_behind(name) == []


@root
@needs_bed
def test_two_beds_do_not_meet() -> None:
    with FogBed(2) as one, FogBed(2) as other:
        assert reachable(one)
        assert reachable(other)
        sweep()
        assert left_behind(one.name)
        assert left_behind(other.name)


@root
@needs_bed
def test_an_mpi_launcher_reaches_the_nodes_through_the_agent(bed: FogBed) -> None:
    mpirun = Path(sys.executable).with_name("mpirun")
    if not mpirun.exists():
        pytest.skip("needs an MPI wheel")
    code = "from mpi4py import MPI; w = MPI.COMM_WORLD; print(f'{w.rank} {w.size} {MPI.Get_processor_name()}\\n', end='')"
    hosts = ",".join(node.address for node in bed.nodes)
    launch = [
        mpirun,
        "-launcher",
        "ssh",
        "-launcher-exec",
        bed.agent(),
        "-hosts",
        hosts,
        "-n",
        2,
        sys.executable,
        "-c",
        code,
    ]
    environment = os.environ | {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "eth0"}
    run = bed.popen(0, list(map(str, launch)), stdout=subprocess.PIPE, text=True, env=environment)
    output, _ = run.communicate(timeout=120)
    assert sorted(output.splitlines()) == [f"{node.index} 2 {node.name}" for node in bed.nodes]


# --- the experiment around it -------------------------------------------------------------------------------------------


def test_a_contender_answers_until_asked_to_quit(tmp_path: Path) -> None:
    folder = tmp_path / "it"
    with Contender(folder, "it") as contender:
        node_end = NodeEnd(folder)
        serving = threading.Thread(target=node_end.serve, args=({"loaded": 1}, lambda repeats: {"seconds": [0.5] * repeats}))
        serving.start()
        assert contender.receive(60) == {"ready": {"loaded": 1}}
        assert contender.run(3, 60) == {"seconds": [0.5, 0.5, 0.5]}
    serving.join(timeout=60)
    assert not serving.is_alive()


def test_a_contender_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Contender(tmp_path / "it", "it") as contender:
        contender.log.write_text("Traceback\nModelError: there is no model called resnet51\n")
        contender.process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
        with pytest.raises(ClusterError, match=r"exit code 3(.|\n)*resnet51"):
            contender.receive(30)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"cpu": (0.1, 0.2)}, "2 CPU shares for 5 nodes"),
        ({"transport": "carrier pigeon"}, "zmq, mpi"),
        ({"like": "pi3"}, "did you mean pi4"),
        ({"repeats": 2, "rounds": 3}, "every round needs one"),
    ],
)
def test_a_set_up_that_makes_no_sense_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Setup("resnet18", **options)


@pytest.mark.parametrize(
    ("name", "net", "node_s", "mbit"),
    [("pi4", "vgg16", 1.28, 402.131), ("pi4", "resnet50", 0.83, 298.173), ("pi5-fp16", "vgg16", 1.28, 94.835)],
)
def test_links_like_a_board_have_its_ratio_of_wire_to_compute(name: str, net: str, node_s: float, mbit: float) -> None:
    found = Likeness(name, net, BOARDS[name].seconds[net], node_s)
    assert found.rate.bits_per_s / 1e6 == pytest.approx(mbit, abs=1e-3)
    assert Rate.parse(str(found.rate)) == found.rate
    assert found.as_dict()["source"] == BOARDS[name].source


@pytest.mark.parametrize(
    ("net", "size", "known"),
    [
        ("vgg16", None, "vgg16"),
        ("vgg16", (224, 224), "vgg16"),
        ("vgg16", (64, 64), "resnet50"),
        ("mobilenet_v2", None, "resnet50"),
    ],
)
def test_a_net_without_a_published_time_takes_the_yardsticks(net: str, size: tuple[int, int] | None, known: str) -> None:
    assert yardstick("pi4", net, size) == known


def test_rates_explain_the_times_that_they_were_fitted_to() -> None:
    specs = [ConvSpec(64, 64, 28, 28, (1, 1)), ConvSpec(64, 64, 28, 28, (5, 5), stride=(2, 2), padding=(2, 2, 2, 2))]
    gamma, _ = fit([(specs[0], effort(specs[0]) * 2e-11), (specs[1], effort(specs[1]) * 3e-11)])
    assert gamma["direct1x1"] == pytest.approx(2e-11)
    assert gamma["direct"] == pytest.approx(3e-11)
    assert 2e-11 < gamma["default"] < 3e-11


def test_rates_tell_what_maps_cost_from_what_products_do() -> None:
    """Convs of one class with few and with many products for each byte of their maps, and steps of two other kinds."""
    convs = [ConvSpec(c, c, 56, 56, (1, 1)) for c in (16, 64, 256)]
    gate, copy = MapSpec("gate", 24, 28, 28), MapSpec("copy", 64, 28, 28)
    work: list[tuple[StepSpec, float]] = [
        *((spec, effort(spec) * 1e-11 + 4 * spec.map_elements * 3e-11) for spec in convs),
        (gate, 2 * 4 * 32 * 28 * 28 * 1e-11),
        (copy, 2 * 4 * 64 * 28 * 28 * 4e-11),
    ]
    gamma, maps = fit(work)
    assert gamma["direct1x1"] == pytest.approx(1e-11, rel=0.1)
    assert maps["conv"] == pytest.approx(3e-11, rel=0.15)
    assert (maps["gate"], maps["copy"], maps["default"]) == pytest.approx((1e-11, 4e-11, 3e-11))


@pytest.mark.skipif(os.geteuid() == 0, reason="only without root is it refused")
def test_without_root_the_command_says_so_in_a_sentence() -> None:
    done = subprocess.run([sys.executable, "-m", "bench.fog"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs root" in done.stderr


def test_a_series_of_sizes_is_measured_once_and_drawn_from_its_file(tmp_path: Path) -> None:
    series = Series(tmp_path / "scaling.json")
    assert missing(series.points(), ["vgg16"], [2, 3]) == [("vgg16", 2), ("vgg16", 3)]
    seconds = {"auto": 1.0, "rows": 1.25, "depth": 2.0, "star": 4.0}
    series.add(Point("vgg16", 3, 0.1, "1gbit", 4.0, 1.6, 0.5, seconds))
    [point] = series.points()
    assert (point.speedup("depth"), point.bound) == (2.0, 8.0)
    assert missing(series.points(), ["vgg16"], [2, 3]) == [("vgg16", 2)]
    draw(series.points(), tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_a_file_that_is_no_series_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "scaling.json").write_text('{"x": 1}')
    with pytest.raises(InputError, match="not a series"):
        Series(tmp_path / "scaling.json").points()
