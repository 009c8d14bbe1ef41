"""Whole pictures become inputs, and places in the input places in the picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from fogconv.errors import ModelError
from fogconv.zoo.card import ModelCard
from fogconv.zoo.fitting import Fitting, resized
from fogconv.zoo.preprocessing import Preprocessing

side = st.integers(1, 40)


def linear(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By the definition, in float64: between the centres of pixels, without any smoothing."""

    def weights(have: int, want: int) -> np.ndarray:
        place = np.clip((np.arange(want) + 0.5) * have / want - 0.5, 0, have - 1)
        return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(have)))

    down, across = (weights(have, want) for have, want in zip(pixels.shape[:2], size, strict=True))
    return np.einsum("ay,bx,yxc->abc", down, across, pixels.astype(float))


@given(arrays(np.uint8, st.tuples(side, side, st.just(3))), side, side)
def test_resizing_is_linear_interpolation(pixels: np.ndarray, height: int, width: int) -> None:
    found = resized(pixels, (height, width))
    assert found.shape == (height, width, 3) and found.dtype == np.uint8
    assert np.abs(found - linear(pixels, (height, width))).max() <= 1.2


def test_resizing_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is no part of fogconv's environments")
    pixels = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    for height, width in ((97, 131), (200, 300), (50, 61), (97, 300), (13, 400)):
        apart = np.abs(resized(pixels, (height, width)).astype(int) - cv2.resize(pixels, (width, height)))
        assert apart.max() <= 1 and (apart > 0).mean() < 0.01


def test_no_pixels_are_no_picture() -> None:
    with pytest.raises(ModelError, match="0×4 can't be resized"):
        resized(np.zeros((0, 4, 3), np.uint8), (2, 2))


@pytest.mark.parametrize(
    ("fitting", "picture", "wanted"),
    [
        (Fitting(usual=(416, 416)), (10, 3000), (416, 416)),
        (Fitting(sized="picture", multiple=32, least=736), (191, 384), (736, 1472)),
        (Fitting(sized="picture", multiple=32, least=736), (1000, 1500), (992, 1504)),
        (Fitting(sized="picture", multiple=32, rounding="up"), (511, 513), (512, 544)),
        (Fitting(sized="picture", multiple=32), (1, 1), (32, 32)),
        (Fitting(sized="picture", multiple=32, least=736), (50, 8000), (32, 5984)),
        (Fitting(sized="picture", most=100), (400, 200), (100, 50)),
        (Fitting(sized="line", usual=(48, 320)), (20, 285), (48, 684)),
        (Fitting(sized="line", usual=(48, 320)), (20, 20), (48, 320)),
        (Fitting(sized="line", usual=(48, 320)), (1, 60000), (48, 6000)),
    ],
)
def test_the_size_follows_the_rule(fitting: Fitting, picture: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert fitting.size(picture) == wanted


@given(side, side, st.sampled_from(["stretch", "letterbox", "line"]))
def test_a_dot_in_the_picture_is_where_the_placement_says(height: int, width: int, how: str) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    y, x = height // 2, width // 3
    picture[y, x] = 255
    fitting = Fitting(how, fill=-1.0)  # type: ignore[arg-type]
    found, placement = fitting(Image.fromarray(picture), (80, 120))
    assert found.shape == (3, 80, 120) and placement.size == (80, 120) and placement.picture == (height, width)
    brightest = np.argwhere(found[0] == found[0].max()).mean(0) + 0.5
    if how == "stretch" or (placement.down >= 1 and placement.across >= 1):
        assert brightest / (placement.down, placement.across) == pytest.approx((y + 0.5, x + 0.5), abs=0.75)


def test_channels_are_normalised_in_the_networks_order() -> None:
    picture = Image.new("RGB", (4, 4), (255, 0, 51))
    fitting = Fitting(mean=(0.5, 0.0, 0.0), std=(0.5, 1.0, 1 / 255), bgr=True)
    found, _ = fitting(picture, (2, 2))
    assert found[:, 0, 0].tolist() == pytest.approx([(0.2 - 0.5) / 0.5, 0, 255])
    assert found.dtype == np.float32


def test_the_rest_of_a_letterbox_is_filled() -> None:
    found, placement = Fitting("letterbox", fill=114.0)(Image.new("RGB", (20, 10), "white"), (16, 16))
    assert (found[:, :8] == 1).all() and (found[:, 8:] == 114).all()
    assert placement.down == placement.across == 0.8


def test_a_size_that_is_asked_for_becomes_one_that_the_network_takes() -> None:
    assert Fitting(multiple=32).rounded_up((1080, 1920)) == (1088, 1920)
    assert Fitting().rounded_up((7, 9)) == (7, 9)


def test_a_users_mean_and_deviation_reach_the_fitting() -> None:
    card = ModelCard("own", Preprocessing(), (), "", fitting=Fitting(std=(0.5, 0.5, 0.5)))
    other = card.with_(mean=(0.1, 0.2, 0.3)).fitting
    assert other is not None and (other.mean, other.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    with pytest.raises(ModelError, match="no std of 0"):
        card.with_(std=(0.0, 1.0, 1.0))
