"""Fuzzer: a plan's file is refused in a sentence, or its programs compute what the model computes.

python -m tests.lowering.fuzz_plan CORPUS -max_total_time=60
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fogconv.hardware.topology import Topology
from fogconv.ir import layout, plan, shard
from fogconv.ir.geometry import ConvSpec, PoolSpec, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Protection
from fogconv.ir.layers import Add, Concat, Conv, GlobalPool, Pool, Tensor
from fogconv.ir.plan import load_plan
from fogconv.lowering import buffers, lower, plan_check, program_builder
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan as make_plan
from fogconv.planning.schemes import Scheme
from tests import fuzzers, program_reference
from tests.fuzzers import ODD, Target, changed_json, in_a_sentence, reworded, scratch
from tests.graph_reference import run_graph

RANKS_RUN = 8
"""Plans for more are lowered only."""
SMALL = (*range(20), -1, 32, 64, None, "rows", "star", "local", "host", "relabel", "output", "input", "grid", True, False)


def one_input(data: bytes) -> None:
    file = scratch() / "plan.json"
    file.write_bytes(data)
    graph, x, expected = _model()
    with in_a_sentence():
        found = load_plan(file)
        lowered = lower.lower(graph, found)
        assert len(lowered.programs) == found.ranks
        if found.ranks <= RANKS_RUN:
            output = program_reference.run(lowered.programs, lowered.weights, x)
            np.testing.assert_allclose(output.reshape(expected.shape), expected, rtol=1e-6, atol=1e-6)


@cache
def _model() -> tuple[LayerGraph, NDArray[Any], NDArray[Any]]:
    """A small net of every kind of layer that matters to a plan, an input, and its output."""
    generator = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {}

    def weight(*shape: int) -> str:
        weights[f"w{len(weights)}"] = generator.standard_normal(shape).astype(np.float32).astype(np.float64)
        return f"w{len(weights) - 1}"

    def conv(name: str, source: int, target: int, spec: ConvSpec, residual: int | None = None) -> Conv:
        key, bias = weight(*spec.weight_shape), weight(spec.out_channels)
        return Conv(name, source, target, spec, key, bias, "relu", residual)

    one = (1, 1, 1, 1)
    sizes = [(3, 12), (16, 12), (16, 12), (16, 6), (16, 6), (32, 6), (32, 6), (32, 1), (10, 1)]
    tensors = tuple(Tensor(f"t{n}", 1, channels, side, side) for n, (channels, side) in enumerate(sizes))
    layers = (
        conv("first", 0, 1, ConvSpec(3, 16, 12, 12, (3, 3), padding=one)),
        conv("second", 1, 2, ConvSpec(16, 16, 12, 12, (3, 3), padding=one), residual=1),
        Pool("pool", 2, 3, PoolSpec("max", 16, 12, 12, (2, 2), (2, 2))),
        conv("grouped", 3, 4, ConvSpec(16, 16, 6, 6, (3, 3), padding=one, groups=4)),
        Concat("concat", (3, 4), 5),
        Add("add", (5, 5), 6, "relu"),
        GlobalPool("mean", 6, 7),
        conv("head", 7, 8, ConvSpec(32, 10, 1, 1, (1, 1))),
    )
    graph = LayerGraph.single("small", tensors, layers, 0, 8, (1, 10), weights)
    x = generator.standard_normal((1, 3, 12, 12))
    return graph, x, run_graph(graph, x)


@cache
def seeds() -> dict[str, bytes]:
    graph, _, _ = _model()
    found = {}
    for ranks in (2, 4):
        topology = Topology.uniform(ranks, 1e6, 1e12)
        for scheme in Scheme:
            made = make_plan(graph, topology, PlanOptions(str(scheme)))
            found[f"{scheme}_{ranks}"] = msgspec.json.encode(made)
            # Every conv is swapped, in the slices that there are.
            swaps = tuple(
                plan.Swap(index, work.rank, slices(work.output.channels))
                for index, (layer, placement) in enumerate(zip(graph.layers, made.placements, strict=True))
                if isinstance(layer, Conv) and layer.spec.groups == 1
                for work in placement.work
            )
            found[f"swapped_{scheme}_{ranks}"] = msgspec.json.encode(replace(made, swaps=swaps))
        star = {"scheme": "star", "trigger": "both", "threshold": 0.0}
        found[f"star_forced_{ranks}"] = msgspec.json.encode(make_plan(graph, topology, PlanOptions(**star)))
        for name, guards in (("verify", Protection(verify=True)), ("coded", Protection(redundancy=1, patience=2.0))):
            guarded = PlanOptions(**star, protection=guards)
            found[f"{name}_{ranks}"] = msgspec.json.encode(make_plan(graph, topology, guarded))
    found["latin"] = b'{"graph": "\xe9"}'
    return found


def slices(channels: Span) -> tuple[Span, ...]:
    """The last blocks of 16, one each."""
    starts = range(channels.start, channels.stop, 16)
    return tuple(Span(start, min(start + 16, channels.stop)) for start in starts)[-2:]


def changed(data: bytes, generator: random.Random) -> bytes:
    """Mostly the parts that say who computes what; one of the small numbers that might make sense there."""
    odd = ODD if generator.random() < 0.3 else SMALL
    try:
        tree = json.loads(data)
        if generator.random() < 0.8:
            if tree.get("swaps") and generator.random() < 0.3:
                tree["swaps"] = fuzzers.changed(tree["swaps"], generator, odd)
                return json.dumps(tree).encode("utf-8", "surrogatepass")
            placement = generator.choice(tree["placements"])
            part = generator.choice([name for name in ("work", "target", "via", "guard", "mode") if placement.get(name)])
            placement[part] = fuzzers.changed(placement[part], generator, odd)
            return json.dumps(tree).encode("utf-8", "surrogatepass")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return reworded(data, generator)
    return changed_json(data, generator, odd)


TARGET = Target(one_input, seeds, changed, watched=(plan, plan_check, lower, program_builder, buffers, layout, shard))

if __name__ == "__main__":
    fuzzers.main(TARGET)
