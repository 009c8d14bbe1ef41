"""The search: the cheapest path of layouts through a graph.

A state holds, for every tensor that a later layer reads, which rank holds which part of it. The layers are taken in
order; each has a few options (`fogconv.planning.strategies`). The cost of an option is the transfer of its inputs, the
slowest rank's work, and summing. So this is a shortest path over (layer × layouts of the live tensors), and the relayouts
of branches and residuals are counted too. Only the BEAM cheapest states of a layer are kept: all of them in a chain or a
ResNet, the best in Inception's wide cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from fogconv.errors import PlannerError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import Concat, Host, LayerGraph
from fogconv.ir.layout import MASTER, Layout, on
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.program import Wire
from fogconv.ir.shard import level
from fogconv.ir.stages import made_before, stages
from fogconv.planning.cost import Prices
from fogconv.planning.layout_table import LayoutBook
from fogconv.planning.memory import over_memory, with_swaps
from fogconv.planning.strategies.family import Scheme
from fogconv.planning.strategies.option import Option, split_name
from fogconv.planning.strategies.options import Options
from fogconv.simulation.prediction import predicted

BEAM = 24
EFFORT = 60_000
"""Pairs of boxes that one search may compare (LayoutBook.effort); where it exceeds its share, fewer states are kept. A
ResNet stays below; DenseNet's concatenations, whose channel shards are lists of dozens of boxes, would take minutes
without this limit.
"""
LEAST_BEAM = 2
RIVALS = 4
"""The number of cheapest paths that are tried as shorter ways to the others."""
WITHIN = 1.5
"""The search's sum is at most this many times what a plan takes."""
MOST_RANKS = 33
"""The most ranks that a search uses. Its time grows with the square of the ranks (8 s for ResNet-50 on 33), and more
parts gain little: in a larger cluster only the fastest ranks get work. The star needs no search and uses all ranks."""

PENALTIES = 7
"""From no penalty to 0.1 ms per weight: each sixteen times the one before."""

_SEARCHES: tuple[Scheme, ...] = ("auto", "rows", "depth", "local")


def search(graph: LayerGraph, topology: Topology, scheme: Scheme, wire: Wire, *, allow_swap: bool = False) -> Plan:
    """The cheapest plan with the layouts of a scheme: "auto" uses all layouts, "depth" and "rows" some, "local" the
    master's only. ``allow_swap``: weights beyond a rank's memory limit lie on its disk.

    Raises PlannerError when the weights fit into no rank's memory limit.
    """
    if len(topology) > MOST_RANKS:
        fastest = _fastest(topology, MOST_RANKS)
        found = search(graph, topology.subset(fastest), scheme, wire, allow_swap=allow_swap)
        return found.among(fastest, len(topology))
    if scheme == "auto":
        return _best_of(graph, topology, wire, allow_swap)
    return _cheapest_of(graph, topology, _search(graph, _book(graph, topology, wire), scheme, wire, allow_swap))


def _fastest(topology: Topology, most: int) -> list[int]:
    """The master and the fastest workers; of equally fast ones those with the fastest links to it."""

    def slowness(rank: int) -> tuple[float, float]:
        return topology.devices[rank].gamma(), max(topology.link(0, rank).s_per_byte, topology.link(rank, 0).s_per_byte)

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


def _best_of(graph: LayerGraph, topology: Topology, wire: Wire, allow_swap: bool) -> Plan:
    """The best of several searches: the widest one keeps only some paths, so a narrower one may find a better plan."""
    found: list[Plan] = []
    failures: list[PlannerError] = []
    book = _book(graph, topology, wire)  # one book for all: the cost of a layout is the same in every search
    for members in _member_sets(topology):
        for scheme in _SEARCHES:
            try:
                found += _search(graph, book, scheme, wire, allow_swap, members)
            except PlannerError as error:
                failures.append(error)
    if not found:
        raise failures[0]
    return replace(_cheapest_of(graph, topology, found), scheme="auto")


def _cheapest_of(graph: LayerGraph, topology: Topology, plans: Sequence[Plan]) -> Plan:
    """The plan whose programs take the least time. ``plans`` have the search's sums as ``predicted_s``, which are more by
    what overlaps: one that is above WITHIN times the best prediction so far is not priced."""
    best: Plan | None = None
    kinds = {tuple((each.work, each.target, each.via) for each in found.placements): found for found in reversed(plans)}
    for found in sorted(kinds.values(), key=lambda each: each.predicted_s or 0.0):
        if best is not None and (found.predicted_s or 0.0) > WITHIN * (best.predicted_s or 0.0):
            break
        priced = predicted(graph, found, topology)
        if best is None or (priced.predicted_s or 0.0) < (best.predicted_s or 0.0):
            best = priced
    assert best is not None
    return best


@dataclass(frozen=True, slots=True)
class _Choice:
    """How a state was reached: the option taken, the intermediate layouts of its inputs, and the state before."""

    before: _Choice | None
    option: Option | None
    via: tuple[tuple[int, int], ...]
    move_s: float


_State = dict[int, int]
"""Tensor → layout number, for the tensors that later layers read."""


_Pairs = frozenset[tuple[int, int]]
"""The (sender, receiver) pairs."""


@dataclass(slots=True)
class _Path:
    """``met`` are the pairs between which a message is sent at the start of this stage: more data costs no extra
    message."""

    cost: float
    state: _State
    last: _Choice | None
    met: _Pairs = frozenset()


def _book(graph: LayerGraph, topology: Topology, wire: Wire) -> LayoutBook:
    return LayoutBook(Prices(topology, graph.picture.batch, wire))


def _search(
    graph: LayerGraph,
    book: LayoutBook,
    scheme: Scheme,
    wire: Wire,
    allow_swap: bool,
    members: Sequence[int] | None = None,
) -> list[Plan]:
    """Search by rows once without and once with drifting cuts; together they would displace better paths (MobileNet's, by
    1 %). Drifting cuts are not tried where branches are concatenated: Inception's plans did not change, and took half as
    long again.
    """
    if len(book.prices.topology) == 1:
        scheme = "local"
    branched = any(isinstance(layer, Concat) for layer in graph.layers)
    ways = (False, True) if scheme == "rows" and not branched else (False,)
    return [found for drifting in ways for found in _within_memory(graph, book, scheme, wire, allow_swap, members, drifting)]


def _within_memory(
    graph: LayerGraph,
    book: LayoutBook,
    scheme: Scheme,
    wire: Wire,
    allow_swap: bool,
    members: Sequence[int] | None,
    drifting: bool,
) -> list[Plan]:
    """Where a rank's memory limit is too small, weights become dear on all ranks with limits, until the path that stores
    least on them is the cheapest; if that is still too much, as maps are no weights, the others do without it. Where ranks
    may swap, each of these paths is possible, and which one is the cheapest is for its simulation to say."""
    topology = book.prices.topology
    penalty = 0.0
    possible: list[Plan] = []
    for attempt in count(1):
        found = _cheapest(graph, book, scheme, wire, penalty, members, drifting)
        fitted = with_swaps(graph, found, topology) if allow_swap else found
        over = over_memory(graph, fitted, topology)
        if over is None:
            possible.append(fitted)
        if possible and (not fitted.swaps or scheme == "local" or attempt % PENALTIES == 0):
            break
        penalty = max(16 * penalty, 1e-10)
        if attempt % PENALTIES == 0:
            assert over is not None
            if over.rank == MASTER or scheme == "local":
                raise PlannerError(over.sentence)
            members = [rank for rank in members or topology.ranks if rank != over.rank]
            penalty = 0.0
    return possible


def _cheapest(
    graph: LayerGraph,
    book: LayoutBook,
    scheme: Scheme,
    wire: Wire,
    penalty: float,
    members: Sequence[int] | None,
    drifting: bool,
) -> Plan:
    book.effort = 0
    options = Options(graph, book.prices, book, scheme, members, drifting=drifting)
    limited = [rank for rank, device in enumerate(book.prices.topology.devices) if device.memory_bytes is not None]
    order = [(stage, index) for stage in stages(graph) for index in stage]
    last_reader = {tensor: n for n, (_, index) in enumerate(order) for tensor in graph.layers[index].reads}
    last_reader |= dict.fromkeys(graph.results, len(graph.layers))
    paths = [_Path(0.0, {tensor: options.whole_on_master(tensor) for tensor in graph.given}, None)]
    beam = BEAM
    there: frozenset[int] = frozenset()
    for number, (stage, index) in enumerate(order):
        layer = graph.layers[index]
        if index == stage[0]:
            there = made_before(graph, stage)
            for path in paths:
                path.met = frozenset()
        best: dict[tuple[tuple[int, int], ...], _Path] = {}
        dead = [tensor for tensor in (*layer.reads, *layer.writes) if last_reader.get(tensor, -1) <= number]
        if layer.relabels:
            [target] = layer.writes
            pieces, whole = layer.pieces(graph.tensors), graph.tensors[target].region
            for path in paths:
                layouts = tuple((path.state[tensor], offset) for tensor, offset in pieces)
                state = {**path.state, target: book.relabel(layouts, whole)}
                _keep(best, path.cost, state, dead, _Choice(path.last, None, (), 0.0), path.met)
        else:
            ways = options.of(layer)
            for path in paths:
                for option in ways:
                    state, move_s, via, met = _bring(book, path.state, option, there, path.met)
                    for tensor in layer.writes:
                        state[tensor] = options.whole_on_master(tensor) if isinstance(layer, Host) else option.made
                    fixed = option.edge_s + option.sum_s
                    if penalty:
                        fixed += penalty * max(option.stored[rank] for rank in limited)
                    choice = _Choice(path.last, option, via, move_s)
                    _keep(best, path.cost + move_s + fixed, state, dead, choice, met)
        late = book.effort > EFFORT * (number + 1) / len(graph.layers)
        beam = max(LEAST_BEAM, beam // 2) if late else min(BEAM, 2 * beam)
        paths = _worth_keeping(book, sorted(best.values(), key=lambda path: path.cost), beam)
    homes = {tensor: options.whole_on_master(tensor) for tensor in graph.results}

    def total(path: _Path) -> float:
        return path.cost + sum(book.move(path.state[tensor], home)[0].seconds for tensor, home in homes.items())

    return _plan(graph, book, scheme, wire, min(paths, key=total))


def _worth_keeping(book: LayoutBook, paths: list[_Path], beam: int) -> list[_Path]:
    """The ``beam`` cheapest paths, without those whose layouts can be reached from a cheaper path for less than the
    difference."""
    kept: list[_Path] = []
    for path in paths:
        if len(kept) == beam:
            break
        if not any(_reaches(book, cheaper, path) for cheaper in kept[:RIVALS]):
            kept.append(path)
    return kept


def _reaches(book: LayoutBook, cheaper: _Path, path: _Path) -> bool:
    left = path.cost - cheaper.cost
    for tensor, layout in path.state.items():
        first, second, _ = book.move(cheaper.state[tensor], layout)
        left -= first.seconds + (0.0 if second is None else second.seconds)
        if left < 0:
            return False
    return True


def _bring(
    book: LayoutBook, state: _State, option: Option, there: frozenset[int], met: _Pairs
) -> tuple[_State, float, tuple[tuple[int, int], ...], _Pairs]:
    """The state after the transfer of the option's inputs, the seconds, the intermediate layouts, and the (sender,
    receiver) pairs for tensors that are ``there`` at the stage's start."""
    after = dict(state)
    busy_s = waiting_s = 0.0
    via: tuple[tuple[int, int], ...] = ()
    for tensor, needed in option.needed:
        held = after[tensor]
        first, second, over = book.move(held, needed)
        if second is None and tensor in there:
            if first.added is not None and first.pairs <= met:
                first = first.added
            met |= first.pairs
        legs = [first] if second is None else [first, second]
        busy_s += sum(leg.cpu_s for leg in legs)
        waiting_s += sum(leg.seconds - leg.cpu_s for leg in legs)
        if over is not None:
            via += ((tensor, over),)
            held = book.union(held, over)
        after[tensor] = book.union(held, needed)
    seconds = busy_s + max(0.0, waiting_s - option.hidden_s)
    return after, seconds, via, met


def _keep(
    best: dict[tuple[tuple[int, int], ...], _Path],
    cost: float,
    state: _State,
    dead: list[int],
    choice: _Choice,
    met: _Pairs,
) -> None:
    for tensor in dead:
        state.pop(tensor, None)
    key = tuple(sorted(state.items()))
    known = best.get(key)
    if known is None or cost < known.cost:
        best[key] = _Path(cost, state, choice, met)


def _choices(last: _Choice | None) -> Iterator[_Choice]:
    found = []
    while last is not None:
        found.append(last)
        last = last.before
    return reversed(found)


def _plan(graph: LayerGraph, book: LayoutBook, scheme: Scheme, wire: Wire, path: _Path) -> Plan:
    """The plan of a path, with its sum of seconds, and bytes per card."""
    ranks = len(book.prices.topology)
    sent, received = [0.0] * ranks, [0.0] * ranks
    state: _State = {tensor: book.number(_whole_on_master(graph, tensor, ranks)) for tensor in graph.given}
    placements: dict[int, Placement] = {}
    seconds = 0.0
    order = [index for stage in stages(graph) for index in stage]

    def count(cards: tuple[tuple[float, float], ...]) -> None:
        for rank, (out, into) in enumerate(cards):
            sent[rank] += out
            received[rank] += into

    for index, choice in zip(order, _choices(path.last), strict=True):
        layer, option = graph.layers[index], choice.option
        if option is None:
            [target] = layer.writes
            layouts = tuple((state[tensor], offset) for tensor, offset in layer.pieces(graph.tensors))
            state[target] = book.relabel(layouts, graph.tensors[target].region)
            placements[index] = Placement("relabel", ())
            continue
        for tensor, needed in option.needed:
            first, second, _ = book.move(state[tensor], needed)
            count(first.card_bytes)
            if second is not None:
                count(second.card_bytes)
        state, _, via, _ = _bring(book, state, option, frozenset(), frozenset())
        if option.sum_traffic is not None:
            count(option.sum_traffic.card_bytes)
        for tensor in layer.writes:
            state[tensor] = book.number(_whole_on_master(graph, tensor, ranks)) if isinstance(layer, Host) else option.made
        seconds += choice.move_s + option.edge_s + option.sum_s
        detours = tuple((tensor, book[number]) for tensor, number in via)
        name = split_name(option)
        placements[index] = Placement(option.mode, option.work, option.target, detours, name)
    for tensor in graph.results:
        last, _, _ = book.move(state[tensor], book.number(_whole_on_master(graph, tensor, ranks)))
        count(last.card_bytes)
        seconds += last.seconds
    cards = tuple(zip(sent, received, strict=True))
    in_order = tuple(placement for _, placement in sorted(placements.items(), key=lambda each: each[0]))
    return Plan(graph.name, ranks, scheme, in_order, wire, predicted_s=seconds, card_bytes=cards)


def _whole_on_master(graph: LayerGraph, tensor: int, ranks: int) -> Layout:
    return on(0, graph.tensors[tensor].region, ranks)
