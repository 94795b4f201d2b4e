"""Plugins: built-in runtimes and others are found by their entry points, and failures say which one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from unittest import mock

import pytest

from keelway import plugins
from keelway.errors import FailedPrecondition, Unsupported
from keelway.plugins import RUNTIME_GROUP, runtime_loader


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    runtime_loader.cache_clear()
    yield
    runtime_loader.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> mock.Mock:
    found = EntryPoints(EntryPoint(name, value, RUNTIME_GROUP) for name, value in entries)
    scan = mock.Mock(side_effect=lambda *, group: found.select(group=group))
    monkeypatch.setattr(plugins, "entry_points", scan)
    return scan


def test_the_built_in_runtimes_are_found_by_their_entry_points() -> None:
    from keelway.runtimes import pipeline, python

    assert runtime_loader("python") is python.load
    assert runtime_loader("pipeline") is pipeline.load


def test_an_unknown_runtime_names_the_installed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("onnx", "keelway.runtimes.onnx:load"), ("mine", "json:loads"))
    with pytest.raises(Unsupported, match="'tensorrt' is not installed") as caught:
        runtime_loader("tensorrt")
    assert caught.value.hint is not None
    assert "installed are mine, onnx;" in caught.value.hint


def test_a_runtime_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = install(monkeypatch, ("mine", "json:loads"))
    assert runtime_loader("mine") is runtime_loader("mine")
    assert scan.call_count == 1


@pytest.mark.parametrize(
    "code", ["import no_such_library", "1 / 0", "def broken(:", "load = None", "other = 1"], ids=lambda code: code
)
def test_a_broken_plugin_is_named(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    install(monkeypatch, ("broken", "broken_plugin:load"))
    with pytest.raises(FailedPrecondition, match="runtime plugin 'broken'") as caught:
        runtime_loader("broken")
    assert "broken_plugin" in str(caught.value.hint)
    assert "no_such_library" not in caught.value.message


def test_a_repaired_plugin_is_found_without_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("mine", "no_such_module:load"))
    with pytest.raises(FailedPrecondition):
        runtime_loader("mine")
    install(monkeypatch, ("mine", "json:loads"))
    assert callable(runtime_loader("mine"))


def test_two_packages_claiming_one_runtime_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("mine", "json:loads"), ("mine", "json:load"))
    with pytest.raises(FailedPrecondition, match="more than one package"):
        runtime_loader("mine")


def test_one_package_listed_twice_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("mine", "json:loads"), ("mine", "json:loads"))
    assert callable(runtime_loader("mine"))
