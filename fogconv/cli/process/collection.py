"""Garbage collection while a program starts.

Importing torch and numba and tracing a model create millions of permanent objects. Python's collector would walk them
again and again, which takes a fifth of a start and frees almost nothing.
"""

from __future__ import annotations

import gc

RARELY = (100_000, 20, 100)
"""Thresholds for the start. Not off, because a long search also makes garbage."""
USUAL = gc.get_threshold()


def collect_rarely() -> None:
    gc.set_threshold(*RARELY)


def spare_what_is_here() -> None:
    """Exclude the existing objects from later collections. Call it after the imports, before there is garbage."""
    gc.freeze()


def collect_as_usual() -> None:
    """Restore Python's own thresholds."""
    gc.set_threshold(*USUAL)


def collect_now() -> None:
    """Collect what became garbage since `spare_what_is_here`, so that no timed run collects it."""
    gc.collect()
