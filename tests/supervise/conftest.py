"""A registry with one model, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.supervise.served import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.push("1.0.0")
    return shop
