"""The bench of the model: what it makes of what was measured. (Measuring needs root and half an hour.)"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.model_accuracy import TERMS, markdown, merged, parse_case, summary
from fogconv.errors import InputError

pytestmark = pytest.mark.alone


def run(total_s: float) -> dict[str, Any]:
    def layer(name: str, predicted_s: float) -> dict[str, Any]:
        terms = dict.fromkeys(TERMS, 0.0)
        return {
            "name": name,
            "predicted": terms | {"total_s": predicted_s},
            "formula": terms | {"total_s": 2.0},
            "measured": terms | {"total_s": total_s},
        }

    return {"latency_s": 10.0, "layers": [layer("a", 1.1), layer("b", 0.8), layer("c", 1.0)]}


def test_errors_are_against_the_mean_of_the_inferences() -> None:
    found = summary("vgg16", "1gbit", 2, [run(0.5), run(1.5)], {})
    assert [layer["error"] for layer in found["layers"]] == [pytest.approx(error) for error in (0.1, -0.2, 0.0)]
    assert found["median_layer_error"] == pytest.approx(0.1)
    assert found["total_error"] == pytest.approx(0.1 / 10)
    assert found["formula"] == {"median_layer_error": pytest.approx(1.0), "total_error": pytest.approx(3 / 10)}


def test_runs_of_single_cases_are_put_together(tmp_path: Path) -> None:
    old, new, other = (
        summary("vgg16", rate, 2, [run(t)], {}) for rate, t in (("1gbit", 1.0), ("1gbit", 2.0), ("100mbit", 1.0))
    )
    files = []
    for number, (case, scores) in enumerate(((old, {}), (new, {"macs": {"within_10pct": 0.4, "mape": 0.3}}), (other, {}))):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps({"cases": [case], "predictors": scores}))
    found = merged(files)
    assert [case["rate"] for case in found["cases"]] == ["1gbit", "100mbit"]
    assert found["cases"][0]["median_layer_error"] == new["median_layer_error"]
    lines = list(markdown(found))
    assert lines[2].startswith("| vgg16 | 100mbit | 2 |") and "| macs | 40.0% | 30.0% |" in lines


@pytest.mark.parametrize("text", ["", "[]", '{"cases": [{}]}'])
def test_what_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="not a result"):
        merged([tmp_path / "x.json"])


def test_a_case_is_named_by_its_net_its_links_and_its_workers() -> None:
    assert parse_case("vgg16:1gbit:4") == ("vgg16", "1gbit", 4)
