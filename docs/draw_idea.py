"""Draw docs/idea.svg: how one conv layer is cut by depth, computed on four workers, and joined.

    python -m docs.draw_idea

The cut shown is a grid of two groups of input channels and two groups of output channels.
"""

from __future__ import annotations

from pathlib import Path

INPUTS = ("#3b82c4", "#e08a2c")
"""The colours of the two groups of input channels."""
OUTPUTS = ("#3f9b63", "#8a5fb5")
"""The colours of the two groups of output channels."""
INK = "#24292f"
SOFT = "#6b7280"
WORKERS = (("worker 1", 0, 0), ("worker 2", 1, 0), ("worker 3", 0, 1), ("worker 4", 1, 1))
"""Name, group of input channels, group of output channels."""


def text(
    x: float, y: float, words: str, *, size: int = 14, bold: bool = False, colour: str = INK, anchor: str = "middle"
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}"{weight} fill="{colour}" text-anchor="{anchor}">{words}</text>'


def sheets(x: float, y: float, colours: tuple[str, ...], *, side: int = 44, partial: bool = False) -> str:
    """A stack of maps, the first in front. ``partial``: sums that are not complete, drawn with a broken edge."""
    step = 8
    drawn = []
    for index in reversed(range(len(colours))):
        left, top = x + index * step, y - index * step
        dash = ' stroke-dasharray="4 3" fill-opacity="0.45"' if partial else ""
        drawn.append(
            f'<rect x="{left}" y="{top}" width="{side}" height="{side}" rx="3" '
            f'fill="{colours[index]}" stroke="{INK}"{dash}/>'
        )
    return "".join(drawn)


def filters(x: float, y: float, kept: tuple[int, int] | None, *, cell: int = 11) -> str:
    """Four by four filters: a row per output channel, a column per input channel; all, or one quarter in colour."""
    drawn = []
    for row in range(4):
        for column in range(4):
            here = (column // 2, row // 2)
            inside = kept is None or here == kept
            fill = INPUTS[here[0]] if inside else "#ffffff"
            edge = OUTPUTS[here[1]] if inside else "#cbd0d6"
            drawn.append(
                f'<rect x="{x + column * cell}" y="{y + row * cell}" width="{cell - 2}" height="{cell - 2}" fill="{fill}" '
                f'stroke="{edge}" stroke-width="2"/>'
            )
    return "".join(drawn)


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    middle = (x1 + x2) / 2
    return (
        f'<path d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}" fill="none" stroke="{SOFT}" stroke-width="1.6" '
        'marker-end="url(#head)"/>'
    )


def panel(x: float, y: float, width: float, height: float, fill: str = "#f6f8fa") -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="{fill}" stroke="#d0d7de"/>'


def worker(name: str, group_in: int, group_out: int, y: float) -> str:
    """One worker's panel: its part of the input, its part of the filters, its partial output."""
    mark = INPUTS[group_in]
    return "".join(
        (
            panel(330, y, 340, 86, "#ffffff"),
            text(656, y + 40, name, bold=True, anchor="end"),
            text(656, y + 59, "partial OFM", size=12, colour=SOFT, anchor="end"),
            sheets(350, y + 28, (mark, mark), side=38),
            text(416, y + 54, "*", size=20),
            filters(438, y + 22, (group_in, group_out)),
            text(514, y + 50, "=", size=20),
            sheets(536, y + 28, (OUTPUTS[group_out],) * 2, side=38, partial=True),
        )
    )


def picture() -> str:
    """The whole SVG document, 980 × 500."""
    tops = [68 + 98 * number for number in range(4)]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 980 500" width="980" height="500" '
        'font-family="Helvetica, Arial, sans-serif" role="img" '
        'aria-label="A conv layer is cut into four parts, computed on four workers, and joined by the master">',
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{SOFT}"/></marker></defs>',
        '<rect width="980" height="500" fill="#ffffff"/>',
        text(125, 40, "The master cuts", size=16, bold=True),
        text(500, 40, "Four workers compute", size=16, bold=True),
        text(855, 40, "The master joins", size=16, bold=True),
        panel(20, 68, 210, 380),
        text(125, 96, "One conv layer of the CNN", size=14),
        sheets(78, 158, (INPUTS[0], INPUTS[0], INPUTS[1], INPUTS[1]), side=58),
        text(125, 242, "input feature maps (IFM),", size=13, colour=SOFT),
        text(125, 259, "two groups of channels", size=13, colour=SOFT),
        filters(89, 292, None, cell=18),
        text(125, 388, "filters: one row for each", size=13, colour=SOFT),
        text(125, 405, "output channel, one column", size=13, colour=SOFT),
        text(125, 422, "for each input channel", size=13, colour=SOFT),
        panel(750, 68, 210, 380),
    ]
    for (name, group_in, group_out), top in zip(WORKERS, tops, strict=True):
        parts.append(worker(name, group_in, group_out, top))
        parts.append(arrow(232, 258, 326, top + 43))
        parts.append(arrow(674, top + 43, 746, 160 if group_out == 0 else 356))
    parts += [
        text(500, 480, "IFM part * filter part = partial output feature maps (OFM)", size=13, colour=SOFT),
        text(855, 120, "add", size=13, colour=SOFT),
        sheets(822, 138, (OUTPUTS[0],) * 2, side=44),
        text(855, 316, "add", size=13, colour=SOFT),
        sheets(822, 334, (OUTPUTS[1],) * 2, side=44),
        text(855, 214, "concatenate", size=13, colour=SOFT),
        sheets(812, 244, (OUTPUTS[0], OUTPUTS[0], OUTPUTS[1], OUTPUTS[1]), side=44),
        text(855, 412, "the OFM of the whole layer,", size=13, colour=SOFT),
        text(855, 429, "as one device computes it", size=13, colour=SOFT),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("idea.svg").write_text(picture(), encoding="utf-8")
