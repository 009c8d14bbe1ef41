"""Garbage collection while a program starts.

Importing torch and numba and tracing a model make millions of objects that stay. Python's collector walks them again and
again meanwhile, which takes a fifth of a start, and finds next to nothing.
"""

from __future__ import annotations

import gc

RARELY = (100_000, 20, 100)
"""Thresholds for the start. Not off: a long search makes garbage, too."""
USUAL = gc.get_threshold()


def collect_rarely() -> None:
    gc.set_threshold(*RARELY)


def spare_what_is_here() -> None:
    """Let no later collection walk the objects that exist now. For when the modules are in, and nothing is garbage yet."""
    gc.freeze()


def collect_as_usual() -> None:
    """From here on as without this module."""
    gc.set_threshold(*USUAL)


def collect_now() -> None:
    """Collect what became garbage since `spare_what_is_here`, so that it happens in no run that is timed."""
    gc.collect()
