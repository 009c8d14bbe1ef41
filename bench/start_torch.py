"""torch alone, as in a typical program, for `bench.start`: one picture's five best guesses.

python -m bench.start_torch NET
"""

from __future__ import annotations

import sys

import torch

from fogconv.zoo.models import load_model
from fogconv.zoo.preprocessing import load_image


def main(net: str) -> None:
    model = load_model(net, weights="random")
    x = torch.from_numpy(model.preprocess(load_image("coffee"))[None])
    with torch.inference_mode():
        probabilities, classes = model.module(x).softmax(1)[0].topk(5)
    for probability, index in zip(probabilities.tolist(), classes.tolist(), strict=True):
        print(f"{probability:.4f} {model.label(index)}")


if __name__ == "__main__":
    main(sys.argv[1])
