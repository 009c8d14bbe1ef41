"""Helpers leave all that a program needs in the cache, end with the process that started them, and are never needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fogconv.cluster.compilers.helpers import PROGRAM, WORTH_CONVS, Helpers
from fogconv.hardware.topology import Topology
from fogconv.ir import steps as ir
from fogconv.ir.arrays import blank, is_blank
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.program import Program, encode
from fogconv.kernels.conv.conv import prepare_conv2d
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.quantization.precision import in_precision
from tests.quantized_net import network, on_bytes

pytestmark = pytest.mark.alone

PATIENCE_S = 300.0

BIND = """
import sys
from pathlib import Path
import numpy as np
from fogconv.cluster.executor.executable import Executable
from fogconv.ir import program as ir
program = ir.decode(Path(sys.argv[1]).read_bytes())
Executable(program, {key: np.ones(shape, np.float32) for key, shape in program.weights.items()})
"""


def chain(count: int) -> Program:
    """Convs of 3×3, one after the other."""
    spec = ConvSpec(32, 32, 6, 7, (3, 3), (1, 1), (1, 1, 1, 1))
    whole = Region.whole(32, 6, 7)
    buffers = tuple(ir.Buffer(f"b{n}", whole, (1,) * 4) for n in range(count + 1))
    steps = [ir.Conv(0, spec, "w", None, None, n, whole, n + 1, whole) for n in range(count)]
    run = (ir.Input(0, 0, 0, whole), *steps, ir.Output(0, 0, count, whole))
    return Program(0, 1, 1, ("layer",), buffers, run, {"w": spec.weight_shape})


def code_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix in (".nbc", ".obj")}


def test_two_helpers_compile_all_that_a_program_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, file = tmp_path / "cache", tmp_path / "program"
    monkeypatch.setenv("FOGCONV_CACHE_DIR", str(cache))
    program = chain(WORTH_CONVS)
    helpers = Helpers(program, 1, 2)
    helpers.start()
    for process in helpers._processes:
        assert process.wait(PATIENCE_S) == 0
    helpers.close()
    found = code_files(cache)
    assert any(name.endswith(".obj") for name in found) and any("winograd" in name for name in found)
    file.write_bytes(encode(program))
    environment = {**os.environ, "FOGCONV_CACHE_DIR": str(cache)}
    subprocess.run([sys.executable, "-c", BIND, str(file)], env=environment, check=True, timeout=PATIENCE_S)
    assert code_files(cache) == found, "the program is bound without compiling"


def test_helpers_end_and_their_folder_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOGCONV_CACHE_DIR", str(tmp_path))
    helpers = Helpers(chain(WORTH_CONVS), 1, 1)
    helpers.start()
    [process], folder = list(helpers._processes), helpers._folder
    assert folder is not None and Path(folder).is_dir()
    helpers.close()
    assert process.poll() is not None and not Path(folder).exists()


@pytest.mark.parametrize("what", ["one core", "few convs", "swapped weights", "no cache"])
def test_where_they_would_not_help_none_are_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setenv("FOGCONV_CACHE_DIR", "off" if what == "no cache" else str(tmp_path))
    program = chain(2 if what == "few convs" else WORTH_CONVS)
    if what == "swapped weights":
        program = msgspec.structs.replace(program, swapped=("w",))
    helpers = Helpers(program, 1, 0 if what == "one core" else 1)
    helpers.start()
    assert not helpers._processes
    with helpers.beside():
        pass


def test_a_program_that_was_bound_here_before_is_not_compiled_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOGCONV_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("fogconv.cluster.compilers.helpers.WORTH_BYTES", 1)
    monkeypatch.setattr(Helpers, "start", lambda self: started.append(self))
    started: list[Helpers] = []
    program = chain(WORTH_CONVS)
    Helpers(program, 1, 1).start_ahead({"w"})
    assert len(started) == 1
    with Helpers(program, 1, 1).beside():
        pass
    Helpers(program, 1, 1).start_ahead({"w"})
    assert len(started) == 1, "all of it is in the cache"
    Helpers(program, 1, 1).start_ahead(set())
    assert len(started) == 1, "no weights are on their way"


@pytest.mark.parametrize("algorithm", ["direct", "winograd4"])
def test_a_blank_weight_takes_no_memory_and_is_no_other_array(algorithm: str) -> None:
    spec = ConvSpec(16, 16, 8, 8, (3, 3), (1, 1), (1, 1, 1, 1))
    weight = blank(spec.weight_shape)
    assert is_blank(weight) and not is_blank(np.broadcast_to(np.float32(0), spec.weight_shape))
    assert prepare_conv2d(spec, weight, algorithm=algorithm).algorithm == algorithm


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_helper_walks_a_narrow_program_to_its_end(precision: str, tmp_path: Path) -> None:
    graph = on_bytes().graph if precision == "int8" else in_precision(network(), precision, None)
    topology = Topology.uniform(2, 1e8, 1e10, 1e-7)
    program = lower(graph, plan(graph, topology, PlanOptions("rows"))).programs[1]
    assert set(program.weight_types.values()) >= {"int8" if precision == "int8" else "uint16"}
    (tmp_path / PROGRAM).write_bytes(encode(program))
    command = [sys.executable, "-m", "fogconv.cluster.compilers", str(tmp_path), "1"]
    environment = {**os.environ, "FOGCONV_CACHE_DIR": str(tmp_path / "cache")}
    (tmp_path / "cache").mkdir(mode=0o700)
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as helper:
        assert helper.stderr is not None
        errors = helper.stderr.read()
        assert helper.wait(PATIENCE_S) == 0, errors
