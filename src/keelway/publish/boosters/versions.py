"""Whether a model file comes from a newer version of its library than the one installed here."""

from __future__ import annotations

from importlib import import_module

from keelway.errors import FailedPrecondition
from keelway.runtimes.boosters import NAMES, Library


def check_not_newer(library: Library, written: tuple[int, int]) -> None:
    """Raise ``FailedPrecondition`` if ``written`` (major, minor) is newer than the installed version: the libraries
    promise to read older files only, and may misread newer ones in silence."""
    installed = str(import_module(library).__version__)
    major, minor = (int(part) for part in installed.split(".")[:2])
    if written > (major, minor):
        wanted = f"{written[0]}.{written[1]}"
        raise FailedPrecondition(
            f"the file was saved by {NAMES[library]} {wanted}, newer than the {installed} installed here",
            field="file",
            hint=f"install {NAMES[library]} {wanted} or newer, or save the model with {installed}",
        )
