"""``fogconv keygen``, and what every command says of a file that it wrote."""

from __future__ import annotations

import subprocess
import sys
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


def test_a_key_that_exists_is_kept_and_the_refusal_names_the_command(tmp_path: Path) -> None:
    """The entry point itself, as `fogconv` is started: the refusal began with `fogconv:`, unlike other commands'."""
    assert call("keygen", str(tmp_path)).exit_code == 0
    key = (tmp_path / "key").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "fogconv", "keygen", str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2 and done.stderr.startswith("fogconv keygen: ") and "exists already" in done.stderr
    assert (tmp_path / "key").read_bytes() == key
