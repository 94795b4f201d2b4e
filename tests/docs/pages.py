"""The pages of the documentation as the tests read them: their fences, their inline code and the commands in both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
#: Pages that people write; the others are written by commands, which have tests of their own.
WRITTEN = [
    page for page in PAGES if page.parent.name != "reference" and page.name not in ("parity.md", "benchmarks.md")
]


class Block(NamedTuple):
    """One fence: the language it names, its text, and the line of the page it begins at."""

    language: str
    text: str
    line: int


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def each(pages: list[Path]) -> pytest.MarkDecorator:
    """The test runs once for each of ``pages``, as its argument ``page``."""
    return pytest.mark.parametrize("page", pages, ids=name_of)


@cache
def tokens(page: Path) -> tuple[Token, ...]:
    return tuple(MarkdownIt("commonmark").enable("table").parse(page.read_text()))


def blocks(page: Path) -> list[Block]:
    return [
        Block(token.info, token.content, (token.map or [0])[0] + 1) for token in tokens(page) if token.type == "fence"
    ]


def inline_code(page: Path) -> Iterator[str]:
    """The texts between single backticks."""
    for token in tokens(page):
        yield from (child.content for child in token.children or () if child.type == "code_inline")


def code(page: Path) -> list[str]:
    """Everything on the page that is set as code."""
    return [*(block.text for block in blocks(page)), *inline_code(page)]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every call of keelway in a shell block or in inline code, without ``keelway`` itself."""
    texts = [block.text for block in blocks(page) if block.language == "bash"]
    texts += [text for text in inline_code(page) if text.startswith("keelway ")]
    for text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            for call in re.finditer(r"(?:^|[|;&(]|\bexec|\b[A-Z_]+=\S*)\s*keelway\s+([^|;&)#]*)", line):
                yield call[1].split()
