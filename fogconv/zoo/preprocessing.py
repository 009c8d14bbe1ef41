"""Images: a picture from a file, standard input or a sample, and its conversion to a classifier's (3, H, W) input."""

from __future__ import annotations

import errno
import io
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fogconv.errors import DependencyError, ModelError
from fogconv.storage.array_file import MAGIC, read_array
from fogconv.storage.trusted import open_plain
from fogconv.values.table import MOST_PIXELS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""The formats that are read. Pillow knows more; for some it starts other programs, such as Ghostscript for EPS."""
STANDARD_INPUT = "-"
MOST_STREAM_BYTES = 256_000_000
_BAND_PIXELS = 1_000_000
_CROPPED_FIRST = 16
"""A picture that would be resized to more than this multiple of its cropped size is cropped first."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize the shorter side, crop the centre, scale to 0 … 1, subtract the mean and divide by the deviation.

    ``crop`` is (height, width), ``resize`` the shorter side's length before the crop, both in pixels; ``mean`` and ``std``
    are per channel (R, G, B) for values from 0 to 1. The same arithmetic as torchvision's, on pillow images.
    """

    crop: tuple[int, int] = (224, 224)
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if min(self.crop) < 1 or self.resize < 1:
            raise ModelError(f"an image size of {self.crop[0]}×{self.crop[1]} is impossible; give at least 1 pixel")
        if self.crop[0] * self.crop[1] > MOST_PIXELS or self.resize**2 > MOST_PIXELS:
            raise ModelError(
                f"an image size of {self.crop[0]}×{self.crop[1]} is too large: over {MOST_PIXELS / 1e6:.0f} million pixels"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or 0.0 in self.std:
            raise ModelError(f"mean {self.mean} and std {self.std} must be three numbers each (R, G, B), no std of 0")
        if self.interpolation not in _RESAMPLING:
            raise ModelError(f"interpolation {self.interpolation!r} is not one of {', '.join(_RESAMPLING)}")

    def __call__(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.float32]:
        """(3, H, W) float32 of a pillow image or an (H, W, 3) array of bytes."""
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        picture = _resized(_rgb(picture), self)
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.asarray(values, np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        return np.ascontiguousarray((pixels - mean) / std, dtype=np.float32)


def load_image(name_or_path: str | Path) -> Image.Image:
    """An RGB image from a file, or by the name of a sample ('page', 'astronaut', and scikit-image's: 'coffee', 'chelsea').

    Raises ModelError where there is no such image or it can't be read, DependencyError where a name needs scikit-image.
    """
    with _opened(name_or_path) as file:
        return _image(file, name_or_path)


def load_input(name_or_path: str | Path) -> Image.Image | NDArray[np.float32]:
    """An image as `load_image` gives it, or a tensor (C, H, W) from a ``.npy`` file. "-" is standard input, and either.

    Raises what `load_image` does, and ModelError for a tensor that can't be an input.
    """
    with _standard_input() if name_or_path == STANDARD_INPUT else _opened(name_or_path) as file:
        begin = file.read(len(MAGIC))
        file.seek(0)
        name = "standard input" if name_or_path == STANDARD_INPUT else name_or_path
        return _tensor(file, name) if begin == MAGIC else _image(file, name)


def _standard_input() -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise ModelError("standard input is a terminal; pipe a picture or a .npy file into it")
    content = sys.stdin.buffer.read(MOST_STREAM_BYTES + 1)
    if len(content) > MOST_STREAM_BYTES:
        raise ModelError(f"standard input has more than {MOST_STREAM_BYTES / 1e6:.0f} MB, which is the limit")
    return io.BytesIO(content)


def _tensor(file: BinaryIO, name: str | Path) -> NDArray[np.float32]:
    """(C, H, W) float32 from a file in numpy's format, or (1, C, H, W) without its first axis."""
    values = read_array(file, str(name))
    shape = values.shape[1:] if values.ndim == 4 and len(values) == 1 else values.shape
    if len(shape) != 3 or 0 in shape or math.prod(shape[1:]) > MOST_PIXELS:
        most = f"at most {MOST_PIXELS / 1e6:.0f} million pixels"
        raise ModelError(f"{name} has the shape {values.shape}; it must be (C, H, W), {most}")
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(values.reshape(shape), np.float32)
    if not np.isfinite(found).all():
        raise ModelError(f"{name} holds infinities or NaN, or numbers beyond float32")
    return found


def _image(file: BinaryIO, name_or_path: str | Path) -> Image.Image:
    with file:
        try:
            return _read(file, name_or_path)
        except ModelError:
            raise
        except UnidentifiedImageError:
            raise ModelError(f"{name_or_path} is not an image in a supported format ({', '.join(FORMATS)})") from None
        except Image.DecompressionBombError:
            raise ModelError(f"{name_or_path} has over {MOST_PIXELS / 1e6:.0f} million pixels, which is the limit") from None
        except Exception as error:  # pillow's decoders raise errors of any type for a damaged file
            raise ModelError(f"{name_or_path} can't be read as an image: {error}") from error


def _opened(name_or_path: str | Path) -> BinaryIO:
    try:
        try:
            return open_plain(name_or_path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
        return open_plain(_bundled(str(name_or_path)))
    except OSError as error:
        raise ModelError(f"{name_or_path} can't be read as an image: {error.strerror or error}") from error


def _read(file: BinaryIO, name: str | Path) -> Image.Image:
    Image.init()
    known = [kind for kind in FORMATS if kind in Image.OPEN]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
        image = Image.open(file, formats=known)
    with image:
        width, height = image.size
        # Unpacked it takes 3 or 4 bytes a pixel, and as much again while it is turned or its alpha is taken away.
        if width * height > MOST_PIXELS:
            raise ModelError(
                f"{name} has {width}×{height} pixels; fogconv reads pictures of up to {MOST_PIXELS / 1e6:.0f} million"
            )
        return _rgb(ImageOps.exif_transpose(image))


def _rgb(picture: Image.Image) -> Image.Image:
    """A picture in RGB, what is transparent on white. Pillow cuts wider values off at 255, which makes them white; here they
    are scaled."""
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _narrowed(picture)
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    whole = Image.new("RGB", picture.size, "white")
    whole.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return whole


def _narrowed(picture: Image.Image) -> Image.Image:
    """Wide values as bytes, some rows at a time: as float64 all of them would take eight bytes a pixel, several times."""
    width, height = picture.size
    white = _white(picture.mode, max(float(band.max(initial=0.0)) for _, band in _bands(picture)))
    pixels = np.empty((height, width), np.uint8)
    for rows, band in _bands(picture):
        pixels[rows] = np.rint(np.clip(band * (255 / white), 0, 255))
    return Image.fromarray(pixels)


def _bands(picture: Image.Image) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    width, height = picture.size
    step = max(1, _BAND_PIXELS // width)
    for top in range(0, height, step):
        band = picture.crop((0, top, width, min(top + step, height)))
        yield slice(top, top + step), np.nan_to_num(np.asarray(band, np.float64), posinf=0.0, neginf=0.0)


def _white(mode: str, brightest: float) -> float:
    """The value of white in a picture of wide values: that of 16 bits where the values fit, and for floats 1 or 255 where
    those do."""
    for white in (1.0, 255.0, 65535.0) if mode == "F" else (65535.0,):
        if brightest <= white:
            return white
    return brightest if mode == "F" else float(2**31 - 1)


def _resized(picture: Image.Image, how: Preprocessing) -> Image.Image:
    """The shorter side resized, the centre cropped: of a long narrow picture only the remaining part is resized."""
    shorter = min(picture.size)
    resize = max(how.resize, *how.crop) if how.crop[0] != how.crop[1] else how.resize
    width, height = (int(resize * side / shorter) for side in picture.size)
    top, left = (round((have - want) / 2.0) for have, want in zip((height, width), how.crop, strict=True))
    kept = (left, top, left + how.crop[1], top + how.crop[0])
    resampling = _RESAMPLING[how.interpolation]
    if width * height <= _CROPPED_FIRST * max(how.crop[0] * how.crop[1], resize * resize):
        return picture.resize((width, height), resampling).crop(kept)
    across, down = picture.width / width, picture.height / height
    # Pixels at the edge also depend on pixels beyond it.
    margin = math.ceil(3 / min(across, down, 1.0))
    inside = (
        max(kept[0] - margin, 0),
        max(kept[1] - margin, 0),
        min(kept[2] + margin, width),
        min(kept[3] + margin, height),
    )
    box = (inside[0] * across, inside[1] * down, inside[2] * across, inside[3] * down)
    part = picture.resize((inside[2] - inside[0], inside[3] - inside[1]), resampling, box=box)
    return part.crop((left - inside[0], top - inside[1], kept[2] - inside[0], kept[3] - inside[1]))


def bundled_images() -> tuple[str, ...]:
    """The names that `load_image` accepts without a file: this package's, and scikit-image's where it is installed."""
    return tuple(sorted({path.stem for path in _bundled_files()}))


def _bundled_files() -> list[Path]:
    found = find_spec("skimage")
    folders = found.submodule_search_locations if found is not None else None
    places = [Path(__file__).parent, *map(Path, folders or ())]
    return [file for place in places for file in sorted((place / "data").glob("*")) if file.suffix in _SUFFIXES]


def _bundled(name: str) -> Path:
    for file in _bundled_files():
        if file.stem == name:
            return file
    if Path(name).suffix or "/" in name:
        raise ModelError(f"there is no image {name}")
    if find_spec("skimage") is None:
        raise DependencyError(
            f"there is no image file {name}; the samples are {' and '.join(bundled_images())}, more come with scikit-image"
        )
    near = get_close_matches(name, bundled_images(), 3, 0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; the samples are {', '.join(bundled_images())}"
    raise ModelError(f"there is no image file {name}, nor a sample of that name{hint}")
