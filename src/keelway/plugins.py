"""Entry points: how a runtime is found by its name. The built-in runtimes load the same way as anybody else's.

It imports what it finds and nothing more: loading a model is the runtime's business. ``hosting`` and ``publish`` are
its callers.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from keelway.errors import FailedPrecondition, Unsupported
from keelway.ports import RuntimeLoader

RUNTIME_GROUP: Final = "keelway.runtimes"


@cache
def runtime_loader(kind: str) -> RuntimeLoader:
    """The loader of the runtime called ``kind``, imported on first use and kept, since the scan reads all packages.

    Raises ``Unsupported`` naming the installed runtimes if there is none of that name, and ``FailedPrecondition`` if
    two packages claim it or if it cannot be imported. Failures are not kept, so that a repaired plugin is found.
    """
    installed = entry_points(group=RUNTIME_GROUP)
    # One package may be listed twice (a source tree beside its installation); two packages may disagree.
    found = {entry.value: entry for entry in installed if entry.name == kind}
    if not found:
        raise Unsupported(
            f"the runtime '{kind}' is not installed",
            field="runtime",
            hint=f"installed are {', '.join(sorted(installed.names)) or 'none'}; install the package that provides it",
        )
    if len(found) > 1:
        raise FailedPrecondition(
            f"the runtime '{kind}' is provided by more than one package",
            field="runtime",
            hint=f"uninstall all but one of {', '.join(sorted(found))}",
        )
    return _load(*found.values())


def _load(entry: EntryPoint) -> RuntimeLoader:
    try:
        loader = entry.load()
    except Exception as error:
        # A plugin's import runs its code and may fail with anything; the cause goes to the log with the traceback.
        raise FailedPrecondition(
            f"the runtime plugin '{entry.name}' cannot be imported",
            field="runtime",
            hint=f"see what `python -c 'import {entry.module}'` says",
        ) from error
    if not callable(loader):
        raise FailedPrecondition(
            f"the runtime plugin '{entry.name}' is not a function", field="runtime", hint=f"mend {entry.value}"
        )
    return loader  # type: ignore[no-any-return]
