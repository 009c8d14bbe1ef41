"""Plain words: README, documentation, docstrings, comments, help and messages avoid words that have a plainer one."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, pages

PLAINER = {
    r"told|untold": "reported, or a sentence with another subject",
    r"heard|hears": "received",
    r"mend|mends|mended|mending": "fix, handle or repair",
    r"whoever|whomever": "the process, peer or user that …",
    r"nobody|somebody|everybody": "no rank, another user, all workers, …",
    r"is seen to|are seen to|sees to|see to it": "is handled",
    r"taken for": "counted as, treated as",
    r"taken back": "rejoined",
    r"acquaint|acquainted|acquaints": "know each other",
    r"anew": "again",
    r"says nothing|said nothing|without a word": "sends nothing, does not answer, states",
    r"talks nonsense|sent nonsense": "sends malformed messages",
    r"had best|is none of ours|of nobody's|at all costs": "a plain statement",
    r"by way of|be it that": "through, whether",
    r"for people": "as text, for reports",
}
"""Pattern of words → what to write instead."""

ALLOWED = {
    ("fogconv/cli/output/__init__.py", "for people"): "people are the audience",
    ("cluster/protocol/codec.py", "for people"): "the name of a kind of text",
    ("cluster/protocol/peer_text.py", "for people"): "the name of a kind of text",
}
"""(file, words) → why they stand there."""

PRODUCT = ("fogconv", "cluster", "kernels", "bench")
PROSE = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
_WORDS = re.compile(rf"\b(?:{'|'.join(PLAINER)})\b", re.IGNORECASE)
_CODE = re.compile(r"``[^`]*``|`[^`]*`")


def modules() -> list[Path]:
    """The product's modules; links to folders that are listed themselves are left out."""
    found = {path.resolve() for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")}
    return sorted(found)


def code_texts(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each line of the docstrings, string literals and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from enumerate(node.value.splitlines(), node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def found_in(file: str, texts: Iterator[tuple[int, str]]) -> list[str]:
    return [
        f"{file}:{line}: {match[0]!r} in {text.strip()[:100]!r}"
        for line, text in texts
        for match in _WORDS.finditer(_CODE.sub("", text))
        if (file, match[0].lower()) not in ALLOWED
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The master is told of it.", 1),
        ("Nobody is waited for, whoever asks.", 2),
        ("Call ``told`` or `acquaint` first; a retold story.", 0),
        ("The program is compiled anew and mended.", 2),
        ("A reported loss is handled.", 0),
    ],
)
def test_words_are_found_outside_of_code(text: str, count: int) -> None:
    assert len(found_in("page.md", iter([(1, text)]))) == count


def test_all_texts_of_a_module_are_read() -> None:
    source = '"""One.\n\nTwo."""\nx = f"three {1} four"  # five\n'
    assert [text for _, text in code_texts(source) if text] == ["One.", "Two.", "three ", " four", "# five"]
    assert next(line for line, text in code_texts(source) if text == "Two.") == 3


def test_code_says_it_in_plain_words() -> None:
    found = [
        line
        for path in modules()
        for line in found_in(str(path.relative_to(ROOT)), code_texts(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n" + "\n".join(found)


def test_pages_say_it_in_plain_words() -> None:
    files = [*pages(), *(ROOT / name for name in PROSE)]
    found = [
        line
        for path in files
        for line in found_in(str(path.relative_to(ROOT)), enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    ]
    assert not found, "\n" + "\n".join(found)


def test_every_exception_is_needed() -> None:
    for file, words in ALLOWED:
        assert re.search(rf"\b{words}\b", (ROOT / file).read_text(encoding="utf-8"), re.IGNORECASE), (file, words)
