"""What is kept is used for the same request only, and only while it is whole, ours and up to date."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fogconv.frontend import graph_cache
from fogconv.frontend.graph_cache import keep, kept, place
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import GlobalPool, Host, Tensor
from fogconv.zoo.card import ModelCard
from fogconv.zoo.model_request import ModelRequest
from fogconv.zoo.preprocessing import Preprocessing

CARD = ModelCard("small", Preprocessing((32, 32), 36), ("cat", "dog"), "random (seed 0)")
REQUEST = ModelRequest("small", "random", 32)


def graph(value: float = 1.0) -> LayerGraph:
    x = Tensor("x", 1, 3, 32, 32)
    layer = GlobalPool("mean", 0, 1)
    return LayerGraph.single("small", (x, x), (layer,), 0, 1, x.shape, {"w": np.full((3, 2), value, np.float32)})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOGCONV_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("FOGCONV_GRAPH_CACHE", raising=False)
    return tmp_path / "graphs"


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.graph")
    return path


def test_kept_gives_back_what_keep_wrote(folder: Path) -> None:
    assert kept(place(REQUEST, 1)) is None
    keep(place(REQUEST, 1), REQUEST, CARD, graph(), None)
    found = kept(place(REQUEST, 1))
    assert found is not None
    assert found[0] == CARD
    assert found[1] == graph()
    assert np.array_equal(found[1].weights["w"], graph().weights["w"])
    assert only_file(folder).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("request_", "batch"),
    [
        (replace(REQUEST, name="other"), 1),
        (replace(REQUEST, size=64), 1),
        (replace(REQUEST, weights="pretrained"), 1),
        (replace(REQUEST, trust=True), 1),
        (REQUEST, 2),
    ],
)
def test_kept_knows_the_request_and_the_batch(request_: ModelRequest, batch: int) -> None:
    keep(place(REQUEST, 1), REQUEST, CARD, graph(), None)
    assert kept(place(request_, batch)) is None


def test_kept_knows_the_content_of_weights_and_pt2_files(tmp_path: Path) -> None:
    weights, model = tmp_path / "weights.pth", tmp_path / "net.pt2"
    weights.write_bytes(b"one")
    model.write_bytes(b"one")
    for path, request in ((weights, replace(REQUEST, weights=str(weights))), (model, ModelRequest(str(model)))):
        keep(place(request, 1), request, CARD, graph(), None)
        assert kept(place(request, 1)) is not None
        path.write_bytes(b"two")
        assert kept(place(request, 1)) is None
        path.unlink()
        assert kept(place(request, 1)) is None
        keep(place(request, 1), request, CARD, graph(), None)  # writes nothing


def test_kept_knows_the_code_that_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(place(REQUEST, 1), REQUEST, CARD, graph(), None)
    monkeypatch.setattr(graph_cache, "_code", lambda: "another version")
    assert kept(place(REQUEST, 1)) is None


def test_kept_looks_at_the_published_weights(tmp_path: Path) -> None:
    published = tmp_path / "resnet.pth"
    published.write_bytes(b"weights")
    request = replace(REQUEST, weights="pretrained")
    keep(place(request, 1), request, replace(CARD, weights_origin="pretrained: IMAGENET1K_V1"), graph(), published)
    assert kept(place(request, 1)) is not None
    published.unlink()
    assert kept(place(request, 1)) is not None
    published.write_bytes(b"other weights")
    assert kept(place(request, 1)) is None


def test_kept_asks_again_for_published_weights_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = replace(REQUEST, weights="pretrained")
    for request in (stand_in, REQUEST):
        keep(place(request, 1), request, CARD, graph(), None)
    now = graph_cache.time.time()
    for later, found in ((graph_cache.RETRY_S - 60, True), (graph_cache.RETRY_S + 60, False), (-3600.0, False)):
        monkeypatch.setattr(graph_cache.time, "time", lambda at=now + later: at)
        assert (kept(place(stand_in, 1)) is not None) is found
        assert kept(place(REQUEST, 1)) is not None


def test_kept_warns_of_a_damaged_file_and_keep_replaces_it(folder: Path) -> None:
    keep(place(REQUEST, 1), REQUEST, CARD, graph(), None)
    path = only_file(folder)
    path.write_bytes(path.read_bytes()[:-65])
    with pytest.warns(RuntimeWarning, match="exported again"):
        assert kept(place(REQUEST, 1)) is None
    keep(place(REQUEST, 1), REQUEST, CARD, graph(2.0), None)
    found = kept(place(REQUEST, 1))
    assert found is not None
    assert found[1].weights["w"][0, 0] == 2.0


def test_kept_takes_nothing_that_others_could_have_written(folder: Path) -> None:
    keep(place(REQUEST, 1), REQUEST, CARD, graph(), None)
    path = only_file(folder)
    path.chmod(0o666)
    with pytest.warns(RuntimeWarning, match="can be written by others"):
        assert kept(place(REQUEST, 1)) is None
    path.unlink()
    (folder / "elsewhere").write_bytes(b"")
    path.symlink_to(folder / "elsewhere")
    with pytest.warns(RuntimeWarning, match="is not used"):
        assert kept(place(REQUEST, 1)) is None


def test_keep_writes_no_graph_that_needs_torch(folder: Path) -> None:
    x = Tensor("x", 1, 3, 32, 32)
    hosted = replace(graph(), tensors=(x, x), layers=(Host("host:sort", (0,), (1,), lambda values, maps: [maps]),))
    keep(place(REQUEST, 1), REQUEST, CARD, hosted, None)
    assert not list(folder.glob("*.graph"))


def test_keep_and_kept_can_be_turned_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(place(REQUEST, 1), REQUEST, CARD, graph(), None)
    monkeypatch.setenv("FOGCONV_GRAPH_CACHE", "off")
    assert kept(place(REQUEST, 1)) is None
    keep(place(replace(REQUEST, size=64), 1), replace(REQUEST, size=64), CARD, graph(), None)
    only_file(folder)


def test_keep_drops_what_was_not_used_for_longest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [replace(REQUEST, size=size) for size in (32, 33, 34)]
    for age, request in enumerate(requests):
        keep(place(request, 1), request, CARD, graph(), None)
        newest = max(folder.glob("*.graph"), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1e9 + age, 1e9 + age))
    assert kept(place(requests[0], 1)) is not None  # which was used a moment ago
    size = max(path.stat().st_size for path in folder.glob("*.graph"))
    monkeypatch.setattr(graph_cache, "KEPT_BYTES", 3 * size)
    keep(place(replace(REQUEST, size=35), 1), replace(REQUEST, size=35), CARD, graph(), None)
    assert [kept(place(request, 1)) is not None for request in requests] == [True, False, True]
    monkeypatch.setattr(graph_cache, "KEPT_BYTES", 1)
    keep(place(replace(REQUEST, size=36), 1), replace(REQUEST, size=36), CARD, graph(), None)
    assert kept(place(replace(REQUEST, size=36), 1)) is not None
    only_file(folder)


def test_keep_warns_of_a_full_disk(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def full(path: Path, *content: bytes | memoryview) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(graph_cache, "write_own", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        keep(place(REQUEST, 1), REQUEST, CARD, graph(), None)
    assert not list(folder.glob("*.graph"))
