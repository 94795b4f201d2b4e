"""Where a version comes from: the code, the locked libraries, the data, the file, and what its author says of it.

Found out by the push itself, as far as it can be, and kept with the version as ``metadata["lineage"]``. It says what
things are by their hashes and numbers, never what is in them: no values of the sample, no address of a repository, no
path that leads out of the project. What cannot be found out is absent.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec

from keelway import __version__
from keelway.artifacts.manifest import FileEntry
from keelway.errors import InvalidInput

#: Names, or patterns of names, of files that say exactly which libraries a project was made with, those that say most
#: first. PEP 751 lets a lockfile have a name of its own behind ``pylock``.
LOCKFILES: Final = (
    *(f"{tool}.lock" for tool in ("uv", "poetry", "pdm", "Pipfile", "pixi")),
    "pylock*.toml",
    "conda-lock.yml",
    "requirements.txt",
    "environment.yml",
)
#: Libraries whose versions say how a model was made, by the names of their distributions.
LIBRARIES: Final = (
    "numpy",
    "pandas",
    "scikit-learn",
    "skops",
    "onnx",
    "onnxruntime",
    "skl2onnx",
    "xgboost",
    "xgboost-cpu",
    "lightgbm",
    "catboost",
    "torch",
    "transformers",
    "tensorflow",
    "keras",
)
#: Seconds that Git may take for an answer. Without one, the push goes on.
GIT_SECONDS: Final = 5.0
MAX_GIVEN: Final = 200
MAX_TEXT: Final = 500

_KEY: Final = re.compile(r"(?:(?P<kind>parameter|metric)\.)?(?P<name>\w(?:[\w.@/-]{0,98}\w)?)", re.ASCII)
_REVISION: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)
#: What a repository may make Git run, switched off: a folder that is pushed from need not be one's own.
_GIT: Final = ("git", "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false")


def collect(
    file: Path | FileEntry | None, sample: Path | None, given: Mapping[str, Any], *, folder: Path | None = None
) -> dict[str, Any]:
    """The lineage of a push, as JSON values. ``file`` may be what is known of it already; ``given`` is what
    ``parse_given`` has read; ``folder`` is where the project is looked for, the current one if ``None``."""
    where = (folder or Path.cwd()).absolute()
    root = _git(where, "rev-parse", "--show-toplevel")
    found: dict[str, Any] = {
        "code": _code(where),
        "lockfile": _lockfile(where, Path(root) if root else where),
        "data": _hashed(sample),
        "source": {"sha256": file.sha256, "size": file.size} if isinstance(file, FileEntry) else _hashed(file),
        "libraries": _libraries(),
        **given,
    }
    return {key: value for key, value in found.items() if value is not None}


def parse_given(words: Iterable[str]) -> dict[str, Any]:
    """What an author says, from words like ``seed=42``, ``parameter.depth=6`` and ``metric.auc=0.91``: ``seed``,
    ``parameters``, ``metrics``, and ``notes`` of any other key. Numbers and booleans are read as such.

    Raises ``InvalidInput`` for a word that is none of them, a metric or a seed that is no number, or too many."""
    sections: dict[str, dict[str, Any]] = {}
    found: dict[str, Any] = {}
    listed = list(words)
    if len(listed) > MAX_GIVEN:
        raise InvalidInput(f"there are more than {MAX_GIVEN} values", field="lineage")
    for word in listed:
        key, equals, text = word.partition("=")
        matched = _KEY.fullmatch(key)
        if not equals or matched is None or len(text) > MAX_TEXT or not text.isprintable():
            raise InvalidInput(
                "this is no value of a lineage",
                field="lineage",
                hint="such as --lineage seed=42, --lineage parameter.depth=6, --lineage metric.auc=0.91",
            )
        value, kind = _value(text), matched["kind"]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (kind == "metric" or key == "seed") and not number:
            raise InvalidInput(f"{key} is no number", field="lineage", hint="metrics and the seed are numbers")
        if key == "seed":
            found["seed"] = value
        else:
            sections.setdefault({"parameter": "parameters", "metric": "metrics"}.get(kind, "notes"), {})[
                matched["name"]
            ] = value
    return {**found, **sections}


def lineage_lines(lineage: Mapping[str, Any]) -> list[str]:
    """A lineage in a few lines for people."""
    lines = []
    if code := lineage.get("code"):
        lines.append(f"code {code['revision'][:12]}{', with changes that are not committed' if code['dirty'] else ''}")
    if lockfile := lineage.get("lockfile"):
        lines.append(f"libraries locked by {lockfile['path']}, sha256 {lockfile['sha256'][:12]}")
    for key, what in (("data", "sample"), ("source", "file")):
        if known := lineage.get(key):
            lines.append(f"{what} of {known['size']:,} bytes, sha256 {known['sha256'][:12]}")
    if "seed" in lineage:
        lines.append(f"seed {lineage['seed']}")
    for section in ("parameters", "metrics", "notes"):
        if values := lineage.get(section):
            said = ", ".join(f"{name} {value}" for name, value in values.items())
            lines.append(f"{section}: {said}")
    return lines


def _value(text: str) -> Any:
    """A JSON number or boolean as what it is; anything else as text."""
    try:
        read = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return read if isinstance(read, bool | int | float) else text


def _code(folder: Path) -> dict[str, Any] | None:
    revision = _git(folder, "rev-parse", "--verify", "HEAD")
    if revision is None or not _REVISION.fullmatch(revision):
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if changes is None else {"revision": revision, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What Git answers about ``folder``; ``None`` if there is none, it says no, or takes too long."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SYSTEMROOT") if name in os.environ}
    try:
        ran = subprocess.run(  # noqa: S603 - a fixed command, no shell
            [*_GIT, "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=True,
            env={**kept, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
        return ran.stdout.decode().strip()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


def _lockfile(folder: Path, root: Path) -> dict[str, Any] | None:
    """The nearest lockfile, in ``folder`` or above it, not beyond ``root``."""
    place = folder.resolve()
    end = root.resolve()
    while True:
        for file in (file for name in LOCKFILES for file in sorted(place.glob(name))):
            if hashed := _hashed(file):
                path = file.relative_to(end).as_posix() if place.is_relative_to(end) else file.name
                return {"path": path, **hashed}
        if place == end or not place.is_relative_to(end):
            return None
        place = place.parent


def _hashed(path: Path | None) -> dict[str, Any] | None:
    if path is None or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"sha256": digest, "size": file.tell()}
    except OSError:
        return None


def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version(), "keelway": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
