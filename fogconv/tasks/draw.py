"""Draw: a finding drawn into its picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fogconv.errors import InputError
from fogconv.tasks.classify import Classes
from fogconv.tasks.detect.boxes import Boxes
from fogconv.tasks.raw import Raw
from fogconv.tasks.segment import Mask, palette
from fogconv.tasks.text.regions import Regions

Finding = Classes | Boxes | Mask | Regions | Raw
"""What a network finds in one picture."""

VISIBLE = 0.5
"""The part of a mask's colour in the picture."""
LINE = 1.3
"""The height of a line of writing in the height of its letters."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
LINE_COLOUR = (220, 30, 60)


def drawn(picture: Image.Image, finding: Finding) -> Image.Image:
    """A copy of the picture with boxes, regions or a mask in it. Raises InputError for raw outputs."""
    canvas = picture.convert("RGB")
    if isinstance(finding, Raw):
        raise InputError("raw outputs can't be drawn; name their --task, or omit --draw")
    if isinstance(finding, Mask):
        return _masked(canvas, finding)
    draw = ImageDraw.Draw(canvas)
    thick = max(1, round(min(canvas.size) / 250))
    high = max(10.0, min(canvas.size) / 32)
    font = ImageFont.load_default(high)
    if isinstance(finding, Classes):
        for line, guess in enumerate(finding.guesses):
            _write(draw, (thick, thick + line * high * LINE), f"{guess.probability:.0%} {guess.label}", font, (0, 0, 0))
    elif isinstance(finding, Boxes):
        for box in finding.boxes:
            colour = _colour(box.index)
            draw.rectangle((box.left, box.top, box.right, box.bottom), outline=colour, width=thick)
            for x, y in box.points:
                draw.ellipse((x - thick, y - thick, x + thick, y + thick), fill=colour)
            _write(draw, (box.left, box.top - high * LINE), f"{box.label} {box.score:.2f}", font, colour)
    else:
        for region in finding.regions:
            _polygon(draw, region.corners, thick)
    return canvas


def _masked(canvas: Image.Image, mask: Mask) -> Image.Image:
    colours = np.array([palette(index) for index in range(256)], np.uint8)[mask.classes]
    pixels = np.asarray(canvas, np.float32) * (1 - VISIBLE) + colours * np.float32(VISIBLE)
    shown = np.where((mask.classes > 0)[..., None], pixels, np.asarray(canvas, np.float32))
    return Image.fromarray(shown.astype(np.uint8))


def _polygon(draw: ImageDraw.ImageDraw, corners: Sequence[tuple[int, int]], thick: int) -> None:
    draw.line([*corners, corners[0]], fill=LINE_COLOUR, width=thick, joint="curve")


def _write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, font: Font, colour: tuple[int, ...]) -> None:
    """White on the colour, inside of the picture."""
    x, y = max(0.0, place[0]), max(0.0, place[1])
    left, top, right, bottom = draw.textbbox((x + 2, y), text, font=font)
    draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=colour)
    draw.text((x + 2, y), text, fill="white", font=font)


def _colour(index: int) -> tuple[int, int, int]:
    """A class's colour; number 0 gets one, too."""
    return palette(index) if index % 256 else LINE_COLOUR
