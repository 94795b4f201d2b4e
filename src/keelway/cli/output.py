"""What commands print: results on standard output, progress and errors on standard error, JSON where asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from keelway.errors import KeelwayError


def print_json(document: Any) -> None:
    """One document, indented for a person and readable by a program."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def print_error(error: KeelwayError, *, as_json: bool) -> None:
    """One line: what is wrong, then what to do next."""
    if as_json:
        document = {"error": {"code": str(error.code), "message": error.message, "field": error.field}}
        document["error"]["hint"] = error.hint
        typer.echo(json.dumps(document), err=True)
    else:
        hint = f" · {error.hint}" if error.hint else ""
        typer.echo(f"keelway: {error.message}{hint}", err=True)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table fitted to the terminal; plain tab-separated lines when the output is no terminal."""
    if not sys.stdout.isatty():
        typer.echo("\t".join(columns))
        for row in rows:
            typer.echo("\t".join("" if cell is None else str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console().print(table)


def progress(message: str) -> None:
    """One step of long work, on standard error, so that results can be piped."""
    typer.echo(f"· {message}", err=True)
