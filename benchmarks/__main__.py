"""``python -m benchmarks``: measures sections of the page, stores what was measured, and writes the page anew.

The only module that reads the command line and the date; what is measured is in ``sections``, how it looks in ``page``.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import here, page
from benchmarks.load import require_tools
from benchmarks.models import make_models
from benchmarks.peers import ROOT
from benchmarks.processes import cores
from benchmarks.results import Section, store, stored
from benchmarks.sections import LINEUPS, SECTIONS, Request, measure
from benchmarks.served import Bench

CACHE = ROOT / ".cache"
RESULTS, PARTIAL = CACHE / "benchmarks", CACHE / "benchmarks" / "partial"
BUSY = 0.5
_EXAMPLES = """examples:
  make bench                                  everything; writes docs/benchmarks.md and docs/benchmarks.svg
  make bench ARGS="grpc leads"                those sections; the rest of the page stays as it was measured
  make bench ARGS=--keep                      only what has not been measured at this commit
  python -m benchmarks rest --servers keelway fastapi --rounds 1
                                              a look: printed, not written to the page
  python -m benchmarks --render               the page anew from what is stored
"""


def main() -> None:
    chosen = _arguments()
    if chosen.list:
        print(_listing())
        return
    names = chosen.sections or list(SECTIONS)
    # A part of the servers is a look, no measurement: it never replaces a whole result.
    results = chosen.results or (PARTIAL if chosen.servers else RESULTS)
    if not chosen.render:
        _measure(chosen, names, results)
    sections = stored(results, names if chosen.servers else SECTIONS)
    if chosen.servers:
        print(page.render(sections))
        return
    _write(sections, chosen.docs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure keelway beside other servers and write docs/benchmarks.md from what was measured.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"measure these only: {', '.join(SECTIONS)} (default: all)"
    )
    parser.add_argument("--list", action="store_true", help="list sections and servers, measure nothing")
    parser.add_argument("--render", action="store_true", help="write the page from stored results, measure nothing")
    parser.add_argument("--keep", action="store_true", help="keep sections that were measured at this commit")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="seconds of each measurement (default 2); wrk takes whole ones"
    )
    parser.add_argument("--requests", type=int, default=500_000, help="requests of the section growth (default 500000)")
    parser.add_argument(
        "--servers", nargs="+", default=(), metavar="PART", help="only servers with one of these in their name; printed"
    )
    parser.add_argument("--results", type=Path, help="folder of stored results (default .cache/benchmarks)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the page (default docs)")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.sections if name not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if chosen.rounds < 1 or chosen.seconds <= 0 or chosen.requests < 1:
        parser.error("--rounds, --seconds and --requests have to be greater than 0")
    return chosen


def _measure(chosen: argparse.Namespace, names: list[str], results: Path) -> None:
    require_tools()
    _, loading = cores()
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"bench: this machine is busy (load average {load:.2f}): figures will not be reliable", file=sys.stderr)
    scratch = CACHE / "bench"
    models = make_models(scratch)
    bench = Bench(models, scratch.resolve(), chosen.rounds, chosen.seconds)
    kept = stored(results, names) if chosen.keep else {}
    # This process too keeps off the server's core. Servers are given theirs when they start.
    os.sched_setaffinity(0, {loading})
    for name in names:
        if _is_current(kept.get(name)):
            print(f"section {name} is kept", file=sys.stderr)
            continue
        print(f"section {name}", file=sys.stderr, flush=True)
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        store(results, measure(name, Request(bench, tuple(chosen.servers), chosen.requests), now))


def _is_current(section: Section | None) -> bool:
    return section is not None and section.commit == here.commit() and "uncommitted" not in section.commit


def _write(sections: dict[str, Section], docs: Path) -> None:
    if not sections:
        raise SystemExit("bench: nothing has been measured yet")
    text, picture = page.render(sections), page.picture(sections)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "benchmarks.md").write_text(text, encoding="utf-8")
    if picture is not None:
        (docs / page.PICTURE).write_text(picture, encoding="utf-8")
    print(text)


def _listing() -> str:
    lines = ["sections:", *(f"  {name:<10}{what}" for name, (what, _) in SECTIONS.items()), "servers:"]
    for name, lineup in LINEUPS.items():
        lines.append(f"  {name:<10}{'; '.join(lineup.names)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
