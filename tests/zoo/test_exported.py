"""Exported programs: nothing of a ``.pt2`` file runs when it is loaded, unless its maker is trusted."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fogconv.errors import ModelError
from fogconv.zoo.models import load_model

Entries = dict[str, bytes]


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("offset", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3)) + self.offset * torch.tensor([1.0, 2.0, 3.0, 4.0])


class Burglar:
    """Leaves a mark where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def exported(path: Path) -> Path:
    dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(Tiny().eval(), (torch.zeros(2, 3, 20, 30),), dynamic_shapes=dynamic, strict=False)
    torch.export.save(program, path)
    return path


def edited(path: Path, edit: Callable[[Entries], None]) -> Path:
    """The same archive with some entries changed."""
    with zipfile.ZipFile(path) as archive:
        top = archive.namelist()[0].split("/")[0]
        entries = {name.removeprefix(f"{top}/"): archive.read(name) for name in archive.namelist()}
    edit(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"{top}/{name}", content)
    return path


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def in_program(change: Callable[[Any], None]) -> Callable[[Entries], None]:
    def edit(entries: Entries) -> None:
        program = json.loads(entries["models/model.json"])
        change(program)
        entries["models/model.json"] = json.dumps(program).encode()

    return edit


def in_config(kind: str, change: Callable[[Any], None]) -> Callable[[Entries], None]:
    def edit(entries: Entries) -> None:
        name = f"data/{kind}/model_{kind}_config.json"
        config = json.loads(entries[name])
        change(next(iter(config["config"].values())))
        entries[name] = json.dumps(config).encode()

    return edit


def test_a_program_with_symbolic_shapes_loads_as_before(tmp_path: Path) -> None:
    path = exported(tmp_path / "tiny.pt2")
    x = torch.rand(2, 3, 20, 30)
    expected = torch.export.load(path).module()(x)
    assert torch.equal(load_model(str(path)).module(x), expected)
    assert torch.equal(load_model(str(path), trust=True).module(x), expected)


def test_sample_inputs_are_dropped(tmp_path: Path) -> None:
    path, marker = exported(tmp_path / "tiny.pt2"), tmp_path / "marker"

    def plant(entries: Entries) -> None:
        assert "data/sample_inputs/model.pt" in entries
        entries["data/sample_inputs/model.pt"] = saved(((Burglar(marker),), {}))

    edited(path, plant)
    load_model(str(path))
    assert not marker.exists()
    with contextlib.suppress(ModelError):
        load_model(str(path), trust=True)
    assert marker.exists(), "the file would have run code"


@pytest.mark.parametrize("kind", ["weights", "constants"])
@pytest.mark.parametrize("form", ["pickled", "legacy"])
def test_pickles_of_more_than_tensors_are_refused(tmp_path: Path, kind: str, form: str) -> None:
    path, marker = exported(tmp_path / "tiny.pt2"), tmp_path / "marker"

    def plant(entries: Entries) -> None:
        if form == "legacy":
            entries[f"data/{kind}/model.pt"] = saved({"x": Burglar(marker)})
            return
        in_config(kind, lambda entry: entry.update(use_pickle=True))(entries)
        first = "weight_0" if kind == "weights" else "tensor_0"
        entries[f"data/{kind}/{first}"] = saved(Burglar(marker))

    edited(path, plant)
    with pytest.raises(ModelError, match=r"could run its author.s code.*--trust"):
        load_model(str(path))
    assert not marker.exists()


def test_a_pickled_tensor_is_a_tensor(tmp_path: Path) -> None:
    path = exported(tmp_path / "tiny.pt2")

    def plant(entries: Entries) -> None:
        in_config("weights", lambda entry: entry.update(use_pickle=True))(entries)
        entries["data/weights/weight_0"] = saved(nn.Parameter(torch.full((4, 3, 3, 3), 2.0)))

    module = load_model(str(edited(path, plant))).module
    assert any(value.flatten()[0] == 2.0 for value in module.state_dict().values())


@pytest.mark.parametrize("name", ["data/constants/custom_obj_0", "data/constants/opaque_obj_0"])
def test_objects_are_refused(tmp_path: Path, name: str) -> None:
    path, marker = exported(tmp_path / "tiny.pt2"), tmp_path / "marker"

    def plant(entries: Entries) -> None:
        in_config("constants", lambda entry: entry.update(path_name=Path(name).name, use_pickle=True))(entries)
        entries[name] = pickle.dumps(Burglar(marker))

    with pytest.raises(ModelError, match="--trust"):
        load_model(str(edited(path, plant)))
    assert not marker.exists()


def test_compiled_code_is_refused(tmp_path: Path) -> None:
    path = edited(exported(tmp_path / "t.pt2"), lambda entries: entries.update({"data/aotinductor/model/a.so": b"\x7fELF"}))
    with pytest.raises(ModelError, match="compiled code"):
        load_model(str(path))


@pytest.mark.parametrize("where", ["shape", "guard", "name", "shape in words"])
def test_text_that_torch_would_evaluate_is_refused(tmp_path: Path, where: str) -> None:
    path, marker = exported(tmp_path / "tiny.pt2"), tmp_path / "marker"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"

    def change(program: Any) -> None:
        text = json.dumps(program)
        if where == "guard":
            program["guards_code"] = [code]
            return
        if where == "name":
            name = program["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"]
            program.update(json.loads(text.replace(json.dumps(name), json.dumps(f"{name}={code}"))))
            return
        symbol = next(iter(program["range_constraints"]))
        planted = code if where == "shape" else f"Add({code!r}, 1)"
        assert '"expr_str": "' in text
        changed = json.loads(text)
        for value in changed["graph_module"]["graph"]["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = planted
        assert symbol
        program.update(changed)

    edited(path, in_program(change))
    if where == "guard":
        load_model(str(path))
    else:
        with pytest.raises(ModelError, match="--trust"):
            load_model(str(path))
    assert not marker.exists()


def test_archives_made_to_mislead_are_refused(tmp_path: Path) -> None:
    twice = exported(tmp_path / "twice.pt2")
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"other")
    with pytest.raises(ModelError, match="two entries of one name"):
        load_model(str(twice))
    bomb = exported(tmp_path / "bomb.pt2")
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/extra/zeros", bytes(30_000_000))
    with pytest.raises(ModelError, match="fill the memory"):
        load_model(str(bomb))


def test_weights_that_no_kernel_takes_get_a_sentence(tmp_path: Path) -> None:
    path = exported(tmp_path / "tiny.pt2")

    def plant(entries: Entries) -> None:
        in_config("weights", lambda entry: entry.update(use_pickle=True))(entries)
        entries["data/weights/weight_0"] = saved(nn.Parameter(torch.zeros(4, 3, 3, 3, dtype=torch.complex64)))

    with pytest.raises(ModelError, match="is complex"):
        load_model(str(edited(path, plant)))
