"""The paper's own setting: T_local ÷ T_cld tends to S, and nothing passes it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fogconv.errors import InputError
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec
from fogconv.speedup import broadcast
from fogconv.speedup.model import Rates, estimate, s_paper
from fogconv.speedup.trigger import Trigger
from tests.speedup.test_model import LAYER, RATES, layers, rates


@given(st.integers(1, 600), st.integers(1, 600), st.sampled_from([1, 3, 5]), st.floats(1e-12, 1e-8), st.floats(1e-9, 1e-5))
def test_broadcast_ratio_tends_to_s(c: int, f: int, k: int, gamma: float, beta: float) -> None:
    """Equal sizes, α/M per element, a million workers: within a thousandth, from below."""
    layer = ConvSpec(c, f, 14, 14, (k, k), padding=((k - 1) // 2,) * 4)
    cost = Rates(gamma, beta, alpha=5e-4, message=1000)
    bound = s_paper(layer, cost)
    assume(bound < 900)  # with S workers computing takes as long as the wire
    ratio = broadcast.estimate(layer, cost, broadcast.CROWD)
    assert bound * (1 - 1e-3) <= ratio <= bound


def test_broadcast_terms_by_hand() -> None:
    area, wire = 14 * 14, 5e-4 / 1000 + 3.2e-8
    terms = broadcast.t_cld(LAYER, RATES, 8)
    assert terms.tx_s == pytest.approx(256 * area * wire)
    assert terms.rx_s == pytest.approx(512 * area * wire)
    assert terms.edge_s == pytest.approx(9 * 256 * 512 * area * 2e-10 / 8)
    assert terms.part_s == pytest.approx(256 * area * 1e-9)
    assert terms.join_s == pytest.approx(512 * area * 1e-9)
    with pytest.raises(InputError, match="0 workers"):
        broadcast.t_cld(LAYER, RATES, 0)


@given(layers(dense=True), rates(), st.integers(1, 24))
def test_broadcast_is_never_slower_than_unicast(layer: ConvSpec, cost: Rates, n: int) -> None:
    cost = replace(cost, step=0.0)
    assert broadcast.estimate(layer, cost, n) >= estimate(layer, cost, n) * (1 - 1e-9)


@given(layers(), rates(), st.integers(2, 50))
def test_broadcast_pays_from_its_break_even_bandwidth_on(layer: ConvSpec, cost: Rates, n: int) -> None:
    bandwidth = broadcast.break_even_bandwidth(layer, cost, n)
    if bandwidth is None:
        assert broadcast.estimate(layer, replace(cost, beta=1e-18), n) <= 1 + 1e-6
    else:
        beta = BYTES_PER_ELEMENT / bandwidth
        assert broadcast.estimate(layer, replace(cost, beta=beta), n) == pytest.approx(1.0, rel=1e-6)


def test_broadcast_decides_by_the_same_rules() -> None:
    long = replace(RATES, message=10**6)
    found = broadcast.decide(LAYER, long, 4, Trigger(), 1.0)
    assert found.distribute
    assert found.bound_s_star == found.bound_s_paper == s_paper(LAYER, long)
    assert found.bound_gain == 4.0
    assert found.estimate < found.bound_gain
    assert not broadcast.decide(LAYER, long, 4, Trigger(), math.inf).distribute
    assert not broadcast.decide(LAYER, long, 4, Trigger("channels", 256), 1.0).distribute
