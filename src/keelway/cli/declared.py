"""What the commands declare: their names, help, arguments and options, read from the application without running it.

Reads typer's own declarations, not the parser made of them, which looks at the terminal and changes between releases.
Used by ``keelway.cli.reference``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, ParameterInfo

_METAVARS = {"bool": "", "int": "N", "float": "NUMBER", "Path": "FILE"}


class Parameter(NamedTuple):
    """One argument or option. ``kind`` is its annotation without the declaration, ``default`` that of the function."""

    name: str
    kind: Any
    info: ParameterInfo
    default: Any

    @property
    def is_argument(self) -> bool:
        return isinstance(self.info, ArgumentInfo)

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def is_repeated(self) -> bool:
        return "list[" in str(self.kind)

    @property
    def help(self) -> str:
        return self.info.help or ""

    @property
    def spellings(self) -> list[str]:
        """How the option is written; typer keeps the first spelling of an annotated option in ``default``."""
        words = [self.info.default, *(self.info.param_decls or ())]
        declared = [word for word in words if isinstance(word, str) and word.startswith("-")]
        return declared or [f"--{self.name.replace('_', '-')}"]

    @property
    def metavar(self) -> str:
        """What stands for the value; empty for a flag."""
        if self.info.metavar or self.is_argument:
            return self.info.metavar or self.name.upper()
        kinds = {part.__name__ for part in (self.kind, *get_args(self.kind)) if isinstance(part, type)}
        return next((word for kind, word in _METAVARS.items() if kind in kinds), "TEXT")

    @property
    def default_text(self) -> str:
        if self.is_required:
            return "required"
        return "" if self.default in (None, False) else f"`{self.default}`"


def commands(app: typer.Typer, prefix: str = "") -> Iterator[tuple[str, str, Sequence[Parameter]]]:
    """(name, help, parameters) of every command that is not hidden, those of a group with its name in front."""
    for info in app.registered_commands:
        if info.callback is not None and not info.hidden:
            name = info.name or info.callback.__name__.replace("_", "-")
            yield prefix + name, inspect.cleandoc(info.help or info.callback.__doc__ or ""), parameters(info.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None and not group.hidden:
            name = group.name or group.typer_instance.info.name or ""
            yield from commands(group.typer_instance, f"{prefix}{name} ")


def own_parameters(app: typer.Typer) -> Sequence[Parameter]:
    """The options in front of any command."""
    declared = app.registered_callback
    return parameters(declared.callback) if declared is not None and declared.callback is not None else ()


def parameters(function: Callable[..., Any]) -> Sequence[Parameter]:
    """The arguments and options of a command, in the order of its signature, without hidden ones."""
    hints = get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        declared = [part for part in getattr(hints[name], "__metadata__", ()) if isinstance(part, ParameterInfo)]
        if declared and not declared[0].hidden:
            found.append(Parameter(name, get_args(hints[name])[0], declared[0], parameter.default))
    return found


def usage(name: str, declared: Iterable[Parameter]) -> str:
    """The line that shows how a command is called."""
    words = ["keelway", name, "[OPTIONS]"]
    for parameter in declared:
        if parameter.is_argument:
            text = parameter.metavar
            if not parameter.is_required and not text.startswith("["):
                text = f"[{text}]"
            words.append(text + ("..." if parameter.is_repeated and "..." not in text else ""))
    return " ".join(words)
