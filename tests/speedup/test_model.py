"""The paper's formulas: by hand, by their properties, and against the shards that are really cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fogconv.errors import InputError
from fogconv.ir.geometry import ConvSpec
from fogconv.speedup.model import (
    Rates,
    Split,
    best_n,
    best_split,
    break_even_bandwidth,
    energy_j,
    estimate,
    least_depth,
    most_gain,
    s_paper,
    s_star,
    splits,
    t_cld,
    t_edge,
    t_join,
    t_local,
    t_part,
    t_rx,
    t_tx,
)

LAYER = ConvSpec(256, 512, 14, 14, (3, 3), padding=(1, 1, 1, 1))
RATES = Rates(gamma=2e-10, beta=3.2e-8, alpha=5e-4, message=1000, copy=1e-9)


@st.composite
def rates(draw: st.DrawFn) -> Rates:
    return Rates(
        gamma=draw(st.floats(1e-12, 1e-6)),
        beta=draw(st.floats(1e-10, 1e-4)),
        alpha=draw(st.floats(0, 1e-1)),
        message=draw(st.none() | st.integers(1, 10**6)),
        copy=draw(st.floats(0, 1e-6)),
        wake=draw(st.floats(0, 1.0)),
        step=draw(st.floats(0, 1e-3)),
    )


@st.composite
def layers(draw: st.DrawFn, *, dense: bool = False) -> ConvSpec:
    groups = 1 if dense else draw(st.sampled_from([1, 1, 2, 3, 8]))
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    return ConvSpec(
        groups * draw(st.integers(1, 80)),
        groups * draw(st.integers(1, 80)),
        draw(st.integers(5, 40)),
        draw(st.integers(5, 40)),
        kernel,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=(draw(st.integers(0, 2)),) * 4,
        groups=groups,
        batch=draw(st.integers(1, 2)),
    )


def test_the_terms_by_hand() -> None:
    """c=256, f=512, K=3, 14×14 over 2×4 workers: 128 input and 128 output channels each."""
    split, area = Split(2, 4), 14 * 14
    assert t_local(LAYER, RATES) == pytest.approx(9 * 256 * 512 * area * 2e-10)
    assert t_part(LAYER, RATES) == pytest.approx(256 * area * 1e-9)
    assert t_tx(LAYER, RATES, split) == pytest.approx(26 * 5e-4 + 128 * area * 3.2e-8)  # 25,088 elements: 26 messages
    assert t_rx(LAYER, RATES, split) == pytest.approx(26 * 5e-4 + 128 * area * 3.2e-8)
    assert t_edge(LAYER, RATES, split) == pytest.approx(9 * 128 * 128 * area * 2e-10)
    assert t_join(LAYER, RATES, split) == pytest.approx(2 * 512 * area * 1e-9)
    terms = t_cld(LAYER, RATES, split)
    assert terms.total_s == pytest.approx(
        t_part(LAYER, RATES)
        + 8 * (t_tx(LAYER, RATES, split) + t_rx(LAYER, RATES, split))
        + t_edge(LAYER, RATES, split)
        + t_join(LAYER, RATES, split)
    )


def test_s_is_the_papers_formula_for_equal_sizes() -> None:
    assert s_paper(LAYER, RATES) == pytest.approx(9 * 256 * 512 * 2e-10 / ((256 + 512) * (5e-4 / 1000 + 3.2e-8)))
    assert s_paper(replace(LAYER, groups=4), RATES) == pytest.approx(s_paper(LAYER, RATES) / 4)


def test_s_counts_the_smaller_output_of_a_strided_layer() -> None:
    strided = replace(LAYER, stride=(2, 2))
    volume = 256 * 14 * 14 + 512 * 7 * 7
    assert s_paper(strided, RATES) == pytest.approx(strided.macs * 2e-10 / (volume * (5e-4 / 1000 + 3.2e-8)))


def test_s_star_is_the_best_grid_by_unicast_volume() -> None:
    area, wire = 14 * 14, 5e-4 / 1000 + 3.2e-8
    volume = min(q * 256 * area + p * 512 * area for p, q in ((1, 8), (2, 4), (4, 2), (8, 1)))
    assert s_star(LAYER, RATES, 8) == pytest.approx(LAYER.macs * 2e-10 / (volume * wire))


@given(layers(dense=True), rates())
def test_s_grows_with_the_kernel(layer: ConvSpec, cost: Rates) -> None:
    """K² as such: the sizes of input and output stay the same."""
    cost = replace(cost, step=0.0)
    small = replace(layer, kernel=(1, 1), stride=(1, 1), padding=(0, 0, 0, 0))
    k = max(layer.kernel)
    large = replace(small, kernel=(k, k), padding=((k - 1) // 2, k // 2, (k - 1) // 2, k // 2))
    assert s_paper(large, cost) == pytest.approx(k**2 * s_paper(small, cost))


@given(st.integers(2, 300), st.integers(1, 5), rates(), st.data())
def test_for_a_fixed_sum_of_channels_s_is_greatest_at_equal_ones(
    half: int, k: int, cost: Rates, data: st.DataObject
) -> None:
    cost = replace(cost, message=cost.message or 1)
    square = ConvSpec(half, half, 12, 12, (k, k), padding=((k - 1) // 2, k // 2, (k - 1) // 2, k // 2))
    c = data.draw(st.integers(1, 2 * half - 1).filter(lambda c: c != half))
    assert s_paper(replace(square, in_channels=c, out_channels=2 * half - c), cost) < s_paper(square, cost)


@given(layers(), rates())
def test_one_remote_worker_of_equal_speed_never_pays(layer: ConvSpec, cost: Rates) -> None:
    for split in splits(layer, 1):
        assert t_cld(layer, cost, split).total_s >= t_local(layer, cost)


@given(layers(), rates(), st.floats(1e-3, 1e3), st.integers(1, 12), st.booleans())
def test_scaling_all_costs_leaves_every_ratio(layer: ConvSpec, cost: Rates, factor: float, n: int, master: bool) -> None:
    scaled = cost.scaled(factor)
    assert s_paper(layer, scaled) == pytest.approx(s_paper(layer, cost), rel=1e-9)
    assert s_star(layer, scaled, n, master_computes=master) == pytest.approx(
        s_star(layer, cost, n, master_computes=master), rel=1e-9
    )
    assert estimate(layer, scaled, n, master_computes=master) == pytest.approx(
        estimate(layer, cost, n, master_computes=master), rel=1e-9
    )


@given(layers(), rates(), st.integers(1, 64))
def test_unicast_links_never_beat_a_broadcast(layer: ConvSpec, cost: Rates, n: int) -> None:
    assert s_star(layer, cost, n) <= s_paper(layer, cost) * (1 + 1e-12)


@given(layers(), rates(), st.integers(1, 24), st.booleans())
def test_most_gain_and_s_star_bound_the_estimate(layer: ConvSpec, cost: Rates, n: int, master: bool) -> None:
    """ratio ≤ S_star of as many workers as it uses (≤ S, where they alone compute), and ratio ≤ what at most n can gain."""
    split, terms = best_split(layer, cost, n, master_computes=master)
    ratio = t_local(layer, cost) / terms.total_s
    travelling = split.parts - 1 if master and split.parts > 1 else split.parts
    star = s_star(layer, cost, travelling, master_computes=master and split.parts > 1)
    assert ratio <= star * (1 + 1e-9)
    assert ratio <= most_gain(layer, cost, n, master_computes=master) * (1 + 1e-9)
    if not master:
        assert star <= s_paper(layer, cost) * (1 + 1e-9)
        assert most_gain(layer, cost, n) <= min(n, s_paper(layer, cost)) * (1 + 1e-9)


@given(layers(), rates(), st.integers(1, 23), st.booleans())
def test_most_gain_never_falls_with_more_workers(layer: ConvSpec, cost: Rates, n: int, master: bool) -> None:
    fewer, more = (most_gain(layer, cost, workers, master_computes=master) for workers in (n, n + 1))
    assert more >= fewer


@given(layers(), rates(), st.integers(1, 24))
def test_no_estimate_exceeds_its_bound_without_the_masters_share(layer: ConvSpec, cost: Rates, n: int) -> None:
    cost = replace(cost, step=0.0)
    assert estimate(layer, cost, n) <= s_paper(layer, cost) * (1 + 1e-9)


@given(layers(), rates(), st.integers(1, 24))
def test_with_the_masters_share_no_estimate_exceeds_the_larger_of_the_bound_and_one(
    layer: ConvSpec, cost: Rates, n: int
) -> None:
    assert estimate(layer, cost, n, master_computes=True) <= max(s_paper(layer, cost), 1.0) * (1 + 1e-9)


@given(layers(), rates(), st.integers(1, 23))
def test_more_workers_to_choose_from_are_never_worse(layer: ConvSpec, cost: Rates, n: int) -> None:
    assert estimate(layer, cost, n + 1) >= estimate(layer, cost, n)


@given(layers(), rates(), st.integers(1, 32))
def test_the_best_n_gives_the_best_estimate(layer: ConvSpec, cost: Rates, n_max: int) -> None:
    n = best_n(layer, cost, n_max)
    assert 1 <= n <= n_max
    assert estimate(layer, cost, n) == estimate(layer, cost, n_max)


@given(layers(), rates(), st.integers(1, 9), st.booleans())
def test_at_the_break_even_bandwidth_both_take_equally_long(layer: ConvSpec, cost: Rates, n: int, master: bool) -> None:
    bandwidth = break_even_bandwidth(layer, cost, n, master_computes=master)
    if bandwidth is None:
        fastest = replace(cost, beta=1e-30)
        allowed = (split for m in range(1 + master, n + master + 1) for split in splits(layer, m))
        ratios = (t_local(layer, cost) / t_cld(layer, fastest, s, master_computes=master).total_s for s in allowed)
        assert max(ratios, default=0.0) <= 1 + 1e-6  # a single channel can't be shared
        return
    assume(4 / bandwidth < 1e300)
    split, _ = best_split(layer, replace(cost, beta=4 / bandwidth), n, master_computes=master)
    assert split.parts >= 1
    assert estimate(layer, replace(cost, beta=4 / bandwidth), n, master_computes=master) == pytest.approx(1, rel=1e-6)


def test_wake_up_time_counts_for_every_transfer() -> None:
    awake = t_cld(LAYER, RATES, Split(2, 2))
    asleep = t_cld(LAYER, replace(RATES, wake=0.25), Split(2, 2))
    assert asleep.tx_s - awake.tx_s == pytest.approx(4 * 0.25)
    assert asleep.rx_s - awake.rx_s == pytest.approx(4 * 0.25)


def test_with_the_masters_share_only_the_others_travel() -> None:
    remote, shared = t_cld(LAYER, RATES, Split(2, 2)), t_cld(LAYER, RATES, Split(2, 2), master_computes=True)
    assert shared.tx_s == pytest.approx(remote.tx_s * 3 / 4)
    assert shared.rx_s == pytest.approx(remote.rx_s * 3 / 4)
    assert shared.edge_s == remote.edge_s


def test_a_grouped_layer_splits_along_its_groups_only() -> None:
    depthwise = ConvSpec(64, 64, 28, 28, (3, 3), padding=(1, 1, 1, 1), groups=64)
    assert list(splits(depthwise, 4)) == [Split(groups=4)]
    assert list(splits(depthwise, 65)) == []
    assert s_star(depthwise, replace(RATES, message=1), 4) == pytest.approx(s_paper(depthwise, replace(RATES, message=1)))
    for split in (Split(2, 1), Split(groups=65)):
        with pytest.raises(InputError):
            t_cld(depthwise, RATES, split)


def test_a_dense_layer_refuses_more_parts_than_channels() -> None:
    for split in (Split(257, 1), Split(1, 513), Split(groups=2), Split(0, 1)):
        with pytest.raises(InputError):
            t_cld(LAYER, RATES, split)


def test_splits_are_named_as_in_the_json() -> None:
    assert [str(split) for split in (Split(4, 1), Split(1, 4), Split(2, 2), Split(groups=4), Split())] == [
        "input:4",
        "output:4",
        "grid:2x2",
        "groups:4",
        "output:1",
    ]


def test_the_least_depth_that_pays_is_where_s_passes_one() -> None:
    cost = Rates(gamma=2e-10, beta=3.2e-8, alpha=5e-4, message=10**6)
    depth = least_depth(cost, (3, 3), 14)
    assert depth is not None
    for c, pays in ((depth - 1, False), (depth, True)):
        assert (s_paper(ConvSpec(c, c, 14, 14, (3, 3), padding=(1, 1, 1, 1)), cost) > 1) is pays
    with_workers = least_depth(cost, (3, 3), 14, n=4)
    assert with_workers is not None and with_workers > depth
    assert least_depth(replace(cost, beta=1.0), (3, 3), 14) is None


def test_energy_counts_macs_and_bytes() -> None:
    local = energy_j(LAYER, None, 1e-9, 1e-6)
    assert local == pytest.approx(LAYER.macs * 1e-9)
    shared = energy_j(LAYER, Split(2, 4), 1e-9, 1e-6)
    assert shared - local == pytest.approx((4 * 256 + 2 * 512) * 14 * 14 * 4 * 1e-6)
    with pytest.raises(InputError):
        energy_j(LAYER, None, -1.0, 0.0)


@pytest.mark.parametrize("n", [0, -1])
def test_no_workers_is_refused(n: int) -> None:
    for ask in (s_star, best_split, estimate, break_even_bandwidth, best_n):
        with pytest.raises(InputError, match="workers"):
            ask(LAYER, RATES, n)


@pytest.mark.parametrize(
    "broken", [{"gamma": 0}, {"beta": -1}, {"alpha": -1}, {"gamma": float("nan")}, {"message": 0}, {"copy": -1}]
)
def test_rates_that_cannot_be_are_refused(broken: dict[str, float]) -> None:
    with pytest.raises(InputError):
        replace(RATES, **broken)  # type: ignore[arg-type]
