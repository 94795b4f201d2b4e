"""A reload as the supervisor takes it, without a process: what no worker could start with changes nothing. # R1"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.certificates import Authority
from tests.serving import Shelf

from keelway.config import Settings, load_settings
from keelway.errors import KeelwayError
from keelway.supervise.supervisor import Supervisor

Sections = Mapping[str, Mapping[str, Any]]


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> dict[str, Any]:
    certificate, key = authority.sign("server", to=tmp_path)
    return {"certificate": str(certificate), "private_key": str(key)}


class Reloaded:
    """A supervisor that serves, and what became of its reload. ``replaced``: how many workers the new settings can
    replace."""

    def __init__(self, old: Sections, new: Callable[[], Sections], replaced: int = 1) -> None:
        self.supervisor = Supervisor(settings(old), Shelf(), reload=lambda: settings(new()))
        self.before = self.supervisor._settings
        self.supervisor._serving = True
        self.asked: list[Settings] = []

        async def reload() -> bool:
            self.asked.append(self.supervisor._settings)
            return bool(replaced)

        self.supervisor._crew.reload = reload  # type: ignore[method-assign]
        asyncio.run(self.supervisor._reload_all())


def settings(sections: Sections) -> Settings:
    return load_settings(None, {}, sections)


BAD: dict[str, Sections] = {
    "a route that cannot be opened": {"auth": {"public": ("metrics", "predict")}},
    "no such file": {"tls": {"certificate": "nowhere.pem"}},
    "a key of another certificate": {"tls": {"private_key": "other"}},
    "authorities that are none": {"tls": {"client_ca": "server.key"}},
    "a cache that there is not": {"cache": {"enabled": True, "redis_url": "http://127.0.0.1"}},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_reload_with_what_no_worker_could_start_with_is_refused_as_the_start_is(
    bad: Sections, tls: dict[str, Any], authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"other": authority.sign("other", to=tmp_path)[1], "server.key": Path(tls["private_key"])}
    good: dict[str, dict[str, Any]] = {"http": {"insecure": True}, "tls": tls}
    new = {**good}
    for section, values in bad.items():
        named = {name: str(files.get(value, value)) if section == "tls" else value for name, value in values.items()}
        new[section] = {**good.get(section, {}), **named}
    reloaded = Reloaded(good, lambda: new)
    assert reloaded.asked == []
    assert reloaded.supervisor._settings is reloaded.before
    assert "nothing is reloaded, the settings do not hold" in caplog.text
    with pytest.raises(KeelwayError):
        Supervisor(settings(new), Shelf())


def test_settings_that_hold_are_those_of_every_new_worker(tls: dict[str, Any]) -> None:
    reloaded = Reloaded({"tls": tls}, lambda: {"tls": tls, "http": {"max_body_bytes": 10}})
    assert [settings.http.max_body_bytes for settings in reloaded.asked] == [10]
    assert reloaded.supervisor._settings.http.max_body_bytes == 10


def test_settings_that_no_worker_starts_with_are_not_those_of_one_that_is_started_again() -> None:
    reloaded = Reloaded({}, lambda: {"http": {"max_body_bytes": 10}}, replaced=0)
    assert len(reloaded.asked) == 1
    assert reloaded.supervisor._settings is reloaded.before


def test_a_reload_is_not_begun_while_another_is_under_way(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    supervisor = Supervisor(settings({}), Shelf(), reload=lambda: settings({"http": {"max_body_bytes": 10}}))
    supervisor._serving = supervisor._crew.reloading = True
    before = supervisor._settings
    asyncio.run(supervisor._reload_all())
    assert supervisor._settings is before
    assert "a reload is under way already" in caplog.text
