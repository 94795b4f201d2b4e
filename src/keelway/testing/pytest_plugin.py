"""A plugin for pytest: the fixture ``keelway_model``, a registered version loaded as a server loads it.

    pytest --keelway-model leads@1.3.0

    def test_a_rich_lead_is_a_good_one(keelway_model):
        rich, poor = keelway_model.predict([{"income": 90}, {"income": 10}])["probabilities"]
        assert rich[1] > poor[1]

pytest loads it wherever keelway is installed, so it imports nothing heavy before a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import pandas as pd

    from keelway.checks.asking import Subject
    from keelway.checks.gate import Report


@dataclass(frozen=True, slots=True, eq=False)
class KeelwayModel:
    """One version of one model, behind the request line of a server."""

    subject: Subject

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def version(self) -> str:
        return self.subject.version

    @property
    def model_digest(self) -> str:
        return self.subject.model_digest

    def predict(self, rows: Any) -> dict[str, Any]:
        """The answer to ``rows``, a list of objects or of lists, as ``POST /v1/models/NAME/predict`` gives it:
        ``predictions``, ``labels`` and ``probabilities``, with ``errors`` of rows that were refused.

        Raises ``InvalidInput`` if all of them were."""
        import orjson

        body = orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
        answer: dict[str, Any] = orjson.loads(self.subject.answer(body))
        return answer

    def check(
        self,
        sample: pd.DataFrame | Path,
        target: str = "",
        *,
        checks: str = "",
        train: pd.DataFrame | Path | None = None,
    ) -> Report:
        """What ``keelway check`` finds on ``sample``; ``checks`` is the text of its TOML file. Nothing is recorded."""
        from keelway.checks.case import Case
        from keelway.checks.gate import check
        from keelway.checks.plan import parse_plan
        from keelway.clock import SystemClock
        from keelway.contract.sample import read_sample

        rows = None if train is None else read_sample(train)
        return check(Case(self.subject, read_sample(sample), parse_plan(checks), target, rows), SystemClock())


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("keelway", "a registered model under test")
    group.addoption("--keelway-model", metavar="NAME[@VERSION|@ALIAS]", help="The model of the fixture keelway_model.")
    group.addoption("--keelway-store", metavar="URL", help="Its registry; default: as keelway itself finds it.")
    group.addoption("--keelway-artifacts", metavar="URL", help="Where its files are kept; default: as above.")
    group.addoption("--keelway-config", metavar="FILE", help="Settings file (keelway.toml).")


@pytest.fixture(scope="session")
def keelway_model(pytestconfig: pytest.Config) -> Iterator[KeelwayModel]:
    """The version that ``--keelway-model`` names, loaded once in a session. A test that asks for it without the option
    fails: a test that is skipped proves nothing."""
    reference = pytestconfig.getoption("--keelway-model")
    if not reference:
        raise pytest.UsageError("say which model: pytest --keelway-model NAME@VERSION")
    from keelway.app import offline
    from keelway.artifacts.blobs import BlobStore
    from keelway.artifacts.statement import SignaturePolicy
    from keelway.checks.asking import subject_of
    from keelway.clock import SystemClock
    from keelway.config import load_settings
    from keelway.contract.names import parse_reference
    from keelway.hosting.registered import RegistrySource
    from keelway.registry.store import Registry

    named = {
        "store": pytestconfig.getoption("--keelway-store"),
        "artifacts": pytestconfig.getoption("--keelway-artifacts"),
    }
    file = pytestconfig.getoption("--keelway-config")
    settings = load_settings(Path(file) if file else None, overrides={"registry": named})
    registry = Registry.open(settings.registry.store_url, clock=SystemClock())
    try:
        blobs = BlobStore.open(settings.registry.artifacts_url)
        source = RegistrySource(registry, blobs, [parse_reference(reference)], SignaturePolicy.of(settings.signing))
        with offline(settings, source) as (served, answer):
            yield KeelwayModel(subject_of(served, answer, blobs, settings.limits.max_rows))
    finally:
        registry.close()
