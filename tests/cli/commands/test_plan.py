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
    assert "within the noise of: tiles (the same plan)" in line and "rows" in line and "local" in line
    assert all(len(each) <= width for each in result.stdout.splitlines())


def test_without_spreads_other_schemes_are_only_listed() -> None:
    result = call("--ranks", "3", "--preset", "pi4", "--scheme", "tiles")
    foot = " ".join(result.stdout.partition("within the noise of: ")[2].split())
    assert foot.startswith("auto (the same plan) other schemes: ")
    assert all(scheme in foot for scheme in ("star", "depth", "rows", "local"))


def test_json_has_the_noise(profile: Path) -> None:
    noise = json.loads(call("--profile", str(profile), "--json").stdout)["noise"]
    assert noise["known"] and "tiles" in noise["within"] and noise["schemes"]["tiles"]["same_plan"]
    assert noise["schemes"]["local"]["noise_s"] > 0 and noise["schemes"]["local"]["predicted_s"] > 0
    unknown = json.loads(call("--ranks", "3", "--json").stdout)["noise"]
    assert not unknown["known"] and unknown["schemes"]["local"]["noise_s"] is None


def test_tiers_and_pins_are_in_the_table_the_picture_and_the_json(tmp_path: Path) -> None:
    """Where a link between two tiers is missing, one sentence says which."""
    described = json.loads(profile_text(("device", "edge", "cloud")))
    path, picture = tmp_path / "tiers.json", tmp_path / "plan.svg"
    path.write_text(json.dumps(described))
    arguments = ("--profile", str(path), "--scheme", "offload", "--pin", "features.0=2")
    table = call(*arguments, "--plot", str(picture))
    assert table.exit_code == 0, table.output
    assert "rank:2 pinned" in table.stdout and "pinned: --pin or" in " ".join(table.stdout.split())
    assert [f"{rank} ({tier})" in table.stdout for rank, tier in enumerate(("device", "edge", "cloud"))] == [True] * 3
    drawn = picture.read_text()
    assert "pinned" in drawn and "(cloud)" in drawn
    found = json.loads(call(*arguments, "--json").stdout)
    assert [card["tier"] for card in found["cards"]] == ["device", "edge", "cloud"]
    assert [layer["name"] for layer in found["layers"] if layer["pinned"]] == ["features.0"]
    described["tier_links"] = described["tier_links"][:1]
    path.write_text(json.dumps(described))
    refused = call("--profile", str(path))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "has no link to the tier" in refused.stderr and refused.stderr.count("\n") == 1


def profile_text(tiers: tuple[str, ...]) -> str:
    """A cluster whose only links are those between tiers."""
    devices = [
        {"name": f"rank {rank}", "gamma_s_per_mac": {"default": 1e-9 / (1 + rank)}, "tier": tier}
        for rank, tier in enumerate(tiers)
    ]
    pairs = [(one, other) for place, one in enumerate(tiers) for other in tiers[place + 1 :]]
    links = [{"origin": one, "to": other, "alpha_s": 1e-4, "beta_s_per_element": 4e-7} for one, other in pairs]
    return json.dumps({"fogconv_profile": 1, "devices": devices, "links": [], "tier_links": links})
