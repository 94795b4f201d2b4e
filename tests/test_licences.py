"""What keelway brings along, extras included, may be used in products that are not open: no licence of the GPL family
and no business licence, but for what docs/adr/0021-licences-of-dependencies.md names."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: By the lesser GPL, which a library that is only imported, and not changed, does not pass on.
EXCEPTIONS = {"psycopg", "psycopg-binary"}
FREE = re.compile(r"(?i)\b(apache|mit|bsd|0bsd|isc|iscl|psf|python software foundation|mpl|hpnd|unlicense|zlib)\b")
BOUND = re.compile(r"(?i)gpl|affero|general public|business|busl|sspl|elastic|commercial|proprietary")
PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def brought(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[Distribution]:
    """``name`` and all that it requires, as far as it is installed."""
    if (canonicalize_name(name), extras) in seen:
        return
    seen.add((canonicalize_name(name), extras))
    try:
        found = distribution(name)
    except PackageNotFoundError:  # PyTorch, for one
        return
    yield found
    for line in found.requires or []:
        wanted = Requirement(line)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield from brought(wanted.name, frozenset(wanted.extras), seen)


def licence(found: Distribution) -> str:
    told = found.metadata.get_all("License-Expression") or [
        *(line for line in found.metadata.get_all("Classifier", []) if line.startswith("License ::")),
        *(line[:100] for line in found.metadata.get_all("License", [])),
    ]
    texts = (
        (file for file in found.files or () if file.name.startswith("LICENSE")) if not FREE.search(str(told)) else ()
    )
    return "; ".join([*told, *(str(file.locate().read_text()).split("\n", 1)[0] for file in texts)])


@pytest.fixture(scope="module")
def licences() -> dict[str, str]:
    extras = frozenset(PROJECT["optional-dependencies"])
    return {canonicalize_name(one.name): licence(one) for one in brought("keelway", extras, set())}


def test_nothing_is_brought_along_that_binds_those_who_use_it(licences: dict[str, str]) -> None:
    bound = {name: told for name, told in licences.items() if BOUND.search(told) or not FREE.search(told)}
    assert bound.keys() == EXCEPTIONS, bound


def test_every_direct_dependency_was_looked_at(licences: dict[str, str]) -> None:
    extras = {line for lines in PROJECT["optional-dependencies"].values() for line in lines}
    direct = {canonicalize_name(Requirement(line).name) for line in {*PROJECT["dependencies"], *extras}}
    assert len(licences) > 70
    assert direct - licences.keys() <= {"xgboost", "torch", "onnxscript", "transformers"}
