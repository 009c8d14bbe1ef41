"""The workload: a model by name, with seeded weights with which every layer affects the output, and one input.

Seeded, because a node can't download weights; the time does not depend on their values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fogconv.zoo.models import ZooModel, load_model
from fogconv.zoo.random_weights import noise_images


def subject(net: str) -> tuple[ZooModel, NDArray[np.float32]]:
    """The model and its input (1, 3, H, W). Raises ModelError for an unknown name."""
    zoo = load_model(net, weights="random" if not net.endswith(".pt2") else "pretrained")
    return zoo, noise_images(1, zoo.input_size, seed=1).numpy()
