"""The bench of the model: its cells, and what it makes of what was measured. (Measuring needs root and half an hour.)"""

from __future__ import annotations

import json
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from bench.model_accuracy import (
    MOST_CELLS,
    NETS,
    RATES,
    SCHEMES,
    SHARES,
    TRANSPORTS,
    Cell,
    cover,
    keep,
    kept,
    markdown,
    summary,
    verdict,
)
from fogconv.errors import InputError

pytestmark = pytest.mark.alone

CELL = Cell("vgg16", "rows", "1gbit", "even", "zmq")


def test_every_pair_is_in_a_cell() -> None:
    cells = cover()
    assert len(cells) <= MOST_CELLS
    axes = {"net": NETS, "scheme": SCHEMES, "rate": RATES, "shares": tuple(SHARES), "transport": TRANSPORTS}
    for (one, those), (other, these) in combinations(axes.items(), 2):
        for pair in product(those, these):
            assert any((getattr(cell, one), getattr(cell, other)) == pair for cell in cells), pair


def facts(predicted_s: float = 1.2) -> dict[str, Any]:
    layers = [{"name": n, "split": s, "predicted": {"total_s": t}} for n, s, t in LAYERS]
    rates = {"cpu_s": [1.0, 2.0, 2.0], "message_s": 1e-3, "gamma": [{"default": 1e-10}], "byte_s": [1e-9, 1e-9]}
    return {"predicted_s": predicted_s, "layers": layers, "agreement": {"planner_s": 1.0, "simulator_s": 1.02}, **rates}


LAYERS = (("a", "rows:5", 0.55), ("b", "rows:5", 0.4), ("c", None, 9.0), ("d", "rows:5", 0.001), ("e", "rows:5", 0.3))
ANSWER = {
    "seconds": [0.9, 1.0, 1.1, 1.0],
    "layer_totals_s": [[0.5, 0.4, 1.0, 0.009, 0.3], [0.5, 0.6, 1.0, 0.009, 0.3]],
    "cpu_s": [9.0, 2.0, 3.0],
}


def test_errors_are_against_the_median_less_the_cells_own_spread() -> None:
    found = summary(CELL, facts(), ANSWER)
    assert found["latency_s"] == 1.0 and found["ratio"] == pytest.approx(1.2)
    assert found["spread"] == pytest.approx(0.025)
    assert found["total_error"] == pytest.approx(0.2 - 0.025)
    assert summary(CELL, facts(1.01), ANSWER)["total_error"] == 0.0
    # Of a, b and e: c is not distributed, and d is too short.
    assert found["layers_judged"] == 3
    assert found["layer_error"] == pytest.approx(0.1)
    # b's error of 0.2 is less than what two readings of 0.4 and 0.6 leave open, a's is certain, e has none.
    assert found["layer_error_beyond_noise"] == pytest.approx(0.0)
    assert found["cpu"] == pytest.approx(4 / 5), "of the workers: the master also answers the bench"
    assert found["agreement"] == pytest.approx(0.02)


def test_the_verdict_says_what_is_asked_for() -> None:
    good, bad = summary(CELL, facts(1.01), ANSWER), summary(CELL, facts(2.0), ANSWER)
    loaded = summary(Cell("vgg16", "rows", "1gbit", "even", "zmq", loaded=True), facts(3.0), ANSWER)
    found = verdict([good, good, bad, loaded])
    assert found["cells"] == 3
    assert found["total_within"] == pytest.approx(2 / 3)
    assert found["worst_total_error"] == bad["total_error"] and found["worst_cell"] == str(CELL)
    assert found["loaded_total_error"] == loaded["total_error"]


def test_cells_are_kept_and_shown(tmp_path: Path) -> None:
    file = tmp_path / "cells.json"
    assert kept(file) == {"cells": [], "predictors": {}}
    cell = json.loads(json.dumps(summary(CELL, facts(), ANSWER)))
    keep(file, {"cells": [cell], "predictors": {"macs": {"within_10pct": 0.4, "mape": 0.3}}})
    found = kept(file)
    assert found["cells"] == [cell]
    lines = list(markdown(found))
    assert lines[2].startswith("| vgg16 rows 1gbit even zmq | 1200 | 1000 |") and "| macs | 40.0% | 30.0% |" in lines


@pytest.mark.parametrize("text", ["", "[]", '{"cells": [{}]}'])
def test_what_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="not a result"):
        kept(tmp_path / "x.json")


def test_a_cell_is_named_by_what_it_is_of() -> None:
    for cell in (CELL, Cell("resnet50", "star", "50mbit", "uneven", "secure", loaded=True)):
        assert Cell.parse(str(cell)) == cell
    for text in ("vgg16", "vgg16:rows:1gbit:odd:zmq", "vgg16:rows:1gbit:even:zmq:busy"):
        with pytest.raises(InputError, match="--cell"):
            Cell.parse(text)
