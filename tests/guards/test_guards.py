"""Guarded convs: a flipped bit is found and its worker named; what is lost or late is made up for; the answer is right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.cluster.executor.executable import Executable
from fogconv.errors import InputError
from fogconv.guards.checksums import FEWEST_SUMS, PROJECTIONS, SUMMED, dense, projected, signs, summed
from fogconv.hardware.topology import Topology
from fogconv.ir import steps
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Protection
from fogconv.ir.layers import Conv, Tensor
from fogconv.ir.program import Program, expendable
from fogconv.ir.steps import Gather
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.star import plan_star
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from tests.cluster.fault_cluster import FaultCluster, assert_right, image, network

VERIFY, CODED, PATIENT = Protection(verify=True), Protection(redundancy=1), Protection(patience=3.0)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 9))
@settings(deadline=None)
def test_sums_of_filters_are_sums_of_results(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((size, 5)) for size in sizes]
    x = rng.standard_normal(5)
    total = summed(parts) @ x
    expected = np.zeros(max(sizes))
    for part in parts:
        expected[: len(part)] += part @ x
    np.testing.assert_allclose(total, expected, atol=1e-5)
    rows = signs(sizes[0], seed)
    assert rows.shape == (PROJECTIONS, sizes[0]) and np.all(np.abs(rows) == 1)
    np.testing.assert_allclose(projected(rows, parts[0]) @ x, rows @ (parts[0] @ x), atol=1e-5)


@given(st.integers(1, 2500), st.integers(0, 9))
@settings(deadline=None)
def test_every_channel_is_in_several_sums_of_few_channels_with_both_signs(channels: int, seed: int) -> None:
    rows = signs(channels, seed)
    assert set(np.unique(rows)) <= {-1.0, 0.0, 1.0}
    assert np.all(np.count_nonzero(rows, axis=0) >= FEWEST_SUMS)
    assert np.count_nonzero(rows, axis=1).max() <= max(SUMMED, -(-channels // 8))
    assert np.all(np.abs(rows.sum(axis=1)) <= 1)
    assert channels < 8 or len(np.unique(rows, axis=0)) > 2, "the sums are the same sum"


def test_a_grouped_filter_made_dense_keeps_to_its_groups() -> None:
    weight = np.arange(1, 9, dtype=np.float32).reshape(4, 2, 1, 1)
    whole = dense(weight, 2)
    assert whole.shape == (4, 4, 1, 1)
    np.testing.assert_array_equal(whole[:2, :2], weight[:2])
    np.testing.assert_array_equal(whole[2:, 2:], weight[2:])
    assert not whole[:2, 2:].any() and not whole[2:, :2].any()


def test_rounding_wires_are_refused_with_verify() -> None:
    with pytest.raises(InputError, match="fp16"):
        PlanOptions("star", wire="fp16", protection=VERIFY)


@pytest.mark.parametrize("scheme", ["rows", "depth", "local"])
def test_only_the_star_is_guarded(scheme: str) -> None:
    with FaultCluster(2) as cluster, pytest.raises(InputError, match=f"the star's convs, not --scheme {scheme}"):
        cluster.engine(scheme, protection=VERIFY)


def test_a_plan_that_is_given_is_not_guarded_in_silence() -> None:
    with FaultCluster(2) as cluster:
        plan = cluster.engine("star").plan
        with pytest.raises(InputError, match="not a given plan"):
            cluster.engine("star", plan=plan, protection=CODED)


@pytest.mark.parametrize("protection", [VERIFY, CODED, PATIENT, Protection(True, 1, 3.0)])
def test_a_guarded_cluster_without_faults_is_right_and_says_nothing(protection: Protection) -> None:
    with FaultCluster(4) as cluster:
        engine = cluster.engine("star", protection=Protection(protection.verify, protection.redundancy, 1e6))
        assert any(isinstance(step, Gather) for step in engine.programs[0].steps)
        for seed in range(4):
            inference = engine.run(image(seed))
            assert_right(inference.output, seed)
            assert inference.events == ()


def test_every_worker_of_a_guarded_star_is_expendable() -> None:
    with FaultCluster(3) as cluster:
        assert cluster.engine("star", protection=VERIFY).loaded.expendable == {1, 2, 3}
        assert expendable(cluster.engine("rows").programs) == frozenset()


def flipping(rank: int, layer: int, flip: Callable[[np.ndarray[Any, Any]], None]) -> Any:
    """An interpreter one of whose convs goes wrong on one rank: the hook for bit flips, here and not in the real one."""

    class Flipping(Executable):
        def compute(self, step: steps.AnyStep) -> Callable[[], None]:
            call = super().compute(step)
            if not isinstance(step, steps.Conv) or self.program.rank != rank or step.layer != layer:
                return call
            target = self.view(step.target, step.target_region).interior

            def wrong() -> None:
                call()
                flip(target)

            return wrong

    return Flipping


def flip_bit(place: Sequence[int], bit: int) -> Callable[[np.ndarray[Any, Any]], None]:
    def flip(target: np.ndarray[Any, Any]) -> None:
        index = tuple(at % size for at, size in zip(place, target.shape, strict=True))
        value = np.array([target[index]], np.float32)
        value.view(np.uint32)[0] ^= np.uint32(1 << bit)
        target[index] = value[0]

    return flip


@pytest.mark.parametrize("layer", range(5))
def test_in_every_layer_of_a_network_a_wrong_worker_is_found_and_named(layer: int) -> None:
    build = flipping(3, layer, flip_bit([0, 0, 3, 3, 1], 30))
    with FaultCluster(3, build=build) as cluster:
        inference = cluster.engine("star", protection=VERIFY).run(image())
    assert_right(inference.output)
    assert "worker 3 computed a wrong result" in inference.events[0]


# Bit flips, wherever they may strike

GEOMETRIES = {
    "3×3": ConvSpec(32, 96, 10, 12, (3, 3), padding=(1, 1, 1, 1)),
    "winograd": ConvSpec(64, 192, 28, 28, (3, 3), padding=(1, 1, 1, 1)),
    "1×1": ConvSpec(128, 256, 7, 7, (1, 1)),
    "stride": ConvSpec(16, 64, 15, 13, (5, 3), (2, 3), (2, 1, 0, 1)),
    "dilation": ConvSpec(16, 48, 14, 14, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "first": ConvSpec(3, 64, 32, 32, (7, 7), (2, 2), (3, 3, 3, 3)),
    "groups": ConvSpec(64, 128, 9, 9, (3, 3), (1, 1), (1, 1, 1, 1), groups=4),
    "depthwise": ConvSpec(96, 96, 14, 14, (3, 3), (1, 1), (1, 1, 1, 1), groups=96),
    "many filters": ConvSpec(48, 1100, 5, 5, (1, 1)),
    "linear": ConvSpec(256, 300, 1, 1, (1, 1)),
}


@dataclass
class Fault:
    """A flip of one bit on worker 2: of its ``result``, its ``input``, or the ``weight`` that it keeps."""

    kind: str = ""
    seed: int = 0
    bit: int = 0

    def flip(self, values: np.ndarray[Any, Any]) -> None:
        place = [int(number) for number in np.random.default_rng(self.seed).integers(0, 1 << 30, values.ndim)]
        flip_bit(place, self.bit)(values)


class Struck(Executable):
    """The real interpreter, but for ``fault``."""

    fault = Fault()

    def __init__(self, program: Program, weights: Mapping[str, Any], **options: Any) -> None:
        self.plain = {key: np.array(weights[key]) for key in program.weights}  # the interpreter lets them go
        super().__init__(program, weights, **options)

    def compute(self, step: steps.AnyStep) -> Callable[[], None]:
        call = super().compute(step)
        if not isinstance(step, steps.Conv) or self.program.rank != 2:
            return call
        source, target = self.view(step.source, step.source_region), self.view(step.target, step.target_region)

        def struck() -> None:
            fault = type(self).fault
            if fault.kind == "input":
                kept = source.interior.copy()
                fault.flip(source.interior[..., : step.spec.in_channels])
                call()
                source.interior[:] = kept
            elif fault.kind == "weight":
                # Flips in what a kernel has packed are flips in what it packs.
                weights = {**self.plain, step.weight: self.plain[step.weight].copy()}
                fault.flip(weights[step.weight])
                kept_weights, self._weights, self._prepared = self._weights, weights, {}
                super(Struck, self).compute(step)()
                self._weights, self._prepared = kept_weights, {}
            else:
                call()
            if fault.kind == "result":
                fault.flip(target.interior[..., : step.spec.out_channels])

        return struck


def one_conv(spec: ConvSpec) -> LayerGraph:
    """A conv alone, without an activation: its output is the network's."""
    rng = np.random.default_rng(3)
    scale = np.float32(1.0 / np.sqrt(spec.macs / spec.output_elements))
    weights = {
        "w": rng.standard_normal(spec.weight_shape, np.float32) * scale,
        "b": rng.standard_normal(spec.out_channels, np.float32),
    }
    tensors = (
        Tensor("x", 1, spec.in_channels, spec.height, spec.width),
        Tensor("y", 1, spec.out_channels, spec.out_height, spec.out_width),
    )
    layers = (Conv("conv", 0, 1, spec, "w", "b", None),)
    return LayerGraph.single("one conv", tensors, layers, 0, 1, tensors[1].shape, weights)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_flipped_bit_that_matters_is_found_and_mended(name: str) -> None:
    spec = GEOMETRIES[name]
    graph = one_conv(spec)
    x = np.maximum(np.random.default_rng(1).standard_normal((1, spec.in_channels, spec.height, spec.width), np.float32), 0)
    Struck.fault = Fault()
    with FaultCluster(3, build=Struck) as cluster:
        topology = Topology.uniform(4, 1e9, 1e12, 1e-7, copy_s_per_byte=1e-12, step_s=1e-8)
        options, running = PlanOptions("star", threshold=0.0), RunOptions(adapt=False)
        plain = Engine(graph, cluster.session, topology, options, running)
        guarded = Engine(graph, cluster.session, topology, replace(options, protection=VERIFY), running)
        assert 2 in guarded.loaded.ranks and 2 in plain.loaded.ranks, "worker 2 has nothing to do"
        right = plain.run(x)
        largest = np.max(np.abs(right.output))
        mattered = 0

        @settings(deadline=None, max_examples=150, database=None)
        @given(st.sampled_from(["result", "input", "weight"]), st.integers(0, 1 << 30), st.integers(0, 31))
        def strike(kind: str, seed: int, bit: int) -> None:
            nonlocal mattered
            Struck.fault = Fault()
            assert guarded.run(x).events == (), "it accuses somebody who was right"
            Struck.fault = Fault(kind, seed, bit)
            with np.errstate(all="ignore"):
                off = np.max(np.abs(plain.run(x).output - right.output)) / largest
            found = guarded.run(x)
            if not off <= 1e-3:
                mattered += 1
                assert found.events, f"{Struck.fault} moved the output by {off:.1e} of its largest value and was not found"
            if found.events:
                assert "worker 2 computed a wrong result" in found.events[0]
            assert np.max(np.abs(found.output - right.output)) <= 1e-3 * largest

        try:
            strike()
        finally:
            Struck.fault = Fault()
        assert mattered >= 10


def test_a_lost_worker_costs_no_second_run_in_a_guarded_star() -> None:
    with FaultCluster(3) as cluster:
        engine = cluster.engine("star", protection=PATIENT)
        messages = cluster.hub.number
        engine.run(image())
        messages = cluster.hub.number - messages
        for number in range(4, messages - 4, 5):
            rank = 1 + number % 3
            cluster.cut_at(rank, number)
            run_before = cluster.session.last_run
            inference = engine.run(image())
            assert_right(inference.output)
            if not any("rejoined" in event or "between" in event for event in inference.events):
                assert cluster.session.last_run == run_before + 1, "it was run again"
            cluster.hub.strike = lambda *_: False
            if cluster.names[rank - 1] in cluster.alive:
                cluster.cut(rank)
            engine.run(image())
            cluster.take_back(rank, engine)


def test_with_redundancy_a_lost_shard_is_the_code_minus_the_others() -> None:
    with FaultCluster(4) as cluster:
        engine = cluster.engine("star", protection=CODED)
        coder = {p.guard.code for p in engine.plan.placements if p.guard is not None}
        assert coder == {4}
        number = cluster.hub.number

        def strike(origin: str, to: str, sent: int) -> bool:
            # Its results are lost from the second layer on; nobody computes them again.
            if origin == "worker/1" and to == "master" and sent > number + 8 and "worker/1" in cluster.alive:
                cluster.cut(1)
            return False

        cluster.hub.strike = strike
        inference = engine.run(image())
        assert_right(inference.output)
        assert any("the code minus the others" in event for event in inference.events)
        assert not any("the master computed" in event for event in inference.events)


def test_redundancy_that_codes_nothing_is_reported() -> None:
    with FaultCluster(2) as cluster:
        engine = cluster.engine("star", protection=CODED)
        assert [event for event in engine.events if "codes no results over 2 workers: it takes 3 or more" in event]
    with FaultCluster(3) as cluster:
        engine = cluster.engine("star", protection=CODED)
        assert not engine.events
        cluster.cut(1)
        inference = engine.run(image())
        assert_right(inference.output)
        assert [event for event in engine.events if "codes no results over 2 workers" in event]


class Stalling(Executable):
    """Worker 2 hangs in its second conv until it is let go."""

    release = threading.Event()

    def compute(self, step: steps.AnyStep) -> Callable[[], None]:
        call = super().compute(step)
        if isinstance(step, steps.Conv) and self.program.rank == 2 and step.layer == 1:

            def stall() -> None:
                type(self).release.wait(60.0)
                call()

            return stall
        return call


@pytest.mark.parametrize("protection", [PATIENT, Protection(redundancy=1, patience=3.0)])
def test_what_a_stalled_worker_owes_is_made_up_for_and_what_it_sends_later_is_dropped(protection: Protection) -> None:
    Stalling.release.clear()
    with FaultCluster(4, build=Stalling) as cluster:
        engine = cluster.engine("star", protection=protection)
        for seed in range(3):
            inference = engine.run(image(seed))
            assert_right(inference.output, seed)
            late = [event for event in inference.events if "worker 2 is late" in event]
            assert bool(late) == (protection.redundancy == 0)
        Stalling.release.set()
        for seed in range(3):
            assert_right(engine.run(image(seed)).output, seed)


def test_region_helpers_cut_codes_at_channel_zero() -> None:
    plan = plan_star(network(), Topology.uniform(4, 1e9, 1e10), SchemeOptions(threshold=0, protection=CODED))
    guarded = [p for p in plan.placements if p.guard is not None]
    assert guarded
    for placement in guarded:
        assert placement.split is not None and placement.split.endswith("+1")
        assert all(work.raw and work.depth is None and isinstance(work.output, Region) for work in placement.work)
