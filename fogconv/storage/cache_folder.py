"""The folder of this user's caches: compiled kernels, tuned choices, graphs of models, measured rates."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from fogconv.storage.trusted import distrust, warn_once


def cache_folder() -> Path | None:
    """The folder of compiled kernels, tuned choices and graphs, or None where no folder can be written or trusted.

    It is the first of these that can be written: $FOGCONV_CACHE_DIR, or else $XDG_CACHE_HOME/fogconv or ~/.cache/fogconv;
    a folder of this user in the system's temporary folder (with one warning). None, with one warning, where others own it
    or can write to it. FOGCONV_CACHE_DIR=off: None.
    """
    return _cache_folder(os.environ.get("FOGCONV_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"))


@cache
def _cache_folder(override: str | None, xdg: str | None, home: str | None) -> Path | None:
    if override == "off":
        return None
    if override:
        wanted = Path(override)
    elif xdg:
        wanted = Path(xdg) / "fogconv"
    else:
        wanted = Path(home or "/") / ".cache" / "fogconv"
    if _usable(wanted):
        return _trusted(wanted)
    owner = os.geteuid()
    substitute = Path(tempfile.gettempdir()) / f"fogconv-{owner}"
    if not _usable(substitute):
        warn_once(f"neither {wanted} nor {substitute} can be written; every process compiles its kernels again")
        return None
    if _trusted(substitute) is None:
        return None
    warn_once(f"{wanted} can't be written; compiled kernels are kept in {substitute} instead (set FOGCONV_CACHE_DIR)")
    return substitute


def _trusted(folder: Path) -> Path | None:
    """Files in this folder are executed, so it must belong to this user and other users must not be able to write to
    it."""
    complaint = distrust(folder)
    if complaint is not None:
        warn_once(f"{complaint}: no compiled kernels are loaded from there, and every process compiles its own")
    return folder if complaint is None else None


def _usable(folder: Path) -> bool:
    try:
        if distrust(folder) is None:  # an untrusted file is left as it is
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError:
        return False
    return True
