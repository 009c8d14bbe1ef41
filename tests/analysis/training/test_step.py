"""A training step's prediction: the rows add up, transfers are those of the programs, and more bandwidth costs nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.analysis.training.step import Medium, distributed_s, layer_step, training_step
from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.hardware.training_costs import pass_s
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.shard import conv_grid
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.simulation.simulator import Disturbance
from tests.seeded_models import graph

ALL = SchemeOptions(threshold=0)
SPEC = ConvSpec(64, 64, 28, 28, (3, 3), padding=(1, 1, 1, 1), batch=4)


def topology(ranks: int, bytes_per_s: float = 1.25e8) -> Topology:
    return Topology.uniform(ranks, 1e10, bytes_per_s, 1e-4, copy_s_per_byte=1e-10, step_s=1e-5)


def test_on_a_link_without_end_a_step_is_its_computing() -> None:
    cluster = topology(3, 1e14)
    cluster = replace(cluster, default_link=replace(cluster.default_link, latency_s=0.0))  # type: ignore[type-var]
    devices = tuple(replace(device, copy_s_per_byte=0.0, step_s=0.0) for device in cluster.devices)
    cluster = replace(cluster, devices=devices)
    shards = conv_grid(SPEC, (0, 1, 2), 1)
    forward, grad_x, grad_w, transfers = distributed_s(SPEC, shards, cluster)
    longest = max(shards, key=lambda shard: shard.spec.macs)
    for seconds, name in ((forward, "forward"), (grad_x, "input"), (grad_w, "weight")):
        assert seconds == pytest.approx(pass_s(cluster.devices[0], name, longest.spec), rel=1e-6)  # type: ignore[arg-type]
    assert transfers < 1e-3 * forward


@settings(max_examples=15, deadline=None)
@given(ranks=st.integers(2, 5), p=st.sampled_from([1, 0]), batch=st.integers(1, 8))
def test_transfers_take_at_least_what_the_masters_card_takes(ranks: int, p: int, batch: int) -> None:
    """Each way: the parts of x and the weights out and y back, then grad_y out and both gradients back."""
    spec = replace(SPEC, batch=batch)
    shards = conv_grid(spec, tuple(range(ranks)), p or ranks)
    remote = [shard.spec for shard in shards if shard.rank]
    out = sum(s.input_elements + s.weight_elements for s in remote), sum(s.output_elements for s in remote)
    back = sum(s.output_elements for s in remote), sum(s.input_elements + s.weight_elements for s in remote)
    slow = topology(ranks, 1e6)
    forward, grad_x, grad_w, transfers = distributed_s(spec, shards, slow)
    wire_s = 4e-6 * sum(max(one, other) for one, other in zip(out, back, strict=True))
    assert forward + grad_x + grad_w + transfers >= wire_s
    assert transfers > 0


def test_a_step_without_the_inputs_gradient_is_shorter() -> None:
    shards = conv_grid(SPEC, (0, 1), 1)
    with_x, without = (sum(distributed_s(SPEC, shards, topology(2), grad_x=wanted)) for wanted in (True, False))
    assert without < with_x


def test_the_layers_add_up_and_the_first_needs_no_gradient_of_the_picture() -> None:
    step = training_step(graph("resnet18", 64), topology(3), ALL, 2)
    assert len(step.layers) == 20  # the linear layer is torch's
    assert step.total.total_s == pytest.approx(sum(layer.total_s for layer in step.layers))
    assert step.as_json()["predicted_s"] == step.total.total_s
    assert [layer.name for layer in step.layers if not layer.input_s] == ["conv1"]
    assert all(layer.split and layer.spec.batch == 2 for layer in step.layers)


def test_what_does_not_pay_stays_in_torch() -> None:
    layer = layer_step("conv", SPEC, topology(3, 1e4), SchemeOptions())
    assert layer.split is None and layer.ranks == (0,) and not layer.transfers_s
    assert layer.forward_s == pytest.approx(topology(3).devices[0].conv_s(SPEC))


def test_a_slow_worker_and_a_shared_medium_make_a_step_longer() -> None:
    three = SchemeOptions(threshold=0, parts=3)
    quiet = layer_step("conv", SPEC, topology(3), three).total_s
    slow = Medium(disturbance=Disturbance(stragglers={2: 5.0}))
    shared = Medium({1: 0, 2: 0}, 1e6)
    assert layer_step("conv", SPEC, topology(3), three, medium=slow).total_s > 1.5 * quiet
    assert layer_step("conv", SPEC, topology(3), three, medium=shared).total_s > 2 * quiet


def test_a_net_without_convs_has_no_step() -> None:
    whole = graph("resnet18", 64)
    with pytest.raises(InputError, match="no convs"):
        training_step(replace(whole, layers=()), topology(2), ALL, 1)
