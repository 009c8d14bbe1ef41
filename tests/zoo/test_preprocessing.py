"""Images: found, read, and prepared as torchvision prepares them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from fogconv.errors import InputError, ModelError
from fogconv.hardware.hostfile import read_hostfile
from fogconv.hardware.profile import read_profile
from fogconv.ir.plan import load_plan
from fogconv.zoo.card import read_labels
from fogconv.zoo.models import load_model, load_weights, torchvision_models
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


MEASURE = """
import resource, sys
from fogconv.zoo.preprocessing import Preprocessing, load_image
picture = load_image(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
limit = 2 << 30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(Preprocessing()(picture).shape)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000)
"""


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1)])
def test_a_long_narrow_picture_takes_little_memory(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (200, 100, 50)).save(tmp_path / "long.png")
    script = [sys.executable, "-c", MEASURE, str(tmp_path / "long.png")]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "(3, 224, 224)\nTrue\n", done.stderr[-2000:]


@pytest.mark.parametrize("crop", [(224, 224), (300, 300), (100, 260)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_cropping_first_changes_next_to_nothing(crop: tuple[int, int], interpolation: str) -> None:
    rows = np.random.default_rng(3).integers(0, 256, (40, 900, 3), np.uint8)
    for pixels in (rows, rows.transpose(1, 0, 2)):
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        how = Preprocessing(crop, 256, (0, 0, 0), (1, 1, 1), interpolation)
        resize = 256 if crop[0] == crop[1] else max(256, *crop)
        width, height = (int(resize * side / 40) for side in picture.size)
        top, left = round((height - crop[0]) / 2), round((width - crop[1]) / 2)
        resampling = Image.Resampling[interpolation.upper()]
        whole = picture.resize((width, height), resampling).crop((left, top, left + crop[1], top + crop[0]))
        ours = how(picture).transpose(1, 2, 0) * 255
        apart = np.abs(ours - np.asarray(whole, np.float32))
        # Pillow rounds positions to 32 bits, and chooses by the shape which way it resizes first.
        assert (apart > 1.01).mean() < 0.05
        assert apart.mean() < (6 if interpolation == "nearest" else 0.5)


def test_too_many_pixels_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    for side, message in (9000, "9000×9000 pixels; fogconv reads pictures of up to 64 million"), (20000, "over 64 million"):
        Image.new("1", (side, side)).save(tmp_path / "large.png")
        with pytest.raises(ModelError, match=message):
            load_image(tmp_path / "large.png")
    with pytest.raises(ModelError, match="too large"):
        Preprocessing((1_000_000_000, 1_000_000_000))


def test_no_other_program_is_started_for_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "drawing.png", "EPS")
    with pytest.raises(ModelError, match="not an image in a supported format"):
        load_image(tmp_path / "drawing.png")


@pytest.mark.parametrize(
    ("pixels", "suffix"),
    [
        (np.full((4, 4), 0x8080, np.uint16), "png"),
        (np.full((4, 4), 0x8080, np.uint16), "tif"),
        (np.full((4, 4), 0x8080, np.uint16), "pgm"),
        (np.full((4, 4), 0x8080, np.int32), "tif"),
        (np.full((4, 4), 0x40404040, np.int32), "tif"),
        (np.full((4, 4), 128 / 255, np.float32), "tif"),
        (np.array([[128, 255], [128, 128]], np.float32), "tif"),
    ],
)
def test_pictures_of_more_than_8_bits_are_scaled(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    Image.fromarray(pixels).save(tmp_path / f"wide.{suffix}")
    image = load_image(tmp_path / f"wide.{suffix}")
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == (128, 128, 128)
    direct = Preprocessing((1, 1), 1, (0, 0, 0), (1, 1, 1), "nearest")(pixels)
    assert direct.ravel()[0] == pytest.approx(128 / 255)


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("L", 90, "png", (90, 90, 90)),
        ("1", 1, "png", (255, 255, 255)),
        ("CMYK", (0, 0, 0, 0), "jpg", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
        ("RGBA", (10, 20, 30, 255), "png", (10, 20, 30)),
        ("RGBA", (0, 0, 0, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), "webp", (204, 204, 204)),
        ("LA", (0, 0), "png", (255, 255, 255)),
    ],
)
def test_every_mode_becomes_what_a_viewer_shows(
    tmp_path: Path, mode: str, colour: int | tuple[int, ...], suffix: str, expected: tuple[int, ...]
) -> None:
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.new(mode, (16, 16), colour).save(tmp_path / f"picture.{suffix}", **options)
    found = load_image(tmp_path / f"picture.{suffix}")
    assert found.mode == "RGB"
    assert np.abs(np.subtract(found.getpixel((8, 8)), expected)).max() <= 2


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([255, 0, 0, 0, 0, 0])
    picture.save(tmp_path / "picture.gif", transparency=1)
    assert load_image(tmp_path / "picture.gif").getpixel((0, 0)) == (255, 255, 255)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in [
        (tmp_path / "pipe", "it is a pipe"),
        ("/dev/zero", "it is a device"),
        ("n" * 300, "no image"),
        ("~nosuchuser/x.png", "no image"),
        ("a\0b", "not a file name"),
    ]:
        with pytest.raises(ModelError, match=message):
            load_image(name)
    for read in (read_hostfile, read_profile, load_plan):
        with pytest.raises(InputError, match="it is a pipe"):
            read(tmp_path / "pipe")
    with pytest.raises(ModelError, match="it is a pipe"):
        read_labels(tmp_path / "pipe")
    with pytest.raises(ModelError, match="it is a device"):
        load_weights(nn.ReLU(), Path("/dev/zero"))
    os.mkfifo(tmp_path / "pipe.pt2")
    with pytest.raises(ModelError, match="it is a pipe"):
        load_model(str(tmp_path / "pipe.pt2"))


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "bmp", "tif", "ppm"])
def test_damaged_pictures_load_or_get_a_sentence(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(5)
    file = tmp_path / f"picture.{kind}"
    Image.fromarray(noise.integers(0, 256, (17, 23, 3), np.uint8)).save(file)
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    for _ in range(150):
        damaged = whole.copy()
        # Most of what can go wrong stands at the beginning.
        places = noise.integers(0, [64, len(damaged)], (3, 2)).ravel() % len(damaged)
        damaged[places] = noise.integers(0, 256, places.size)
        file.write_bytes(damaged[: noise.integers(8, len(damaged) + 1)].tobytes())
        with contextlib.suppress(ModelError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_image(file)


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


WIDE = """
import resource, sys, zlib, struct
from pathlib import Path
from fogconv.zoo.preprocessing import load_image

def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

def picture(side):
    rows = zlib.compressobj()
    body = b"".join(rows.compress(bytes(1 + 2 * side)) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")

file = Path(sys.argv[1])
file.write_bytes(picture(16))
load_image(file)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
file.write_bytes(picture(5000))
assert load_image(file).size == (5000, 5000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 5000**2)
"""


def test_a_picture_of_wide_values_takes_no_more_than_its_pixels(tmp_path: Path) -> None:
    """A file of 100 KB can hold 64 million pixels of 16 bits; as float64 they would take 512 MB each time."""
    done = subprocess.run(
        [sys.executable, "-c", WIDE, str(tmp_path / "wide.png")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 12, "bytes per pixel"
