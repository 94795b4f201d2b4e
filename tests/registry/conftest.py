"""A registry in a new SQLite file, with a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from keelway.registry.store import Registry


class HandClock:
    """Moves by one second with each look, so that no two changes are simultaneous."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.123456

    def now(self) -> float:
        self.seconds += 1
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store/registry.db"


@pytest.fixture
def registry(url: str, clock: HandClock) -> Iterator[Registry]:
    with closing(Registry.open(url, clock=clock)) as opened:
        yield opened
