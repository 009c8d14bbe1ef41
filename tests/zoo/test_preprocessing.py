"""Images: found, read, and prepared as torchvision prepares them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fogconv.errors import ModelError
from fogconv.zoo.models import torchvision_models
from fogconv.zoo.preprocessing import Preprocessing, bundled_images, load_image


def test_the_sample_photographs_load_by_name() -> None:
    assert {"coffee", "chelsea", "astronaut"} <= set(bundled_images())
    coffee = load_image("coffee")
    assert coffee.mode == "RGB"
    assert coffee.size == (600, 400)


def test_a_grey_image_becomes_rgb() -> None:
    assert load_image("camera").mode == "RGB"


def test_a_file_wins_over_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (5, 4), (1, 2, 3)).save("coffee", "PNG")
    assert load_image("coffee").size == (5, 4)


def test_a_photograph_taken_sideways_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (4, 8)


def test_bad_images_get_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "whole.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    for name, message in [
        (tmp_path / "none.png", "there is no image"),
        (text, "not an image"),
        (cut, "can't be read|not an image"),
        (tmp_path, "folder"),
        ("cofee", "did you mean coffee"),
    ]:
        with pytest.raises(ModelError, match=message):
            load_image(name)


@pytest.mark.parametrize("name", ["resnet18", "inception_v3", "swin_t", "efficientnet_b0"])
@pytest.mark.parametrize("image", ["coffee", "astronaut", "retina"])
def test_preprocessing_is_torchvisions(name: str, image: str) -> None:
    transforms = torchvision_models().get_model_weights(name).DEFAULT.transforms
    given = transforms.keywords
    interpolation = given.get("interpolation")
    ours = Preprocessing(
        (given["crop_size"],) * 2,
        given.get("resize_size", 256),
        interpolation="bilinear" if interpolation is None else interpolation.value,
    )
    picture = load_image(image)
    np.testing.assert_allclose(ours(picture), transforms()(picture).numpy(), atol=1e-6)


def test_an_array_of_bytes_is_an_image_too() -> None:
    picture = load_image("chelsea")
    ours = Preprocessing()
    np.testing.assert_array_equal(ours(np.asarray(picture)), ours(picture))
    assert ours(picture).shape == (3, 224, 224)
    assert ours(picture).dtype == np.float32


def test_a_crop_larger_than_the_resized_image_is_filled_with_black() -> None:
    prepared = Preprocessing(crop=(300, 300), resize=200, mean=(0, 0, 0), std=(1, 1, 1))(load_image("coffee"))
    assert prepared.shape == (3, 300, 300)
    assert not prepared[:, :40].any()


def test_a_crop_that_is_not_square_stays_inside_the_image() -> None:
    prepared = Preprocessing(crop=(100, 260), resize=120, mean=(0, 0, 0), std=(1, 1, 1))(Image.new("RGB", (90, 90), "white"))
    assert prepared.shape == (3, 100, 260)
    assert prepared.all()


@pytest.mark.parametrize(
    "settings", [{"crop": (0, 3)}, {"mean": (1.0,)}, {"std": (1.0, 0.0, 1.0)}, {"interpolation": "magic"}]
)
def test_preprocessing_that_makes_no_sense_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        Preprocessing(**settings)  # type: ignore[arg-type]
