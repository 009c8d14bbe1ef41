"""Pairs: measurements of a worker and of the links to it, kept per pair of hosts in one small file each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from fogconv.cluster.protocol.version import VERSION
from fogconv.errors import FogconvError
from fogconv.hardware.profile import Profile, ProfileDevice, ProfileLink
from fogconv.storage.trusted import own_folder, read_own, write_own

CACHE_VERSION = 3
CACHE_AGE_S = 7 * 86400.0
"""After this long a pair of hosts is measured again: cables, chargers and heat change."""


class Worker(Protocol):
    """A worker's data in its session."""

    @property
    def rank(self) -> int: ...
    @property
    def address(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def memory_limit_bytes(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def software(self) -> str: ...


class CachedPair(msgspec.Struct, frozen=True):
    """A worker's device and both directions of its link, as measured from one master."""

    version: int
    measured_at: float
    device: ProfileDevice
    there: ProfileLink
    back: ProfileLink


NOWHERE = ProfileLink(0, 0, 0.0, 1.0)


def profile_of(master: ProfileDevice, pairs: Sequence[CachedPair], spreads: dict[str, float]) -> Profile:
    """The profile of a cluster: rank i is ``pairs[i - 1]``'s."""
    links = []
    for rank, pair in enumerate(pairs, start=1):
        links.append(msgspec.structs.replace(pair.there, origin=0, to=rank))
        links.append(msgspec.structs.replace(pair.back, origin=rank, to=0))
    return Profile(1, (master, *(pair.device for pair in pairs)), tuple(links), spreads)


def master_key() -> str:

    return f"master {os.uname().nodename} {os.cpu_count()} {VERSION}"


def pair_key(scheme: str, worker: Worker) -> str:
    """The key of two hosts, a transport and an address. Another instruction set or version of fogconv has another key."""
    # In-process and MPI addresses name ranks, not devices; the host and the rank tell them apart.
    return f"{os.uname().nodename} {scheme} {worker.address} {worker.host} {worker.threads} {worker.isa} {worker.software}"


def _path(folder: Path, key: str) -> Path:
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def remembered(folder: Path, scheme: str, worker: Worker) -> CachedPair | None:
    return _read(folder, pair_key(scheme, worker))


def remembered_device(folder: Path) -> ProfileDevice | None:
    found = _read(folder, master_key())
    return None if found is None else found.device


def _read(folder: Path, key: str) -> CachedPair | None:
    if not _trusted(folder):
        return None
    path = _path(folder, key)
    try:
        pair = msgspec.json.decode(read_own(path), type=CachedPair)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    fresh = pair.version == CACHE_VERSION and 0 <= time.time() - pair.measured_at < CACHE_AGE_S
    if not fresh:
        return None
    try:
        profile_of(pair.device, [pair], {}).topology()
    except FogconvError:
        return None
    return pair


def remember(folder: Path, key: str, pair: CachedPair) -> None:
    if not _trusted(folder):
        return
    with contextlib.suppress(OSError):
        # Several masters may write at once: each writes its own file and renames it atomically.
        write_own(_path(folder, key), msgspec.json.encode(pair))


def _trusted(folder: Path) -> bool:
    return own_folder(folder, "measured rates")
