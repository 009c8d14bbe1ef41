"""The bytes that a plan needs on each rank, counted by the algorithms that its own kernels choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from fogconv.hardware.topology import Topology
from fogconv.ir import steps as ir
from fogconv.ir.memory.algorithm import Vectors
from fogconv.ir.memory.footprint import footprint
from fogconv.kernels.codegen.isa import ISAS, half_rate, host_vectors
from fogconv.kernels.conv import select
from fogconv.lowering.lower import outline
from fogconv.planning.memory import needed_bytes
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from tests.seeded_models import graph

KINDS = (Vectors(), Vectors(half_rate=True), Vectors(8, True), Vectors(4, True), None)
CLUSTER = Topology.uniform(len(KINDS), 1e9, 1e8, 1e-5, step_s=1e-6)


def of_kinds(kinds: Sequence[Vectors | None]) -> Topology:
    topology = CLUSTER
    for rank, kind in enumerate(kinds):
        topology = topology.replace_device(rank, replace(topology.devices[rank], vectors=kind))
    return topology


def test_each_rank_is_counted_by_its_own_vectors() -> None:
    net = graph("vgg16", 64)
    found = plan(net, CLUSTER, PlanOptions("rows"))
    every = [needed_bytes(net, found, of_kinds([kind] * len(KINDS))) for kind in KINDS]
    assert every[0] == every[-1] == needed_bytes(net, found, CLUSTER), "unknown ones count as those of 32 floats per clock"
    assert every[0] != every[1], "shards of few rows are computed by other algorithms"
    assert needed_bytes(net, found, of_kinds(KINDS)) == tuple(every[rank][rank] for rank in range(len(KINDS)))
    [lane] = found.lanes
    for kind, needed in zip(KINDS, every, strict=True):
        choose = (kind or Vectors()).cheapest
        assert needed == tuple(footprint(program, choose=choose).total for program in outline(net, lane))


@pytest.mark.parametrize("name", ISAS)
def test_kernels_choose_as_their_vectors_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOGCONV_ISA", name)
    monkeypatch.setattr(select, "tuned_algorithm", lambda spec, isa: None)
    isa, vectors = ISAS[name], host_vectors()
    assert vectors == Vectors(isa.vector_length, half_rate(isa))
    net = graph("vgg16", 64)
    [lane] = plan(net, CLUSTER, PlanOptions("rows")).lanes
    specs = [step.spec for program in outline(net, lane) for step in program.steps if isinstance(step, ir.Conv)]
    assert len(specs) > 50
    assert [vectors.cheapest(spec) for spec in specs] == [select.choose(spec, isa, strict=False) for spec in specs]
