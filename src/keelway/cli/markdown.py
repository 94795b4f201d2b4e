"""Text as Markdown: a generated page, a table, and the help of a command. Pure; used by ``keelway.cli.reference``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

WRITTEN = "<!-- Written by `make docs` from the code. Do not edit. -->"


def page(title: str, lines: Sequence[str]) -> str:
    """A whole page that says it is generated."""
    return "\n".join([f"# {title}", "", WRITTEN, "", *lines, ""])


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; a bar inside a cell is escaped, which also holds inside code."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *cells)]


def plain(text: str | None) -> str:
    """``text`` as prose: ``<name>`` and ``*x*`` in it do not turn into markup."""
    return re.sub(r"([<*])", r"\\\1", (text or "").strip())


def help_text(text: str) -> list[str]:
    """The lines of a command's help; what it keeps from being wrapped (``\\b``) becomes a block of its own."""
    lines: list[str] = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if not paragraph.startswith("\b\n"):
            lines += ["", plain(paragraph)]
            continue
        title, _, body = paragraph.removeprefix("\b\n").partition("\n")
        lines += ["", title, "", "```text", inspect.cleandoc(f"\n{body}"), "```"]
    return lines[1:]
