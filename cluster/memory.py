"""Memory that the C library keeps after a flood of messages, handed back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


@cache
def _malloc_trim() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl has none
        return None


def trim() -> None:
    """Give free memory back, where the C library can. Takes milliseconds; not for the middle of an inference."""
    call = _malloc_trim()
    if call is not None:
        call(0)
