"""Models come by pip from a folder of wheels that stands for the index, are checked, and are kept."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fogconv.errors import FogconvError, InputError, ModelError
from fogconv.zoo.wheels.download import get, kept_model, places
from fogconv.zoo.wheels.registry import WHEEL_MODELS, Wheel, WheelModel, wheel_model

CONTENT, LICENCE = b"the model" * 1000, b"do what you like"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def published(folder: Path, content: bytes = CONTENT, requires: str = ">=3.6,<3.7") -> WheelModel:
    """A wheel in the folder, for a Python that is long gone, and with a dependency that is nowhere."""
    path = folder / "netmodel-1.5-py3-none-any.whl"
    about = "netmodel-1.5.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: netmodel\nVersion: 1.5\nRequires-Python: {requires}\nRequires-Dist: nowhere\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("netmodel/net.onnx", content)
        archive.writestr(f"{about}/LICENSE", LICENCE)
        archive.writestr(f"{about}/METADATA", metadata)
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wheel = Wheel("netmodel", "1.5", digest, "MIT", f"{about}/LICENSE")
    return WheelModel("net", "a net", wheel, "netmodel/net.onnx", hashlib.sha256(content).hexdigest(), "raw")


def test_a_model_is_kept_with_its_licence_and_nothing_else(index: Path, tmp_path: Path) -> None:
    model = published(index)
    with pytest.raises(ModelError, match="net is not on this machine yet; `fogconv models get net` downloads it"):
        kept_model(model)
    found = get(model)
    assert found.model == kept_model(model) == tmp_path / "data/fogconv/models/net/net.onnx"
    assert (found.model.read_bytes(), found.licence.read_bytes()) == (CONTENT, LICENCE)
    assert sorted(path.name for path in (tmp_path / "data").rglob("*") if path.is_file()) == ["LICENSE", "net.onnx"]
    (index / "netmodel-1.5-py3-none-any.whl").unlink()
    assert get(model) == found  # it is there already


def test_another_wheel_than_the_pinned_one_is_refused(index: Path) -> None:
    model = published(index)
    published(index, CONTENT + b"!")
    with pytest.raises(ModelError, match=r"the wheel of netmodel==1\.5 has the sha256 .*, not the pinned .*; nothing of it"):
        get(model)
    assert not places(model).model.exists()


def test_another_file_in_the_pinned_wheel_is_refused(index: Path) -> None:
    model = replace(published(index), sha256="0" * 64)
    with pytest.raises(ModelError, match="is another file than expected"):
        get(model)
    missing = replace(model, member="netmodel/other.onnx")
    with pytest.raises(ModelError, match=r"no readable netmodel/other\.onnx"):
        get(missing)
    assert not places(model).model.exists()


def test_a_wheel_that_is_nowhere_gets_pips_reason(index: Path) -> None:
    model = published(index)
    (index / "netmodel-1.5-py3-none-any.whl").unlink()
    with pytest.raises(ModelError, match=r"pip could not download netmodel==1\.5: No matching distribution"):
        get(model)


def test_a_changed_model_is_not_used_and_downloaded_again(index: Path) -> None:
    model = published(index)
    path = get(model).model
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(ModelError, match="was changed or damaged; `fogconv models get net`"):
        kept_model(model)
    assert get(model).model.read_bytes() == CONTENT
    path.chmod(0o666)
    with pytest.raises(ModelError, match="can be written by others"):
        kept_model(model)


def test_a_folder_that_others_can_write_to_is_not_used(index: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    with pytest.raises(InputError, match="no models are kept there"):
        get(published(index))


def test_unknown_names_get_near_ones() -> None:
    with pytest.raises(InputError, match="did you mean ppocr-det"):
        wheel_model("ppocr_det")


@pytest.mark.parametrize("model", WHEEL_MODELS.values(), ids=lambda model: model.name)
def test_everything_is_pinned(model: WheelModel) -> None:
    assert WHEEL_MODELS[model.name] is model
    for digest in (model.sha256, model.wheel.sha256):
        assert len(digest) == 64 and int(digest, 16)
    assert model.member.endswith(".onnx" if model.framework == "onnx" else ".pth")
    assert model.wheel.licence in ("Apache-2.0", "MIT")


@pytest.mark.parametrize("name", ["ppocr-det", "efficientnet_lite1"])
def test_a_run_of_a_missing_model_names_the_command(name: str, index: Path) -> None:
    from fogconv.frontend.network import open_network
    from fogconv.zoo.model_request import ModelRequest

    pytest.importorskip("onnx" if name == "ppocr-det" else "torch")
    with pytest.raises(FogconvError, match=f"`fogconv models get {name}` downloads it"):
        open_network(ModelRequest(name))
