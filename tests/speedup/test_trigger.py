"""The trigger: one rule for the command line and the torch module."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.errors import InputError
from fogconv.hardware.topology import Device, Link, Topology
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.shard import conv_grid
from fogconv.speedup.model import Split, best_split, estimate, most_gain, s_paper, s_star
from fogconv.speedup.trigger import Trigger, cluster_terms, decide, master_rates, parse_split

DEEP = ConvSpec(256, 256, 14, 14, (3, 3), padding=(1, 1, 1, 1))
SHALLOW = ConvSpec(16, 16, 14, 14, (1, 1))
DEPTHWISE = ConvSpec(32, 32, 28, 28, (3, 3), padding=(1, 1, 1, 1), groups=32)
FAST = Topology.uniform(5, 10e9, 125e6, 5e-4)
specs = st.builds(
    ConvSpec,
    st.integers(1, 300),
    st.integers(1, 300),
    st.just(14),
    st.just(14),
    st.sampled_from([(1, 1), (3, 3), (5, 1)]),
)


def test_a_deep_layer_goes_and_a_shallow_one_stays() -> None:
    yes, no = decide(DEEP, FAST), decide(SHALLOW, FAST)
    assert yes.distribute and yes.bound_s_paper > 1 and yes.estimate > 1
    assert not no.distribute and "≤ 1" in no.reason
    assert no.predicted is not None and no.split is not None  # what it would have been


@given(specs, st.booleans(), st.sampled_from(["both", "bound", "estimate", "channels:60"]))
def test_a_threshold_of_zero_distributes_everything_and_infinity_nothing(spec: ConvSpec, master: bool, trigger: str) -> None:
    assert decide(spec, FAST, trigger=trigger, threshold=0, master_computes=master).distribute
    assert not decide(spec, FAST, trigger=trigger, threshold=math.inf, master_computes=master).distribute


@given(specs, st.floats(0.01, 20))
def test_both_is_both(spec: ConvSpec, threshold: float) -> None:
    both, bound, ratio = (
        decide(spec, FAST, trigger=trigger, threshold=threshold).distribute for trigger in ("both", "bound", "estimate")
    )
    assert both == (bound and ratio)


def test_the_fixed_rule_looks_at_the_input_channels_only() -> None:
    assert decide(ConvSpec(61, 1, 3, 3, (1, 1)), FAST, trigger="channels:60").distribute
    assert not decide(ConvSpec(60, 512, 14, 14, (3, 3)), FAST, trigger="channels:60").distribute


@given(specs, st.integers(2, 7), st.booleans())
def test_equal_devices_are_priced_by_the_papers_formulas(spec: ConvSpec, ranks: int, master: bool) -> None:
    topology = Topology.uniform(ranks, 10e9, 125e6, 5e-4, copy_s_per_byte=1e-10)
    decision = decide(spec, topology, master_computes=master)
    rates = master_rates(topology, spec)
    assert decision.bound_s_paper == pytest.approx(s_paper(spec, rates))
    used = [rank for rank in decision.ranks if rank]
    star = s_star(spec, rates, len(used) or ranks - 1, master_computes=0 in decision.ranks or (master and not used))
    assert decision.bound_s_star == pytest.approx(star)
    assert decision.bound_gain == pytest.approx(most_gain(spec, rates, ranks - 1, master_computes=master))
    # Priced shard by shard, so that the shares of a rank and the copies may differ by a block of 16 channels.
    assert decision.estimate == pytest.approx(estimate(spec, rates, ranks - 1, master_computes=master), rel=0.35)


def test_even_splits_agree_with_the_formulas_exactly() -> None:
    topology = Topology.uniform(5, 10e9, 125e6, 5e-4, copy_s_per_byte=1e-10)
    for master in (False, True):
        rates = master_rates(topology, DEEP)
        split, terms = best_split(DEEP, rates, 3 if master else 4, master_computes=master)
        ranks = range(4) if master else range(1, 5)
        priced = cluster_terms(DEEP, topology, conv_grid(DEEP, list(ranks), split.p))
        for name in ("tx_s", "edge_s", "rx_s"):
            assert getattr(priced, name) == pytest.approx(getattr(terms, name))


@given(specs, st.booleans())
def test_the_decision_names_the_shards_that_conv_grid_cuts(spec: ConvSpec, master: bool) -> None:
    decision = decide(spec, FAST, threshold=0, master_computes=master)
    assert decision.split is not None
    assert decision.shards == conv_grid(spec, decision.ranks, decision.split.p, decision.weights)
    assert len(decision.ranks) == decision.split.parts
    assert (0 in decision.ranks) == (master and decision.split.parts > 1)


def test_a_slow_worker_gets_a_smaller_share() -> None:
    devices = [Device("a", {"default": 1e-10})] * 2 + [Device("slow", {"default": 2e-10})]
    topology = Topology(tuple(devices), {}, Link(1e-5, 1e-10))
    decision = decide(DEEP, topology, master_computes=True)
    macs = {shard.rank: shard.spec.macs for shard in decision.shards}
    assert macs[2] < macs[1]
    even = decide(DEEP, topology, master_computes=True, even=True)
    assert decision.estimate > even.estimate


def test_a_worker_behind_a_dead_slow_link_is_left_out() -> None:
    devices = (Device("a", {"default": 1e-9}),) * 4
    links = {(0, i): Link(1e-5, 1e-9) for i in (1, 2, 3)} | {(i, 0): Link(1e-5, 1e-9) for i in (1, 2, 3)}
    slow = Topology(devices, {**links, (0, 2): Link(0.1, 1e-5), (2, 0): Link(0.1, 1e-5)})
    assert 2 not in decide(DEEP, slow).ranks
    assert 2 not in decide(DEEP, slow, master_computes=True).ranks


def test_grouped_convs_split_along_whole_groups() -> None:
    decision = decide(DEPTHWISE, FAST, threshold=0)
    assert decision.distribute and str(decision.split).startswith(("groups:", "output:1"))
    assert all(shard.spec.groups == len(shard.output.channels) for shard in decision.shards)


def test_without_workers_nothing_goes() -> None:
    decision = decide(DEEP, Topology.uniform(1, 10e9, 125e6, 5e-4), threshold=0)
    assert not decision.distribute and decision.reason == "no workers" and decision.local_s > 0


def test_a_single_channel_goes_to_one_worker_even_if_the_master_computes() -> None:
    decision = decide(ConvSpec(1, 1, 8, 8, (3, 3)), FAST, threshold=0, master_computes=True)
    assert decision.distribute and len(decision.shards) == 1 and decision.shards[0].rank != 0


def test_another_predictor_can_price_the_shards() -> None:
    decision = decide(DEEP, FAST, seconds=lambda rank, spec: 1.0 if spec == DEEP else 0.001)
    assert decision.local_s == 1.0 and decision.predicted is not None
    assert decision.predicted.edge_s == 0.001


@pytest.mark.parametrize("text", ["", "sometimes", "channels", "channels:", "channels:-1", "channels:x", "both:1", "Bound"])
def test_an_unknown_trigger_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="trigger"):
        decide(DEEP, FAST, trigger=text)


@pytest.mark.parametrize("threshold", [-1.0, math.nan, -math.inf])
def test_a_threshold_that_cannot_be_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold"):
        decide(DEEP, FAST, threshold=threshold)


def test_a_trigger_prints_as_it_is_typed() -> None:
    for text in ("both", "bound", "estimate", "channels:60"):
        assert str(Trigger.parse(text)) == text


@given(specs, st.integers(2, 9), st.booleans())
def test_a_number_of_parts_is_kept_as_far_as_channels_and_ranks_go(spec: ConvSpec, parts: int, master: bool) -> None:
    found = decide(spec, FAST, threshold=0, master_computes=master, parts=parts)
    ranks = 5 if master else 4
    wanted = min(parts, ranks)
    # 2 or 3 parts are had by input or output channels alone; 4 also as 2×2.
    room = max(spec.in_channels, spec.out_channels) >= wanted
    if room:
        assert found.split is not None and found.split.parts == wanted == len(found.shards)
        assert len({shard.rank for shard in found.shards}) == wanted
    assert not found.distribute or found.split is not None


@given(specs, st.sampled_from(["input:3", "output:4", "grid:2x2", "input:5"]), st.booleans())
def test_a_split_is_kept_as_far_as_channels_and_ranks_go(spec: ConvSpec, text: str, master: bool) -> None:
    wanted, ranks = parse_split(text), 5 if master else 4
    found = decide(spec, FAST, threshold=0, master_computes=master, split=wanted)
    if min(spec.in_channels, spec.out_channels) >= 5 and wanted.parts <= ranks:
        assert found.split == wanted and len(found.shards) == wanted.parts
    if found.split is not None:
        assert found.split.p <= wanted.p and found.split.q <= wanted.q and found.split.parts <= ranks


def test_grouped_convs_are_cut_along_groups_whatever_the_split() -> None:
    for split in ("input:4", "output:4", "grid:2x2"):
        assert decide(DEPTHWISE, FAST, threshold=0, split=parse_split(split)).split == Split(groups=4)
    assert decide(DEPTHWISE, FAST, threshold=0, parts=3, master_computes=True).split == Split(groups=3)


@pytest.mark.parametrize(
    "text", ["", "input", "input:", "input:0", "input:-1", "input:2x2", "grid:2", "grid:2x", "grid:2x2x2", "rows:2",
             "input:²", "output:" + "9" * 5000]
)  # fmt: skip
def test_a_split_that_is_none_is_answered_by_those_that_there_are(text: str) -> None:
    with pytest.raises(InputError, match="input:N, output:N or grid:PxQ") as caught:
        parse_split(text)
    assert len(str(caught.value)) < 300
