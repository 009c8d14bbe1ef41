"""One prediction per output: rows, foot and JSON are the same seconds, for every scheme, with all that an inference does."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from fogconv.analysis.figures import milliseconds
from fogconv.analysis.forecast import forecast
from fogconv.analysis.layer_report import other_layers
from fogconv.analysis.plan_table import plan_table
from fogconv.cli.output.tables.plan import print_plan
from fogconv.hardware.topology import USUAL_READ_BYTES_PER_S, Topology
from fogconv.ir.guard import Protection
from fogconv.ir.layers import Conv, Host
from fogconv.ir.memory.footprint import PROCESS_BYTES
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.schemes import Scheme
from tests import seeded_models as models
from tests.cli.output.examples import layer

NETS = ("resnet18", "squeezenet1_1", "mobilenet_v2")
RATES = Topology.uniform(3, 2e9, 1e8, 1e-4, copy_s_per_byte=1e-9, step_s=2e-5)
BUSY = replace(RATES, devices=tuple(replace(device, message_s=1e-4) for device in RATES.devices))
CHOICES = (
    *(PlanOptions(scheme) for scheme in Scheme),
    PlanOptions("star", threshold=0.0),
    PlanOptions("star", threshold=0.0, parts=3, master_computes=True),
    PlanOptions("star", threshold=0.0, protection=Protection(verify=True)),
)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("options", CHOICES, ids=lambda options: f"{options.scheme} {options.threshold} {options.parts}")
def test_the_rows_the_foot_and_json_agree(net: str, options: PlanOptions) -> None:
    graph = models.graph(net, 64)
    found = forecast(graph, plan(graph, BUSY, options), BUSY)
    shown = found.as_json()
    rows = sum(each["predicted"].get("total_s", 0.0) for each in shown["layers"])
    assert rows + shown["ends_s"] == pytest.approx(shown["predicted_s"], rel=1e-9)
    assert found.total.predicted["total_s"] == pytest.approx(found.plan.predicted_s, rel=1e-9)
    for each in found.layers:
        assert each.move_s + each.predicted.get("edge_s", 0.0) + each.sum_s == pytest.approx(
            each.predicted.get("total_s", 0.0)
        ), each
    out = io.StringIO()
    print_plan(found, "equal devices", out=out, width=100)
    whole = next(line for line in reversed(out.getvalue().splitlines()) if line.startswith("all "))
    assert whole.split()[-1] == milliseconds(found.plan.predicted_s)
    assert f"predicted {found.plan.predicted_s * 1e3:.1f} ms per inference" in out.getvalue()
    text = next(line for line in plan_table(found, 100).splitlines() if line.startswith("all "))
    assert text.split()[-1] == milliseconds(found.plan.predicted_s)


# Not a pipeline's: where a worker has room for weights on their way to its disk, its stage fits into its memory.
@pytest.mark.parametrize("scheme", [scheme for scheme in Scheme if scheme is not Scheme.PIPELINE])
def test_what_is_read_from_disks_is_shown_and_counted(scheme: Scheme) -> None:
    graph = models.graph("resnet18", 64)
    memory = {"rows": 54, "local": 50}.get(scheme, 22)
    devices = tuple(replace(device, memory_bytes=PROCESS_BYTES + memory * 1_000_000) for device in BUSY.devices)
    narrow = replace(BUSY, devices=devices)
    made = plan(graph, narrow, PlanOptions(scheme, threshold=0.0, allow_swap=True))
    found = forecast(graph, made, narrow)
    read = [rank.read_bytes for rank in found.ranks]
    assert sum(read) == sum(layer.read_bytes for layer in found.layers) > 0
    assert [each["read_bytes"] for each in found.as_json()["cards"]] == read
    for each in found.layers:
        read_s = each.read_bytes / len(found.ranks) / USUAL_READ_BYTES_PER_S
        assert each.predicted.get("total_s", 0.0) >= read_s
        assert each.move_s + each.predicted.get("edge_s", 0.0) + each.sum_s == pytest.approx(
            each.predicted.get("total_s", 0.0)
        ), each
    assert found.total.predicted["total_s"] == pytest.approx(made.predicted_s, rel=1e-9)
    out = io.StringIO()
    print_plan(found, "equal devices", out=out, width=100)
    for text in (out.getvalue(), plan_table(found, 100)):
        assert "from disk" in text
        assert sum("+disk" in line for line in text.splitlines()) >= sum(layer.read_bytes > 0 for layer in found.layers)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("scheme", Scheme)
def test_all_that_takes_time_is_counted(net: str, scheme: Scheme) -> None:
    """Pools, sums and linear layers, too, and the messages that start and end an inference on the others."""
    graph = models.graph(net, 64)
    found = plan(graph, BUSY, PlanOptions(scheme, threshold=0.0))
    for layer_, placement in zip(graph.layers, found.placements, strict=True):
        if not layer_.relabels and not isinstance(layer_, Host):
            assert placement.predicted["total_s"] > 0, layer_.name
    assert found.ends_s >= 2 * (len(replace(found, beside=()).active_ranks) - 1) * BUSY.devices[0].message_s


@pytest.mark.parametrize("net", NETS)
def test_the_same_work_has_the_same_price_in_every_scheme(net: str) -> None:
    """A star that keeps everything at home is the master alone."""
    graph = models.graph(net, 64)
    star, alone = (
        plan(graph, BUSY, options) for options in (PlanOptions("star", threshold=float("inf")), PlanOptions("local"))
    )
    assert star.active_ranks == alone.active_ranks == {0}
    assert star.predicted_s == pytest.approx(alone.predicted_s, rel=1e-9)
    convs = sum(BUSY.devices[0].conv_s(each.spec) for each in graph.layers if isinstance(each, Conv) and not each.linear)
    assert star.predicted_s is not None and star.predicted_s > convs, "more than its convolutions"


def test_what_a_run_shows_beside_its_convs_adds_up() -> None:
    convs = [layer("star"), layer("star")]
    rest = other_layers(convs, 3.0, 4.0)
    assert rest.predicted_s is not None
    assert rest.predicted_s + sum(each.predicted["total_s"] or 0.0 for each in convs) == pytest.approx(3.0)
    assert rest.measured_s + sum(each.measured["total_s"] or 0.0 for each in convs) == pytest.approx(4.0)
    assert other_layers(convs, None, 4.0).predicted_s is None
