"""Weights beyond the ranks' memory: what comes out is the same, and what is planned is what runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.errors import PlannerError, SwapError
from fogconv.hardware.topology import USUAL_READ_BYTES_PER_S, Topology
from fogconv.ir.geometry import Span
from fogconv.ir.layers import Pool
from fogconv.ir.memory.footprint import PROCESS_BYTES, room
from fogconv.ir.memory.swapping import read_bytes
from fogconv.ir.plan import load_plan, save_plan
from fogconv.lowering.lower import lower
from fogconv.planning.memory import needed_bytes
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.runtime.engine import Engine
from tests.matrix import STEADY, TOLERANCE, image
from tests.seeded_models import graph

SCHEMES = ("auto", "rows", "depth", "local", "star")
CELLS = [*(("alexnet", scheme, 54) for scheme in SCHEMES), ("resnet18", "rows", 54), ("resnet18", "local", 40)]
"""With the megabytes for programs on each rank: less than their parts need."""


def topology(megabytes: int | None) -> Topology:
    memory = None if megabytes is None else PROCESS_BYTES + megabytes * 1_000_000
    return Topology.uniform(3, 1e10, 1e9, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7, memory_bytes=memory)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with connect("inproc://2") as opened:
        yield opened


@cache
def size(model: str) -> int:
    return 224 if model == "alexnet" else 64


def swapping(scheme: str = "auto") -> PlanOptions:
    return PlanOptions(scheme, threshold=0.0, allow_swap=True)


@pytest.mark.parametrize(("model", "scheme", "megabytes"), CELLS)
def test_the_output_is_the_same_with_and_without_swapping(session: Session, model: str, scheme: str, megabytes: int) -> None:
    net, x = graph(model, size(model)), image(model, size(model))
    wide = Engine(net, session, topology(None), replace(swapping(scheme), allow_swap=False), STEADY)
    wanted = wide.run(x).output
    wide.close()
    engine = Engine(net, session, topology(megabytes), swapping(scheme), STEADY)
    for _ in range(2):
        found = engine.run(x).output
        assert float(np.abs(found - wanted).max() / np.abs(wanted).max()) < TOLERANCE
    assert any(read_bytes(program) for program in engine.programs), "it was too large for the memory"
    needs = needed_bytes(net, engine.plan, topology(megabytes))
    assert max(needs) <= room(PROCESS_BYTES + megabytes * 1_000_000)
    assert not engine.events
    engine.close()


def test_without_the_option_it_is_refused_and_the_option_named() -> None:
    net = graph("alexnet", 224)
    with pytest.raises(PlannerError, match=r"alexnet needs 412 MB of weights and maps on rank 0 .* or --allow-swap"):
        plan(net, topology(54), PlanOptions("local"))
    with pytest.raises(PlannerError, match=r"MB of maps and what can't be swapped .* a greater --memory"):
        plan(net, topology(16), swapping("local"))


def test_where_there_is_room_nothing_is_swapped() -> None:
    net = graph("alexnet", 224)
    for scheme in SCHEMES:
        assert plan(net, topology(500), swapping(scheme)) == plan(net, topology(500), PlanOptions(scheme, threshold=0.0))


def test_the_fully_connected_layers_are_swapped_first_and_no_more_than_must_be() -> None:
    net = graph("alexnet", 224)
    found = plan(net, topology(250), swapping("local"))
    assert [net.layers[swap.layer].name for swap in found.swaps] == ["classifier.1"]
    [needed, *_] = needed_bytes(net, found, topology(250))
    assert 235e6 < needed <= 250e6
    read = read_bytes(lower(net, found).programs[0])
    assert 50e6 < read < 145e6, "of its 151 MB some stay"
    first = found.placements[found.swaps[0].layer].predicted
    read_s = read / USUAL_READ_BYTES_PER_S
    assert read_s <= first["edge_s"] <= 1.1 * read_s
    total = sum(placement.predicted["total_s"] for placement in found.placements if placement.predicted)
    assert found.predicted_s == pytest.approx(total + found.ends_s)


def test_a_faster_disk_takes_less_time_and_ranks_of_one_machine_share_theirs() -> None:
    net, slow = graph("alexnet", 224), topology(54)
    fast = replace(slow, devices=tuple(replace(device, read_bytes_per_s=4e9) for device in slow.devices))
    shared = replace(slow, devices=tuple(replace(device, machine="one") for device in slow.devices))
    seconds = [plan(net, each, swapping("depth")).predicted_s or 0.0 for each in (slow, fast, shared)]
    assert seconds[1] < 0.05 * seconds[0]
    assert seconds[2] > 2.5 * seconds[0]


def test_a_plan_with_swaps_is_kept_in_a_file_and_checked(tmp_path: Path) -> None:
    net = graph("alexnet", 224)
    found = plan(net, topology(54), swapping())
    save_plan(found, tmp_path / "plan.json")
    kept = load_plan(tmp_path / "plan.json")
    assert kept == found
    assert plan(net, topology(54), PlanOptions(plan=kept)) == found
    swap = found.swaps[0]
    pool = next(index for index, layer in enumerate(net.layers) if isinstance(layer, Pool))
    for wrong, what in (
        (replace(swap, layer=99), "no layer 99"),
        (replace(swap, layer=0, channels=(Span(0, 7),)), "cut a block of 16"),
        (replace(swap, layer=pool), "no weights to swap"),
        (replace(swap, rank=7), "rank 7 has no part"),
        (replace(swap, channels=(Span(0, 1 << 20),)), "to swap"),
        (replace(swap, channels=(Span(32, 48), Span(16, 32))), "to swap"),
    ):
        with pytest.raises(PlannerError, match=what):
            lower(net, replace(found, swaps=(wrong,)))
    with pytest.raises(PlannerError, match="twice"):
        lower(net, replace(found, swaps=(swap, swap)))


def test_a_full_disk_is_a_refusal_with_a_sentence(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    net = graph("alexnet", 224)
    full = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(SwapError, match=r"needs \d+ MB on the disk of .*, where 0 MB can be taken: make room"):
        Engine(net, session, topology(54), swapping("depth"), STEADY)
    monkeypatch.undo()
    Engine(net, session, topology(54), swapping("depth"), STEADY).close()
