"""The benchmark of the registry runs, and its targets hold even for small numbers. # S4"""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import pushing, registry
from benchmarks.registry import MIB


def test_a_name_is_resolved_faster_than_by_the_database(tmp_path: Path) -> None:
    found = registry.resolving(tmp_path)
    assert found.ours * 20 < found.plain
    assert "resolve a name" in registry.line(found)


@pytest.mark.slow
def test_storing_and_listing_are_measured_beside_the_plain_way(tmp_path: Path) -> None:
    stored = registry.storing(tmp_path, 8 * MIB)
    assert stored.ours > 0
    assert stored.plain > 0
    listed, whole, floor = registry.listing(tmp_path, 1_000)
    assert listed.ours < listed.plain
    assert whole.cpu > listed.ours
    assert floor.cpu > 0


def test_memory_does_not_grow_with_the_file_that_is_stored(tmp_path: Path) -> None:  # S5
    grown, constant = registry.growth(tmp_path, 300 * MIB)
    assert constant
    assert grown < 64 * MIB


@pytest.mark.slow
def test_a_whole_push_is_measured_beside_a_copy_and_a_push_of_next_to_nothing(tmp_path: Path) -> None:  # S5
    beside, inside, sampled, archived = pushing.measured(tmp_path, 8, rounds=1)
    for found in (beside, inside, sampled, archived):
        assert found.ours.wall > found.copy
        assert "×   " in pushing.line(found)
    for found in (beside, inside, archived):
        assert found.ours.peak < found.small.peak + 100 * MIB  # of 128
