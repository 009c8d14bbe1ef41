"""The troubleshooting page has every error of the tree with its exit code, and no other."""

from __future__ import annotations

import re

from fogconv.errors import FogconvError
from tests.docs.pages import ROOT

ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (.+?) \| (.*?) ?\|$", re.MULTILINE)


def tree(root: type[FogconvError]) -> list[type[FogconvError]]:
    return [root, *(found for branch in root.__subclasses__() for found in tree(branch))]


def ours() -> dict[str, int]:
    """Name → exit code of the classes of fogconv.errors; tests and other modules may derive more."""
    return {error.__name__: error.exit_code for error in tree(FogconvError) if error.__module__ == "fogconv.errors"}


def test_page_has_every_error_with_cause_and_cure_and_no_other() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = ROW.findall(page)
    assert {name: int(code) for name, code, _, _ in rows} == ours()
    for name, _, cause, cure in rows:
        assert cause, name
        assert cure or name == "FogconvError", name


def test_page_names_no_error_that_is_gone() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b[A-Z]\w*(?:Error|Timeout)\b", page))
    assert named <= set(ours()), named - set(ours())
