"""A layer that spoils the answer stays in fp32, though it is nearly exact by itself, if it has few of the multiply-adds."""

from __future__ import annotations

import numpy as np
import pytest

from fogconv.quantization.noise import sensitive
from fogconv.quantization.precision import precision_report
from fogconv.quantization.quantize import Quantized
from fogconv.quantization.recorder import Recorder
from tests.sensitive_net import found, noise


def exact(of: Quantized) -> set[str]:
    return {layer.name for layer in of.layers if layer.precision == "fp32"}


def test_the_layer_that_spoils_the_answer_stays_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = found()
    assert exact(kept) == {"edges"} and kept.share >= 1 - sensitive.MOST_EXACT
    monkeypatch.setattr(sensitive, "MOST_EXACT", 0.0)
    assert not exact(found()) and found().noise > 2 * kept.noise


def test_a_conv_that_ends_at_6_computes_on_bytes_and_its_reader_in_fp32() -> None:
    kept = found("relu6")
    assert exact(kept) == {"edges"}
    report = precision_report(kept.graph)
    assert report is not None and report.layers["even"] == "int8" and report.layers["edges"] == "fp32"
    one, other = (Recorder(graph, graph.results).of([noise(9)]) for graph in (kept.graph, kept.marked.graph))
    [values], [marked] = one.values(), other.values()
    assert np.abs(values - marked).max() < 0.02 * np.abs(marked).max()


def test_a_tolerance_that_the_answer_keeps_leaves_all_on_bytes() -> None:
    assert not exact(found(tolerance=100.0))
