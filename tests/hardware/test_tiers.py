"""Tiers: which links ranks get from them, in a profile and by a hostfile, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fogconv.calibration.members import tiers_of
from fogconv.errors import TopologyError
from fogconv.hardware.profile import Profile, read_profile, write_profile
from fogconv.hardware.tiers import check_tier, linked, shown_in


def profile(tmp_path: Path, tiers: list[str], links: list[tuple[int, int]], between: list[tuple[str, str, float]]) -> Path:
    """Bandwidths of ranks' own links are 1 MB/s; a tier link's is given in MB/s."""
    devices = [{"name": f"d{rank}", "gamma_s_per_mac": {"default": 1e-10}, "tier": tier} for rank, tier in enumerate(tiers)]
    own: list[Any] = [{"origin": i, "to": j, "alpha_s": 1e-3, "beta_s_per_element": 4e-6} for i, j in links]
    tier_links = [
        {"origin": origin, "to": to, "alpha_s": 2e-3, "beta_s_per_element": 4e-6 / speed} for origin, to, speed in between
    ]
    path = tmp_path / "profile.json"
    path.write_bytes(msgspec.json.encode({"fogconv_profile": 1, "devices": devices, "links": own, "tier_links": tier_links}))
    return path


def test_ranks_without_a_link_of_their_own_have_their_tiers(tmp_path: Path) -> None:
    stars = [(0, 1), (1, 0)]
    between = [("device", "edge", 2.0), ("edge", "cloud", 50.0), ("device", "cloud", 3.0), ("cloud", "device", 4.0)]
    topology = read_profile(profile(tmp_path, ["device", "edge", "edge", "cloud"], stars, between)).topology()
    speed = {pair: round(topology.link(*pair).bandwidth_bytes_per_s / 1e6, 6) for pair in topology.links}
    assert speed[0, 1] == speed[1, 0] == 1.0, "its own"
    assert speed[0, 2] == speed[2, 0] == 2.0, "the way back is the same"
    assert (speed[0, 3], speed[3, 0]) == (3.0, 4.0), "unless it is listed"
    assert speed[1, 3] == speed[3, 2] == 50.0, "not by the master's slower links"
    assert topology.link(1, 2).latency_s == 2e-3, "derived: within a tier its links to the master tell"
    assert [device.tier for device in topology.devices] == ["device", "edge", "edge", "cloud"]


@pytest.mark.parametrize("stars", [[], [(0, 1), (1, 0), (0, 2), (2, 0)]])
def test_a_tier_without_a_link_is_one_sentence(tmp_path: Path, stars: list[tuple[int, int]]) -> None:
    path = profile(tmp_path, ["device", "edge", "cloud"], stars, [("device", "edge", 2.0)])
    with pytest.raises(TopologyError, match=r"tier cloud \(rank 2\) has no link to the tier (device|edge)") as found:
        read_profile(path)
    assert "\n" not in str(found.value) and found.value.exit_code == 2


def test_tiers_alone_change_no_links(tmp_path: Path) -> None:
    stars = [(0, 1), (1, 0), (0, 2), (2, 0)]
    topology = read_profile(profile(tmp_path, ["device", "edge", "cloud"], stars, [])).topology()
    assert set(topology.links) == set(stars)
    with pytest.raises(TopologyError, match="0→1 is missing"):
        read_profile(profile(tmp_path, ["device", "edge"], [], []))


@pytest.mark.parametrize(
    ("tiers", "between", "complaint"),
    [
        (["fog", "edge"], [("device", "edge", 1.0)], "it is device, edge or cloud"),
        (["device", "edge"], [("device", "fog", 1.0)], "it is device, edge or cloud"),
        (["device", "edge"], [("device", "edge", 1.0), ("device", "edge", 2.0)], "given twice"),
    ],
)
def test_bad_tiers_are_refused(
    tmp_path: Path, tiers: list[str], between: list[tuple[str, str, float]], complaint: str
) -> None:
    with pytest.raises(TopologyError, match=complaint):
        read_profile(profile(tmp_path, tiers, [], between))


def test_a_hostfile_says_the_tiers_and_a_profile_their_links(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("#fogconv tier=edge\na:2\n#fogconv tier=cloud\nb\nc\n")
    assert tiers_of(str(hosts)) == {0: "device", 1: "edge", 2: "edge", 3: "cloud"}
    assert tiers_of("inproc://2") == tiers_of("") == {}
    hosts.write_text("a\n")
    assert tiers_of(str(hosts)) == {}
    path = profile(tmp_path, ["", ""], [(0, 1), (1, 0)], [("device", "cloud", 8.0)])
    found = read_profile(path)
    assert found.topology().devices[1].tier == ""
    assert found.topology("it", {0: "device", 1: "cloud"}).devices[1].tier == "cloud"


def test_a_tier_stays_in_a_profile_that_is_written(tmp_path: Path) -> None:
    topology = read_profile(profile(tmp_path, ["device", "edge"], [], [("device", "edge", 2.0)])).topology()
    write_profile(Profile.of(topology), tmp_path / "again.json")
    again = read_profile(tmp_path / "again.json").topology()
    assert [device.tier for device in again.devices] == ["device", "edge"]
    assert again.link(0, 1) == topology.link(0, 1)
    assert topology.in_tiers({1: "cloud", 7: "edge"}).devices[1].tier == "cloud"


def test_names() -> None:
    assert shown_in("pi", "edge") == "pi (edge)" and shown_in("pi", "") == "pi"
    assert check_tier("cloud") == "cloud"
    assert linked(["device", "edge"], {}, {}) == {}
