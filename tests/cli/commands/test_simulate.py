"""`fogconv simulate`: a net's own programs on a cluster that is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli import program
from tests.cli.program import Outcome

SLOW = ("--rate", "1GFLOP/s", "--bandwidth", "10Gbit")
"""Devices so slow that a small net is worth sharing."""


def call(*arguments: str) -> Outcome:
    return program.call("simulate", *arguments)


def answer(*arguments: str) -> dict[str, Any]:
    result = call("squeezenet1_1", "--size", "64", *arguments, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_a_net_runs_and_leaves_a_timeline(tmp_path: Path) -> None:
    found = answer(*SLOW, "-n", "2", "--scheme", "rows", "--trace", str(tmp_path / "trace.json"))
    assert found["workers"] == 2 and found["latency_s"] > 0
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1, 2}


def test_a_straggler_that_the_plan_does_not_know_costs_time() -> None:
    common = (*SLOW, "-n", "3", "--scheme", "rows")
    even, slow = answer(*common), answer(*common, "--straggler", "2x8")
    assert slow["latency_s"] > 2 * even["latency_s"]


def test_a_shared_access_point_costs_time() -> None:
    common = ("--rate", "10GFLOP/s", "--bandwidth", "1Gbit", "-n", "4", "--scheme", "rows")
    cables = answer(*common)
    radio = answer(*common, "--access-points", "1", "--access-point-bandwidth", "50Mbit/s")
    assert radio["latency_s"] > 2 * cables["latency_s"]


@pytest.mark.parametrize("wish", [("--scheme", "pipeline"), ("--scheme", "replicas"), ("--objective", "throughput")])
def test_a_stream_is_simulated_with_its_frames_in_flight(wish: tuple[str, ...]) -> None:
    """With one frame the rate was that of one picture at a time, beside a prediction of six times as many."""
    found = answer(*SLOW, "-n", "3", *wish)
    assert len(found["latencies_s"]) > found["workers"]
    assert found["frames_per_s"] == pytest.approx(found["predicted_frames_per_s"], rel=0.02)
    assert found["frames_per_s"] > 1.5 / found["alone_s"]
    assert len(answer(*SLOW, "-n", "3", *wish, "--inferences", "2")["latencies_s"]) == 2


def test_a_simulation_longer_than_its_clock_is_refused() -> None:
    found = call("vgg16", "--rate", "0.001", "--bandwidth", "1Gbit", "-n", "1", "--scheme", "local")
    assert found.exit_code == 2 and not found.stdout
    assert "9e9 s" in found.stderr and len(found.stderr.splitlines()) == 1


def test_a_training_step_is_predicted_layer_by_layer() -> None:
    found = answer(*SLOW, "-n", "2", "--train", "--batch", "2", "--threshold", "0")
    assert found["workers"] == 2 and found["batch"] == 2
    assert len(found["layers"]) == 26
    terms = ("forward_s", "input_s", "weight_s", "transfers_s")
    for layer in found["layers"]:
        assert layer["total_s"] == pytest.approx(sum(layer[term] for term in terms))
    assert found["predicted_s"] == pytest.approx(sum(layer["total_s"] for layer in found["layers"]))
    assert answer(*SLOW, "-n", "2", "--train", "--threshold", "0")["predicted_s"] > found["predicted_s"]  # of 8 images


def test_a_training_step_as_a_table() -> None:
    found = call("squeezenet1_1", "--size", "64", *SLOW, "-n", "2", "--train")
    assert found.exit_code == 0
    assert "a training step of 8 images" in found.stdout and "features.0" in found.stdout and "grad w" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("squeezenet1_1", "--batch", "4"), "--batch is for --train"),
        (("squeezenet1_1", "--train", "--scheme", "rows"), "--scheme rows is for inferences"),
        (("squeezenet1_1", "--train", "--inferences", "3"), "--inferences is for inferences"),
        (("squeezenet1_1", "--train", "--in-flight", "2"), "--in-flight is for inferences"),
        (("squeezenet1_1", "--train", "--wire", "fp16"), "--wire fp16 is for inferences"),
        (("squeezenet1_1", "--train", "--trace", "trace.json"), "--trace is for inferences"),
        (("squeezenet1_1", "--train", "--parts", "9"), "--parts 9 asks for 9 ranks"),
        (("vgg61",), "vgg16"),
        (("squeezenet1_1", "--straggler", "9x2"), "ranks 0 to 4"),
        (("squeezenet1_1", "--straggler", "fast"), "RANKxFACTOR"),
        (("squeezenet1_1", "--speeds", "1,x"), "commas"),
        (("squeezenet1_1", "--speeds", "1,0"), "a number from 1e-6"),
        (("squeezenet1_1", "--jitter", "-1"), "jitter"),
        (("squeezenet1_1", "--threshold", "-1"), "threshold"),
        (("squeezenet1_1", "-n", "0"), "--workers 0"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], says: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr and len(result.stderr.strip().splitlines()) == 1
