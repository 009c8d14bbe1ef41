"""`fogconv cuts`: each place to cut, over several links, as tables, a picture and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli import program
from tests.cli.program import PLAIN, Outcome


def call(*arguments: str, width: int = 80) -> Outcome:
    return program.call("cuts", *arguments, environment=PLAIN | {"COLUMNS": str(width)})


@pytest.mark.parametrize("width", [80, 120])
def test_the_best_cuts_are_starred_in_tables_that_fit_the_screen(width: int, tmp_path: Path) -> None:
    picture = tmp_path / "cuts.svg"
    result = call("vgg16", "--cuts", "shrinking", "--speeds", "1,10", "--plot", str(picture), width=width)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(len(line) <= width for line in lines)
    heads = [line for line in lines if line.startswith("cut after")]
    assert len(heads) == 2 and all("17.5 Mbit/s" in head and "17.5 kbit/s" in head for head in heads)
    assert sum(line.count("*") for line in lines if not line.startswith("*")) >= 8, "one for each link, in both tables"
    for name in ("input", "features.4", "classifier.0", "output"):
        assert sum(line.startswith(name) for line in lines) == 2
    assert "<svg" in picture.read_text()


def test_json_has_every_cut_of_every_link() -> None:
    result = call("alexnet", "--bandwidths", "100Mbit,100kbit", "--rate", "10GFLOP/s", "--speeds", "1,20", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [each["bandwidth_bytes_per_s"] for each in document["curves"]] == [12.5e6, 12.5e3]
    near, far = document["curves"]
    assert len(near["seconds"]) == len(document["cuts"]) and near["joules"] == [None] * len(document["cuts"])
    assert far["best_s"] > near["best_s"] and near["best_j"] is None
    assert near["seconds"][near["best_s"]] == min(near["seconds"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("vgg16", "--bandwidths", "1Mbit,fast"), "bandwidth fast"),
        (("vgg61",), "did you mean"),
        (("vgg16", "--wire", "lossless"), "name one coding"),
    ],
)
def test_bad_input_is_a_sentence(arguments: tuple[str, ...], says: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr and "Traceback" not in result.output
