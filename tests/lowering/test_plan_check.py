"""Kept plans: one that was edited or damaged is refused, and never computes something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fogconv.errors import PlannerError
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Guard
from fogconv.ir.layers import GlobalPool, Tensor
from fogconv.ir.layout import on
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.shard import Work
from fogconv.lowering.lower import lower
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.star import plan_star
from tests.chains import chain
from tests.program_reference import run

FAR = Region(Span(0, 16), Span(2**31, 2**31 + 4), Span(0, 4))


def planned() -> tuple[LayerGraph, Plan]:
    graph = chain(32, 64, size=4)
    return graph, plan_star(graph, Topology.uniform(3, 1e9, 1e12), SchemeOptions(threshold=0.0))


def first(plan: Plan, change: Callable[[Placement], Placement]) -> Plan:
    return replace(plan, placements=(change(plan.placements[0]), *plan.placements[1:]))


def with_work(placement: Placement, **fields: object) -> Placement:
    one, *others = placement.work
    return replace(placement, work=(replace(one, **fields), *others))  # type: ignore[arg-type]


def doubled(placement: Placement) -> Placement:
    """Summands of one region, which a part of it adds twice."""
    works = tuple(replace(work, depth=Span(0, 20) if n else Span(16, 32)) for n, work in enumerate(placement.work[:2]))
    return replace(placement, work=tuple(replace(work, output=whole(placement)) for work in works))


def by_one(placement: Placement) -> Placement:
    """Two summands of one region on one rank, whose sum would lack one."""
    works = [replace(work, rank=1, output=whole(placement)) for work in placement.work[:2]]
    return replace(placement, work=tuple(replace(w, depth=Span(16 * n, 16 * n + 16)) for n, w in enumerate(works)))


def whole(placement: Placement) -> Region:
    assert placement.target is not None
    return placement.target.regions[0][0]


def test_a_plan_as_it_was_made_is_taken() -> None:
    graph, plan = planned()
    assert len(lower(graph, plan).programs) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: replace(plan, ranks=0),
        lambda plan: replace(plan, ranks=2**31),
        lambda plan: replace(plan, ranks=2),
        lambda plan: first(plan, lambda p: replace(p, work=())),
        lambda plan: first(plan, lambda p: with_work(p, rank=-1)),
        lambda plan: first(plan, lambda p: with_work(p, output=FAR)),
        lambda plan: first(plan, lambda p: with_work(p, rows=Span(0, 1))),
        lambda plan: first(plan, lambda p: with_work(p, depth=Span(0, 2**31))),
        lambda plan: first(plan, lambda p: with_work(p, depth=Span(0, 1))),
        lambda plan: first(plan, doubled),
        lambda plan: first(plan, by_one),
        lambda plan: first(plan, lambda p: replace(p, target=replace(p.target, regions=((FAR,), (), ())))),
        lambda plan: first(plan, lambda p: replace(p, target=replace(p.target, partial=True))),
        lambda plan: first(plan, lambda p: replace(p, via=((7, p.target),))),
        lambda plan: first(plan, lambda p: replace(p, guard=Guard(code=1))),
    ],
)
def test_a_plan_that_was_changed_is_refused(change: Callable[[Plan], Plan]) -> None:
    graph, plan = planned()
    with pytest.raises(PlannerError, match="plan"):
        lower(graph, change(plan))


def averaged() -> tuple[LayerGraph, Plan]:
    """A mean over rows and columns, whose sum comes from four tiles on three ranks."""
    tensors = (Tensor("x", 1, 16, 8, 6), Tensor("mean", 1, 16, 1, 1))
    graph = LayerGraph.single("mean", tensors, (GlobalPool("pool", 0, 1),), 0, 1, (1, 16), {})
    out = tensors[1].region
    works = (
        Work(0, out, rows=Span(0, 5), columns=Span(0, 2)),
        Work(1, out, rows=Span(0, 5), columns=Span(2, 6)),
        Work(2, out, rows=Span(5, 8)),
    )
    return graph, Plan("mean", 3, "tiles", (Placement("sums", works, on(0, out, 3)),))


def test_a_mean_over_tiles_is_their_sum() -> None:
    graph, plan = averaged()
    lowered = lower(graph, plan)
    x = np.random.default_rng(0).standard_normal((1, 16, 8, 6))
    np.testing.assert_allclose(run(lowered.programs, lowered.weights, x).reshape(16), x.mean((0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: first(plan, lambda p: replace(p, work=p.work[1:])),
        lambda plan: first(plan, lambda p: with_work(p, columns=Span(0, 1))),
        lambda plan: first(plan, lambda p: with_work(p, columns=Span(0, 3))),
        lambda plan: first(plan, lambda p: with_work(p, columns=None)),
        lambda plan: first(plan, lambda p: with_work(p, columns=Span(0, 7))),
        lambda plan: first(plan, lambda p: with_work(p, columns=Span(1, 1))),
        lambda plan: first(plan, lambda p: with_work(p, rows=Span(0, 6))),
        lambda plan: first(plan, lambda p: with_work(p, rank=1)),
    ],
)
def test_a_mean_that_lacks_a_tile_or_counts_one_twice_is_refused(change: Callable[[Plan], Plan]) -> None:
    graph, plan = averaged()
    with pytest.raises(PlannerError, match="plan"):
        lower(graph, change(plan))
