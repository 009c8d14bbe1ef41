"""`fogconv doctor`: what is missing, a sentence each."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from fogconv.cli.commands import doctor as module
from fogconv.cli.commands.doctor import Finding, examine
from tests.cli import program
from tests.cli.program import Outcome

pytestmark = pytest.mark.alone


def call(*arguments: str) -> Outcome:
    return program.call("doctor", *arguments)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checks that start processes."""
    monkeypatch.setattr(module, "_mpi", lambda: Finding("mpi", "ok", "skipped."))
    monkeypatch.setattr(module, "_torchvision", lambda: Finding("torchvision", "ok", "skipped."))


def finding(what: str, hostfile: Path | None = None, port: int = 5555) -> Finding:
    return next(found for found in examine(hostfile, port) if found.what == what)


@pytest.mark.usefixtures("quick")
def test_a_run_is_possible_where_the_tests_run() -> None:
    result = call()
    assert result.exit_code == 0, result.output
    assert "A run is possible here." in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())


@pytest.mark.usefixtures("quick")
def test_json_has_every_finding() -> None:
    found = json.loads(call("--json").stdout)
    assert found["possible"] is True
    whats = {each["what"] for each in found["findings"]}
    assert {"numba", "cache", "zeromq", "port", "torch", "torchvision", "mpi", "demo model", "matplotlib", "onnx"} <= whats
    assert all(each["sentence"].endswith((".", "'")) for each in found["findings"])


def test_mpi_is_tried_and_not_only_imported() -> None:
    found = finding("mpi")
    assert found.state == "ok", found.sentence
    assert "starts two ranks" in found.sentence


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("hidden", "what", "says"),
    [
        ("torch", "torch", "A worker needs none"),
        ("skimage", "photographs", "--image"),
        ("matplotlib", "matplotlib", ".[model]"),
        ("onnx", "onnx", ".[onnx]"),
        ("onnxruntime", "onnxruntime", ".[onnx]"),
        ("pyclipper", "pyclipper", ".[text]"),
        ("efficientnet_lite_pytorch", "demo model", ".[demo]"),
    ],
)
def test_what_is_not_installed_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, hidden: str, what: str, says: str
) -> None:
    usual = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == hidden else usual(name))
    found = finding(what)
    assert found.state == "missing"
    assert says in found.sentence


@pytest.mark.usefixtures("quick")
def test_a_broken_kernel_compiler_makes_a_run_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fogconv.kernels.codegen.isa", None)
    result = call()
    assert result.exit_code == 1
    assert "pip install numba" in " ".join(result.output.split())


@pytest.mark.usefixtures("quick")
def test_a_port_in_use_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        found = finding("port", port=taken.getsockname()[1])
    assert found.state == "missing"
    assert "--bind tcp://*:PORT" in found.sentence


@pytest.mark.usefixtures("quick")
def test_a_hostfile_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1:2\n")
    assert "1 hosts, 2 ranks" in finding("hostfile", path).sentence
    path.write_text("127.0.0.1 slots=2\n")
    assert "line 1" in finding("hostfile", path).sentence
    assert call("--hostfile", str(path)).exit_code == 1
