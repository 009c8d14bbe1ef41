"""Images: a file, or one of scikit-image's photographs, to the (3, H, W) array that a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fogconv.errors import DependencyError, ModelError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_SUFFIXES = (".png", ".jpg", ".jpeg")


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
            raise ModelError(f"an image size of {self.crop[0]}×{self.crop[1]} makes no sense; give at least 1 pixel")
        if len(self.mean) != 3 or len(self.std) != 3 or 0.0 in self.std:
            raise ModelError(f"mean {self.mean} and std {self.std} must be three numbers each (R, G, B), no std of 0")
        if self.interpolation not in _RESAMPLING:
            raise ModelError(f"interpolation {self.interpolation!r} is not one of {', '.join(_RESAMPLING)}")

    def __call__(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.float32]:
        """(3, H, W) float32 of a pillow image or an (H, W, 3) array of bytes."""
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        picture = picture.convert("RGB")
        shorter = min(picture.size)
        resize = max(self.resize, *self.crop) if self.crop[0] != self.crop[1] else self.resize
        width, height = (int(resize * side / shorter) for side in picture.size)
        picture = picture.resize((width, height), _RESAMPLING[self.interpolation])
        top, left = (round((have - want) / 2.0) for have, want in zip((height, width), self.crop, strict=True))
        picture = picture.crop((left, top, left + self.crop[1], top + self.crop[0]))
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.asarray(values, np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        return np.ascontiguousarray((pixels - mean) / std, dtype=np.float32)


def load_image(name_or_path: str | Path) -> Image.Image:
    """An RGB image from a file, or by the name of one of scikit-image's ('coffee', 'chelsea', 'astronaut').

    Raises ModelError where there is no such image or it can't be read, DependencyError where a name needs scikit-image.
    """
    path = Path(name_or_path).expanduser()
    if not path.exists():
        path = _bundled(str(name_or_path))
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise ModelError(f"{name_or_path} is not an image that pillow can read") from None
    except IsADirectoryError:
        raise ModelError(f"{name_or_path} is a folder; name an image file") from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ModelError(f"{name_or_path} can't be read as an image: {error}") from error


def bundled_images() -> tuple[str, ...]:
    """The names that `load_image` knows without a file; none where scikit-image is not installed."""
    return tuple(sorted({path.stem for path in _bundled_files()}))


def _bundled_files() -> list[Path]:
    found = find_spec("skimage")
    folders = found.submodule_search_locations if found is not None else None
    files = [file for folder in folders or () for file in (Path(folder) / "data").glob("*")]
    return [file for file in files if file.suffix in _SUFFIXES]


def _bundled(name: str) -> Path:
    for file in _bundled_files():
        if file.stem == name:
            return file
    if Path(name).suffix or "/" in name:
        raise ModelError(f"there is no image {name}")
    if find_spec("skimage") is None:
        raise DependencyError(
            f"there is no image file {name}; the sample photographs come with scikit-image: pip install scikit-image"
        )
    near = get_close_matches(name, bundled_images(), 3, 0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; the samples are {', '.join(bundled_images())}"
    raise ModelError(f"there is no image file {name}, nor a sample of that name{hint}")
