"""``fogconv keygen``, and what every command says of a file that it wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from fogconv.cli.output.written import say_written
from tests.cli.program import call


def test_a_folders_name_gives_the_terminal_no_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer found it: the line that says where the keys are repeated the name as it was typed."""
    monkeypatch.chdir(tmp_path)
    done = call("keygen", "\x1b[31m")
    assert done.exit_code == 0
    assert "\x1b" not in done.output and r"\x1b[31m/key.pub" in done.output
    assert (tmp_path / "\x1b[31m" / "key.pub").exists()


def test_a_written_files_name_gives_the_terminal_no_orders(capsys: pytest.CaptureFixture[str]) -> None:
    say_written(Path("plan\x1b[2J.json"))
    assert capsys.readouterr().err == "wrote plan\\x1b[2J.json\n"
