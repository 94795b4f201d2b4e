"""What a soak has found, as a verdict, as text and as a document. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tests.soak.judging import HARM, LIMIT, MARGIN, NEEDED, STRUCK, Tally
from tests.soak.memory import CRITERION, Flatness


def failures(tally: Tally, lives: Sequence[Mapping[str, Any]], others: Mapping[str, Sequence[str]]) -> list[str]:
    """Why a soak has failed; nothing if it has not. ``others`` are findings of other kinds, by what they are."""
    totals = tally.totals()
    found = [f"{totals[outcome.value]:,} answers {outcome}" for outcome in HARM if totals[outcome.value]]
    for life in lives:
        flat: Flatness = life["flatness"]
        if flat.verdict not in ("flat", "short"):
            found.append(f"memory of {life['role']} {life['pid']} is {flat.verdict}")
    found += [f"never happened: {outcome}" for outcome in NEEDED if not totals[outcome.value]]
    return found + [f"{kind}: {one}" for kind, ones in others.items() for one in ones]


def document(
    seed: int, seconds: float, tally: Tally, lives: Sequence[Mapping[str, Any]], failed: Sequence[str],
    more: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Everything, for a program."""
    lanes: dict[str, dict[str, int]] = {}
    for (lane, outcome), count in sorted(tally.counts.items()):
        lanes.setdefault(lane, {})[outcome.value] = count
    return {
        "seed": seed,
        "seconds": seconds,
        "passed": not failed,
        "failures": list(failed),
        "outcomes": tally.totals(),
        "codes": dict(tally.codes),
        "versions": dict(tally.versions),
        "slowest": tally.slowest,
        "harms": tally.harms,
        "lanes": lanes,
        "memory": [{**life, "flatness": asdict(life["flatness"])} for life in lives],
        "criterion": CRITERION,
        **more,
    }


def text(found: Mapping[str, Any]) -> str:
    """``found`` is a ``document``."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"seed {found['seed']}, {found['seconds']:g} s"
    yield f"answers: {_counts(found['outcomes'])}"
    yield f"  told: {_counts(found['codes'])}"
    yield f"  right ones by version: {_counts(found['versions'])}"
    yield f"  slowest right answer {found['slowest']:.2f} s; hung is what is not answered {MARGIN:g} s after its"
    yield f"  deadline, of {LIMIT:g} s where its caller gives none"
    yield f"  a broken connection is lost to a kill within {STRUCK:g} s of it, and unexpected otherwise"
    yield f"faults: {_counts(found['faults'])}"
    for name, counts in found["counted"].items():
        yield f"counted by {name}: {_counts(counts)}"
    yield f"memory, resident MiB: {found['criterion']}"
    yield from _table(found["memory"])
    if all(life["flatness"]["verdict"] == "short" for life in found["memory"]):
        yield "  no process lived long enough to be judged"
    for words, count in found["logged"].items():
        yield f"logged {count:,} ×: {words}"
    if found["harms"]:
        yield f"events: {', '.join(found['events'])}"
    for harm in found["harms"]:
        yield f"harm: {harm}"
    for failure in found["failures"]:
        yield f"FAILED: {failure}"
    yield "passed" if found["passed"] else "failed"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _table(lives: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield (
        f"  {'process':<18} {'life':>6} {'start':>7} {'end':>7} {'PSS':>7}   {'MiB a minute, 95 %':<26} "
        f"{'by slope':>8} {'by ends':>8} {'since 2nd min.':>14} {'limit':>6}"
    )
    for life in lives:
        one = life["flatness"]
        row = f"  {life['role'] + ' ' + str(life['pid']):<18} {one['life']:>4.0f} s {one['start']:>7.1f}"
        row += f" {one['end']:>7.1f} {life['proportional']:>7.1f}   "
        if one["verdict"] != "short":
            slope = f"{one['slope']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"
            since = "" if one["since_minute"] is None else f"{one['since_minute']:+.1f}"
            row += f"{slope:<26} {one['by_slope']:>+8.1f} {one['by_ends']:>+8.1f} {since:>14} {one['limit']:>6.1f}"
        yield f"{row}   {one['verdict']}"
