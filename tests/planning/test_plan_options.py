"""PlanOptions: one check each, which names what is possible; and every scheme of the table makes a plan of its name."""

from __future__ import annotations

from typing import Any

import pytest

from fogconv.cluster.worker.checks.program_check import check_program
from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.ir.guard import Protection
from fogconv.lowering.lower import outline
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan, settled
from fogconv.planning.scheme_options import WIRES
from fogconv.planning.schemes import ONE_FRAME, STREAMS, Scheme
from tests.cluster.fault_cluster import network

FAST = Topology.uniform(4, 1e9, 1e10, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scheme": "ring"}, ", ".join(Scheme)),
        ({"wire": "fp8"}, ", ".join(WIRES)),
        ({"wire": "uint8"}, "wire 'uint8' is not known"),
        ({"wire": "int32"}, "wire 'int32' is not known"),
        ({"trigger": "maybe"}, "channels:N"),
        ({"threshold": -1.0}, "from 0 to 1000000, or inf"),
        ({"threshold": float("nan")}, "threshold nan"),
        ({"scheme": "rows", "protection": Protection(redundancy=1)}, "the star's convs, not --scheme rows"),
        ({"scheme": "star", "parts": 1}, "parts 1: .* from 2"),
        ({"scheme": "star", "split": "input:1"}, "of 2 to"),
        ({"scheme": "star", "split": "rows:2"}, "input:N, output:N or grid:PxQ"),
        ({"scheme": "star", "parts": 2, "split": "input:2"}, "leave one out"),
        ({"scheme": "rows", "parts": 2}, "--parts and --split cut the star's convs"),
        ({"wire": "bf16", "protection": Protection(verify=True)}, "rounded by --wire bf16"),
    ],
)
def test_what_is_not_possible_is_answered_by_what_is(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PlanOptions(**options)


@pytest.mark.parametrize("scheme", Scheme)
def test_every_scheme_plans_under_its_name(scheme: Scheme) -> None:
    """With one fast worker, because whole layers go to no other."""
    found = plan(network(), FAST.replace_device(1, FAST.devices[1].scaled(4)), PlanOptions(scheme, threshold=0.0))
    assert found.scheme == scheme
    assert (len(found.active_ranks) > 1) == (scheme in (*ONE_FRAME, *STREAMS))


@pytest.mark.parametrize("wire", WIRES)
def test_every_wire_is_one_that_workers_accept(wire: str) -> None:
    options = PlanOptions("rows", wire=wire)
    for program in outline(network(), plan(network(), FAST, options)):
        check_program(program, 1 << 30)


def test_guards_without_a_scheme_mean_the_star() -> None:
    assert plan(network(), FAST, PlanOptions(threshold=0.0, protection=Protection(verify=True))).scheme == "star"


def test_a_plan_that_is_given_is_taken_while_it_has_all_its_ranks() -> None:
    given = plan(network(), FAST, PlanOptions("star", threshold=0.0))
    options = PlanOptions("rows", plan=given)
    assert plan(network(), FAST, options) == given
    assert plan(network(), FAST.subset(range(3)), options).scheme == "rows"


def test_lossless_sends_as_it_is_on_a_fast_link_and_codes_on_a_slow_one() -> None:
    slow = Topology.uniform(4, 1e9, 1e7, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7)
    options = PlanOptions("rows", wire="lossless")
    assert settled(options, network(), FAST).wire == "fp32"
    assert settled(options, network(), slow).wire in ("zeros", "lz4", "zstd")
    assert plan(network(), slow, options).wire == settled(options, network(), slow).wire


@pytest.mark.parametrize("options", [{"parts": 4}, {"split": "output:4"}, {"split": "input:4"}, {"split": "grid:2x2"}])
def test_all_ranks_compute_where_so_many_parts_are_asked_for(options: dict[str, Any]) -> None:
    found = plan(network(), FAST, PlanOptions("star", threshold=0.0, **options))
    convs = [placement for placement in found.placements if placement.mode == "star"]
    assert convs and any({work.rank for work in placement.work} == {0, 1, 2, 3} for placement in convs)
    fewer = plan(network(), FAST.subset(range(3)), PlanOptions("star", threshold=0.0, **options))
    assert fewer.active_ranks <= {0, 1, 2}, "after a loss it goes on with those that are left"


@pytest.mark.parametrize(
    ("options", "there"),
    [({"parts": 5}, 4), ({"split": "grid:2x3"}, 4), ({"parts": 4, "master_computes": False}, 3)],
)
def test_more_parts_than_ranks_are_refused_at_first(options: dict[str, Any], there: int) -> None:
    chosen = PlanOptions("star", threshold=0.0, **options)
    with pytest.raises(InputError, match=f"there are {there}"):
        chosen.check_ranks(4)
    chosen.check_ranks(9)
