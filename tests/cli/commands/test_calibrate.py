"""`fogconv calibrate`: a profile from a real (in-process) cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fogconv.calibration import calibration, sample_sizes
from fogconv.cli.commands import calibrate as command
from fogconv.hardware.latency.predictors import FITS
from fogconv.hardware.profile import Stability, read_profile
from tests.cli import program
from tests.cli.program import Outcome

pytestmark = pytest.mark.alone


def call(*arguments: str) -> Outcome:
    return program.call("calibrate", *arguments)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two kernel classes in one pass: the test is of the command."""
    monkeypatch.setattr(calibration, "BUDGET_S", 0.0)
    monkeypatch.setattr(
        calibration.calibrate,
        "__kwdefaults__",
        calibration.calibrate.__kwdefaults__ | {"specs": calibration.QUICK[:3] + calibration.QUICK_MAPS[1:2]},
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("brief")
def test_a_cluster_becomes_a_profile(tmp_path: Path) -> None:
    result = call("--cluster", "inproc://2", "--out", str(tmp_path / "profile.json"))
    assert result.exit_code == 0, result.output
    topology = read_profile(tmp_path / "profile.json").topology()
    assert len(topology) == 3
    assert all(device.gamma("winograd") > 0 for device in topology.devices)
    for text in ("Devices", "Links", "0→2", "2→0", "winograd", "too fast to tell"):
        assert text in result.stdout
    assert "Tbit/s" not in result.stdout
    assert "GB/s through memory: pool" in " ".join(result.stdout.split())


@pytest.mark.usefixtures("brief")
def test_the_profile_comes_as_json_too() -> None:
    result = call("--cluster", "inproc://1", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["fogconv_profile"] == 1 and len(document["devices"]) == 2 and document["spreads"]


@pytest.mark.usefixtures("brief")
def test_it_says_whether_a_plan_would_change_within_the_spreads(tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    result = call("--cluster", "inproc://1", "--model", "squeezenet1_1", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "at the ends of their spreads" in result.stdout and "squeezenet1_1" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    found = read_profile(out).stability
    assert found is not None and found.model == "squeezenet1_1" and 0 <= found.together <= found.layers
    assert "alpha 0↔1" in found.changes


@pytest.mark.usefixtures("brief")
def test_without_workers_there_is_no_plan_that_could_change() -> None:
    assert "ends of their spreads" not in call().stdout


def test_a_model_without_a_graph_is_a_sentence_before_anything_is_measured() -> None:
    result = call("--model", "vit_b_16")
    assert result.exit_code == 2 and "only torch" in result.stderr and result.stdout == ""


@pytest.mark.parametrize(
    ("changes", "together", "says"),
    [
        ({"alpha 0↔1": 0}, 0, "no layer of"),
        ({"alpha 0↔1": 3, "beta 0→1": 0}, 5, "up to 5 of 20 layers of squeezenet1_1 are cut otherwise; 1 rate alone"),
        ({"alpha 0↔1": None, "beta 0→1": 0}, 5, "no time to try 1 of them"),
    ],
)
def test_the_verdict_says_what_was_tried(changes: dict[str, int | None], together: int, says: str) -> None:
    assert says in command._verdict(Stability("squeezenet1_1", 20, together, changes))


@pytest.mark.usefixtures("brief")
def test_a_predictor_goes_into_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SAMPLES", 4)
    monkeypatch.setattr(command, "MAP_SAMPLES", 2)
    monkeypatch.setattr(sample_sizes, "NET_STEPS", (*calibration.QUICK[:3], *calibration.QUICK_MAPS[2:4]))
    result = call("--cluster", "inproc://1", "--predictor", "macs", "--out", str(tmp_path / "profile.json"))
    assert result.exit_code == 0, result.output
    assert "predicts steps by macs" in result.stdout and "add" in result.stdout
    profile = read_profile(tmp_path / "profile.json")
    assert profile.predictor == "macs"
    assert [(len(device.samples), len(device.map_samples)) for device in profile.devices] == [(7, 4)] * 2
    sample = profile.devices[1].samples[0].sample()
    assert profile.topology().devices[1].conv_s(sample.spec) > 0


def test_a_wrong_predictor_is_answered_by_the_possible_ones() -> None:
    result = call("--predictor", "oracle")
    assert result.exit_code == 2
    assert all(name in result.stderr for name in (*FITS, "all"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--cluster", "inproc://x"), "inproc://N"),
        (("--cluster", "/nowhere"), "nowhere"),
        (("--out", "/no/folder/p.json"), "no folder"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], says: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr and len(result.stderr.strip().splitlines()) == 1
