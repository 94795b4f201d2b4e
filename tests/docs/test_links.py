"""Every page of the documentation: links and anchors resolve, code blocks are code, no page is lost."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from tests.docs.pages import DOCS, PAGES, ROOT, each, tokens

LANGUAGES = {"bash", "dockerfile", "json", "mermaid", "nginx", "python", "text", "toml", "yaml"}
EVERY_PAGE = each(PAGES)


def links(page: Path) -> Iterator[str]:
    """The targets of links and pictures, without those to other sites."""
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if isinstance(target, str) and not re.match(r"[a-z+]+:", target):
                yield unquote(target)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, named as GitHub names them."""
    stream = tokens(page)
    headings = [after.content for token, after in pairwise(stream) if token.type == "heading_open"]
    slugs: list[str] = []
    for heading in headings:
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        slugs.append(f"{slug}-{slugs.count(slug)}" if slug in slugs else slug)
    return set(slugs)


@EVERY_PAGE
def test_every_relative_link_and_anchor_resolves(page: Path) -> None:
    broken = []
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or not target.is_relative_to(ROOT):
            broken.append(f"{link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            broken.append(f"{link}: no such heading")
    assert broken == []


@EVERY_PAGE
def test_every_code_block_is_closed_named_and_valid(page: Path) -> None:
    lines = page.read_text().splitlines()
    for token in tokens(page):
        assert token.type != "code_block", f"an indented code block at line {(token.map or [0])[0] + 1}; fence it"
        if token.type != "fence":
            continue
        assert token.map is not None
        where = f"line {token.map[0] + 1}"
        assert lines[token.map[1] - 1].strip() == token.markup, f"{where}: the block is not closed"
        assert token.info in LANGUAGES, f"{where}: name the language of the block"
        if token.info == "python":
            ast.parse(token.content)
        elif token.info == "json":
            json.loads(token.content)
        elif token.info == "toml":
            tomllib.loads(token.content)
        elif token.info == "bash":
            shlex.split(token.content, comments=True)


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        waiting += [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
    assert set(DOCS.rglob("*.md")) - reached == set()
