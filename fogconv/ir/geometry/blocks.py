"""Blocks: how many channels lie together in memory."""

from __future__ import annotations

BLOCK = 16
"""Channels per block, the same on every instruction set; a kernel's vector length divides it."""

NARROW = 4
"""Lanes of a narrow map."""


def lanes(channels: int) -> int:
    """Floats per pixel in memory of a map of so many channels: whole blocks, or those of a narrow map."""
    return NARROW if channels <= NARROW else -(-channels // BLOCK) * BLOCK
