"""A profile goes to JSON and back, people may edit it, and what is wrong with it is said in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fogconv.calibration.sample_sizes import random_convs, random_maps
from fogconv.errors import InputError, TopologyError
from fogconv.hardware.latency.predictors import fit
from fogconv.hardware.latency.samples import DeviceLoad, Sample
from fogconv.hardware.profile import Profile, read_profile, write_profile
from fogconv.hardware.topology import Device, Link, Topology

MASTER = Device("master", {"default": 1e-10}, 2e-10, 1e-5, None, 2)
PI = Device(
    "pi", {"default": 4e-10, "winograd": 2e-10}, 4e-10, 2e-5, 900_000_000, 4, "tcp://10.0.0.2:5555", 1e-10, 3e-5, 2e-10,
    map_s_per_byte={"pool": 3e-10, "default": 2e-10},
)  # fmt: skip
TOPOLOGY = Topology((MASTER, PI), {(0, 1): Link(1e-4, 8e-8, 0.01, 1000), (1, 0): Link(2e-4, 9e-8)})


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    write_profile(Profile.of(TOPOLOGY, {"gamma pi": 0.02}), tmp_path / "profile.json")
    document: dict[str, Any] = json.loads((tmp_path / "profile.json").read_text())
    return document


def reread(document: object, tmp_path: Path) -> Profile:
    (tmp_path / "edited.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return read_profile(tmp_path / "edited.json")


def test_a_profile_comes_back_as_it_was(tmp_path: Path) -> None:
    profile = Profile.of(TOPOLOGY, {"gamma pi": 0.02}, "measured on the bench")
    write_profile(profile, tmp_path / "profile.json")
    assert read_profile(tmp_path / "profile.json") == profile
    again = profile.topology()
    assert again.devices == TOPOLOGY.devices
    for pair, link in TOPOLOGY.links.items():
        assert again.link(*pair).s_per_byte == pytest.approx(link.s_per_byte)
        assert (again.link(*pair).wake_s, again.link(*pair).message_elements) == (link.wake_s, link.message_elements)


def test_what_a_throttled_device_on_a_shaped_link_is_like_comes_back() -> None:
    device = Device(
        "fog", {"default": 1e-9}, send_s_per_byte=3e-9, receive_s_per_byte=7e-9, share=0.2, period_s=5e-3, tick_s=4e-3
    )
    links = {pair: Link(1e-4, 8e-9, burst_bytes=125e3) for pair in ((0, 1), (1, 0))}
    again = Profile.of(Topology((device, device), links)).topology()
    assert again.devices == (device, device)
    assert again.links == links


LOAD = DeviceLoad(0.25, 1.5, 0.5, 61.0)
SAMPLES = [
    *(Sample(spec, 1e-3 + spec.macs * 7e-11, LOAD) for spec in random_convs(40, seed=1)),
    *(Sample(spec, 1e-5 + spec.touched * 3e-10, LOAD) for spec in random_maps(27, seed=1)),
]


def predicted(name: str) -> Profile:
    """A profile whose devices were timed; γ says something else."""
    from msgspec.structs import replace

    profile = Profile.of(TOPOLOGY)
    return replace(profile, predictor=name, devices=tuple(device.with_samples(SAMPLES) for device in profile.devices))


@pytest.mark.parametrize("name", ["macs", "mean", "regression"])
def test_a_predictor_in_a_profile_prices_steps_instead_of_gamma(name: str, tmp_path: Path) -> None:
    write_profile(predicted(name), tmp_path / "profile.json")
    device = read_profile(tmp_path / "profile.json").topology().devices[1]
    predictor = fit(name, SAMPLES)
    for sample in SAMPLES[::5]:
        assert device.work_s(sample.spec) == pytest.approx(predictor.seconds(sample.spec, LOAD))
        assert device.scaled(2).work_s(sample.spec) == pytest.approx(predictor.seconds(sample.spec, LOAD) / 2)


def test_samples_come_back_with_their_loads() -> None:
    again = msgspec.json.decode(msgspec.json.encode(predicted("macs")), type=Profile)
    device = again.devices[1]
    assert [sample.sample() for sample in (*device.samples, *device.map_samples)] == SAMPLES


def test_samples_of_older_profiles_have_no_load() -> None:
    document = json.loads(msgspec.json.encode(predicted("macs")))
    for device in document["devices"]:
        device["samples"] = [sample[:8] for sample in device["samples"]]
        del device["map_samples"], device["map_s_per_byte"]
    again = msgspec.json.decode(json.dumps(document), type=Profile)
    assert again.devices[0].samples[0].sample() == Sample(SAMPLES[0].spec, SAMPLES[0].seconds)


@pytest.mark.parametrize("name", ["forest", "boosted"])
def test_a_profile_prices_for_the_load_at_which_it_was_measured(name: str) -> None:
    from msgspec.structs import replace

    convs = random_convs(60, seed=1)
    samples = [Sample(s, 1e-10 * s.macs * (1 + cpu), DeviceLoad(cpu)) for s in convs for cpu in (0.0, 0.8, 0.8)]
    profile = Profile.of(TOPOLOGY)
    devices = tuple(device.with_samples(samples) for device in profile.devices)
    device = replace(profile, predictor=name, devices=devices).topology().devices[1]
    assert device.conv_s(convs[0]) == pytest.approx(1.8e-10 * convs[0].macs, rel=0.2)


def test_a_sample_that_cannot_be_is_refused(tmp_path: Path) -> None:
    document = json.loads(msgspec.json.encode(predicted("macs")))
    document["devices"][1]["samples"][0][7] = 0.0
    with pytest.raises(TopologyError, match=r"a sample of 0\.0 s: it must be positive"):
        reread(document, tmp_path)
    document["devices"][1]["samples"][0][0] = [0, 4]
    with pytest.raises(TopologyError):
        reread(document, tmp_path)


@pytest.mark.parametrize("place", [6, 1, 3])
def test_a_sample_of_another_step_that_cannot_be_is_refused(place: int, tmp_path: Path) -> None:
    document = json.loads(msgspec.json.encode(predicted("macs")))
    document["devices"][1]["map_samples"][0][place] = 0
    with pytest.raises(TopologyError):
        reread(document, tmp_path)


def test_an_unknown_predictor_is_refused(tmp_path: Path) -> None:
    document = json.loads(msgspec.json.encode(predicted("macs"))) | {"predictor": "oracle"}
    with pytest.raises(InputError, match="oracle"):
        reread(document, tmp_path)


def test_a_uniform_topology_keeps_its_links_in_a_profile() -> None:
    uniform = Topology.uniform(3, 10e9, 12.5e6, 1e-3)
    assert Profile.of(uniform).topology().link(2, 0).s_per_byte == pytest.approx(8e-8)


def test_a_hand_written_profile_needs_little(tmp_path: Path) -> None:
    profile = reread(
        {
            "fogconv_profile": 1,
            "devices": [{"name": "a", "gamma_s_per_mac": {"default": 1e-10}}] * 2,
            "links": [
                {"origin": 0, "to": 1, "alpha_s": 1e-3, "beta_s_per_element": 4e-8},
                {"origin": 1, "to": 0, "alpha_s": 1e-3, "beta_s_per_element": 8e-8},
            ],
        },
        tmp_path,
    )
    assert profile.topology().link(0, 1).bandwidth_bytes_per_s == pytest.approx(1e8)


def test_another_version_is_refused(document: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="version 2"):
        reread(document | {"fogconv_profile": 2, "unheard_of": 1}, tmp_path)


def test_a_missing_link_is_refused(document: dict[str, Any], tmp_path: Path) -> None:
    document["links"] = document["links"][:1]
    with pytest.raises(TopologyError, match=r"edited\.json: the link 1→0 is missing"):
        reread(document, tmp_path)


@pytest.mark.parametrize("value", [0, -1e-9])
def test_rates_that_cannot_be_are_refused(document: dict[str, Any], tmp_path: Path, value: float) -> None:
    broken = json.loads(json.dumps(document))
    broken["links"][0]["beta_s_per_element"] = value
    with pytest.raises(TopologyError, match="link 0→1: beta_s_per_element"):
        reread(broken, tmp_path)
    broken = json.loads(json.dumps(document))
    broken["devices"][1]["gamma_s_per_mac"]["winograd"] = value
    with pytest.raises(TopologyError, match="device pi: γ of 'winograd'"):
        reread(broken, tmp_path)


def test_a_negative_latency_is_refused(document: dict[str, Any], tmp_path: Path) -> None:
    document["links"][1]["alpha_s"] = -1
    with pytest.raises(TopologyError, match="link 1→0: latency_s is -1"):
        reread(document, tmp_path)


def test_the_same_link_twice_is_refused(document: dict[str, Any], tmp_path: Path) -> None:
    document["links"].append(document["links"][0])
    with pytest.raises(TopologyError, match="twice"):
        reread(document, tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"fogconv_profile": 1}', '{"fogconv_profile": "1"}', '{"fogconv_profile": 1, "devices": 3}'],
)
def test_what_is_no_profile_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="not a profile"):
        reread(text, tmp_path)


def test_an_unknown_field_is_named(document: dict[str, Any], tmp_path: Path) -> None:
    document["devices"][0]["gama"] = 1
    with pytest.raises(TopologyError, match="gama"):
        reread(document, tmp_path)


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="nowhere"):
        read_profile(tmp_path / "nowhere.json")
    (tmp_path / "latin.json").write_bytes(b'{"fogconv_profile": 1, "note": "\xff"}')
    with pytest.raises(TopologyError, match="latin"):
        read_profile(tmp_path / "latin.json")
    with pytest.raises(TopologyError, match="can't be written"):
        write_profile(Profile.of(TOPOLOGY), tmp_path / "no" / "folder.json")


LINKS = """{
  "fogconv_profile": 1,
  "devices": [
    {"name": "pi", "gamma_s_per_mac": {"default": 1e-10}, "tier": "device"},
    {"name": "box", "gamma_s_per_mac": {"default": 1e-11}, "tier": "edge"}
  ],
  "links": [{"origin": 0, "to": 1, "alpha_s": 0.0002, "beta_s_per_element": 3.2e-7, "message_elements": 1000, "wake_s": 0.01,
             "joules_per_byte": 1e-8, "burst_bytes": 125000.0, "wake_joules": 0.5}],
  "tier_links": [{"origin": "device", "to": "edge", "alpha_s": 0.002, "beta_s_per_element": 1.8e-6}]
}"""
"""As files had it when links of ranks and of tiers were two types."""


def test_links_of_ranks_and_of_tiers_are_read_and_written_as_before(tmp_path: Path) -> None:
    profile = reread(LINKS, tmp_path)
    write_profile(profile, tmp_path / "again.json")
    written = json.loads((tmp_path / "again.json").read_text())
    rank, tier = written["links"][0], written["tier_links"][0]
    assert list(rank.items()) == list(json.loads(LINKS)["links"][0].items())
    assert list(tier)[:4] == ["origin", "to", "alpha_s", "beta_s_per_element"]
    assert list(tier) == list(rank)
    assert tier | json.loads(LINKS)["tier_links"][0] == tier


@pytest.mark.parametrize(("list_name", "end"), [("links", "device"), ("tier_links", 0)])
def test_a_rank_is_no_tier(list_name: str, end: object, tmp_path: Path) -> None:
    document = json.loads(LINKS)
    document[list_name][0]["origin"] = end
    with pytest.raises(TopologyError, match=rf"Expected `(int|str)`, got `(str|int)` - at `\$\.{list_name}\[0\]\.origin`"):
        reread(document, tmp_path)
