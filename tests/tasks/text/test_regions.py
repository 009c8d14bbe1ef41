"""Regions of text from maps that are known, and the words in them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

pytest.importorskip("pyclipper")

from fogconv.errors import ModelError
from fogconv.tasks.draw import drawn
from fogconv.tasks.text.lines import cut_out, decoded
from fogconv.tasks.text.reading import Reader, line
from fogconv.tasks.text.regions import Region, Regions, regions
from fogconv.zoo.fitting import Fitting, Placement


def placement(height: int, width: int, scale: int) -> Placement:
    return Placement((height // scale, width // scale), (height, width), float(scale), float(scale))


def test_a_bar_becomes_a_region_that_is_larger_by_its_area_over_its_perimeter() -> None:
    map_ = np.zeros((1, 64, 128), np.float32)
    map_[0, 20:30, 10:90] = 0.9  # grows by a pixel: x from 10 to 90, y from 20 to 30
    (found,) = regions(map_, placement(64, 128, 1)).regions
    grown = 80 * 10 * 1.6 / (2 * (80 + 10))
    (left, top), _, (right, bottom), _ = found.corners
    for got, wanted in ((left, 10 - grown), (top, 20 - grown), (right, 90 + grown), (bottom, 30 + grown)):
        assert got == pytest.approx(wanted, abs=1)
    assert 0.7 < found.score < 0.9  # the row and the column that it has grown by are dark


def test_regions_stand_in_the_pictures_own_pixels_and_in_the_order_of_reading() -> None:
    map_ = np.zeros((1, 96, 160), np.float32)
    map_[0, 12:24, 90:150] = map_[0, 14:26, 10:70] = map_[0, 60:72, 30:120] = 1.0
    found = regions(map_, placement(96, 160, 2)).regions
    assert [region.corners[0] for region in found] == sorted(
        (region.corners[0] for region in found), key=lambda corner: (corner[1] > 20, corner[0])
    )
    assert all(0 <= x < 80 and 0 <= y < 48 for region in found for x, y in region.corners)
    assert len(found) == 3


def test_specks_and_what_is_uncertain_are_no_text() -> None:
    map_ = np.zeros((1, 64, 64), np.float32)
    map_[0, 5, 5] = 1.0
    map_[0, 20:40, 10:50] = 0.45
    assert regions(map_, placement(64, 64, 1)).regions == ()
    assert regions(np.zeros((1, 8, 8), np.float32), placement(8, 8, 1)).regions == ()


def test_other_maps_get_a_sentence() -> None:
    for shape in ((2, 8, 8), (8, 8), (1, 0, 8)):
        with pytest.raises(ModelError, match="no map of text"):
            regions(np.zeros(shape, np.float32), placement(8, 8, 1))


def test_repetitions_and_blanks_are_left_out() -> None:
    steps = [0, 1, 1, 0, 1, 2, 2, 3, 0]
    probabilities = np.full((len(steps), 4), 0.1, np.float32)
    probabilities[np.arange(len(steps)), steps] = 0.7
    assert decoded(probabilities, ("a", "b")) == ("aab ", pytest.approx(0.7))
    assert decoded(probabilities[:1], ("a", "b")) == ("", 0.0)
    read = line(probabilities, ("a", "b"), Placement((48, 100), (48, 320), 1, 1)).regions
    assert read[0].text == "aab " and read[0].corners[2] == (99, 47)


def written(text: str) -> Image.Image:
    canvas = Image.new("RGB", (200, 60), "white")
    ImageDraw.Draw(canvas).text((10, 10), text, fill="black", font=ImageFont.load_default(24))
    return canvas


def test_a_line_is_cut_out_upright() -> None:
    canvas = written("E")
    whole = [(0, 0), (199, 0), (199, 59), (0, 59)]
    upright = np.asarray(cut_out(canvas, whole), int)
    assert np.abs(upright - np.asarray(canvas, int)[:59, :199]).mean() < 2
    turned = canvas.rotate(-90, expand=True)  # clockwise: its top is on the right
    corners = [(59, 0), (59, 199), (0, 199), (0, 0)]
    again = np.asarray(cut_out(turned, corners), int)
    assert again.shape == upright.shape and np.abs(again - upright).mean() < 4
    tall = np.asarray(cut_out(canvas, [(10, 10), (30, 10), (30, 50), (10, 50)]))
    assert tall.shape[1] > tall.shape[0]


class Recogniser:
    """Says how dark each of its lines is on the left, and remembers the widths that it was given."""

    def __init__(self) -> None:
        self.widths: list[int] = []

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.widths.append(x.shape[3])
        found = np.full((len(x), 2, 3), 0.05, np.float32)
        found[:, :, 1] = (x[:, 0, :, :48].mean((1, 2)) > 0)[:, None] * 0.9
        found[:, :, 2] = (x[:, 0, :, :48].mean((1, 2)) <= 0)[:, None] * 0.9
        return found


def test_a_reader_gives_every_line_its_own_text() -> None:
    canvas = Image.new("RGB", (700, 100), "white")
    canvas.paste("black", (0, 50, 700, 100))
    bright = Region(((0, 0), (600, 0), (600, 40), (0, 40)), 0.9)
    dark = Region(((0, 55), (90, 55), (90, 95), (0, 95)), 0.8)
    recogniser = Recogniser()
    reader = Reader(recogniser, ("w", "b"), Fitting("line", (0.5,) * 3, (0.5,) * 3))
    found = reader.read(canvas, Regions((bright, dark))).regions
    assert [region.text for region in found] == ["w", "b"]
    assert recogniser.widths == [720]  # 48 · 600 / 40
    assert drawn(canvas, Regions(found)).getpixel((0, 20)) != (255, 255, 255)


def test_a_line_that_stands_upside_down_is_turned() -> None:
    canvas = Image.new("RGB", (200, 40), "white")
    canvas.paste("black", (100, 0, 200, 40))
    region = Region(((0, 0), (199, 0), (199, 39), (0, 39)), 0.9)

    def read(score: float) -> str | None:
        directions = lambda x: np.array([(1 - score, score)] * len(x), np.float32)  # noqa: E731
        reader = Reader(Recogniser(), ("w", "b"), Fitting("line", (0.5,) * 3, (0.5,) * 3), directions)
        return reader.read(canvas, Regions((region,))).regions[0].text

    assert (read(0.1), read(0.85), read(0.95)) == ("w", "w", "b")
