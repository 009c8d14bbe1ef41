"""The paper's scheme as a plan: every layer begins and ends on the master (the star).

A conv that the trigger distributes is cut by input channels, output channels or a grid of both (grouped ones along whole
groups), its shards are computed by the workers, and the master sums and concatenates. Everything else stays on the
master.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from fogconv.guards.placement import guard_placement
from fogconv.guards.protection import coder_of
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import Conv, LayerGraph
from fogconv.ir.layout import on
from fogconv.ir.plan import Placement, Plan, at_home
from fogconv.ir.shard import Work
from fogconv.planning.cost import Prices
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.speedup.trigger import Decision, Seconds, decide


def plan_star(
    graph: LayerGraph,
    topology: Topology,
    options: SchemeOptions = SchemeOptions(),
    *,
    seconds: Seconds | None = None,
) -> Plan:
    """``placement.decision`` keeps S, the estimate and the reason.

    ``seconds`` predicts a shard's time on a rank instead of γ·MACs (see `fogconv.hardware.latency_models`). With
    ``protection.redundancy`` the last worker computes the sum of the others' shards instead of a shard; that needs at
    least two others.
    """
    protection = options.protection
    coder = coder_of(protection, len(topology))
    sharers = topology if coder is None else topology.subset(range(coder))
    prices = Prices(topology, graph.tensors[graph.input].batch, options.coding)
    placements = []
    for layer in graph.layers:
        if isinstance(layer, Conv) and not layer.linear:
            decision = decide(
                layer.spec,
                sharers,
                trigger=options.trigger,
                threshold=options.threshold,
                master_computes=options.master_computes,
                even=options.even,
                seconds=seconds,
                parts=options.parts,
                split=options.cut,
            )
            placement = conv_placement(graph, layer, decision, len(topology))
            placement = guard_placement(
                layer, placement, protection, coder=coder, ranks=decision.ranks, weights=decision.weights
            )
            placements.append(placement)
        else:
            home = at_home(graph, layer)
            placements.append(
                replace(home, predicted=_at_home_s(sum(prices.work_s(layer, work, graph.tensors) for work in home.work)))
            )
    found = Plan(graph.name, len(topology), "star", tuple(placements), options.coding)
    ends_s = prices.start_s(len(found.active_ranks))
    total_s = sum(placement.predicted["total_s"] for placement in placements)
    return replace(found, predicted_s=total_s + ends_s, ends_s=ends_s)


def _at_home_s(seconds: float) -> dict[str, float]:
    return {"part_s": 0.0, "tx_s": 0.0, "edge_s": seconds, "rx_s": 0.0, "join_s": 0.0, "total_s": seconds}


def conv_placement(graph: LayerGraph, layer: Conv, decision: Decision, ranks: int) -> Placement:
    """The placement of one conv that begins and ends on the master."""
    facts = {
        "bound_s_paper": decision.bound_s_paper,
        "bound_s_star": decision.bound_s_star,
        "estimate": decision.estimate,
        "reason": decision.reason,
    }
    if not decision.distribute or decision.predicted is None:
        home = at_home(graph, layer)
        return Placement(home.mode, home.work, predicted=_at_home_s(decision.local_s), decision=facts)
    work = tuple(
        Work(
            shard.rank,
            shard.output,
            shard.depth if shard.partial else None,
            # A residual is on the master: it is added there instead of being sent.
            raw=layer.residual is not None,
        )
        for shard in decision.shards
    )
    predicted = {**asdict(decision.predicted), "total_s": decision.predicted.total_s}
    target = on(0, graph.tensors[layer.target].region, ranks)
    return Placement("star", work, target, split=str(decision.split), predicted=predicted, decision=facts)
