"""The terms of a star's layers, from its programs: by the formula, and from the simulated timeline."""

from __future__ import annotations

import pytest

from fogconv.analysis.star_terms import simulated_terms, star_terms
from fogconv.hardware.topology import Device, Link, Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.plan import Plan
from fogconv.ir.program import Program
from fogconv.lowering.lower import lower
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.star import plan_star
from tests.chains import chain

BETA = 1e-8
FREE = Device("d", {"default": 1e-10}, copy_s_per_byte=1e-10)


def cluster(device: Device = FREE, workers: int = 2) -> Topology:
    return Topology((device,) * (workers + 1), {}, Link(0.0, BETA))


def star(topology: Topology) -> tuple[LayerGraph, Plan, tuple[Program, ...]]:
    graph = chain(16, 64, 32)
    plan = plan_star(graph, topology, SchemeOptions(threshold=0, master_computes=False))
    return graph, plan, lower(graph, plan).programs


def test_where_nothing_overlaps_both_say_the_same() -> None:
    graph, plan, programs = star(cluster(workers=1))
    formula = star_terms(programs[:2], cluster(workers=1))[0]
    simulated = simulated_terms(graph, plan, programs, cluster(workers=1))[0]
    for term in ("tx_s", "edge_s", "rx_s", "total_s"):
        assert getattr(simulated, term) == pytest.approx(getattr(formula, term), rel=0.1), term


def test_no_layer_is_back_before_its_bytes_are() -> None:
    graph, plan, programs = star(cluster())
    for index, terms in simulated_terms(graph, plan, programs, cluster()).items():
        elements = graph.layers[index].spec.output_elements  # type: ignore[union-attr]
        assert terms.total_s >= elements * 4 * BETA * 0.99


def test_handling_messages_and_a_quota_cost_time() -> None:
    graph, plan, programs = star(cluster())
    busy = Device("d", {"default": 1e-10}, copy_s_per_byte=1e-10, message_s=1e-3, receive_s_per_byte=BETA)
    throttled = Device("d", {"default": 1e-10}, copy_s_per_byte=1e-10, share=0.2, period_s=0.05, tick_s=0.004)
    plain, handled, slow = (
        sum(terms.total_s for terms in simulated_terms(graph, plan, programs, cluster(device)).values())
        for device in (FREE, busy, throttled)
    )
    assert plain < handled
    assert slow != plain
