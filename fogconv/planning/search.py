"""The search: the cheapest path of layouts through a graph.

A state holds, for every tensor that a later layer reads, which rank holds which part of it. The layers are taken in
order; each has a few options (`fogconv.planning.strategies`). The cost of an option is the transfer of its inputs, the
slowest rank's work, and summing. So this is a shortest path over (layer × layouts of the live tensors), and the relayouts
of branches and residuals are counted too. Only the BEAM cheapest states of a layer are kept: all of them in a chain or a
ResNet, the best in Inception's wide cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from fogconv.errors import PlannerError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import Concat, Host, LayerGraph
from fogconv.ir.layout import MASTER, Layout, on
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.program import Pixels, Wire
from fogconv.ir.shard import level
from fogconv.ir.stages import made_before, stages
from fogconv.planning.cost import Prices
from fogconv.planning.layout_table import LayoutBook
from fogconv.planning.limits.allowed import Allowed
from fogconv.planning.limits.goal import Goal
from fogconv.planning.memory import over_memory, with_swaps
from fogconv.planning.strategies.family import Scheme
from fogconv.planning.strategies.option import Option, split_name
from fogconv.planning.strategies.options import Options
from fogconv.simulation.prediction import predicted

BEAM = 24
FRONT_BEAM = 96
"""The same where both seconds and joules of a path matter."""
MOST_OF_A_FRONT = 16
"""The plans of one search that are simulated where both matter."""
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

_SEARCHES: tuple[Scheme, ...] = ("auto", "rows", "depth", "offload", "local")


@dataclass(frozen=True, slots=True)
class Sought:
    """What is looked for. ``allow_swap``: weights beyond a rank's memory limit lie on its disk. ``pixels``: the
    picture is sent as bytes."""

    wire: Wire = "fp32"
    allow_swap: bool = False
    allowed: Allowed = Allowed()
    goal: Goal = Goal()
    pixels: Pixels | None = None


def search(graph: LayerGraph, topology: Topology, scheme: Scheme, sought: Sought) -> Plan:
    """The best plan with the layouts of a scheme: "auto" uses all layouts, "depth" and "rows" some, "offload" whole layers
    on one rank each, "local" the master's only.

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
    """The best of several searches: the widest one keeps only some paths, so a narrower one may find a better plan."""
    found: list[Plan] = []
    failures: list[PlannerError] = []
    book = _book(graph, topology, sought)  # one book for all: the cost of a layout is the same in every search
    for members in _member_sets(topology):
        for scheme in _SEARCHES:
            try:
                found += _search(graph, book, scheme, sought, members)
            except PlannerError as error:
                failures.append(error)
    if not found:
        raise failures[0]
    return replace(_best(graph, topology, found, sought.goal), scheme="auto")


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


@dataclass(frozen=True, slots=True)
class _Choice:
    """How a state was reached: the option taken, the intermediate layouts of its inputs, and the state before."""

    before: _Choice | None
    option: Option | None
    via: tuple[tuple[int, int], ...]
    move_s: float
    move_j: float


_State = dict[int, int]
"""Tensor → layout number, for the tensors that later layers read."""


_Pairs = frozenset[tuple[int, int]]
"""The (sender, receiver) pairs."""


@dataclass(slots=True)
class _Path:
    """``weight``: by the goal, of its seconds and joules. ``met`` are the pairs between which a message is sent at the
    start of this stage: more data costs no extra message."""

    weight: float
    seconds: float
    joules: float
    state: _State
    last: _Choice | None
    met: _Pairs = frozenset()

    def beats(self, other: _Path) -> bool:
        """Whether the other one is no better in anything."""
        return self.seconds <= other.seconds and self.joules <= other.joules


def _book(graph: LayerGraph, topology: Topology, sought: Sought) -> LayoutBook:
    batch, picture = graph.picture.batch, graph.inputs[0].tensor
    prices = Prices(topology, batch, sought.wire)
    if sought.pixels is None:
        return LayoutBook(prices)
    return LayoutBook(prices, picture, Prices(topology, batch, pixels=True))


def _search(
    graph: LayerGraph, book: LayoutBook, scheme: Scheme, sought: Sought, members: Sequence[int] | None = None
) -> list[Plan]:
    """Search by rows once without and once with drifting cuts; together they would displace better paths (MobileNet's, by
    1 %). Drifting cuts are not tried where branches are concatenated: Inception's plans did not change, and took half as
    long again.
    """
    if len(book.prices.topology) == 1:
        scheme = "local"
    branched = any(isinstance(layer, Concat) for layer in graph.layers)
    ways = (False, True) if scheme == "rows" and not branched else (False,)
    return [plan for drifting in ways for plan in _within_memory(graph, book, scheme, sought, members, drifting)]


def _within_memory(
    graph: LayerGraph,
    book: LayoutBook,
    scheme: Scheme,
    sought: Sought,
    members: Sequence[int] | None,
    drifting: bool,
) -> list[Plan]:
    """Where a rank's memory limit is too small, weights become dear on all ranks with limits, until the path that stores
    least on them is the cheapest; if that is still too much, as maps are no weights, the others do without it. Where ranks
    may swap, each of these paths is possible, and which one is the cheapest is for its simulation to say."""
    topology, allowed = book.prices.topology, sought.allowed
    penalty = 0.0
    possible: list[Plan] = []
    options = Options(graph, book.prices, book, scheme, members, drifting=drifting, allowed=allowed)
    for attempt in count(1):
        swaps, over = False, None
        for found in _cheapest(graph, book, scheme, sought, penalty, options):
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
            options = Options(graph, book.prices, book, scheme, members, drifting=drifting, allowed=allowed)
            penalty = 0.0
    return possible


def _cheapest(
    graph: LayerGraph, book: LayoutBook, scheme: Scheme, sought: Sought, penalty: float, options: Options
) -> list[Plan]:
    """The best plan; where seconds and joules matter, those of which none is better in both."""
    book.effort = 0
    goal, idle_watts = sought.goal, book.prices.idle_watts
    limited = [rank for rank, device in enumerate(book.prices.topology.devices) if device.memory_bytes is not None]
    order = [(stage, index) for stage in stages(graph) for index in stage]
    last_reader = {tensor: n for n, (_, index) in enumerate(order) for tensor in graph.layers[index].reads}
    last_reader |= dict.fromkeys(graph.results, len(graph.layers))
    paths = [_Path(0.0, 0.0, 0.0, {tensor: options.whole_on_master(tensor) for tensor in graph.given}, None)]
    most = FRONT_BEAM if goal.front else BEAM
    beam = most
    there: frozenset[int] = frozenset()
    for number, (stage, index) in enumerate(order):
        layer = graph.layers[index]
        if index == stage[0]:
            there = made_before(graph, stage)
            for path in paths:
                path.met = frozenset()
        best = _Best(goal, [tensor for tensor in (*layer.reads, *layer.writes) if last_reader.get(tensor, -1) <= number])
        if layer.relabels:
            [target] = layer.writes
            pieces, whole = layer.pieces(graph.tensors), graph.tensors[target].region
            for path in paths:
                layouts = tuple((path.state[tensor], offset) for tensor, offset in pieces)
                state = {**path.state, target: book.relabel(layouts, whole)}
                best.keep(path.seconds, path.joules, state, _Choice(path.last, None, (), 0.0, 0.0), path.met)
        else:
            ways = options.of(layer)
            for path in paths:
                for option in ways:
                    brought = _bring(book, path.state, option, there, path.met, sought.allowed.still)
                    if brought is None:
                        continue
                    state, move_s, move_j, via, met = brought
                    for tensor in layer.writes:
                        state[tensor] = options.whole_on_master(tensor) if isinstance(layer, Host) else option.made
                    took_s = move_s + option.edge_s + option.sum_s
                    joules = path.joules + move_j + option.joules
                    if penalty:
                        dear = penalty * max(option.stored[rank] for rank in limited)
                        took_s, joules = took_s + dear, joules + dear
                    choice = _Choice(path.last, option, via, move_s, move_j)
                    best.keep(path.seconds + took_s, joules + idle_watts * took_s, state, choice, met)
        if not best.paths:
            raise PlannerError(f"no rank may compute {layer.name} of {graph.name}: {sought.allowed.because} leaves none")
        late = book.effort > EFFORT * (number + 1) / len(graph.layers)
        beam = max(LEAST_BEAM, beam // 2) if late else min(most, 2 * beam)
        paths = _worth_keeping(book, best.in_order(), beam, sought)
    ends = _Best(goal, graph.results)
    for path in paths:
        back = [book.move(path.state[tensor], options.whole_on_master(tensor))[0] for tensor in graph.results]
        back_s, back_j = sum(leg.seconds for leg in back), sum(leg.joules for leg in back)
        joules = path.joules + back_j + idle_watts * back_s
        ends.keep(path.seconds + back_s, joules, dict(path.state), path.last, path.met)
    return [_plan(graph, book, scheme, sought, path.last) for path in _spread(goal, ends.paths)]


class _Best:
    """The paths worth keeping of those to one layer: the lightest to each state, or its front. ``dead`` tensors are read no
    more."""

    def __init__(self, goal: Goal, dead: Sequence[int]) -> None:
        self._goal, self._dead = goal, dead
        self._by_state: dict[tuple[tuple[int, int], ...], list[_Path]] = {}

    def keep(self, seconds: float, joules: float, state: _State, choice: _Choice | None, met: _Pairs) -> None:
        for tensor in self._dead:
            state.pop(tensor, None)
        known = self._by_state.setdefault(tuple(sorted(state.items())), [])
        weight = self._goal.weight(seconds, joules)
        if known and not self._goal.front:
            if weight < known[0].weight:
                known[0] = _Path(weight, seconds, joules, state, choice, met)
            return
        path = _Path(weight, seconds, joules, state, choice, met)
        if not any(other.beats(path) for other in known):
            known[:] = [*(other for other in known if not path.beats(other)), path]

    @property
    def paths(self) -> list[_Path]:
        return [path for known in self._by_state.values() for path in known]

    def in_order(self) -> list[_Path]:
        """The lightest first; where both matter, in turns the one of least energy and the fastest of those that are left."""
        by_weight = sorted(self.paths, key=lambda path: path.weight)
        if not self._goal.front:
            return by_weight
        turns = zip(by_weight, sorted(by_weight, key=lambda path: path.seconds), strict=True)
        return list({id(path): path for pair in turns for path in pair}.values())


def _spread(goal: Goal, paths: Sequence[_Path]) -> list[_Path]:
    """The lightest path; of a front MOST_OF_A_FRONT at most, evenly spread over it, with both its ends."""
    if not goal.front:
        return [min(paths, key=lambda path: path.weight)]
    front = sorted(paths, key=lambda path: path.seconds)
    step = max(1.0, (len(front) - 1) / (MOST_OF_A_FRONT - 1))
    return [front[round(i * step)] for i in range(min(len(front), MOST_OF_A_FRONT))]


def _worth_keeping(book: LayoutBook, paths: Sequence[_Path], beam: int, sought: Sought) -> list[_Path]:
    """The ``beam`` first paths, without those whose layouts can be reached from a better path for less than the
    difference."""
    kept: list[_Path] = []
    for path in paths:
        if len(kept) == beam:
            break
        if not any(_reaches(book, better, path, sought) for better in kept[:RIVALS]):
            kept.append(path)
    return kept


def _reaches(book: LayoutBook, better: _Path, path: _Path, sought: Sought) -> bool:
    front, weight, idle_watts = sought.goal.front, sought.goal.weight, book.prices.idle_watts
    left = math.inf if front else path.weight - better.weight
    seconds = joules = 0.0
    for tensor, layout in path.state.items():
        first, second, _ = book.moved(tensor, better.state[tensor], layout)
        if first.pairs and tensor in sought.allowed.still:
            return False
        for leg in (first, second):
            if leg is not None:
                seconds += leg.seconds
                joules += leg.joules + idle_watts * leg.seconds
        if weight(seconds, joules) > left:
            return False
    return not front or (better.seconds + seconds <= path.seconds and better.joules + joules <= path.joules)


def _bring(
    book: LayoutBook, state: _State, option: Option, there: frozenset[int], met: _Pairs, still: frozenset[int]
) -> tuple[_State, float, float, tuple[tuple[int, int], ...], _Pairs] | None:
    """The state after the transfer of the option's inputs, the seconds, the joules (beyond idle power), the intermediate
    layouts, and the (sender, receiver) pairs for tensors that are ``there`` at the stage's start. None where a tensor would
    be sent that has to be ``still``."""
    after = dict(state)
    busy_s = waiting_s = joules = 0.0
    via: tuple[tuple[int, int], ...] = ()
    for tensor, needed in option.needed:
        held = after[tensor]
        first, second, over = book.moved(tensor, held, needed)
        if first.pairs and tensor in still:
            return None
        if second is None and tensor in there:
            if first.added is not None and first.pairs <= met:
                first = first.added
            met |= first.pairs
        legs = [first] if second is None else [first, second]
        busy_s += sum(leg.cpu_s for leg in legs)
        waiting_s += sum(leg.seconds - leg.cpu_s for leg in legs)
        joules += sum(leg.joules for leg in legs)
        if over is not None:
            via += ((tensor, over),)
            held = book.union(held, over)
        after[tensor] = book.union(held, needed)
    seconds = busy_s + max(0.0, waiting_s - option.hidden_s)
    return after, seconds, joules, via, met


def _choices(last: _Choice | None) -> Iterator[_Choice]:
    found = []
    while last is not None:
        found.append(last)
        last = last.before
    return reversed(found)


def _plan(graph: LayerGraph, book: LayoutBook, scheme: Scheme, sought: Sought, last_choice: _Choice | None) -> Plan:
    """The plan of a path, with its sums of seconds and joules, and bytes per card."""
    ranks = len(book.prices.topology)
    sent, received = [0.0] * ranks, [0.0] * ranks
    state: _State = {tensor: book.number(_whole_on_master(graph, tensor, ranks)) for tensor in graph.given}
    placements: dict[int, Placement] = {}
    seconds = joules = 0.0
    order = [index for stage in stages(graph) for index in stage]

    def count(cards: tuple[tuple[float, float], ...]) -> None:
        for rank, (out, into) in enumerate(cards):
            sent[rank] += out
            received[rank] += into

    for index, choice in zip(order, _choices(last_choice), strict=True):
        layer, option = graph.layers[index], choice.option
        if option is None:
            [target] = layer.writes
            layouts = tuple((state[tensor], offset) for tensor, offset in layer.pieces(graph.tensors))
            state[target] = book.relabel(layouts, graph.tensors[target].region)
            placements[index] = Placement("relabel", ())
            continue
        for tensor, needed in option.needed:
            first, second, _ = book.moved(tensor, state[tensor], needed)
            count(first.card_bytes)
            if second is not None:
                count(second.card_bytes)
        brought = _bring(book, state, option, frozenset(), frozenset(), frozenset())
        assert brought is not None
        state, via = brought[0], brought[3]
        if option.sum_traffic is not None:
            count(option.sum_traffic.card_bytes)
        for tensor in layer.writes:
            state[tensor] = book.number(_whole_on_master(graph, tensor, ranks)) if isinstance(layer, Host) else option.made
        seconds += choice.move_s + option.edge_s + option.sum_s
        joules += choice.move_j + option.joules
        detours = tuple((tensor, book[number]) for tensor, number in via)
        name = split_name(option)
        placements[index] = Placement(option.mode, option.work, option.target, detours, name)
    for tensor in graph.results:
        last, _, _ = book.move(state[tensor], book.number(_whole_on_master(graph, tensor, ranks)))
        count(last.card_bytes)
        seconds += last.seconds
        joules += last.joules
    cards = tuple(zip(sent, received, strict=True))
    in_order = tuple(placement for _, placement in sorted(placements.items(), key=lambda each: each[0]))
    joules += book.prices.idle_watts * seconds
    return Plan(
        graph.name,
        ranks,
        scheme,
        in_order,
        sought.wire,
        predicted_s=seconds,
        card_bytes=cards,
        predicted_j=joules,
        pixels=sought.pixels,
    )


def _whole_on_master(graph: LayerGraph, tensor: int, ranks: int) -> Layout:
    return on(0, graph.tensors[tensor].region, ranks)
