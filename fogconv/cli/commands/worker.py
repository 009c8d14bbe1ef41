"""``fogconv worker``: serve masters on this device until stopped."""

from __future__ import annotations

import json
import logging
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fogconv.cli.options.connection import InsecureOption, KeysOption
from fogconv.cli.options.values import BANDWIDTH, BIND, EXECUTOR, FOLDER, MEMORY, number
from fogconv.cli.process.collection import collect_as_usual
from fogconv.cli.process.exit_codes import sentences
from fogconv.cluster.protocol.timeouts import HEARTBEAT_S
from fogconv.hardware.units import bandwidth_bytes_per_s
from fogconv.values import table

if TYPE_CHECKING:
    from fogconv.cluster.executor.interface import Build
    from fogconv.storage.swap_file import SwapFolder

log = logging.getLogger("fogconv.worker")


def worker(
    bind: Annotated[str, typer.Option(parser=BIND, help="The address to listen on.")] = "tcp://*:5555",
    threads: Annotated[
        int, typer.Option(parser=number("count", table.THREADS), help="Number of threads for kernels; 0: all cores.")
    ] = 0,
    memory: Annotated[
        int | None,
        typer.Option(
            parser=MEMORY,
            help="Memory limit of this process in bytes, such as 900M; by default none. Larger shards are refused.",
        ),
    ] = None,
    swap_folder: Annotated[
        Path | None,
        typer.Option(
            parser=FOLDER,
            help="The folder for weights beyond the limit, which plans with --allow-swap read for each inference; by "
            "default one in this user's cache folder.",
        ),
    ] = None,
    swap_rate: Annotated[
        str | None,
        typer.Option(
            parser=BANDWIDTH,
            help="For tests: read swapped weights no faster than this, such as 20MB/s, as from a slow disk.",
        ),
    ] = None,
    heartbeat: Annotated[
        float, typer.Option(parser=number("seconds", table.HEARTBEAT), help="Seconds within which a lost master is noticed.")
    ] = HEARTBEAT_S,
    executor: Annotated[
        str,
        typer.Option(
            parser=EXECUTOR,
            help="What computes: numba, or torch on a device that it knows, such as torch, torch:cuda or torch:cuda:1 (the "
            "extra accelerator).",
        ),
    ] = "numba",
    keys: KeysOption = None,
    insecure: InsecureOption = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write the log as JSON, one object per line.")] = False,
) -> None:
    """Serve one master after the other: hold weight shards, run programs."""
    start_logging(log_json)
    from fogconv.cluster.executor.executors import DEFAULT
    from fogconv.cluster.executor.executors import executor as executor_of
    from fogconv.storage.swap_file import SwapFolder

    with sentences("fogconv-worker"):
        # Any but the usual one is imported before the port is open: whether its device is there shows now.
        build = None if executor == DEFAULT else executor_of(executor)
        serve(
            bind,
            threads=threads,
            memory_limit_bytes=memory or 0,
            swap=SwapFolder(swap_folder, 0.0 if swap_rate is None else bandwidth_bytes_per_s(swap_rate)),
            heartbeat_s=heartbeat,
            keys=keys,
            insecure=insecure,
            build=build,
        )


def serve(
    bind: str,
    *,
    threads: int = 0,
    memory_limit_bytes: int = 0,
    swap: SwapFolder | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    keys: Path | None = None,
    insecure: bool = False,
    build: Build | None = None,
) -> None:
    """Run a worker in this process, with signal handling. Returns after SIGTERM or SIGINT.

    Raises ConnectError, and InputError for an address at which no worker can listen, and where keys are needed (any but
    loopback and ipc, unless ``insecure``).
    """
    # Imported late, so that `--help` is quick.
    from fogconv.cluster.protocol.codec import MAX_PAYLOAD_BYTES
    from fogconv.cluster.transport_registry import Listening, listen
    from fogconv.cluster.worker import process as service
    from fogconv.cluster.worker.kernel_facts import kernel_facts_apart
    from fogconv.cluster.worker.server import Worker
    from fogconv.cluster.worker.system import has_room

    facts = kernel_facts_apart() if build is None else None
    limit = memory_limit_bytes or MAX_PAYLOAD_BYTES
    listener = listen(bind, Listening(heartbeat_s, keys, insecure, limit, partial(has_room, memory_limit_bytes)))
    worker = Worker(
        listener.endpoint,
        build=build,
        threads=threads or service.cores(),
        memory_limit_bytes=memory_limit_bytes,
        swap=swap,
        masters=listener.masters,
        # A limit counts all that runs here, and only the usual executor compiles ahead.
        helpers=0 if memory_limit_bytes or build is not None else service.cores() - 1,
        facts=facts,
    )
    how = "in the clear" if listener.masters is None else f"encrypted, for {len(listener.masters)} masters"
    log.info("listening on %s with %d threads, %s, pid %d", listener.address, worker.threads, how, os.getpid())
    if listener.masters is None:
        log.warning("%s", open_door(listener.address))
    collect_as_usual()
    service.run(worker)
    log.info("stopped")


def open_door(address: str) -> str:
    """Who may use a worker without keys, as a sentence."""
    from fogconv.cluster.protocol.keys import is_local

    if not is_local(address):
        return f"--insecure: anybody who reaches {address} may use this worker, and nothing is encrypted"
    return f"no keys: any local user who reaches {address} may use this worker"


def start_logging(as_json: bool, level: int = logging.INFO) -> None:
    """Log lines on stderr, plain or one JSON object each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


if __name__ == "__main__":
    typer.run(worker)
