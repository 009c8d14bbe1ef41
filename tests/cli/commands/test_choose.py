"""`fogconv choose`: the zoo's models against limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fogconv.hardware.presets import preset
from fogconv.hardware.profile import Profile, write_profile
from fogconv.hardware.topology import Topology
from tests.cli import program
from tests.cli.program import PLAIN, Outcome

FEW = ("squeezenet1_1", "mobilenet_v3_small", "vgg16", "vgg11")


def call(*arguments: str, width: int = 80) -> Outcome:
    return program.call("choose", *arguments, environment=PLAIN | {"COLUMNS": str(width)})


@pytest.mark.parametrize("width", [80, 120])
def test_models_come_in_two_tables_that_fit_the_screen(width: int) -> None:
    result = call(*FEW, "--deadline", "60ms", "--memory", "900M", "--energy", "2J", width=width)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(len(line) <= width for line in lines)
    meet, miss = lines.index(next(line for line in lines if line.startswith("Meet"))), result.stdout.index("Miss it")
    assert "60 ms, 900 MB, 2 J" in lines[meet]
    assert result.stdout.index("mobilenet_v3_small") < result.stdout.index("squeezenet1_1") < miss
    assert miss < result.stdout.index("vgg11") < result.stdout.index("vgg16")
    assert "deadline" in result.stdout[miss:]


def test_json_has_all_figures_in_the_table_s_order() -> None:
    result = call(*FEW, "--deadline", "60ms", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [each["model"] for each in document["models"]] == ["mobilenet_v3_small", "squeezenet1_1", "vgg11", "vgg16"]
    first, *_, last = document["models"]
    assert first["meets_all"] and first["seconds"] < 0.06 and first["joules"] > 0 and first["memory_bytes"] > 3e8
    assert not last["meets_all"] and last["missed"]["deadline"] > 1
    assert document["limits"] == {"seconds": 0.06, "memory_bytes": None, "joules": None}
    assert "torchvision" in document["accuracy_source"] and document["untried"] == []


def test_enough_models_end_the_search() -> None:
    result = call(*FEW, "--deadline", "60ms", "--most", "1")
    assert "1 less accurate model was not tried" in result.stdout and "squeezenet1_1" not in result.stdout


def test_no_model_may_be_left() -> None:
    result = call("vgg16", "--deadline", "1ms")
    assert result.exit_code == 0
    assert "No model meets 1 ms." in result.stdout


def test_energy_needs_known_power(tmp_path: Path) -> None:
    write_profile(Profile.of(Topology.uniform(2, 10e9, 1e8)), tmp_path / "measured.json")
    result = call("squeezenet1_1", "--profile", str(tmp_path / "measured.json"), "--energy", "1J")
    assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1
    assert "busy_watts" in result.stderr and "rank 0" in result.stderr
    without = call("squeezenet1_1", "--profile", str(tmp_path / "measured.json"))
    assert without.exit_code == 0 and "energy" not in without.stdout
    write_profile(Profile.of(preset("pi5").topology(1)), tmp_path / "with.json")
    assert "energy" in call("squeezenet1_1", "--profile", str(tmp_path / "with.json"), "--energy", "1J").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("vit_b_16",), "only torch"),
        (("resnet5",), "did you mean"),
        (("--deadline", "0s"), "from 1e-6"),
        (("--energy", "1W"), "J, mJ or kJ"),
        (("--memory", "1M"), "320M"),
        (("--cluster", "inproc://1", "--preset", "pi4"), "measured"),
        (("--measure",), "--cluster"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], says: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert says in result.stderr and len(result.stderr.strip().splitlines()) == 1
