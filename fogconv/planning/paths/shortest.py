"""The shortest path: all layers in order, each by every option, over the states that are worth keeping.

A state holds, for every tensor that a later layer reads, which rank holds which part of it. The layers are taken in
order; each has a few options (`fogconv.planning.strategies`). The cost of an option is the transfer of its inputs, the
slowest rank's work, and summing. So this is a shortest path over (layer × layouts of the live tensors), and the relayouts
of branches and residuals are counted too. Only the BEAM cheapest states of a layer are kept: all of them in a chain or a
ResNet, the best in Inception's wide cells.
"""

from __future__ import annotations

from fogconv.errors import PlannerError
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.layout import Layout, on
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.stages import made_before, stages
from fogconv.planning.layout_table import LayoutBook
from fogconv.planning.limits.sought import Sought
from fogconv.planning.paths.path import Best, Choice, Path, State, bring, choices, spread, worth_keeping
from fogconv.planning.strategies.family import Scheme
from fogconv.planning.strategies.option import split_name
from fogconv.planning.strategies.options import Options

BEAM = 24
FRONT_BEAM = 96
"""The same where both seconds and joules of a path matter."""
EFFORT = 60_000
"""Pairs of boxes that one search may compare (LayoutBook.effort); where it exceeds its share, fewer states are kept. A
ResNet stays below; DenseNet's concatenations, whose channel shards are lists of dozens of boxes, would take minutes
without this limit.
"""
LEAST_BEAM = 2


def cheapest(
    graph: LayerGraph, book: LayoutBook, scheme: Scheme, sought: Sought, penalty: float, options: Options
) -> list[Plan]:
    """The best plan; where seconds and joules matter, those of which none is better in both."""
    book.effort = 0
    goal, idle_watts = sought.goal, book.prices.idle_watts
    limited = [rank for rank, device in enumerate(book.prices.topology.devices) if device.memory_bytes is not None]
    order = [(stage, index) for stage in stages(graph) for index in stage]
    last_reader = {tensor: n for n, (_, index) in enumerate(order) for tensor in graph.layers[index].reads}
    last_reader |= dict.fromkeys(graph.results, len(graph.layers))
    paths = [Path(0.0, 0.0, 0.0, {tensor: options.whole_on_master(tensor) for tensor in graph.given}, None)]
    most = FRONT_BEAM if goal.front else BEAM
    beam = most
    there: frozenset[int] = frozenset()
    for number, (stage, index) in enumerate(order):
        layer = graph.layers[index]
        if index == stage[0]:
            # The parts of a concatenation that are there are sent with the stage's other inputs.
            relabelled = (graph.layers[each] for each in stage if graph.layers[each].relabels)
            there = made_before(graph, stage) | {tensor for each in relabelled for tensor in each.writes}
            for path in paths:
                path.met = frozenset()
        best = Best(goal, [tensor for tensor in (*layer.reads, *layer.writes) if last_reader.get(tensor, -1) <= number])
        if layer.relabels:
            [target] = layer.writes
            pieces, whole = layer.pieces(graph.tensors), graph.tensors[target].region
            for path in paths:
                layouts = tuple((path.state[tensor], offset) for tensor, offset in pieces)
                state = {**path.state, target: book.relabel(layouts, whole)}
                best.keep(path.seconds, path.joules, state, Choice(path.last, None, (), 0.0, 0.0), path.met)
        else:
            ways = options.of(layer)
            for path in paths:
                for option in ways:
                    brought = bring(book, path.state, option, there, path.met, sought.allowed.still)
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
                    if sought.unsent is not None:
                        took_s += sought.unsent.price_s(index, option.stored)
                    choice = Choice(path.last, option, via, move_s, move_j)
                    best.keep(path.seconds + took_s, joules + idle_watts * took_s, state, choice, met)
        if not best.paths:
            raise PlannerError(f"no rank may compute {layer.name} of {graph.name}: {sought.allowed.because} leaves none")
        late = book.effort > EFFORT * (number + 1) / len(graph.layers)
        beam = max(LEAST_BEAM, beam // 2) if late else min(most, 2 * beam)
        paths = worth_keeping(book, best.in_order(), beam, sought)
    ends = Best(goal, graph.results)
    for path in paths:
        back = [book.move(path.state[tensor], options.whole_on_master(tensor))[0] for tensor in graph.results]
        back_s, back_j = sum(leg.seconds for leg in back), sum(leg.joules for leg in back)
        joules = path.joules + back_j + idle_watts * back_s
        ends.keep(path.seconds + back_s, joules, dict(path.state), path.last, path.met)
    return [_plan(graph, book, scheme, sought, path.last) for path in spread(goal, ends.paths)]


def _plan(graph: LayerGraph, book: LayoutBook, scheme: Scheme, sought: Sought, last_choice: Choice | None) -> Plan:
    """The plan of a path, with its sums of seconds and joules, and bytes per card."""
    ranks = len(book.prices.topology)
    sent, received = [0.0] * ranks, [0.0] * ranks
    state: State = {tensor: book.number(_whole_on_master(graph, tensor, ranks)) for tensor in graph.given}
    placements: dict[int, Placement] = {}
    seconds = joules = 0.0
    order = [index for stage in stages(graph) for index in stage]

    def count(cards: tuple[tuple[float, float], ...]) -> None:
        for rank, (out, into) in enumerate(cards):
            sent[rank] += out
            received[rank] += into

    for index, choice in zip(order, choices(last_choice), strict=True):
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
        brought = bring(book, state, option, frozenset(), frozenset(), frozenset())
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
