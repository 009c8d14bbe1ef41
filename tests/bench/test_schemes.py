"""The bench of schemes: its cells, what is measured of them, and what is made of it. The run itself needs root."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.schemes.__main__ import main, table
from bench.schemes.cells import ALL, QUICK, Cell, behind, keep, kept, measured_schemes, merged, missing, result, verdict
from bench.schemes.master import planned
from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from tests.chains import chain

CELL = Cell("vgg16", "pi4", (0.1, 0.1))


def cell(auto: float, runs: dict[str, float], *, again: float | None = None, predicted: float | None = None) -> Any:
    """A cell of steady runs; schemes without runs are far."""
    predicted_s = {"auto": predicted or auto, **runs}
    same_as = {scheme: scheme for scheme in predicted_s}
    measured = {scheme: [seconds] * 4 for scheme, seconds in {"auto": auto, **runs}.items() if seconds <= 3 * auto}
    return result(CELL, "400mbit", predicted_s, same_as, measured, [again or auto] * 4, 1e-6)


def test_there_are_24_cells_and_each_has_a_name_of_its_own() -> None:
    assert len(ALL) == len({each.name for each in ALL}) == 24
    assert sum(each.uneven for each in ALL) == 12
    assert {each.like for each in ALL} == {"pi4", "pi5-fp16", None}
    assert len({each.name for each in (*ALL, *QUICK)}) == 24 + len(QUICK)


def test_schemes_that_are_far_are_not_measured_and_count_as_three_times_the_best() -> None:
    assert measured_schemes({"auto": 4.0, "rows": 1.0, "star": 3.0, "depth": 3.1}) == ["auto", "rows", "star"]
    found = cell(1.0, {"rows": 1.2, "star": 40.0})
    assert found["seconds"] == {"auto": 1.0, "rows": 1.2, "star": 3.0}
    assert found["not_measured"] == ["star"]


def test_a_plan_that_two_schemes_share_is_measured_once() -> None:
    runs = {"auto": [1.0, 1.0, 1.0, 1.0], "local": [2.0] * 4}
    same_as = {"auto": "auto", "rows": "auto", "local": "local"}
    found = result(CELL, "1gbit", {"auto": 1.1, "rows": 1.1, "local": 2.0}, same_as, runs, [1.1] * 4, 0.0)
    assert found["seconds"]["rows"] == found["seconds"]["auto"] == found["auto_s"] == pytest.approx(1.05)
    assert found["same_plan"] == {"rows": "auto"} and found["not_measured"] == []
    assert found["spread"] == pytest.approx(1 - 1 / 1.1)


def test_auto_is_held_against_the_one_scheme_that_is_best_over_all_cells() -> None:
    cells = [cell(1.0, {"rows": 1.0, "local": 2.0}), cell(1.0, {"rows": 1.44, "local": 1.0})]
    found = verdict(cells)
    assert found["best_fixed"] == "rows"
    assert found["auto_vs_best_fixed"] == pytest.approx(1.2)
    assert found["worst_behind_pct"] == 0.0
    assert found["predicted_within_10_pct"] == 1.0
    assert verdict([]) == {"cells": []}


def test_behind_is_beyond_the_cells_own_spread() -> None:
    steady, noisy = cell(1.1, {"rows": 1.0}), cell(1.1, {"rows": 1.0}, again=1.21)
    assert behind(steady) == pytest.approx(0.1)
    assert behind(noisy) < behind(steady) + 0.06 and noisy["spread"] > 0.08
    found = verdict([cell(1.0, {"rows": 1.5}), cell(1.1, {"rows": 1.0}, predicted=1.5)])
    assert found["worst_behind_pct"] == pytest.approx(10.0)
    assert found["predicted_within_10_pct"] == 0.5


def test_cells_are_kept_one_by_one_and_not_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "schemes.json"
    assert kept(file) == kept(None) == []
    cells = [cell(1.0, {"rows": 1.5}) | {"cell": ALL[0].name}]
    keep(file, cells)
    assert kept(file) == cells
    assert missing(ALL, cells) == list(ALL[1:])
    assert table(verdict(cells)).row_count == 1
    file.write_text('{"cells": [{"x": 1}]}')
    with pytest.raises(InputError, match="not a result of bench"):
        kept(file)


def test_the_cells_of_several_runs_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a cell in more than one file the first counts; without cells to measure nothing runs."""
    files = [tmp_path / f"{number}.json" for number in range(3)]
    one, two = (cell(1.0, {"rows": 1.5}) | {"cell": ALL[number].name} for number in (0, 1))
    keep(files[0], [one])
    keep(files[1], [one | {"auto_s": 9.0}, two])
    assert merged(map(kept, files[:2])) == [one, two]
    main(files[2], most=0, merge=files[:2], as_json=True)
    assert kept(files[2]) == [one, two]
    assert len(json.loads(capsys.readouterr().out)["cells"]) == 2


def test_every_scheme_plans_auto_first() -> None:
    topology = Topology.uniform(2, 1e9, 1e8, 1e-4)
    found = planned(chain(16, 16, 16), topology, topology)
    assert next(iter(found)) == "auto" and {"rows", "depth", "star", "local", "offload"} <= set(found)
    assert all(each.predicted_s for each in found.values())
