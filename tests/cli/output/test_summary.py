"""A dozen lines at most: what a run took, who did what, what happened."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from fogconv.analysis.workload import RankWork, Workload
from fogconv.cli.output.result import SharedMachine
from fogconv.cli.output.summary import MOST_LINES, MOST_NAMED, shares, summary_lines
from fogconv.planning.plan_options import PlanOptions
from tests.cli.output.examples import RANDOM, result

EVENT = "worker 3 at tcp://10.0.0.3:5555 on pi3 is lost: it sent nothing for 0.9 s; the inference ran again on 3 workers"


def test_the_summary_of_a_full_run() -> None:
    assert summary_lines(result(), 80) == [
        "model       densenet121, weights: pretrained: ImageNet",
        "latency     39.9 ms, median of 3 warm runs (38.1 to 45.1); predicted 49.3 ms",
        "alone       20.1 ms in torch on the master: speedup 0.50",
        "difference  at most 1.05e-05 from torch's output, whose values reach 11.1",
        "master      50 % of the work, 49 convs, 12.3 ms busy, 45.6 waiting, 3.2 MB sent",
        *(f"worker {n}    12 % of the work, 49 convs, 12.3 ms busy, 45.6 waiting, 3.2 MB sent" for n in range(1, 5)),
        "scheme      star: all 1 convolutions distributed, forced by --threshold 0",
        "cluster     1 master + 4 workers over mpi share one machine's 2 cores: no gain",
        "simulated   5 such computers on 1 Gbit/s: 10.7 ms; one alone: 21.4 ms (2.00×)",
        "stream      9 frames, several in flight: 31.20 frames/s",
    ]


def test_weights_that_are_read_from_disks_have_a_line() -> None:
    plain = result(full=False)
    ranks = tuple(replace(rank, read_bytes=(0, 2_000_000, 9_500_000, 0, 0)[rank.rank]) for rank in plain.ranks)
    lines = summary_lines(replace(plain, ranks=ranks), 80)
    assert "from disk   weights read per inference: worker 2 9.5 MB, worker 1 2.0 MB" in lines
    assert not any(line.startswith("from disk") for line in summary_lines(plain, 80))


def test_a_plain_run_says_only_what_was_asked_for() -> None:
    labels = [line.split()[0] for line in summary_lines(result(full=False, cluster="inproc"), 80)]
    assert labels == ["model", "latency", "master", *["worker"] * 4, "scheme", "cluster"]


def test_in_a_large_cluster_and_where_all_stays_at_home_one_line_is_for_all() -> None:
    ranks = RankWork(0, 49, 1.0, 0.01, 0.0, 0.0), RankWork(1, 0, 0.0, 0.0, 0.0, 0.0)
    alone = replace(result(full=False), ranks=ranks, work=Workload({0: 500, 1: 0}, 0.0))
    for shown in (result(full=False, workers=40), alone):
        labels = [line.split()[0] for line in summary_lines(shown, 80)]
        assert labels == ["model", "latency", "work", "traffic", "scheme", "cluster"]


def test_a_rank_without_work_says_so() -> None:
    idle = (RankWork(0, 49, 0.5, 0.01, 0.0, 1.0), RankWork(1, 49, 0.5, 0.01, 0.0, 1.0), RankWork(2, 0, 0.0, 0.0, 0.0, 0.0))
    assert "worker 2    nothing" in summary_lines(replace(result(), ranks=idle), 80)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (PlanOptions("star", threshold=0.0, parts=5), ", into 5 parts by --parts 5"),
        (PlanOptions("star", threshold=0.0, split="grid:2x2"), ", cut by --split grid:2x2"),
        (PlanOptions("star"), " distributed"),
    ],
)
def test_what_forces_the_star_is_said(options: PlanOptions, says: str) -> None:
    shown = replace(result(), job=replace(result().job, plan_options=options))
    [line] = [line for line in summary_lines(shown, 100) if line.startswith("scheme")]
    assert line.endswith(says)


def test_a_loss_is_shown_in_full_where_there_is_room() -> None:
    shown = summary_lines(result(full=False, events=(EVENT,)), 80)
    assert " ".join(" ".join(shown).split()).endswith(EVENT)


def test_more_events_than_room_are_counted() -> None:
    shown = summary_lines(result(events=(EVENT,) * 30), 80)
    assert len(shown) == MOST_LINES + 5 and "in --json" in shown[-1]


def test_alone_under_mpirun() -> None:
    assert any("the master runs alone" in line for line in summary_lines(result(), 80, alone=True))


@given(
    st.integers(40, 200),
    st.lists(st.text(st.characters(codec="ascii", categories=("L", "Z", "P")), min_size=1, max_size=300), max_size=40),
    st.sampled_from([0, 1, 2, 4, 63, 1023]),
    st.booleans(),
    st.booleans(),
)
def test_never_more_than_a_dozen_lines_nor_a_wide_one(
    width: int, events: list[str], workers: int, full: bool, random: bool
) -> None:
    shown = result(events=tuple(events), workers=workers, full=full, weights=RANDOM if random else "pretrained")
    shown = replace(shown, cluster="tcp://" + "pi4:5555," * workers if workers % 2 else "mpi")
    lines = summary_lines(shown, width)
    assert len(lines) <= MOST_LINES + (1 + workers if workers <= MOST_NAMED else 0)
    assert all(cell_len(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({0: 1.0}, "master 100 %"),
        ({0: 0.4, 1: 0.6}, "master 40 %, worker 1 60 %"),
        ({0: 0.4, 1: 0.2, 3: 0.4}, "master 40 %, worker 1 20 %, worker 3 40 %"),
        ({0: 0.1, **dict.fromkeys(range(1, 10), 0.1)}, "master 10 %, 9 workers 10.0 to 10.0 % each"),
    ],
)
def test_the_share_of_every_rank_is_one_line(parts: dict[int, float], text: str) -> None:
    assert shares(parts) == f"{text} of the multiply-adds"


def test_workers_without_a_share_are_no_row_of_zeros() -> None:
    assert shares({0: 1.0, 1: 0.0}) == "master 100 % of the multiply-adds, the worker none"
    assert shares({0: 1.0, **dict.fromkeys(range(1, 5), 0.0)}) == "master 100 % of the multiply-adds, workers none"


def test_ranks_that_share_a_machine_are_named_once() -> None:
    pi = SharedMachine("pi3", (2, 3), 4.0, False)
    [line] = [line for line in summary_lines(replace(result(full=False), machines=(pi,)), 120) if line.startswith("cluster")]
    assert line == "cluster     1 master + 4 workers over mpi; workers 2, 3 share pi3's 4 cores"
    here = SharedMachine("vm", (0, 1), 1.5, False)
    [line] = [
        line for line in summary_lines(replace(result(full=False), machines=(here,)), 120) if line.startswith("cluster")
    ]
    assert line.endswith("; the master and worker 1 share vm's 1.5 cores")


def test_workers_in_one_process_are_no_computers_of_their_own() -> None:
    shown = replace(result(cluster="inproc"), outlook=None)
    [line] = [line for line in summary_lines(shown, 120) if line.startswith("cluster")]
    assert line == "cluster     1 master + 4 workers in this process share one machine's 2 cores: no gain"
