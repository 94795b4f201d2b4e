"""The page names the clients that the suite runs, in the versions that are pinned."""

from __future__ import annotations

import re

from tests.conformance.environments import ROOT
from tests.conformance.versions import rows

PAGE = ROOT / "docs" / "how-to" / "call-from-existing-clients.md"
HEAD = "| client | version | speaks |"


def test_the_page_has_the_table_of_clients() -> None:
    text = PAGE.read_text()
    assert text.count(HEAD) == 1
    lines = text[text.index(HEAD) :].partition("\n\n")[0].splitlines()[2:]
    shown = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    wanted = [(row.client, row.version() if row.pinned else "", row.speaks) for row in rows()]
    pinned = {row.client for row in rows() if row.pinned}
    assert [(client, version if client in pinned else "", speaks) for client, version, speaks in shown] == wanted
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for _, version, _ in shown)
