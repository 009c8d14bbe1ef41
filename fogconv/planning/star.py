"""The paper's scheme as a plan: every layer begins and ends on the master (the star).

A conv that the trigger distributes is cut by input channels, output channels or a grid of both (grouped ones along whole
groups), its shards are computed by the workers, and the master sums and concatenates. Everything else stays on the
master.
"""

from __future__ import annotations

import math
from dataclasses import replace

from fogconv.errors import InputError
from fogconv.guards.placement import guard_placement
from fogconv.guards.protection import coder_of
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.ir.layout import MASTER, on
from fogconv.ir.plan import Placement, Plan, at_home
from fogconv.ir.shard import Work
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.simulation.prediction import predicted
from fogconv.simulation.simulator import Seconds
from fogconv.speedup.model import Whole
from fogconv.speedup.trigger import Decision, decide


def plan_star(
    graph: LayerGraph,
    topology: Topology,
    options: SchemeOptions = SchemeOptions(),
    *,
    seconds: Seconds | None = None,
) -> Plan:
    """``placement.decision`` keeps S, the estimate and the reason.

    ``seconds`` predicts a shard's time on a rank instead of γ·MACs (see `fogconv.hardware.latency.predictors`). With
    ``protection.redundancy`` the last worker computes the sum of the others' shards instead of a shard; that needs at
    least two others.
    """
    protection = options.protection
    if (protection.verify or protection.redundancy) and any(conv.spec.element != "fp32" for conv in graph.convs):
        raise InputError("--verify and --redundancy are for models in fp32: there are no checksums of narrower layers")
    coder = coder_of(protection, len(topology))
    sharers = topology if coder is None else topology.subset(range(coder))
    allowed = options.allowed(graph, len(topology))
    placements = []
    for layer in graph.layers:
        if allowed.rank_of(layer) not in (None, MASTER):
            raise InputError(
                f"--scheme star starts and ends every layer on the master; --pin can't put {layer.name} on rank "
                f"{allowed.rank_of(layer)}"
            )
        if isinstance(layer, Conv) and not layer.linear and not allowed.stays_home(layer):
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
                layer,
                placement,
                protection,
                coder=coder,
                ranks=decision.ranks,
                weights=decision.weights,
                expected_s=decision.local_s if decision.predicted is None else decision.predicted.total_s,
            )
            placements.append(placement)
        else:
            placements.append(at_home(graph, layer))
    return predicted(
        graph, Plan(graph.name, len(topology), "star", tuple(placements), options.coding), topology, seconds=seconds
    )


def whole_inference(graph: LayerGraph, topology: Topology, options: SchemeOptions) -> Whole:
    """What a net takes as a star on this cluster, for the calculator."""
    home_s, all_s, chosen_s = (
        plan_star(graph, topology, replace(options, threshold=threshold)).predicted_s or 0.0
        for threshold in (math.inf, 0.0, options.threshold)
    )
    return Whole(home_s, all_s, chosen_s)


def conv_placement(graph: LayerGraph, layer: Conv, decision: Decision, ranks: int) -> Placement:
    """The placement of one conv that begins and ends on the master."""
    facts = {
        "bound_s_paper": decision.bound_s_paper,
        "bound_s_star": decision.bound_s_star,
        "estimate": decision.estimate,
        "reason": decision.reason,
    }
    if not decision.distribute or decision.predicted is None:
        return replace(at_home(graph, layer), decision=facts)
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
    target = on(0, graph.tensors[layer.target].region, ranks)
    return Placement("star", work, target, split=str(decision.split), decision=facts)
