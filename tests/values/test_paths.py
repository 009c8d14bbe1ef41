"""Paths: what can't be read, written or used as a folder is refused before anything begins."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fogconv.errors import InputError
from fogconv.values.paths import folder, readable, writable


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("content")
    (tmp_path / "~odd").write_text("a file with a tilde")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind(str(tmp_path / "socket"))
    return tmp_path


def test_what_can_be_used_is_taken(here: Path) -> None:
    assert readable("file") == Path("file")
    assert readable("~/file") == here / "file"
    assert readable("~odd") == Path("~odd")
    assert writable("new.png", (".png",)) == Path("new.png")
    assert writable("file") == Path("file")
    assert writable("/dev/null") == Path("/dev/null")
    assert folder("folder") == Path("folder")
    assert folder("to/be/made") == Path("to/be/made")
    assert not (here / "new.png").exists() and not (here / "to").exists()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no file"),
        ("a\0b", "no file name"),
        ("n" * 256, "at most 255 bytes"),
        ("ü" * 128, "at most 255 bytes"),
        ("~nosuchuser/file", "no user nosuchuser"),
    ],
)
def test_what_is_no_name_is_refused_everywhere(text: str, says: str) -> None:
    for check in (readable, writable, folder):
        with pytest.raises(InputError, match=says):
            check(text)


@pytest.mark.usefixtures("here")
def test_what_is_something_else_is_named() -> None:
    for text, says in (("folder", "a folder"), ("pipe", "a pipe"), ("socket", "a socket")):
        for check in (readable, writable):
            with pytest.raises(InputError, match=f"it is {says}, not a file"):
                check(text)
    with pytest.raises(InputError, match="a device, not a file"):
        readable("/dev/zero")
    with pytest.raises(InputError, match="No such file"):
        readable("missing")
    for text in ("file", "pipe", "/dev/zero"):
        with pytest.raises(InputError, match="it is not a folder"):
            folder(text)
    with pytest.raises(InputError, match="there is no folder nowhere"):
        writable("nowhere/file")
    with pytest.raises(InputError, match=r"ends in \.png or \.svg"):
        writable("picture.pdf", (".png", ".svg"))
