"""The record: a file that comes back as it was, and files that are none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fogconv.benchmark.record import Item, Machine, Record, read_record, write_record
from fogconv.errors import InputError

MACHINE = Machine(0, "here", 4, 0.0, 4, "neon", "k1", "0.2.0")
ITEM = Item("nets", "resnet18", 0.05, (0.049, 0.052), 20)


def record(**changes: object) -> Record:
    whole = Record(1, 1, False, 1.8e9, 30.0, "inproc://0", "A76", {"fogconv": "0.2.0"}, 0.1, 0.0, (MACHINE,), (ITEM,))
    return msgspec.structs.replace(whole, **changes)


def test_a_record_comes_back(tmp_path: Path) -> None:
    write_record(record(), tmp_path / "a.json")
    assert read_record(tmp_path / "a.json") == record()
    assert ITEM.spread == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "no result of"),
        (b"{}", "no result of"),
        (b'{"fogconv_profile": 1, "devices": []}', "no result of"),
        (b'{"fogconv_bench": 2}', "version 2"),
        (b'{"fogconv_bench": 1, "set": 1}', "no result of"),
        (b"\xff\xfe", "no result of"),
        (b"[" * 100_000, "no result of"),
        (msgspec.json.encode(record()).replace(b'"seconds":0.05', b'"seconds":0'), "no result of"),
        (msgspec.json.encode(record()).replace(b'"seconds":0.05', b'"seconds":-1'), "no result of"),
        (msgspec.json.encode(record()).replace(b'"seconds":0.05', b'"seconds":1e999'), "no result of"),
    ],
)
def test_a_file_that_is_none_is_a_sentence(tmp_path: Path, text: bytes, says: str) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(InputError, match=says):
        read_record(tmp_path / "a.json")


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        read_record(tmp_path / "a.json")
    with pytest.raises(InputError, match="can't be written"):
        write_record(record(), tmp_path / "nowhere" / "a.json")
