"""Figures: numbers and names short enough for a table's column."""

from __future__ import annotations

import math

from rich.cells import cell_len, chop_cells

MARK = "…"


def shape(kernel: tuple[int, int], c: int, f: int, h: int, w: int) -> str:
    """ "3×3 64→128 56×56": kernel, input and output channels, output size."""
    return f"{kernel[0]}×{kernel[1]} {c}→{f} {h}×{w}"


def milliseconds(seconds: float | None) -> str:
    """Three digits in ms, at most five characters; empty for None."""
    if not seconds:
        return ""
    value = seconds * 1e3
    if value < 9.995:
        return f"{value:.2f}"
    if value < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 99999.5 else f"{value / 1e3:.0f}s"


def byte_count(count: float) -> str:
    """ "982", "401k", "12.8M"; powers of 1000, five characters at most."""
    for limit, scale, unit in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M")):
        if count < limit * 0.9995:
            value = count / scale
            return f"{value:.1f}{unit}" if unit == "M" and value < 99.95 else f"{value:.0f}{unit}"
    return f"{count / 1e9:.1f}G"


def short(value: float | None) -> str:
    """Three digits, five characters at most."""
    if value is None:
        return ""
    if not math.isfinite(value) or value >= 99999.5:
        return "≫"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def cut(name: str, width: int) -> str:
    """At most ``width`` columns: a longer name is cut in the middle, "layer2…sample.0". More of its end is kept than of
    its start, because names differ at the end."""
    if cell_len(name) <= width:
        return name
    if width <= 1:
        return MARK[:width]
    head = (width - 1) * 2 // 5
    tail = width - 1 - head
    return _first(name, head) + MARK + _first(name[::-1], tail)[::-1]


def _first(text: str, width: int) -> str:
    return chop_cells(text, width)[0] if text and width > 0 else ""
