"""The table of conv layers and the presets: data that has to be right."""

from __future__ import annotations

import pytest

from fogconv.errors import InputError
from fogconv.hardware.presets import preset, presets
from fogconv.hardware.topology import Topology
from fogconv.speedup.calculator import Question, report
from fogconv.speedup.conv_tables import convs
from fogconv.speedup.model import s_paper
from fogconv.speedup.trigger import master_rates


@pytest.mark.parametrize(
    ("net", "layers", "gmacs"),
    [
        ("vgg16", 13, 15.35),
        ("resnet50", 53, 4.09),
        ("inception_v3", 94, 5.71),
        ("mobilenet_v2", 52, 0.30),
        ("efficientnet_lite0", 49, 0.38),
    ],
)
def test_nets_have_the_layers_and_the_work_that_is_known_of_them(net: str, layers: int, gmacs: float) -> None:
    found = convs(net)
    assert len(found) == layers
    assert sum(layer.spec.macs for layer in found) / 1e9 == pytest.approx(gmacs, abs=0.01)


def test_a_batch_multiplies_the_work() -> None:
    assert sum(c.spec.macs for c in convs("alexnet", batch=3)) == 3 * sum(c.spec.macs for c in convs("alexnet"))


def test_the_table_is_what_the_export_finds() -> None:
    torch = pytest.importorskip("torch")
    from fogconv.frontend.torch.export import export
    from fogconv.zoo.models import load_model

    model = load_model("squeezenet1_1", weights="random")
    with torch.no_grad():
        graph = export(model.module, model.example(), "squeezenet1_1")
    assert [layer.spec for layer in graph.convs] == [layer.spec for layer in convs("squeezenet1_1")]
    assert [layer.name for layer in graph.convs] == [layer.name for layer in convs("squeezenet1_1")]


def test_every_preset_names_the_source_of_its_rate_and_bandwidth() -> None:
    for name, board in presets().items():
        assert {"gamma_s_per_mac", "bandwidth_bytes_per_s"} <= set(board.sources), name
        for figure in ("gamma_s_per_mac", "bandwidth_bytes_per_s", "watts"):
            assert figure in board.sources or figure in board.estimates, (name, figure)
        assert len(board.topology(4)) == 5
        for figure in board.estimates:
            assert hasattr(board, figure), (name, figure)


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(InputError, match="pi4"):
        preset("pi44")
    with pytest.raises(InputError, match="vgg16"):
        convs("vgg_16")


def test_a_report_sums_its_layers_and_repeats_the_trigger() -> None:
    topology = Topology.uniform(5, 10e9, 125e6, 5e-4)
    found = report(convs("vgg16"), Question(topology))
    assert found.local_s == pytest.approx(sum(row.decision.local_s for row in found.rows))
    assert found.chosen_s <= min(found.local_s, found.all_s)
    for row in found.rows:
        assert row.decision.bound_s_paper == pytest.approx(s_paper(row.spec, master_rates(topology, row.spec)))
        assert row.chosen_s == (row.terms.total_s if row.decision.distribute else row.decision.local_s)
