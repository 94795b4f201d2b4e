"""One server for the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.models import shelf
from tests.serving import Server


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    with Server(shelf(), limits={"max_rows": 2000}) as running:
        yield running
