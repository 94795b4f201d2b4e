"""The pinned environments and pyproject.toml say the same. No network: `make lock` resolves, this only compares."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKED = ROOT / "requirements"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
BASE: list[str] = PROJECT["project"]["dependencies"]
OPTIONAL: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
#: What stays out of `all` is no part of dev.txt: PyTorch, whose build depends on the machine, and what needs it.
EXTRAS: list[str] = [
    text for name, extra in OPTIONAL.items() if name not in ("torch", "transformers") for text in extra
]
DEV: list[str] = PROJECT["dependency-groups"]["dev"]
RUN_MAKE_LOCK = "pyproject.toml and the lock differ: run `make lock`"


class Pin:
    """One package of a lock file: its version, whether files are pinned by hash, and who asked for it."""

    def __init__(self, block: str) -> None:
        head = re.match(r"([a-z0-9._-]+)(?:\[[^]]*\])?==([^ ;]+)", block)
        assert head is not None, block
        self.name, self.version = canonicalize_name(head[1]), head[2]
        self.hashed = "--hash=sha256:" in block
        self.asked_for_by_the_project = "keelway (pyproject.toml" in block


def pins(file: str) -> list[Pin]:
    text = (LOCKED / file).read_text()
    return [Pin(block) for block in re.split(r"\n(?=[a-z0-9])", text) if not block.startswith("#")]


def wanted(texts: list[str]) -> Iterator[Requirement]:
    """The requirements on other packages; `keelway[extra]` only points to a list that is read anyway."""
    for text in texts:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != "keelway":
            yield requirement


LOCKS = pytest.mark.parametrize(("file", "texts"), [("base.txt", BASE), ("dev.txt", BASE + EXTRAS + DEV)])


@LOCKS
def test_every_requirement_is_pinned_within_its_bounds(file: str, texts: list[str]) -> None:
    locked = pins(file)
    for requirement in wanted(texts):
        versions = [pin.version for pin in locked if pin.name == canonicalize_name(requirement.name)]
        assert versions, f"{requirement.name}: {RUN_MAKE_LOCK}"
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: {RUN_MAKE_LOCK}"


@LOCKS
def test_nothing_is_pinned_that_the_project_no_longer_asks_for(file: str, texts: list[str]) -> None:
    direct = {pin.name for pin in pins(file) if pin.asked_for_by_the_project}
    assert direct == {canonicalize_name(requirement.name) for requirement in wanted(texts)}, RUN_MAKE_LOCK


PEERS = sorted((LOCKED / "peers").glob("*.in"))


@pytest.mark.parametrize("file", sorted(str(path.relative_to(LOCKED)) for path in LOCKED.rglob("*.txt")))
def test_every_pin_carries_hashes_and_no_file_names_a_registry(file: str) -> None:
    assert [pin.name for pin in pins(file) if not pin.hashed] == []
    assert "://" not in (LOCKED / file).read_text()


def test_every_package_of_javascript_carries_a_hash_and_none_names_a_registry() -> None:
    folder = ROOT / "tests" / "conformance" / "js"
    lock = json.loads((folder / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert [name for name, package in packages.items() if not package["integrity"].startswith("sha512-")] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert lock["packages"][""]["dependencies"] == json.loads((folder / "package.json").read_text())["dependencies"]


def test_the_small_environments_hold_the_versions_that_are_tested() -> None:
    tested = {(pin.name, pin.version) for pin in pins("dev.txt")}
    assert {(pin.name, pin.version) for file in ("base.txt", "uv.txt") for pin in pins(file)} <= tested


def test_the_build_backend_is_pinned_with_the_rest() -> None:
    names = {pin.name for pin in pins("dev.txt")}
    assert {canonicalize_name(Requirement(text).name) for text in PROJECT["build-system"]["requires"]} <= names


@pytest.mark.parametrize("peer", PEERS, ids=lambda path: path.stem)
def test_the_lock_of_a_peer_has_what_its_list_asks_for(peer: Path) -> None:
    locked = {pin.name: pin.version for pin in pins(f"peers/{peer.stem}.txt")}
    for requirement in (Requirement(line) for line in peer.read_text().split()):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), "run `make lock-peers`"


@pytest.mark.parametrize("peer", PEERS, ids=lambda path: path.stem)
def test_peers_run_the_engine_and_the_training_library_that_keelway_is_measured_with(peer: Path) -> None:
    shared = {"onnxruntime", "scikit-learn"}
    tested = {pin.name: pin.version for pin in pins("dev.txt")}
    locked = {pin.name: pin.version for pin in pins(f"peers/{peer.stem}.txt")}
    assert {name: locked[name] for name in shared & set(locked)} == {
        name: tested[name] for name in shared & set(locked)
    }
    assert "onnxruntime" in locked
