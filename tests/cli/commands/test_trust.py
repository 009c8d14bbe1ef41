"""--trust: the file that would run code is refused until it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from fogconv.cli.commands.plan import plan
from fogconv.cli.commands.simulate import simulate
from fogconv.cli.output.result import Job
from fogconv.cli.run_job import Shown, _prepared
from fogconv.errors import ModelError
from tests.zoo.test_exported import edited


def test_trust_has_to_be_typed(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 20, 30),), strict=False), tmp_path / "t.pt2")
    harmless = edited(tmp_path / "t.pt2", lambda entries: entries.update({"data/unknown": b"?"}))
    for command in (plan, simulate):
        application = typer.Typer()
        application.command()(command)
        refused = CliRunner().invoke(application, [str(harmless), "--preset", "pi4"])
        assert refused.exit_code == 2
        assert "Use --trust" in refused.output
        trusted = CliRunner().invoke(application, [str(harmless), "--preset", "pi4", "--trust"])
        assert trusted.exit_code == 0, trusted.output
    with pytest.raises(ModelError, match="--trust"):
        _prepared(Job(model=str(harmless)), Shown())
    _prepared(Job(model=str(harmless), trust=True), Shown())
