"""Reading: regions of text become characters, by a recogniser that runs on this device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from fogconv.ir.arrays import Array
from fogconv.tasks.text.lines import cut_out, decoded
from fogconv.tasks.text.regions import Region, Regions
from fogconv.zoo.fitting import Fitting, Placement

TOGETHER = 6
"""Lines per batch. A batch is as wide as its longest line, which changes what is read a little."""
HEIGHT, LEAST_WIDTH = 48, 320
DIRECTION_WIDTH = 192
LEAST_SCORE = 0.5
UPSIDE_DOWN = 0.9
"""The least probability at which a line is turned round."""


def line(probabilities: Array, characters: Sequence[str], placement: Placement) -> Regions:
    """What a recogniser reads (T, K) in a picture that is one line of text."""
    height, width = placement.picture
    text, score = decoded(probabilities, characters)
    corners = ((0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1))
    return Regions((Region(corners, 1.0, text, score),))


@dataclass(frozen=True, slots=True)
class Reader:
    """``recognise`` maps (N, 3, 48, W) to probabilities of characters (N, T, K); ``direction``, where there is one, maps
    (N, 3, 48, 192) to the probabilities (N, 2) of upright and upside down. ``characters``: see `decoded`."""

    recognise: Callable[[Array], Array]
    characters: Sequence[str]
    fitting: Fitting
    direction: Callable[[Array], Array] | None = None

    def read(self, picture: Image.Image, found: Regions) -> Regions:
        """The regions with their texts, without those in which nothing can be read (a score below `LEAST_SCORE`)."""
        lines = [cut_out(picture, region.corners) for region in found.regions]
        by_width = sorted(range(len(lines)), key=lambda i: lines[i].width / lines[i].height)
        read = list(found.regions)
        for begin in range(0, len(lines), TOGETHER):
            batch = by_width[begin : begin + TOGETHER]
            upright = self._turned([lines[i] for i in batch])
            width = max(LEAST_WIDTH, *(int(HEIGHT * line.width / line.height) for line in upright))
            x = np.stack([self.fitting(line, (HEIGHT, width))[0] for line in upright])
            for i, probabilities in zip(batch, self.recognise(x), strict=True):
                text, score = decoded(probabilities, self.characters)
                read[i] = replace(read[i], text=text, text_score=score)
        return Regions(tuple(each for each in read if (each.text_score or 0.0) >= LEAST_SCORE))

    def _turned(self, lines: list[Image.Image]) -> list[Image.Image]:
        """Those that stand upside down turned round."""
        if self.direction is None:
            return lines
        scores = self.direction(np.stack([self.fitting(line, (HEIGHT, DIRECTION_WIDTH))[0] for line in lines]))
        return [
            line.transpose(Image.Transpose.ROTATE_180) if score[1] > UPSIDE_DOWN and score[1] > score[0] else line
            for line, score in zip(lines, scores, strict=True)
        ]
