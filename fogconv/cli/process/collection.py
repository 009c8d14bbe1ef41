"""Garbage collection while a program starts.

Importing torch and numba and tracing a model make millions of objects that stay. Python's collector walks them again and
again meanwhile, a fifth of the time of a start, and finds next to nothing.
"""

from __future__ import annotations

import gc

RARELY = (100_000, 20, 100)
"""Thresholds for the start. Not off: a long search may make garbage, too."""
USUAL = gc.get_threshold()


def collect_rarely() -> None:
    gc.set_threshold(*RARELY)


def spare_what_is_here() -> None:
    """Let no collection from here on walk the objects that exist now: modules, functions, types."""
    gc.freeze()


def collect_as_usual() -> None:
    gc.set_threshold(*USUAL)
