"""Contestants: the plans that auto's is held against: every named scheme's for one frame, and random paths of layouts.

A random path cuts the network into a few stretches of layers and takes one kind of split in each; what the search keeps,
and what its costs say, does not matter to it.
"""

from __future__ import annotations

import random

from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.plan import Placement, Plan, at_home
from fogconv.planning.cost import Prices
from fogconv.planning.layout_table import LayoutBook
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.schemes import ONE_FRAME, Scheme
from fogconv.planning.strategies.option import Option, split_name
from fogconv.planning.strategies.options import Options
from fogconv.simulation.prediction import predicted

PATHS = 20
MODES = ("local", "rows", "output", "input", "copies")
"""The kinds of a stretch. A layer that can't be cut so takes the first way that its kind of layer has."""
MOST_STRETCHES = 6


def contestants(graph: LayerGraph, topology: Topology, seed: int, paths: int = PATHS) -> list[tuple[str, Plan]]:
    """(name, plan) of each; auto's first."""
    schemes = (*ONE_FRAME, Scheme.LOCAL)
    named = [(str(scheme), plan(graph, topology, PlanOptions(scheme))) for scheme in schemes]
    chance = random.Random(seed)
    known = {tuple(each.work for each in found.placements) for _, found in named}
    tries = 0
    while len(named) < len(schemes) + paths and tries < 10 * paths:
        tries += 1
        found = random_path(graph, topology, chance)
        key = tuple(each.work for each in found.placements)
        if key not in known:
            known.add(key)
            named.append((f"path {len(named) - len(schemes) + 1}", predicted(graph, found, topology)))
    return named


def random_path(graph: LayerGraph, topology: Topology, chance: random.Random) -> Plan:
    """A plan whose layers are cut as one of MODES in each of a few stretches."""
    prices = Prices(topology, graph.picture.batch)
    members = sorted({0, *chance.sample(list(topology.workers), chance.randint(1, len(topology.workers)))})
    options = Options(graph, prices, LayoutBook(prices), "auto", members)
    cuts = sorted(
        chance.sample(range(1, len(graph.layers)), min(len(graph.layers) - 1, chance.randint(0, MOST_STRETCHES - 1)))
    )
    placements = []
    mode = chance.choice(MODES)
    for index, layer in enumerate(graph.layers):
        if index in cuts:
            mode = chance.choice(MODES)
        if layer.relabels:
            placements.append(at_home(graph, layer))
            continue
        ways = options.of(layer)
        fitting = [way for way in ways if way.mode == mode] or [way for way in ways if way.mode in _LIKE[mode]] or ways[:1]
        placements.append(_placed(chance.choice(fitting)))
    return Plan(graph.name, len(topology), "auto", tuple(placements))


_LIKE = {
    "local": ("host",),
    "rows": ("sums",),
    "output": ("channels", "groups"),
    "input": ("channels", "groups"),
    "copies": ("copies",),
}


def _placed(option: Option) -> Placement:
    return Placement(option.mode, option.work, option.target, (), split_name(option))
