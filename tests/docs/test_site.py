"""The pages hang together: links lead to files, the picture is the script's, the commands' page has every option."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from docs.draw_idea import picture
from docs.write_commands import commands_page
from fogconv.cli.app import application
from tests.docs.pages import ROOT, pages

LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")
MOST_LINES_OF_README = 130


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = [match.group(1) for match in LINK.finditer(page.read_text(encoding="utf-8"))]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES_OF_README


def test_picture_is_what_the_script_draws() -> None:
    assert (ROOT / "docs" / "idea.svg").read_text(encoding="utf-8") == picture()


def test_commands_page_has_every_command_and_option() -> None:
    page = commands_page()
    for name, command in get_command(application()).commands.items():  # type: ignore[attr-defined]
        section = page.split(f"## fogconv {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and "--help" not in parameter.opts:
                assert f"`{parameter.opts[0]}`" in section, (name, parameter.opts)
