"""`fogconv speedup`: right figures as a table, JSON and pictures; bad input is one sentence and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fogconv.hardware.presets import presets
from fogconv.hardware.profile import Profile, write_profile
from fogconv.hardware.topology import Topology
from tests.cli import program
from tests.cli.program import Outcome

LAYER = ("--c", "256", "--f", "256", "--k", "3", "--hw", "14")
FIGURES = ("--gamma", "2e-10", "--alpha", "5e-4", "--beta", "3.2e-8", "--message", "1000")


def call(*arguments: str, columns: int = 80) -> Outcome:
    return program.call("speedup", *arguments, environment={**program.PLAIN, "COLUMNS": str(columns)})


def answer(*arguments: str) -> dict[str, Any]:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_a_layer_by_the_papers_formula() -> None:
    [layer] = answer(*LAYER, *FIGURES)["layers"]
    assert layer["bound_s_paper"] == pytest.approx(9 * 256 * 256 * 2e-10 / (512 * (5e-4 / 1000 + 3.2e-8)))
    assert layer["split"] == "output:1"  # more workers would make the wire busier than they help
    assert layer["bound_s_star"] == pytest.approx(layer["bound_s_paper"])
    terms = layer["terms"]
    parts = sum(terms[name] for name in ("part_s", "tx_s", "edge_s", "rx_s", "join_s"))
    assert terms["total_s"] == pytest.approx(parts)
    assert layer["estimate"] == pytest.approx(terms["local_s"] / terms["total_s"])
    assert {"name", "c", "f", "k", "h", "w", "bound_s_paper", "bound_s_star", "estimate", "best_n", "terms"} <= set(layer)


def test_a_broadcast_medium_is_bound_by_s_alone() -> None:
    [layer] = answer(*LAYER, *FIGURES, "--media", "broadcast")["layers"]
    [unicast] = answer(*LAYER, *FIGURES)["layers"]
    assert layer["bound_s_star"] == layer["bound_s_paper"] == unicast["bound_s_paper"]
    assert unicast["estimate"] < layer["estimate"] < layer["bound_gain"]


def test_a_master_does_not_compute_on_a_broadcast_medium() -> None:
    result = call(*LAYER, "--media", "broadcast", "--master-computes", "on")
    assert result.exit_code == 2
    assert "--media broadcast is the paper's model" in result.output


@pytest.mark.parametrize("preset", sorted(presets()))
@pytest.mark.parametrize("net", ["vgg16", "resnet50"])
def test_no_layer_gains_more_than_its_bounds(net: str, preset: str) -> None:
    for layer in answer("--model", net, "--preset", preset)["layers"]:
        assert layer["estimate"] <= layer["bound_s_star"] * (1 + 1e-9) <= layer["bound_s_paper"] * (1 + 1e-8)
        assert layer["estimate"] <= layer["bound_gain"] * (1 + 1e-9)


def test_units_and_symbols_say_the_same() -> None:
    plain = answer(*LAYER, "--gamma", "2e-10", "--alpha", "5e-4", "--beta", "3.2e-7")
    people = answer(*LAYER, "--rate", "10GFLOP/s", "--latency", "0.5ms", "--bandwidth", "100Mbit/s")
    for name in ("bound_s_paper", "bound_s_star", "estimate", "best_n"):
        assert plain["layers"][0][name] == pytest.approx(people["layers"][0][name])


def test_a_net_has_all_its_layers_and_their_sum() -> None:
    found = answer("--model", "vgg16", "--preset", "pi4")
    assert len(found["layers"]) == found["total"]["layers"] == 13
    assert found["total"]["local_s"] == pytest.approx(sum(layer["terms"]["local_s"] for layer in found["layers"]))
    assert found["layers"][0]["name"] == "features.0"


def test_the_trigger_is_the_engines() -> None:
    everything = answer("--model", "vgg16", "--preset", "pi4", "--threshold", "0")["total"]
    nothing = answer("--model", "vgg16", "--preset", "pi4", "--threshold", "inf")["total"]
    rule = answer("--model", "vgg16", "--preset", "pi4", "--trigger", "channels:60")["total"]
    assert (everything["distributed"], nothing["distributed"], rule["distributed"]) == (13, 0, 12)
    assert nothing["chosen_s"] == pytest.approx(nothing["local_s"])
    assert everything["chosen_s"] == pytest.approx(everything["all_distributed_s"])


def test_a_profile_stands_in_for_figures(tmp_path: Path) -> None:
    topology = Topology.uniform(3, 10e9, 12.5e6, 5e-4)
    write_profile(Profile.of(topology), tmp_path / "profile.json")
    found = answer(*LAYER, "--profile", str(tmp_path / "profile.json"))
    plain = answer(*LAYER, "--rate", "10GFLOP/s", "--latency", "0.5ms", "--bandwidth", "100Mbit/s", "-n", "2")
    assert found["total"]["workers"] == 2
    assert found["layers"][0]["estimate"] == pytest.approx(plain["layers"][0]["estimate"])


def test_energy_and_wake_up_time_count() -> None:
    awake = answer(*LAYER, *FIGURES, "--joules-per-mac", "1e-9", "--joules-per-byte", "1e-7")["layers"][0]
    asleep = answer(*LAYER, *FIGURES, "--wake", "100ms")["layers"][0]
    assert awake["energy_j"]["distributed"] > awake["energy_j"]["local"] > 0
    assert asleep["terms"]["tx_s"] >= awake["terms"]["tx_s"] + 0.1


def test_a_sweep_goes_from_end_to_end() -> None:
    points = answer(*LAYER, *FIGURES, "--sweep", "bandwidth=10Mbit..10Gbit")["sweep"]["points"]
    assert points[0]["value"] == pytest.approx(1.25e6) and points[-1]["value"] == pytest.approx(1.25e9)
    bounds = [point["bound_s_paper"] for point in points]
    assert bounds == sorted(bounds)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "arguments", [LAYER, ("--model", "inception_v3"), ("--model", "vgg16", "--sweep", "rate=1GFLOP/s..1TFLOP/s")]
)
def test_tables_fit_the_terminal(columns: int, arguments: tuple[str, ...]) -> None:
    result = call(*arguments, "--preset", "pi4", columns=columns)
    assert result.exit_code == 0
    assert max(len(line.rstrip()) for line in result.stdout.splitlines()) <= columns
    assert "…" not in result.stdout.replace("_pool…", "")[:200]
    assert "pays" in result.stdout or "pay" in result.stdout


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
@pytest.mark.parametrize("subject", [LAYER, ("--model", "alexnet")])
def test_pictures_are_written(tmp_path: Path, suffix: str, subject: tuple[str, ...]) -> None:
    path = tmp_path / f"picture{suffix}"
    assert call(*subject, "--preset", "pi5", "--plot", str(path), "--json").exit_code == 0
    content = path.read_bytes()
    assert len(content) > 10_000
    assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".html": b"<!DOCTYPE html>"}[suffix])


def test_presets_are_listed_with_their_sources() -> None:
    text = call("--presets").stdout
    for name in ("pi3", "pi4", "pi5", "jetson-nano", "mini-pc", "ncnn", "estimates"):
        assert name in text


def test_a_wrong_preset_is_answered_by_the_possible_ones() -> None:
    result = call(*LAYER, "--preset", "pi9")
    assert result.exit_code == 2
    assert all(name in result.stderr for name in presets())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--model vgg16"),
        (("--c", "0"), "--c 0: it must be a whole number of channels from 1"),
        (("--c", "-3"), "--c -3"),
        (("--c", "10", "--groups", "3"), "groups 3"),
        (("--c", "8", "--hw", "2", "--k", "5", "--padding", "0"), "does not fit"),
        (("--c", "8", "--hw", "axb"), "whole number"),
        (("--model", "vgg61"), "vgg16"),
        (("--model", "vgg16", "--c", "3"), "not both"),
        ((*LAYER, "-n", "0"), "--workers 0"),
        ((*LAYER, "-n", "5000"), "from 1 to 1024"),
        ((*LAYER, "--rate", "0GFLOP/s", "--bandwidth", "1Gbit"), "it must be a number of FLOP/s"),
        ((*LAYER, "--rate", "-1GFLOP/s", "--bandwidth", "1Gbit"), "it must be a number of FLOP/s"),
        ((*LAYER, "--rate", "5parsec", "--bandwidth", "1Gbit"), "parsec"),
        ((*LAYER, "--rate", "5GFLOP/s", "--bandwidth", "1Gfoo"), "Gfoo"),
        ((*LAYER, "--rate", "5GFLOP/s", "--bandwidth", "1Gbit", "--latency", "1h"), "unit h"),
        ((*LAYER, "--rate", "5GFLOP/s"), "bandwidth"),
        ((*LAYER, "--gamma", "0", "--beta", "1e-8"), "--gamma 0"),
        ((*LAYER, "--gamma", "1e-10", "--beta", "-1"), "--beta -1"),
        ((*LAYER, "--gamma", "1e-10", "--rate", "1GFLOP/s", "--beta", "1e-8"), "both give γ"),
        ((*LAYER, *FIGURES[:4], "--alpha", "-1", "--beta", "1e-8"), "--alpha -1"),
        ((*LAYER, "--message", "0"), "--message 0"),
        ((*LAYER, "--profile", "/nowhere.json"), "nowhere"),
        ((*LAYER, "--trigger", "maybe"), "channels:N"),
        ((*LAYER, "--threshold", "-1"), "threshold"),
        ((*LAYER, "--plot", "x.pdf"), ".png"),
        ((*LAYER, "--sweep", "depth=1..2"), "bandwidth="),
        ((*LAYER, "--sweep", "bandwidth=1Gbit..1Mbit"), "rise"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], says: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert any(one in result.stderr for one in says.split("|"))
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output


def test_a_profile_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"fogconv_profile": 99, "devices": [], "links": []}')
    result = call(*LAYER, "--profile", str(tmp_path / "old.json"))
    assert result.exit_code == 2 and "version 99" in result.stderr
