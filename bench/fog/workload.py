"""The workload: a model with weights with which every layer affects the output, one input, and its framework's answer.

A model by name gets seeded weights, because a node can't download any; the time does not depend on their values.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.fog.conversation import Facts
from fogconv.cluster.session.loaded_program import RunResult
from fogconv.errors import InputError
from fogconv.frontend.network import open_network
from fogconv.frontend.ports import named
from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.precision.elements import HALVES
from fogconv.ir.steps import Pixels
from fogconv.quantization.precision import in_precision
from fogconv.zoo.model_request import ModelRequest
from fogconv.zoo.preprocessing import Preprocessing
from fogconv.zoo.random_weights import noise_images

Size = tuple[int, int]


class Subject:
    """The graph, its host calls, its inputs, and the answer of the model's own framework, in fp32. In another ``precision``
    the graph is quantised with its one picture. The picture is noise in fp32, or with ``picture`` noise in 8 bits that was
    normalised as the model wants it; ``pixels`` then says how. Raises ModelError for an unknown name, InputError for a model
    that takes more than a picture, and for an unknown precision."""

    def __init__(self, net: str, size: Size | None = None, precision: str = "fp32", *, picture: bool = False) -> None:
        network = open_network(ModelRequest.for_shapes(net, size))
        self.task = network.card.task
        self.graph: LayerGraph = network.graph
        if len(self.graph.inputs) != 1:
            raise InputError(f"{net} takes {len(self.graph.inputs)} inputs; this bench runs models that take a picture")
        height, width = self.graph.picture.shape[2:]
        self.pixels: Pixels | None = None
        self.image: Array = noise_images(1, (height, width), seed=1).numpy()
        if picture:
            how = network.card.preprocessing
            self.pixels = Pixels(how.mean, how.std)
            pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
            self.image = Preprocessing((height, width), height, how.mean, how.std)(pixels)[None]
        self.inputs = [self.image]
        # 16 bits need no picture, and one of noise is none to round weights for.
        self.graph = in_precision(self.graph, precision, None if precision in HALVES else [self.inputs])
        alone = network.alone(threads=1)
        self.framework = alone.framework
        self.run_alone = alone.run
        self.reference: list[Array] = alone.run(self.inputs)

    def host(self, layer: int, values: dict[Any, Any], maps: Any) -> Any:
        call = self.graph.layers[layer]
        assert isinstance(call, Host)
        return call.call(values, *maps)

    def relative_error(self, run: RunResult) -> float:
        """The largest error of an output, as a share of its largest value."""
        facts = self.error(run)
        return float(facts["max_abs_error"] / (facts["max_abs_reference"] or 1.0))

    def error(self, run: RunResult) -> Facts:
        """The output with the largest error for its values."""
        found = zip(named(self.graph, run.outputs).values(), self.reference, strict=True)
        pairs = [(float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())) for ours, theirs in found]
        difference, largest = max(pairs, key=lambda pair: pair[0] / (pair[1] or 1.0))
        return {"max_abs_error": difference, "max_abs_reference": largest}
