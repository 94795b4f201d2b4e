"""What guards add, measured on a line that really has them. # X1"""

from __future__ import annotations

import pytest
from benchmarks import guards
from benchmarks.results import Notebook


def test_the_guards_and_the_line_without_them_are_measured_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_BLOCKS", 2)
    monkeypatch.setattr(guards, "_REQUESTS", 32)
    notebook = Notebook()
    guards.measure(notebook, 1)
    found = {figures.scenario: figures.values for figures in notebook.figures()}
    assert set(found) == set(guards.ARRIVALS)
    assert all(set(values) == {"on", "off", "added"} for values in found.values())
    assert all(values["on"][0] > 0 < values["off"][0] for values in found.values())


@pytest.mark.parametrize("guarded", [True, False])
def test_every_request_of_a_turn_is_answered_and_none_is_anomalous(guarded: bool) -> None:
    import uvloop

    door = guards.Door(guarded=guarded, most=16)
    uvloop.run(door.turn(16))
    records = door.records()
    assert len(records) == 16
    assert {record.code for record in records} == {"OK"}
    assert not any(record.tags for record in records)
    assert {record.principal for record in records} == ({"key:bench"} if guarded else {"anonymous"})
