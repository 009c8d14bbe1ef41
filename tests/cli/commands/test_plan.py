"""`fogconv plan`: what it says of other schemes, and of the noise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fogconv.hardware.presets import preset
from fogconv.hardware.profile import Profile, write_profile
from tests.cli import program
from tests.cli.program import PLAIN, Outcome


def call(*arguments: str, width: int = 80) -> Outcome:
    return program.call("plan", "squeezenet1_1", *arguments, environment=PLAIN | {"COLUMNS": str(width)})


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels by which nothing can be told apart."""
    spreads = {
        f"gamma rank {rank} {kind}": 5.0 for rank in range(3) for kind in ("direct1x1", "winograd", "first", "direct")
    }
    path = tmp_path_factory.mktemp("noise") / "profile.json"
    write_profile(Profile.of(preset("pi4").topology(2), spreads), path)
    return path


@pytest.mark.parametrize("width", [80, 120])
def test_schemes_within_the_noise_are_named(profile: Path, width: int) -> None:
    result = call("--profile", str(profile), width=width)
    assert result.exit_code == 0, result.output
    line = " ".join(result.stdout.splitlines()[-2:])
    assert "within the noise of: rows (the same plan)" in line and "local" in line
    assert all(len(each) <= width for each in result.stdout.splitlines())


def test_without_spreads_other_schemes_are_only_listed() -> None:
    result = call("--ranks", "3", "--preset", "pi4", "--scheme", "rows")
    assert result.stdout.splitlines()[-2].startswith("within the noise of: auto (the same plan)")
    assert result.stdout.splitlines()[-1].startswith("other schemes: ")
    assert all(scheme in result.stdout.splitlines()[-1] for scheme in ("star", "depth", "local"))


def test_json_has_the_noise(profile: Path) -> None:
    noise = json.loads(call("--profile", str(profile), "--json").stdout)["noise"]
    assert noise["known"] and "rows" in noise["within"] and noise["schemes"]["rows"]["same_plan"]
    assert noise["schemes"]["local"]["noise_s"] > 0 and noise["schemes"]["local"]["predicted_s"] > 0
    unknown = json.loads(call("--ranks", "3", "--json").stdout)["noise"]
    assert not unknown["known"] and unknown["schemes"]["local"]["noise_s"] is None
