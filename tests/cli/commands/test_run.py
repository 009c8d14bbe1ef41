"""`fogconv run`: what it prints, and that bad input is one sentence with exit code 2."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import nn

from fogconv.cli import app
from fogconv.cli.output.summary import MOST_LINES
from fogconv.planning.scheme_options import WIRES
from fogconv.planning.schemes import Scheme
from fogconv.runtime.engine import Engine, Inference
from fogconv.simulation.layer_times import STAR_TERMS, TERMS
from tests import seeded_models as models
from tests.cluster.launch import MPIRUN, environment, free_port, mpirun, process, wait_until_listening

pytestmark = pytest.mark.alone

RUN = "from fogconv.cli.app import main_run; main_run()"
STARTED_RUN = """
import os, signal
from fogconv.cli.app import main_run
from fogconv.cli.process.interrupt import leave_at_once
from fogconv.cluster.transport.mpi import endpoint
signal.signal(signal.SIGINT, leave_at_once)
told, initialise = os.dup(1), endpoint._mortally
def initialised(*arguments):
    initialise(*arguments)
    os.write(told, b"initialised\\n")
endpoint._mortally = initialised
os.write(told, b"started\\n")
main_run()
"""
"""The same, which says when Python has started, before which an interrupt is Python's own, and when MPI has, before which it
ends ranks by the signal. A busy machine takes long for both."""
WORKER = "import sys; sys.modules['torch'] = None; from fogconv.cli.app import main_worker; main_worker()"
QUICK = ("squeezenet1_1", "--weights", "random", "--size", "64", "--repeat", "1")

Program = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Program]:
    """fogconv-run in this process: (exit code, stdout, stderr)."""
    before = signal.getsignal(signal.SIGINT)
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)

    def program(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fogconv-run", *arguments])
        with pytest.raises(SystemExit) as left:
            app.main_run()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    yield program
    signal.signal(signal.SIGINT, before)


def await_ranks(child: subprocess.Popen[str], said: str, ranks: int = 1) -> None:
    """Wait until each rank of `STARTED_RUN` has said this."""
    assert child.stdout is not None
    while ranks:
        line = child.stdout.readline()
        assert line, "it ended too early"
        ranks -= line == f"{said}\n"


def check_sentence(code: int, err: str, *words: str) -> None:
    assert code == 2, err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("fogconv-run: ")
    for word in words:
        assert word in err


def test_a_near_name_is_suggested_for_an_unknown_model(run: Program) -> None:
    code, _, err = run("resnet5O")
    check_sentence(code, err, "no model called resnet5O", "resnet50")


def test_a_missing_image_is_named(run: Program, tmp_path: Path) -> None:
    code, _, err = run("resnet18", "--image", str(tmp_path / "nowhere.png"))
    check_sentence(code, err, "--image", "nowhere.png", "No such file")


def test_a_file_that_is_no_image_is_named(run: Program, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    code, _, err = run("resnet18", "--image", str(path))
    check_sentence(code, err, "notes.png is not an image")


def test_the_first_weight_that_does_not_fit_is_named(run: Program, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = models.model("resnet18", 64).module.state_dict()
    torch.save({**state, "conv1.weight": torch.zeros(64, 3, 5, 5)}, path)
    code, _, err = run("resnet18", "--weights", str(path))
    check_sentence(code, err, "weights.pt does not fit", "conv1.weight is (64, 3, 5, 5), not (64, 3, 7, 7)")


def test_a_bad_line_of_a_hostfile_is_numbered(run: Program, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# workers\n127.0.0.1\nhost slots=4\n")
    code, _, err = run("resnet18", "--cluster", str(path))
    check_sentence(code, err, "line 3", "slots=4")


def test_an_unreachable_worker_is_named_with_the_time_waited(run: Program) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    code, _, err = run("resnet18", "--cluster", address)
    check_sentence(code, err, address, " s", "is a fogconv-worker running there")


def test_a_worker_of_another_protocol_version_is_told_apart(run: Program) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    stranger = f"import fogconv.cluster.protocol.messages as m; m.PROTOCOL_VERSION = 99; {WORKER}"
    with process(sys.executable, "-c", stranger, "--bind", address):
        wait_until_listening(int(address.rpartition(":")[2]))
        code, _, err = run("resnet18", "--cluster", address)
    check_sentence(code, err, address, "version 99", "install the same fogconv on both")


def test_a_missing_mpi_library_says_what_to_install(run: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PMI_RANK", "0"), ("PMI_SIZE", "2")):
        monkeypatch.setenv(name, value)
    for name in [name for name in sys.modules if name.split(".")[0] == "mpi4py"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    code, _, err = run("resnet18")
    check_sentence(code, err, "pip install '.[mpi]'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--trigger", "maybe"), ("--trigger maybe", "channels:N")),
        (("--threshold", "-1"), ("threshold -1",)),
        (("--mean", "a,b"), ("--mean", "0.485")),
        (("--plan", "nowhere.json"), ("nowhere.json",)),
        (("--profile", "nowhere.json"), ("nowhere.json",)),
        (("--profile", __file__, "--measure"), ("--measure", "--profile")),
        (("--parts", "5", "--workers", "2"), ("--parts 5", "there are 3")),
        (("--split", "rows:2"), ("grid:PxQ",)),
    ],
    ids=lambda value: value[0].strip("-") if isinstance(value, tuple) and value[0].startswith("--") else "",
)
def test_a_wrong_option_says_what_is_allowed(run: Program, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    code, _, err = run("squeezenet1_1", "--weights", "random", "--size", "64", *arguments)
    check_sentence(code, err, *words)


@pytest.mark.parametrize(
    ("option", "possible"),
    [("--scheme", tuple(Scheme)), ("--wire", WIRES), ("--master-computes", ("on", "off"))],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_choice_is_answered_by_the_possible_ones(run: Program, option: str, possible: tuple[str, ...]) -> None:
    code, _, err = run("squeezenet1_1", option, "nonsense")
    assert code == 2 and "Traceback" not in err
    for word in (option, "nonsense", *possible):
        assert word in err


def test_the_help_lists_the_choices(run: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run("--help")
    assert code == 0
    for choices in (tuple(Scheme), WIRES, ("on", "off")):
        assert re.search(r"[^|]*\|[^|]*".join(choices), out), "one below the other, where the terminal has no room"
    for scheme in Scheme:
        assert f"{scheme}: " in out


def test_every_command_is_a_module_of_its_name_with_help_of_its_own() -> None:
    folder = Path(app.__file__).parent / "commands"
    assert sorted(app.COMMANDS) == sorted(path.stem for path in folder.glob("[!_]*.py"))
    for name in app.COMMANDS:
        assert app.command(name).__doc__


def test_json_holds_the_promised_keys(run: Program) -> None:
    code, out, err = run(*QUICK, "--workers", "2", "--threshold", "0", "--compare", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {
        "model", "weights", "input", "cluster", "workers", "top5", "latency_s", "baseline_latency_s", "max_abs_error",
        "max_abs_reference", "layers",
    } <= set(found)  # fmt: skip
    assert found["workers"] == 2
    assert "meaningless" in found["top5_note"]
    assert [rate["rank"] for rate in found["rates"]] == [0, 1, 2]
    assert all(rate["origin"] in ("measured now", "remembered", "learnt from runs") for rate in found["rates"])
    assert all(rate["age_s"] >= 0 for rate in found["rates"])
    assert [shared["ranks"] for shared in found["shared_machines"]] == [[0, 1, 2]]
    rows = sum(layer["predicted"]["total_s"] for layer in found["layers"])
    assert rows + found["other_layers"]["predicted_s"] == pytest.approx(found["predicted_s"])
    assert len(found["ranks"]) == 3
    assert found["max_abs_error"] <= 1e-4 * found["max_abs_reference"]
    assert [sorted(guess) for guess in found["top5"]] == [["index", "label", "probability"]] * 5
    for layer in found["layers"]:
        assert {"name", "c", "f", "k", "h", "w", "bound_s_paper", "bound_s_star", "estimate", "distributed"} <= set(layer)
        assert layer["distributed"]
        assert layer["split"].split(":")[0] in ("input", "output", "grid", "groups")
        for times in (layer["predicted"], layer["measured"]):
            assert set(times) == set(STAR_TERMS)
        assert layer["bytes_rx"] > 0


def test_other_schemes_report_their_own_terms(run: Program) -> None:
    code, out, err = run(*QUICK, "--workers", "2", "--scheme", "rows", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["scheme"] == "rows"
    assert found["baseline_latency_s"] is None
    for layer in found["layers"]:
        assert set(layer["predicted"]) == set(layer["measured"]) == set(TERMS)


def test_a_trace_and_a_kept_plan(run: Program, tmp_path: Path) -> None:
    trace, kept = tmp_path / "trace.json", tmp_path / "plan.json"
    figures = ("--ranks", "3", "--rate", "10GFLOP/s", "--bandwidth", "100Gbit")
    code = subprocess.run(
        [sys.executable, "-m", "fogconv.cli.app", "plan", QUICK[0], "--size", "64", *figures, "--scheme",
         "rows", "--out", kept],
        env=environment(), capture_output=True, check=False,
    ).returncode  # fmt: skip
    assert code == 0
    code, out, err = run(*QUICK, "--workers", "2", "--plan", str(kept), "--trace", str(trace), "--json")
    assert code == 0, err
    assert json.loads(out)["scheme"] == "rows"
    assert {event["pid"] for event in json.loads(trace.read_text())["traceEvents"]} == {0, 1, 2}
    code, _, err = run(*QUICK, "--workers", "3", "--plan", str(kept))
    check_sentence(code, err, "a plan for 3 ranks", "this cluster has 4")


def test_a_person_reads_the_answer_first_and_no_layers_unasked(run: Program) -> None:
    code, out, err = run(*QUICK, "--workers", "2")
    assert code == 0, err
    first, second, *rest = out.splitlines()
    assert first == "coffee" and "random weights, meaningless" in second
    assert len(rest) <= 14 and "pred" not in out.split()
    code, out, err = run(*QUICK, "--workers", "2", "--threshold", "0", "--layers")
    assert code == 0, err
    assert "pred" in out.split() and "features.3.squeeze" in out


def test_alone_under_mpirun_says_so() -> None:
    done = mpirun(1, "-c", RUN, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "the master runs alone" in done.stdout


def test_ranks_on_one_machine_say_that_it_gains_nothing_and_what_boards_would_take() -> None:
    done = mpirun(3, "-c", RUN, *QUICK, "--threshold", "0", "--repeat", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no gain") == 1
    assert "simulated   3 such computers on 1 Gbit/s" in done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) - lines.index("") - 1 <= MOST_LINES + 3, "a line more for each rank"
    before_events = [line for line in done.stdout.partition("\nevents ")[0].splitlines() if line]  # a busy machine's
    assert len(before_events) <= 15 + 3


def test_only_rank_0_prints() -> None:
    done = mpirun(3, "-c", RUN, *QUICK, "--threshold", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["workers"] == 2


@pytest.mark.parametrize("arguments", [("resnet5O",), (*QUICK, "--wire", "fp8"), (*QUICK, "--no-such-option")])
def test_a_failing_rank_0_ends_the_others_quietly(arguments: tuple[str, ...]) -> None:
    done = mpirun(3, "-c", RUN, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "BAD TERMINATION" not in done.stdout + done.stderr
    assert done.stderr.count(arguments[-1]) == 1


def test_ctrl_c_in_a_destructor_is_not_told_of() -> None:
    program = """
import os, signal, time
from fogconv.cli.process.interrupt import Watch
class Object:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
watch = Watch(lambda: None)
Object()
time.sleep(60)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


@pytest.mark.parametrize("ranks", [0, 3])
@pytest.mark.parametrize("after_s", [0.5, 6.0])
def test_ctrl_c_ends_everything_with_130(ranks: int, after_s: float) -> None:
    launch = [str(MPIRUN), "-n", str(ranks)] if ranks else []
    if ranks and not MPIRUN.exists():
        pytest.skip("no mpirun in this environment")
    with process(*launch, sys.executable, "-c", STARTED_RUN, "resnet50", "--weights", "random", "--repeat", "500") as child:
        await_ranks(child, "initialised" if ranks and after_s > 1 else "started", max(ranks, 1))
        time.sleep(after_s)
        family = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=120)
        if ranks and after_s < 1:
            # MPI itself may still be starting: mpirun then tells of the signals that ended ranks.
            assert child.returncode in {130, signal.SIGINT, signal.SIGKILL, signal.SIGINT | signal.SIGKILL}, out + err
        else:
            assert child.returncode == 130, out + err
            assert "Traceback" not in err
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive


class Scalar(nn.Module):
    """Gives another shape than a row of scores per image."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.conv, self.shape = nn.Conv2d(3, 4, 3), shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        match self.shape:
            case "scalar":
                return y.sum()
            case "no batch":
                return y.mean((0, 2, 3))
            case "empty":
                return y.mean((2, 3))[:, :0]
        return y


def saved(path: Path, shape: str) -> Path:
    torch.export.save(torch.export.export(Scalar(shape).eval(), (torch.zeros(1, 3, 20, 20),), strict=False), path)
    return path


@pytest.mark.parametrize(("shape", "sizes"), [("scalar", []), ("no batch", [4])])
def test_a_model_without_scores_shows_its_outputs(run: Program, tmp_path: Path, shape: str, sizes: list[int]) -> None:
    model = str(saved(tmp_path / "model.pt2", shape))
    code, out, err = run(model, "--workers", "1", "--repeat", "1", "--compare", "--json")
    assert code == 0, err
    found = json.loads(out)
    [output] = found["outputs"]
    assert (output["name"], output["shape"], output["dtype"]) == ("output", sizes, "float32")
    assert output["max_abs_error"] == found["max_abs_error"] <= 1e-4 * found["max_abs_reference"]
    assert found["top5"] == []
    code, out, err = run(model, "--workers", "0", "--repeat", "1")
    assert code == 0 and "output" in out.splitlines()[0] and "float32" in out.splitlines()[0], err


def test_a_model_with_an_empty_output_is_refused(run: Program, tmp_path: Path) -> None:
    code, out, err = run(str(saved(tmp_path / "model.pt2", "empty")), "--workers", "1", "--repeat", "1", "--json")
    check_sentence(code, err, "model", "is empty")
    assert not out


def test_inputs_beside_the_picture_come_from_files(run: Program, tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.conv(x), scale * 2

    given = (torch.zeros(1, 3, 20, 20), torch.zeros(2))
    torch.export.save(torch.export.export(Scaled().eval(), given, strict=False), tmp_path / "model.pt2")
    np.save(tmp_path / "scale.npy", np.array([3.0, 4.0]))
    (tmp_path / "bad.npy").write_bytes(b"no array")
    start = (str(tmp_path / "model.pt2"), "--workers", "1", "--repeat", "1", "--json")
    code, out, err = run(*start, "--compare", "--input", f"scale={tmp_path / 'scale.npy'}")
    assert code == 0, err
    maps, doubled = json.loads(out)["outputs"]
    assert (maps["shape"], doubled["shape"], doubled["most"]) == ([1, 4, 18, 18], [2], 8.0)
    check_sentence(*run(*start)[::2], "the inputs of model are x, scale; there is no scale")
    bad = run(*start, "--input", f"scale={tmp_path / 'bad.npy'}")
    check_sentence(*bad[::2], "can't be read as an array: the magic string is not correct")


def test_one_picture_fills_a_batch(run: Program) -> None:
    code, out, err = run(*QUICK, "--workers", "0", "--batch", "2", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["outputs"][0]["shape"][0] == 2 and len(found["top5_all"]) == 1
    refused = run(*QUICK, "--image", "coffee", "--image", "chelsea", "--batch", "3")
    check_sentence(*refused[::2], "--batch 3 is no multiple")


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_name_that_is_no_text_is_shown_with_its_bytes(run: Program, tmp_path: Path, json_too: tuple[str, ...]) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png")
    Image.new("RGB", (80, 80), (200, 90, 10)).save(name)
    code, out, err = run(*QUICK, "--workers", "0", "--image", name, *json_too)
    assert code == 0, err
    if json_too:
        assert json.loads(out)["input"][0].endswith("\\xff\\xfe.png")
    else:
        assert "\\xff\\xfe.png" in "".join(out.split("\n"))


def test_compare_looks_at_every_run(run: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, runs = Engine.run, []

    def third_is_wrong(engine: Engine, x: Any) -> Inference:
        found = usual(engine, x)
        runs.append(found)
        return (
            replace(found, outputs={name: output + 0.5 for name, output in found.outputs.items()})
            if len(runs) == 3
            else found
        )

    monkeypatch.setattr(Engine, "run", third_is_wrong)
    code, out, err = run(*QUICK[:-1], "3", "--workers", "0", "--compare", "--json")
    assert code == 0, err
    assert len(runs) == 4
    assert json.loads(out)["max_abs_error"] == pytest.approx(0.5, abs=0.01)


def test_a_worker_that_dies_in_a_stream_is_told_and_no_frame_is_wrong(run: Program, tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    dying = ("-m", "tests.cluster.worker.dying", "6", str(tmp_path / "dead"), "main_worker", "")
    with process(sys.executable, *dying, "--bind", address) as worker:
        wait_until_listening(int(address.rpartition(":")[2]))
        stream = ("--cluster", address, "--threshold", "0", "--stream", "9", "--no-adapt", "--compare", "--json")
        code, out, err = run(*QUICK, *stream)
        assert worker.wait(60.0) == -signal.SIGKILL
    assert code == 0, err
    found = json.loads(out)
    assert found["workers"] == 0
    assert len(found["events"]) == 1 and address in found["events"][0], found["events"]
    assert found["max_abs_error"] <= 1e-4 * found["max_abs_reference"]


def test_workers_outlive_a_master_that_is_interrupted_and_serve_the_next(run: Program) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with process(sys.executable, "-c", WORKER, "--bind", address) as worker:
        wait_until_listening(int(address.rpartition(":")[2]))
        with process(sys.executable, "-c", STARTED_RUN, *QUICK, "--repeat", "100000", "--cluster", address) as master:
            await_ranks(master, "started")
            time.sleep(5.0)
            master.send_signal(signal.SIGINT)
            master.communicate(timeout=120)
            assert master.returncode == 130
        code, out, err = run(*QUICK, "--cluster", address, "--threshold", "0", "--json")
        assert code == 0, err
        assert json.loads(out)["workers"] == 1
        assert worker.poll() is None
