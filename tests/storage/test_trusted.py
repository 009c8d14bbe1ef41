"""Files: what is no plain file is refused at once, and what others could have written is not believed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fogconv.storage.trusted import distrust, open_plain, own_folder, read_own, read_plain, write_own
from tests.strangers import give_away


def test_a_plain_file_is_read_whole_and_home_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_plain("~/file") == b"content"
    with pytest.raises(OSError, match="more than"):
        read_plain(tmp_path / "file", most=3)


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind(str(tmp_path / "socket"))
    for name, message in [
        (tmp_path, "folder"),
        (tmp_path / "pipe", "pipe"),
        (tmp_path / "socket", "socket"),
        ("/dev/zero", "device"),
        ("/dev/tty", "device"),
        (tmp_path / "none", "No such file"),
        ("~nosuchuser/file", "No such file"),
        (tmp_path / ("n" * 300), "too long"),
        ("a\0b", "not a file name"),
    ]:
        with pytest.raises(OSError, match=message):
            open_plain(name)


def test_what_is_ours_is_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "cache"
    assert distrust(folder) is None
    assert own_folder(folder, "things")
    write_own(folder / "file", b"content")
    assert (folder / "file").stat().st_mode & 0o777 == 0o600
    assert read_own(folder / "file") == b"content"
    (tmp_path / "link").symlink_to("deep/../deep/cache")
    assert distrust(tmp_path / "link" / "file") is None


@pytest.mark.parametrize("where", ["itself", "parent", "link", "linked"])
def test_what_belongs_to_somebody_else_is_not(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "parent" / "cache"
    folder.mkdir(parents=True)
    (tmp_path / "parent" / "link").symlink_to(folder)
    strange = {"itself": folder, "parent": folder.parent, "link": folder.parent / "link", "linked": folder}[where]
    give_away(strange, monkeypatch)
    named = folder.parent / "link" if where.startswith("link") else folder
    assert "belongs to user 54321" in (distrust(named) or "") or os.geteuid()
    assert distrust(named)
    with pytest.warns(RuntimeWarning, match="no things are read"):
        assert not own_folder(named, "things")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_a_folder_that_others_can_write_is_not_trusted(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    assert "can be written by others" in (distrust(folder) or "")
    # Others can put another folder in the place of one that lies in it, unless the sticky bit keeps them from it.
    (folder / "mine").mkdir()
    os.chown(folder, -1, 54321 if os.geteuid() == 0 else -1)
    if os.geteuid() == 0 or mode & 0o002:
        assert (distrust(folder / "mine") is None) == bool(mode & 0o1000)


def test_files_are_judged_by_what_was_opened(tmp_path: Path) -> None:
    write_own(tmp_path / "file", b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "open").write_bytes(b"content")
    (tmp_path / "open").chmod(0o666)
    for name in ("link", "pipe", "open", "none"):
        with pytest.raises(OSError, match=r"symbolic links|pipe|written by others|No such file"):
            read_own(tmp_path / name)
    (tmp_path / "target").write_bytes(b"untouched")
    (tmp_path / "trap").symlink_to("target")
    write_own(tmp_path / "trap", b"new")
    assert (tmp_path / "target").read_bytes() == b"untouched"
    assert not (tmp_path / "trap").is_symlink()


def test_a_ring_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        distrust(tmp_path / "a")
    with pytest.warns(RuntimeWarning, match="can't be used"):
        assert not own_folder(tmp_path / "a", "things")
