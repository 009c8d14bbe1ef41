"""The planner takes the cheapest path: near when links are slow, far when they are fast, within everyone's memory."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import InputError, PlannerError
from fogconv.frontend import zoo_graphs
from fogconv.hardware.topology import Device, Link, Topology
from fogconv.ir.geometry import ConvSpec, Region, Span, subtract
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Tensor
from fogconv.ir.memory.footprint import PROCESS_BYTES
from fogconv.ir.plan import Plan, load_plan, save_plan
from fogconv.ir.shard import Work, level
from fogconv.ir.steps import Recv
from fogconv.lowering.lower import lower
from fogconv.lowering.overlap import hidden_share, interior_first
from fogconv.planning.memory import needed_bytes
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.schemes import Scheme
from fogconv.planning.search import MOST_RANKS
from fogconv.planning.strategies.option import weight_elements
from fogconv.quantization.precision import for_shapes
from tests.chains import chain
from tests.graph_reference import run_graph
from tests.program_reference import run
from tests.random_graphs import graphs


def cluster(ranks: int, bandwidth_bytes_per_s: float, latency_s: float = 1e-4) -> Topology:
    return Topology.uniform(ranks, 10e9, bandwidth_bytes_per_s, latency_s, copy_s_per_byte=1e-10, step_s=1e-5)


def predicted(found: object) -> float:
    seconds = found.predicted_s  # type: ignore[attr-defined]
    assert seconds is not None
    return float(seconds)


def stored_bytes(plan: Plan, graph: LayerGraph) -> dict[int, int]:
    """Bytes of conv weights on each rank."""
    stored: dict[int, int] = dict.fromkeys(range(plan.ranks), 0)
    for layer, placement in zip(graph.layers, plan.placements, strict=True):
        if isinstance(layer, Conv):
            for work in placement.work:
                stored[work.rank] += weight_elements(layer, work) * 4
    return stored


def test_over_a_slow_link_everything_stays_at_home() -> None:
    found = plan(chain(64, 64, 64), cluster(5, 1e4))
    assert found.active_ranks == {0}


def test_over_a_fast_link_everyone_works_and_it_pays() -> None:
    graph = chain(64, 64, 64, 64)
    found = plan(graph, cluster(5, 1e10))
    assert found.active_ranks == {0, 1, 2, 3, 4}
    assert predicted(found) < predicted(plan(graph, cluster(5, 1e10), PlanOptions("local"))) / 3


def test_a_depth_plan_keeps_every_weight_on_one_rank_only() -> None:
    graph = chain(64, 128, 128, 64)
    found = plan(graph, cluster(4, 1e10), PlanOptions("depth"))
    whole = sum(graph.weights[conv.weight].nbytes for conv in graph.convs)
    split = [p for p in found.placements if p.mode in ("output", "input")]
    assert split and max(stored_bytes(found, graph).values()) <= whole / 4 * 1.15 + sum(
        graph.weights[layer.weight].nbytes
        for layer, p in zip(graph.layers, found.placements, strict=True)
        if isinstance(layer, Conv) and p.mode not in ("output", "input")
    )


def test_a_depth_plan_spares_a_worker_at_most_its_even_share_again() -> None:
    """However dear bytes are: splitting the others' weights would be for nothing."""
    topology = cluster(5, 1e8)
    for rank in topology.ranks:
        dear = replace(topology.devices[rank], message_s=1e-3, send_s_per_byte=3e-8, receive_s_per_byte=3e-8)
        topology = topology.replace_device(rank, dear)
    graph = chain(64, 64, 128, 128, 256, 256, 256, 512, 512, 512, size=28)
    found = plan(graph, topology, PlanOptions("depth"))
    stored = stored_bytes(found, graph)
    whole = sum(graph.weights[conv.weight].nbytes for conv in graph.convs)
    assert {"rows"} <= {placement.mode for placement in found.placements}
    assert max(stored[rank] for rank in topology.workers) <= 2 / 5 * whole * 1.05


def test_a_faster_device_gets_more_rows() -> None:
    topology = cluster(3, 1e10)
    topology = topology.replace_device(1, topology.devices[1].scaled(3.0))
    found = plan(chain(64, 64, 64, size=60), topology, PlanOptions("rows"))
    rows = {work.rank: len(work.output.rows) for work in found.placements[-1].work}
    assert rows[1] > 2 * rows[0] and rows[1] > 2 * rows[2]


def test_a_rank_that_costs_more_than_it_gives_is_left_out() -> None:
    topology = cluster(4, 1e10, 1e-6)
    slow = replace(topology.devices[3].scaled(0.05), message_s=5e-3)
    found = plan(chain(64, 64, 64, 64), topology.replace_device(3, slow))
    assert found.active_ranks == {0, 1, 2}


@pytest.mark.parametrize("scheme", ["auto", "depth", "rows", "columns", "tiles"])
def test_of_hundreds_of_ranks_the_fastest_get_the_work(scheme: str) -> None:
    graph, topology = chain(64, 64, 64, size=64), cluster(300, 1e10, 1e-6)
    graph = replace(graph, weights={name: value.astype(np.float64) for name, value in graph.weights.items()})
    quick = {150 + i for i in range(MOST_RANKS - 1)}
    for rank in quick:
        topology = topology.replace_device(rank, topology.devices[rank].scaled(2.0))
    found = plan(graph, topology, PlanOptions(scheme))
    assert {0} < found.active_ranks <= {0} | quick
    assert all(card == (0.0, 0.0) for rank, card in enumerate(found.card_bytes) if rank not in found.active_ranks)
    image = np.random.default_rng(0).standard_normal((1, 64, 64, 64))
    lowered = lower(graph, found)
    assert len(lowered.programs) == 300
    out = run(lowered.programs, lowered.weights, image).reshape(graph.outputs[0].shape)
    np.testing.assert_allclose(out, run_graph(graph, image), atol=1e-9 * float(np.abs(out).max()))


def test_even_shares_are_even_whatever_the_rates() -> None:
    topology = cluster(3, 1e10)
    topology = topology.replace_device(1, topology.devices[1].scaled(3.0))
    shares = {}
    for even in (False, True):
        found = plan(chain(64, 96, size=16), topology, PlanOptions("star", threshold=0, master_computes=False, even=even))
        shares[even] = {len(work.output.channels) * len(work.depth or range(64)) for work in found.placements[0].work}
    assert len(shares[True]) == 1 and len(shares[False]) > 1


def limited(topology: Topology, bytes_per_rank: int) -> Topology:
    for rank in topology.ranks:
        topology = topology.replace_device(rank, replace(topology.devices[rank], memory_bytes=bytes_per_rank))
    return topology


@pytest.mark.parametrize("scheme", Scheme)
def test_memory_limits_are_kept_or_named(scheme: str) -> None:
    graph, topology = chain(256, 256, 256, 256), cluster(4, 1e9)
    alone = needed_bytes(graph, plan(graph, topology, PlanOptions("local")), topology)[0]
    options = PlanOptions(scheme, threshold=0.0)
    free = needed_bytes(graph, plan(graph, topology, options), topology)
    for share in (1.1, 0.6, 0.01):
        within = limited(topology, PROCESS_BYTES + int(share * alone))
        try:
            found = plan(graph, within, options)
        except PlannerError as error:
            assert max(free) > share * alone
            assert re.search(r"needs \d+ MB of weights and maps on rank .* limit is \d+ MB", str(error))
        else:
            assert max(needed_bytes(graph, found, topology)) <= share * alone
    if scheme == "auto":
        assert plan(graph, limited(topology, PROCESS_BYTES + int(0.6 * alone)), options)
    with pytest.raises(PlannerError, match="are for the process itself"):
        plan(graph, limited(topology, PROCESS_BYTES), options)


@given(graphs(), st.sampled_from([1e5, 1e7, 1e9]), st.sampled_from([1e-5, 5e-3]))
@settings(deadline=None, max_examples=25)
def test_auto_is_never_predicted_slower_than_a_named_scheme(graph: object, bandwidth: float, latency: float) -> None:
    topology = cluster(4, bandwidth, latency)
    best = min(
        predicted(plan(graph, topology, PlanOptions(name))) for name in ("depth", "rows", "columns", "tiles", "local")
    )  # type: ignore[arg-type]
    assert predicted(plan(graph, topology)) <= best * (1 + 1e-9)  # type: ignore[arg-type]


def test_an_unknown_scheme_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=", ".join(Scheme)):
        plan(chain(3, 4), cluster(2, 1e9), PlanOptions("sideways"))


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    found = plan(chain(64, 64, 64, residual=True), cluster(3, 1e9))
    save_plan(found, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == found


@pytest.mark.parametrize(("text", "says"), [("{}", "is not a plan"), ("no json", "is not a plan"), (None, "can't read")])
def test_a_file_that_is_no_plan_is_one_sentence(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=says):
        load_plan(path)


def test_rates_that_differ_by_noise_are_made_equal() -> None:
    levelled = level([1.0, 2.1, 1.1, 1.9, 1.2])
    assert levelled[0] == levelled[2] == levelled[4] == pytest.approx(1.1)
    assert levelled[1] == levelled[3] == pytest.approx(2.0)


def test_the_interior_needs_nothing_from_the_neighbours() -> None:
    graph = chain(256, 256, size=64)
    [layer] = graph.convs
    own = Region(Span(0, 256), Span(16, 40), Span(0, 64))
    work = Work(1, own)
    parts = interior_first(graph, layer, work, lambda tensor, region: region in own)
    assert parts is not None
    interior, borders = parts
    assert (interior.output.rows.start, interior.output.rows.stop) == (20, 36)
    assert [len(border.output.rows) for border in borders] == [4, 4]


def test_the_interior_of_a_tile_needs_nothing_from_any_side() -> None:
    graph = chain(256, 256, size=64)
    [layer] = graph.convs
    own = Region(Span(0, 256), Span(16, 48), Span(0, 30))
    parts = interior_first(graph, layer, Work(1, own), lambda tensor, region: region in own)
    assert parts is not None
    interior, borders = parts
    # Whole tiles of 4×4 from the shard's corner on; nothing is waited for at the map's border.
    assert interior.output == Region(Span(0, 256), Span(20, 44), Span(0, 28))
    assert sum(border.output.elements for border in borders) == own.elements - interior.output.elements
    assert not subtract(own, [interior.output, *(border.output for border in borders)])


def test_a_shard_without_neighbours_rows_to_wait_for_is_not_cut() -> None:
    graph = chain(256, 256, size=64)
    assert interior_first(graph, graph.convs[0], Work(0, graph.tensors[1].region), lambda tensor, region: True) is None


def test_rows_that_read_only_padding_are_not_cut_off() -> None:
    """A border of such rows would be a conv without an input."""
    spec = ConvSpec(512, 512, 30, 64, (1, 1), padding=(0, 8, 0, 0))
    tensors = (Tensor("a", 1, 512, 30, 64), Tensor("b", 1, 512, 38, 64))
    graph = LayerGraph.single("padded", tensors, (Conv("conv", 0, 1, spec, "w"),), 0, 1, (1, 512, 38, 64), {})
    work = Work(1, Region(Span(0, 512), Span(10, 38), Span(0, 64)))
    own = Region(Span(0, 512), Span(11, 30), Span(0, 64))
    assert interior_first(graph, graph.convs[0], work, lambda tensor, region: region in own) is None


def test_a_thin_shard_hides_nothing() -> None:
    spec = ConvSpec(256, 256, 64, 64, (3, 3), padding=(1, 1, 1, 1))
    whole = Region.whole(256, 64, 64)
    assert hidden_share(spec, whole.with_rows(Span(0, 4))) == 0
    assert hidden_share(spec, whole.with_rows(Span(0, 32))) == pytest.approx(0.75)
    assert hidden_share(spec, Region(whole.channels, whole.rows, Span(0, 32))) == pytest.approx(0.75)
    assert hidden_share(spec, Region(whole.channels, Span(16, 48), Span(0, 32))) == pytest.approx(0.75**2)
    assert hidden_share(spec, whole) == 0


def test_a_chain_of_convs_asks_one_neighbour_at_a_time() -> None:
    """With dear messages the cuts move down at one conv and back at the next: one message where halos take two."""
    topology = cluster(4, 1e10, 1e-6)
    for rank in topology.ranks:
        topology = topology.replace_device(rank, replace(topology.devices[rank], message_s=2e-3))
    graph = chain(64, 64, 64, 64, 64, size=64)
    found = plan(graph, topology, PlanOptions("rows"))
    programs = lower(graph, found).programs
    received = [sum(isinstance(step, Recv) for step in program.steps) for program in programs]
    cuts = [[work.output.rows.start for work in placement.work] for placement in found.placements]
    assert len({tuple(each) for each in cuts}) > 1
    # The scatter, and one message at each exchange.
    exchanges = sum(placement.predicted["wait_s"] > 0 for placement in found.placements[1:])
    assert max(received[1:]) <= 1 + exchanges


def bottlenecks(count: int, channels: int, size: int) -> LayerGraph:
    """Residual blocks in a row: 1×1, 3×3, 1×1 and the sum with what came in."""
    tensors = [Tensor("input", 1, channels, size, size)]
    layers = []
    for number, kernel in enumerate((1, 3, 1) * count):
        spec = ConvSpec(channels, channels, size, size, (kernel, kernel), padding=(kernel // 2,) * 4)
        residual = number - 2 if number % 3 == 2 else None
        layers.append(Conv(f"conv{number}", number, number + 1, spec, f"w{number}", None, "relu", residual))
        tensors.append(Tensor(f"conv{number}", 1, channels, size, size))
    weights = {layer.weight: np.zeros(layer.spec.weight_shape, np.float32) for layer in layers}
    return LayerGraph.single("bottlenecks", tuple(tensors), tuple(layers), 0, len(layers), tensors[-1].shape, weights)


def test_residual_blocks_ask_one_neighbour_each() -> None:
    """The 1×1 behind the cuts that moved, and the sum with the block's input, are done where the cuts are."""
    topology = cluster(4, 1e10, 1e-6)
    for rank in topology.ranks:
        topology = topology.replace_device(rank, replace(topology.devices[rank], message_s=1e-3))
    graph = bottlenecks(4, 128, 56)
    programs = lower(graph, plan(graph, topology, PlanOptions("rows"))).programs
    received = [sum(isinstance(step, Recv) for step in program.steps) for program in programs]
    assert max(received) <= 5  # one for each block, and at the ends of a run one more; symmetric halos take 7


def test_starting_an_inference_on_others_is_part_of_the_prediction() -> None:
    """A message to each of them, and one back."""
    free, graph = cluster(3, 1e10), chain(64, 64)
    slow = free.replace_device(0, replace(free.devices[0], message_s=1e-3))
    kept = plan(graph, free, PlanOptions("rows"))
    before, after = (plan(graph, topology, PlanOptions("rows", plan=kept)) for topology in (free, slow))
    assert before.ends_s < 1e-3
    assert after.ends_s >= 4e-3


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("scheme", ["auto", "rows", "columns", "tiles", "depth", "star"])
def test_ranks_that_share_one_machines_cores_gain_nothing(scheme: str, threads: int) -> None:
    """However fast the links are: a master with both cores, and workers that take them away from it."""
    graph = chain(64, 64, 64, 64)
    apart = cluster(5, 1e12, 1e-9)
    here = [replace(d, threads=2 if rank == 0 else threads, machine="m") for rank, d in enumerate(apart.devices)]
    here = [d if rank == 0 else d.scaled(threads / 2) for rank, d in enumerate(here)]
    together = replace(apart, devices=tuple(replace(device, machine_cores=2.0) for device in here))
    alone = predicted(plan(graph, together, PlanOptions("local")))
    assert predicted(plan(graph, apart, PlanOptions(scheme))) < 0.7 * alone
    assert predicted(plan(graph, together, PlanOptions(scheme, threshold=0.0))) >= alone
    assert plan(graph, together, PlanOptions(scheme)).active_ranks == {0} or scheme == "depth"


def test_two_ranks_share_a_network_that_is_not_worth_the_messages_of_five() -> None:
    """ResNet-18 in 8 bits at 100 Mbit/s, where a message takes 0.4 ms of a node that computes it in 52: five took as long
    as one, and the search did not look at fewer."""
    graph = for_shapes(zoo_graphs.graph("resnet18"), "int8")
    rates = {"copy_s_per_byte": 1e-9, "step_s": 1e-4, "message_s": 4e-4}
    rates |= {"send_s_per_byte": 2e-9, "receive_s_per_byte": 2e-9}
    devices = tuple(Device(f"n{rank}", {"default": 2.5e-11}, **rates) for rank in range(5))
    topology = Topology(devices, default_link=Link(2e-4, 8e-8))
    alone, found = (plan(graph, topology, PlanOptions(scheme)) for scheme in ("local", "auto"))
    assert found.predicted_s is not None and alone.predicted_s is not None
    assert found.predicted_s < 0.95 * alone.predicted_s
    assert len({work.rank for placement in found.placements for work in placement.work}) < 5
    assert found.ranks == 5 and found.scheme == "auto"
