"""A play is made once for a set of members and a topology, and names the session's ranks."""

from __future__ import annotations

from fogconv.hardware.topology import Topology
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.plan_cache import PLAYS_KEPT, PlanCache
from tests.cluster.fault_cluster import network


def topology(ranks: int = 4) -> Topology:
    return Topology.uniform(ranks, 1e9, 1e10, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7)


def test_what_was_thought_of_once_is_there_until_the_topology_changes() -> None:
    book, first, second = PlanCache(network(), PlanOptions(scheme="rows")), topology(), topology()
    play = book.play(first, (0, 1, 3))
    assert book.play(first, (0, 1, 3)) is play
    assert book.plan(first, (0, 1, 3)) is play.plan
    assert book.play(second, (0, 1, 3)) is not play
    assert book.play(first, (0, 1, 3)) is not play, "only the latest is kept"


def test_programs_are_the_crews() -> None:
    play = PlanCache(network(), PlanOptions(scheme="rows")).play(topology(), (0, 1, 3))
    assert [program.rank for program in play.programs] == [0, 1, 3]
    assert all(program.peers <= {0, 1, 3} - {program.rank} for program in play.programs)
    assert any(program.peers for program in play.programs)
    assert all(name in play.weights for program in play.programs for name in program.weights)


def test_no_more_are_kept_than_so_many() -> None:
    book, wide = PlanCache(network(), PlanOptions(scheme="rows")), topology(PLAYS_KEPT + 3)
    plays = {rank: book.play(wide, (0, rank)) for rank in range(1, PLAYS_KEPT + 3)}
    last, first = max(plays), min(plays)
    assert book.play(wide, (0, last)) is plays[last]
    assert book.play(wide, (0, first)) is not plays[first]
