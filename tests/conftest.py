"""What holds for every test: settings of the developer's own shell do not leak in, and no test is skipped silently.

A skipped test is a claim nobody checks. A run fails when a test was skipped that is not in ``ALLOWED_SKIPS``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.certificates import Authority
    from tests.credentials import Published
    from tests.objectstore import ObjectStore
    from tests.postgresql import PostgreSQL
    from tests.valkey import Valkey

    from keelway.artifacts.blobs import BlobStore
    from keelway.registry.store import Registry

#: Start of a node id -> why it may be skipped, and who checks it instead.
ALLOWED_SKIPS: Mapping[str, str] = {
    "tests/edge/test_uvicorn.py::test_the_newest_version_will_do": "without an index of packages there is no newest "
    "version; whoever locks the dependencies has one, and the pinned version is tested in any case",
}

# A busy machine is not a finding: examples have no deadline of their own, and on CI they are the same in every run.
settings.register_profile(
    "keelway", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("keelway")


class SkipWatch:
    """Collects the skips of a run and turns it red if one of them was not agreed on."""

    def __init__(self) -> None:
        self.unexplained: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexplained and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unexplained:
            terminalreporter.section("skipped without being on the list in tests/conftest.py", red=True, bold=True)
            for node in self.unexplained:
                terminalreporter.line(node, red=True)

    def _note(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if report.skipped and not report.nodeid.startswith(tuple(ALLOWED_SKIPS)):
            self.unexplained.append(report.nodeid)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SkipWatch(), "keelway-skip-watch")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("KEELWAY_")]:
        monkeypatch.delenv(variable)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    from tests.certificates import Authority

    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    from tests.valkey import Valkey

    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey(shared_valkey: Valkey) -> Valkey:
    """An empty one, for tests that only read and write; those that mistreat one start their own."""
    shared_valkey.client.flushall()
    return shared_valkey


@pytest.fixture(scope="session")
def shared_postgresql() -> Iterator[PostgreSQL]:
    """For tests that take a database of their own there; those that mistreat a server start one."""
    from tests.postgresql import PostgreSQL

    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    from tests.objectstore import ObjectStore

    with ObjectStore() as server:
        yield server


@pytest.fixture
def issuer() -> Iterator[Published]:
    """Who publishes the key that its tokens are signed with."""
    from tests.credentials import jwk, published

    with published() as told:
        told.document = {"keys": [jwk("RS256", "first")]}
        yield told


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty one on SQLite, ``registry.db`` in ``tmp_path``."""
    from keelway.clock import SystemClock
    from keelway.registry.store import Registry

    with closing(Registry.open(f"sqlite:///{tmp_path}/registry.db", clock=SystemClock())) as opened:
        yield opened


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    """An empty store, the folder ``artifacts`` in ``tmp_path``."""
    from keelway.artifacts.blobs import BlobStore

    return BlobStore.open(tmp_path / "artifacts")
