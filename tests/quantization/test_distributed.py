"""Integers sum exactly: a net on bytes gives the same bits on one device, and on any number, however it is divided."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import fogconv
from fogconv.cluster.session.session import Session
from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.ir.guard import Protection
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from tests import sensitive_net
from tests.cluster.fault_cluster import FaultCluster
from tests.quantized_net import on_bytes, picture

pytestmark = pytest.mark.alone


def equal_ranks(ranks: int) -> Topology:
    """Slow devices on a fast network, so that plans distribute."""
    return Topology.uniform(ranks, 1e8, 1e10, 1e-7)


@cache
def alone(seed: int) -> np.ndarray:
    with fogconv.compile(on_bytes().graph, "inproc://0", topology=equal_ranks(1)) as engine:
        return np.asarray(engine(picture(seed)))


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("scheme", ["rows", "columns", "tiles", "depth", "star", "auto"])
def test_a_distributed_run_equals_one_device_to_the_last_bit(scheme: str, ranks: int) -> None:
    options = {"threshold": 0.0} if scheme == "star" else {}
    cluster = f"inproc://{ranks - 1}"
    with fogconv.compile(on_bytes().graph, cluster, scheme=scheme, topology=equal_ranks(ranks), **options) as engine:
        plan = engine.plan.plan
        assert any(work.rank for placement in plan.placements for work in placement.work)
        for seed in range(2):
            assert np.array_equal(np.asarray(engine(picture(seed))), alone(seed))


@pytest.mark.parametrize("scheme", ["rows", "columns", "depth", "star"])
def test_so_it_does_where_a_layer_stays_in_fp32_for_the_answer_s_sake(scheme: str) -> None:
    spoilt = sensitive_net.found("relu6")
    assert any(layer.precision == "fp32" for layer in spoilt.layers)
    options = {"threshold": 0.0} if scheme == "star" else {}
    answers = []
    for ranks, wanted in ((1, {}), (3, {"scheme": scheme, **options})):
        with fogconv.compile(spoilt.graph, f"inproc://{ranks - 1}", topology=equal_ranks(ranks), **wanted) as engine:
            answers.append(np.asarray(engine(sensitive_net.noise(9))))
            spread = any(work.rank for placement in engine.plan.plan.placements for work in placement.work)
            assert spread == (ranks > 1)
    assert np.array_equal(*answers)


@pytest.mark.parametrize("split", ["input:3", "output:3"])
def test_partial_sums_are_summed_exactly(split: str) -> None:
    with fogconv.compile(
        on_bytes().graph, "inproc://2", scheme="star", split=split, threshold=0.0, topology=equal_ranks(3)
    ) as engine:
        assert np.array_equal(np.asarray(engine(picture())), alone(0))
        wires = {step.wire for program in engine.plan.programs for step in program.steps if hasattr(step, "wire")}
        assert "uint8" in wires and ("int32" in wires) == split.startswith("input")


def engine_of(session: Session, scheme: str) -> Engine:
    options = PlanOptions(scheme, threshold=0.0 if scheme == "star" else 1.0)
    return Engine(on_bytes().graph, session, equal_ranks(session.ranks), options, RunOptions(adapt=False))


@pytest.mark.parametrize("scheme", ["rows", "star"])
def test_a_loss_changes_no_bit(scheme: str) -> None:
    with FaultCluster(2) as cluster:
        engine = engine_of(cluster.session, scheme)
        assert np.array_equal(engine.run(picture()).output.reshape(-1), alone(0).reshape(-1))
        cluster.cut_at(1, 3)
        hit = engine.run(picture(1))
        assert any("lost" in event for event in hit.events)
        assert np.array_equal(hit.output.reshape(-1), alone(1).reshape(-1))
        assert engine.ranks == (0, 2)


def test_late_pieces_are_computed_again_to_the_same_bits_and_checksums_are_refused() -> None:
    planned = PlanOptions("star", threshold=0.0, protection=Protection(patience=50.0))
    with FaultCluster(2) as cluster:
        engine = Engine(on_bytes().graph, cluster.session, equal_ranks(3), planned, RunOptions(adapt=False))
        assert np.array_equal(engine.run(picture()).output.reshape(-1), alone(0).reshape(-1))
        cluster.cut_at(1, 3)
        assert np.array_equal(engine.run(picture(1)).output.reshape(-1), alone(1).reshape(-1))
    with pytest.raises(InputError, match="no checksums of narrower layers"):
        fogconv.plan(on_bytes().graph, equal_ranks(3), scheme="star", protection=Protection(verify=True))


def test_the_wire_codes_what_is_in_fp32_only() -> None:
    """A quarter of the bytes, whatever --wire says."""
    with fogconv.compile(
        on_bytes().graph, "inproc://1", scheme="star", wire="fp16", threshold=0.0, topology=equal_ranks(2)
    ) as engine:
        assert np.array_equal(np.asarray(engine(picture())), alone(0))
