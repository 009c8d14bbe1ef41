"""The search: several shortest paths, by scheme and by members, within everyone's memory; their plans are simulated, and
the best is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from fogconv.errors import PlannerError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Concat
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Plan
from fogconv.ir.shard import level
from fogconv.planning.cost import Prices
from fogconv.planning.layout_table import LayoutBook
from fogconv.planning.limits.goal import Goal
from fogconv.planning.limits.sought import Sought
from fogconv.planning.limits.tiling import MOST_TILES, Tiling, squarest
from fogconv.planning.memory import over_memory, with_swaps
from fogconv.planning.paths.shortest import cheapest
from fogconv.planning.strategies.family import Scheme
from fogconv.planning.strategies.options import Options
from fogconv.simulation.prediction import predicted

WITHIN = 1.5
"""The search's sum is at most this many times what a plan takes."""
MOST_RANKS = MOST_TILES
"""The most ranks that a search uses. Its time grows with the square of the ranks (8 s for ResNet-50 on 33), and more
parts gain little: in a larger cluster only the fastest ranks get work. The star needs no search and uses all ranks."""

FEW_RANKS = 2
"""The least ranks among which work is divided; tried where all of a larger cluster gain nothing."""

FUSED_STAGES = 3
"""The most stages between two exchanges of rows. DenseNet-121 on five nodes of 0.1 core at 1 Gbit/s, simulated: 209, 204,
204 and 211 ms with 2, 3, 4 and 6. With any, its late blocks stay on the master. What else was tried for them gained 4 % at
most: rows among two or three of the nodes, and transfers priced at a half or a third, since a plan's programs hide some."""

PENALTIES = 7
"""From no penalty to 0.1 ms per weight: each sixteen times the one before."""

_SEARCHES: tuple[Scheme, ...] = ("auto", "rows", "columns", "tiles", "depth", "offload", "local")


def search(graph: LayerGraph, topology: Topology, scheme: Scheme, sought: Sought) -> Plan:
    """The best plan with the layouts of a scheme: "auto" uses all layouts, "depth", "rows", "columns" and "tiles" some,
    "offload" whole layers on one rank each, "local" the master's only.

    Raises PlannerError when the weights fit into no rank's memory limit, where nothing is allowed, and, as DeadlineError,
    where no plan keeps the deadline; InputError where the goal needs an energy that is not known.
    """
    sought.goal.check(topology)
    if len(topology) > MOST_RANKS:
        fastest = _fastest(topology, MOST_RANKS, sought.allowed.ranks)
        among = replace(sought, allowed=sought.allowed.among(fastest))
        return search(graph, topology.subset(fastest), scheme, among).among(fastest, len(topology))
    if scheme == "auto":
        return _best_of(graph, topology, sought)
    return _best(graph, topology, _search(graph, _book(graph, topology, sought), scheme, sought), sought.goal)


def _fastest(topology: Topology, most: int, needed: frozenset[int]) -> list[int]:
    """The master, the workers that are ``needed``, and the fastest others; of equally fast ones those with the fastest links
    to it."""

    def slowness(rank: int) -> tuple[bool, float, float]:
        link_s = max(topology.link(0, rank).s_per_byte, topology.link(rank, 0).s_per_byte)
        return rank not in needed, topology.devices[rank].gamma(), link_s

    return [0, *sorted(sorted(topology.workers, key=slowness)[: most - 1])]


def _member_sets(topology: Topology) -> list[tuple[int, ...]]:
    """All ranks, and all without those of the lowest rates or the slowest links to the master: a rank's messages can cost
    more than its work saves."""
    rates = level([topology.rate(rank) for rank in topology.ranks])
    links = [max(topology.link(0, rank).s_per_byte, topology.link(rank, 0).s_per_byte) for rank in topology.ranks[1:]]
    widths = (0.0, *level([1.0 / max(s_per_byte, 1e-15) for s_per_byte in links], tolerance=1.0))
    member_sets = [
        tuple(rank for rank in topology.ranks if rank == 0 or values[rank] >= least)
        for values in (rates, widths)
        for least in sorted(set(values[1:])) or [0.0]
    ]
    return list(dict.fromkeys(member_sets))


def _best_of(graph: LayerGraph, topology: Topology, sought: Sought) -> Plan:
    """The best of several searches: the widest one keeps only some paths, so a narrower one may find a better plan. Where
    all ranks together gain nothing, a few of them still may: two exchange half as many messages as five."""
    book = _book(graph, topology, sought)  # one book for all: the cost of a layout is the same in every search
    best = _best_among(graph, book, sought, _member_sets(topology))
    if not sought.goal.front and len(topology) > FEW_RANKS and best.active_ranks == {MASTER}:
        for most in range(FEW_RANKS, len(topology)):
            members = tuple(_fastest(topology, most, sought.allowed.ranks))
            fewer = _best_among(graph, book, sought, [members])
            if sought.goal.measure(fewer) >= sought.goal.measure(best):
                break
            best = fewer
    return replace(best, scheme="auto")


def _best_among(graph: LayerGraph, book: LayoutBook, sought: Sought, member_sets: Sequence[tuple[int, ...]]) -> Plan:
    found: list[Plan] = []
    failures: list[PlannerError] = []
    topology = book.prices.topology
    searches = [scheme for scheme in _SEARCHES if scheme != "offload" or _worth_offloading(topology, sought)]
    for members in member_sets:
        for scheme in searches:
            try:
                found += _search(graph, book, scheme, sought, members)
            except PlannerError as error:
                failures.append(error)
    if not found:
        raise failures[0]
    return _best(graph, topology, found, sought.goal)


def _worth_offloading(topology: Topology, sought: Sought) -> bool:
    """Whether whole layers on one worker can be better than on the master: on a faster one, where memory is short, or where
    time is not what counts."""
    rates = level([topology.rate(rank) for rank in topology.ranks])
    limited = any(device.memory_bytes is not None for device in topology.devices)
    return limited or max(rates) > rates[0] or sought.goal.objective != "latency"


def _best(graph: LayerGraph, topology: Topology, plans: Sequence[Plan], goal: Goal) -> Plan:
    """The plan whose programs take least. ``plans`` have the search's sums as their predictions, which are more by what
    overlaps: one that is above WITHIN times the best prediction so far is not simulated."""
    kinds = {tuple((each.work, each.target, each.via) for each in found.placements): found for found in reversed(plans)}
    if goal.front:
        return goal.within([predicted(graph, found, topology) for found in kinds.values()])
    best: Plan | None = None
    for found in sorted(kinds.values(), key=goal.measure):
        if best is not None and goal.measure(found) > WITHIN * goal.measure(best):
            break
        priced = predicted(graph, found, topology)
        if best is None or goal.measure(priced) < goal.measure(best):
            best = priced
    assert best is not None
    return best


def _book(graph: LayerGraph, topology: Topology, sought: Sought) -> LayoutBook:
    batch, picture = graph.picture.batch, graph.inputs[0].tensor
    prices = Prices(topology, batch, sought.wire)
    special: dict[int, Prices] = {}
    elements = [tensor.precision.element for tensor in graph.tensors]
    of = {element: Prices(topology, batch, element=element) for element in set(elements) - {"fp32"}}
    special.update({number: of[element] for number, element in enumerate(elements) if element != "fp32"})
    if sought.pixels is not None and picture is not None:
        special[picture] = Prices(topology, batch, pixels=True)
    return LayoutBook(prices, special)


def _search(
    graph: LayerGraph, book: LayoutBook, scheme: Scheme, sought: Sought, members: Sequence[int] | None = None
) -> list[Plan]:
    """Search by tiles once for each tiling, and by rows twice; together the ways of both would displace better paths
    (MobileNet's, by 1 %). By rows without concatenations, once with drifting cuts: Inception's plans did not change by them,
    and took half as long again. With concatenations, once with fused layers: DenseNet's need rows of all that was made
    before, so that a path to fewer exchanges first looks dear, and is dropped.
    """
    if len(book.prices.topology) == 1:
        scheme = "local"
    branched = any(isinstance(layer, Concat) for layer in graph.layers)
    ways: list[tuple[bool, int, Tiling | None]] = [(False, 0, None)]
    if scheme == "rows":
        ways.append((False, FUSED_STAGES, None) if branched else (True, 0, None))
    elif scheme == "tiles":
        ranks = len(book.prices.topology) if members is None else len(members)
        tilings = squarest(ranks) if sought.tiling is None else (sought.tiling,)
        ways = [(False, 0, tiling) for tiling in tilings]
    return [plan for way in ways for plan in _within_memory(graph, book, scheme, sought, members, *way)]


def _within_memory(
    graph: LayerGraph,
    book: LayoutBook,
    scheme: Scheme,
    sought: Sought,
    members: Sequence[int] | None,
    drifting: bool,
    fused: int,
    tiling: Tiling | None,
) -> list[Plan]:
    """Where a rank's memory limit is too small, weights become dear on all ranks with limits, until the path that stores
    least on them is the cheapest; if that is still too much, as maps are no weights, the others do without it. Where ranks
    may swap, each of these paths is possible, and which one is the cheapest is for its simulation to say."""
    topology, allowed = book.prices.topology, sought.allowed
    penalty = 0.0
    possible: list[Plan] = []
    options = Options(
        graph, book.prices, book, scheme, members, drifting=drifting, fused=fused, tiling=tiling, allowed=allowed
    )
    for attempt in count(1):
        swaps, over = False, None
        for found in cheapest(graph, book, scheme, sought, penalty, options):
            fitted = with_swaps(graph, found, topology) if sought.allow_swap else found
            swaps = swaps or bool(fitted.swaps)
            beyond = over_memory(graph, fitted, topology)
            if beyond is None:
                possible.append(fitted)
            over = over or beyond
        if possible and (not swaps or scheme == "local" or attempt % PENALTIES == 0):
            break
        penalty = max(16 * penalty, 1e-10)
        if attempt % PENALTIES == 0 or scheme == "local":  # all is on the master, whatever weights cost
            assert over is not None
            if over.rank in allowed.ranks:
                raise PlannerError(f"{over.sentence}; {allowed.because} leaves no other rank for some of it")
            if over.rank == MASTER or scheme == "local":
                raise PlannerError(over.sentence)
            members = [rank for rank in members or topology.ranks if rank != over.rank]
            options = Options(
                graph, book.prices, book, scheme, members, drifting=drifting, fused=fused, tiling=tiling, allowed=allowed
            )
            penalty = 0.0
    return possible
