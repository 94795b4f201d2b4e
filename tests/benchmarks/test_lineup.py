"""The tables of servers agree with each other, with the locks and with the bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.bounds import BOUNDS, CEILINGS
from benchmarks.lineup import KEELWAY, Lineup, Scenario
from benchmarks.results import PROCESS
from benchmarks.sections import LINEUPS, SECTIONS, chosen

PEERS = Path(__file__).parents[2] / "requirements" / "peers"


def test_every_peer_has_a_lock_and_every_lock_a_server() -> None:
    named = {server.peer for lineup in LINEUPS.values() for server in lineup.servers if server.peer}
    assert named == {path.stem for path in PEERS.glob("*.txt")} == {path.stem for path in PEERS.glob("*.in")}


@pytest.mark.parametrize("lineup", LINEUPS.values(), ids=LINEUPS)
def test_names_are_told_apart_and_every_server_says_its_settings(lineup: Lineup) -> None:
    assert len(set(lineup.names)) == len(lineup.names)
    assert KEELWAY in lineup.names
    assert all(server.settings and server.packages for server in lineup.servers)


def test_bounds_compare_servers_and_scenarios_that_are_measured() -> None:
    for bound in BOUNDS:
        lineup = LINEUPS[bound.section]
        assert bound.section in SECTIONS
        assert {bound.ours, *bound.servers} <= set(lineup.names)
        assert bound.scenario in lineup.scenarios
    for ceiling in CEILINGS:
        scenarios = {PROCESS, *(scenario.name for scenario in LINEUPS[ceiling.section].scenarios)}
        assert ceiling.scenario in scenarios


def test_a_scenario_is_named_in_words() -> None:
    assert [Scenario(1, 1).name, Scenario(32, 16).name] == ["one row, 1 connection", "32 rows, 16 connections"]


def test_servers_are_chosen_by_a_part_of_their_name() -> None:
    assert chosen(LINEUPS["grpc"], ("KEELWAY", "aio, bare")).names == ("grpc.aio, bare", "keelway")
    with pytest.raises(SystemExit, match="no server is named like that"):
        chosen(LINEUPS["grpc"], ("nobody",))
