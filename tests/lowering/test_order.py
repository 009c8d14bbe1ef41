"""The order of a rank's steps: the same steps, none before what it depends on, and work under every transfer."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from fogconv.frontend.zoo_graphs import graph as zoo_graph
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec, Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.steps import Add, AnyStep, Conv, Copy, Recv, Send
from fogconv.lowering.lower import outline
from fogconv.lowering.order import ordered
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.schemes import Scheme
from fogconv.simulation.simulator import simulate
from tests.random_graphs import graphs

WHOLE, HALF = Region.whole(16, 8, 8), Region(Span(0, 16), Span(0, 4), Span(0, 8))


def conv(source: int, target: int) -> Conv:
    spec = ConvSpec(16, 16, 8, 8, (1, 1))
    return Conv(0, spec, "w", None, None, source, WHOLE, target, WHOLE)


def added(sources: tuple[int, int], target: int) -> Add:
    return Add(0, sources, (WHOLE, WHOLE), target, WHOLE, None)


SEND, RECV = Send(0, 1, HALF, 1, 0), Recv(0, 1, HALF, 1, 1)


def test_a_branch_that_needs_no_message_is_computed_while_one_is_on_its_way() -> None:
    begin, reader, branch, last = conv(0, 1), conv(1, 2), conv(0, 3), added((2, 3), 4)
    assert ordered([begin, SEND, RECV, reader, branch, last]) == [begin, SEND, branch, RECV, reader, last]


def test_what_a_send_needs_comes_before_what_it_does_not() -> None:
    branch, begin, reader = conv(0, 3), conv(0, 1), conv(1, 2)
    assert ordered([branch, begin, SEND, RECV, reader]) == [begin, SEND, branch, RECV, reader]


def test_what_would_overwrite_what_is_still_read_stays_behind() -> None:
    reader, over = conv(1, 2), conv(0, 1)
    steps: list[AnyStep] = [SEND, RECV, reader, over]
    assert ordered(steps) == steps


def test_sums_are_added_in_the_order_in_which_they_were() -> None:
    steps: list[AnyStep] = [
        Recv(0, 1, WHOLE, 1, 0),
        Recv(0, 1, WHOLE, 2, 1, accumulate=True),
        Recv(0, 1, WHOLE, 3, 2, accumulate=True),
        Copy(0, 1, WHOLE, 2, 0),
    ]
    assert ordered(steps) == steps


@given(graphs(), st.sampled_from(list(Scheme)), st.integers(2, 4))
def test_every_step_stays_on_its_side_of_those_that_it_shares_a_place_with(
    graph: LayerGraph, scheme: Scheme, ranks: int
) -> None:
    topology = Topology.uniform(ranks, 1e9, 1e9, 1e-6, copy_s_per_byte=1e-12, step_s=1e-8)
    found = plan(graph, topology, PlanOptions(scheme, threshold=0.0))
    with patch("fogconv.lowering.lower.ordered", list):
        before = outline(graph, found)
    after = outline(graph, found)
    for one, other in zip(before, after, strict=True):
        assert sorted(map(repr, one.steps)) == sorted(map(repr, other.steps))
        assert [step for step in one.steps if isinstance(step, Recv)] == [
            step for step in other.steps if isinstance(step, Recv)
        ]
        at: dict[str, list[int]] = {}
        for number, step in enumerate(other.steps):
            at.setdefault(repr(step), []).append(number)
        moved = [at[repr(step)].pop(0) for step in one.steps]
        touched = [_places(step) for step in one.steps]
        for later in range(len(moved)):
            for earlier in range(later):
                if moved[earlier] > moved[later]:
                    assert not isinstance(one.steps[earlier], Send) or not isinstance(one.steps[later], Recv)
                    (read, written), (also_read, also_written) = touched[earlier], touched[later]
                    assert not _meet(written, also_read) and not _meet(read, also_written)
                    assert not _meet(written, also_written)


def test_inceptions_branches_hide_what_its_exchanges_take() -> None:
    """3 % of the time on five nodes, as simulated."""
    graph, topology = zoo_graph("inception_v3"), Topology.uniform(5, 1e10, 1.25e8, 1e-4)
    found = plan(graph, topology, PlanOptions("rows"))
    with patch("fogconv.lowering.lower.ordered", list):
        before = simulate(outline(graph, found), topology).latencies_s[0]
    assert simulate(outline(graph, found), topology).latencies_s[0] < 0.99 * before


Places = list[tuple[int, Region]]


def _places(step: AnyStep) -> tuple[Places, Places]:
    """(read, written), by the names of the fields."""
    if isinstance(step, Send):
        return [(part.buffer, part.region) for part in step.parts], []
    if isinstance(step, Recv):
        written = [(part.buffer, part.region) for part in step.parts]
        return (written if step.accumulate else []), written
    if isinstance(step, Copy):
        return [(step.source, step.region)], [(step.target, step.region.shift_channels(step.shift))]
    read: Places = []
    written = []
    for name in step.__struct_fields__:
        held = getattr(step, name)
        if name in ("source", "target") and held is not None:
            region = getattr(step, f"{name}_region", None) or step.region  # type: ignore[union-attr]
            (written if name == "target" else read).append((held, region))
        elif name in ("residual", "gate", "mean", "squares") and held is not None:
            read.append((held, getattr(step, f"{name}_region")))
        elif name in ("sources", "targets"):
            regions = getattr(step, f"{name.removesuffix('s')}_regions")
            (written if name == "targets" else read).extend(zip(held, regions, strict=True))
    return read, written


def _meet(some: Places, others: Places) -> bool:
    return any(buffer == other and region & beside for buffer, region in some for other, beside in others)
