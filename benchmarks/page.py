"""Renders ``docs/benchmarks.md`` and its picture from the stored results. Pure: it measures nothing, and a figure that
was not stored cannot be printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from benchmarks import bounds, chart
from benchmarks import lineup_batching as overload
from benchmarks.bounds import ONE_ROW, Ceiling, Outcome
from benchmarks.guarded import GUARDED
from benchmarks.guards import ARRIVALS, FEATURES, GUARDS
from benchmarks.lineup import CACHED, GRPC, HTTP2, KEELWAY, LEADS, PROTOCOL, REST, Lineup
from benchmarks.lineup_batching import BATCHING, TURNS
from benchmarks.results import PROCESS, Section
from benchmarks.rounds import Spread, ratios, spread
from benchmarks.sections import LINEUPS
from benchmarks.workers import MEGABYTES, WORKERS

PICTURE = "benchmarks.svg"
KEY_MICROSECONDS = 5
SHARED_AT_MOST = 1.5
Sections = Mapping[str, Section]

_TOP = """# Benchmarks

Written by `make bench` from stored results; nothing here is typed by hand. Ratios are what counts: absolute figures are
those of one machine with one core for the server."""

_METHOD = """## Method

- The server has one core, with all its processes, and the load another. Every server runs the same ONNX file, which
  `keelway push` made of a scikit-learn forest (100 trees, 30 features, the breast-cancer data), in ONNX Runtime with
  one thread. Those that have another model, or none, say so below.
- "keelway does" is keelway's requests a second over V2 JSON (over gRPC: its own) as a multiple of that server's.
- Servers take turns within a round, each round begins with another of them, and each is started anew for each round.
  Tables give the median of the rounds, and the lowest and highest. A ratio is taken within each round; the median is of
  those ratios.
- Before any load, one answer to every body is compared with scikit-learn's own: within 0.00001, or the run ends. Then
  a second of load is not counted.
- REST is loaded by wrk, gRPC by h2load, with as many connections as the table says and one request at a time on each.
  A reply other than 2xx, a socket error or a timeout ends the run.
- h2load does not see the trailers that carry gRPC's status. So a real client (grpcio) checks a reply first; the bytes
  of messages received have to be the count of successes times the size of that reply, since an error carries none; and
  where a server counts its own successes, that count has to grow by exactly what h2load counted:
  {counting}.
- V2 servers get the same bytes and answer label and probabilities. FastAPI, LitServe, mosec and BentoML, which leave
  the format to their user, get `{{"instances": [[…]]}}` and answer the probabilities alone, which is less work.
- Start is from the start of the process to the first good answer. Memory is that of the whole process tree: resident,
  and in brackets proportional, which counts a page that processes share once."""


def render(sections: Sections) -> str:
    """The page, of whatever has been measured."""
    renderers: Mapping[str, Callable[[Section], Iterator[str]]] = {
        "rest": lambda section: _served("REST", REST, section),
        "grpc": lambda section: _served("gRPC", GRPC, section),
        "leads": lambda section: _served("A pipeline of 85 columns", LEADS, section),
        "batching": lambda section: _served("Batches", BATCHING, section),
        "overload": _overload,
        "turns": lambda section: _served("Runs shared in a turn of the loop", TURNS, section),
        "cache": _cache,
        "guard": _guard,
        "python": _python,
        "command": _command,
        "workers": _workers,
        "growth": _growth,
    }
    parts = [_TOP]
    if any(_bars(sections)):
        parts.append(f"![Requests a second, one row over 16 connections, for each server]({PICTURE})")
    parts += list(_bounds(sections))
    for name, section in sections.items():
        parts += [*renderers[name](section), _provenance(section)]
    parts += [_METHOD.format(counting=_counting()), *_settings(sections)]
    return "\n\n".join(parts) + "\n"


def picture(sections: Sections) -> str | None:
    """The picture of one row over 16 connections, or None where no server was measured."""
    groups = list(_bars(sections))
    return chart.draw(groups, "Requests a second, one row over 16 connections") if groups else None


def _bars(sections: Sections) -> Iterator[chart.Group]:
    for name, title in (("rest", "REST, requests/s"), ("grpc", "gRPC, requests/s")):
        section = sections.get(name)
        if section is not None and (servers := section.servers(ONE_ROW.name)):
            bars = [
                chart.Bar(server, _of(section, ONE_ROW.name, server, "rate").median, _kind(server))
                for server in servers
            ]
            yield chart.Group(f"{title}: {ONE_ROW.name}", sorted(bars, key=lambda bar: -bar.value))


def _kind(server: str) -> str:
    if server.startswith(KEELWAY):
        return "ours"
    return "bare" if server.startswith(("uvicorn", "grpc", PROTOCOL, HTTP2)) else ""


# Bounds


def _bounds(sections: Sections) -> Iterator[str]:
    outcomes = [bounds.outcome(bound, sections) for bound in bounds.BOUNDS]
    lines = [_bound_line(outcome) for outcome in outcomes if outcome is not None]
    missing = [
        f"- {bound.what}, {bound.scenario.name}, against {bound.against}: not measured."
        for bound, outcome in zip(bounds.BOUNDS, outcomes, strict=True)
        if outcome is None
    ]
    yield "## What keelway promises itself"
    for ceiling in bounds.CEILINGS:
        found = bounds.reached(ceiling, sections)
        (lines if found else missing).append(_ceiling_line(ceiling, found))
    yield "\n".join(lines + missing)


def _bound_line(outcome: Outcome) -> str:
    bound, found = outcome.bound, outcome.found
    verdict = "met" if outcome.met else "missed"
    direction = "over" if outcome.met else "under"
    return (
        f"- {bound.what}, {bound.scenario.name}, at least {bound.least:g} × {bound.against}: "
        f"**{verdict}**, {_ratio(found)}, {outcome.margin:.0%} {direction} the bound."
    )


def _ceiling_line(ceiling: Ceiling, found: Spread | None) -> str:
    if found is None:
        return f"- {ceiling.what}: not measured."
    verdict = "met" if found.median <= ceiling.most else "missed"
    digits = "{:.2f}" if ceiling.divisor else "{:.0f}"
    median, lowest, highest = (digits.format(value) for value in found)
    return (
        f"- {ceiling.what}, at most {ceiling.most:g} {ceiling.unit}: **{verdict}**, {median} ({lowest} to {highest})."
    )


# Sections


def _served(title: str, lineup: Lineup, section: Section) -> Iterator[str]:
    yield f"## {title}"
    for scenario in lineup.scenarios:
        servers = section.servers(scenario.name)
        if not servers:
            continue
        yield f"### {title}: {scenario.name}"
        rows = [_rate_row(section, scenario.name, server) for server in servers]
        yield _table(["server", "requests/s", "p50 ms", "p99 ms", "keelway does"], rows)
    if servers := section.servers(PROCESS):
        yield f"### {title}: start and memory"
        rows = [_process_row(section, server) for server in servers]
        yield _table(["server", "start, s", "memory when ready, MiB", "after the load, MiB"], rows)
    for server, reason in section.absent.items():
        yield f"{server} did not start here and has no figures:"
        yield "```text\n" + (reason or "no answer in time, and nothing in its log") + "\n```"


def _rate_row(section: Section, scenario: str, server: str) -> list[str]:
    rate = _of(section, scenario, server, "rate")
    waits = [f"{_of(section, scenario, server, name).median:.2f}" for name in ("p50", "p99")]
    ours, theirs = (section.values(scenario, name, "rate") for name in (KEELWAY, server))
    compared = "" if server == KEELWAY or not (ours and theirs) else _ratio(ratios(ours, theirs))
    return [server, f"{rate.median:,.0f} ({rate.lowest:,.0f} to {rate.highest:,.0f})", *waits, compared]


def _process_row(section: Section, server: str) -> list[str]:
    start = _of(section, PROCESS, server, "start")
    found = {
        name: _of(section, PROCESS, server, name).median
        for name in ("ready", "ready_shared", "loaded", "loaded_shared")
    }
    return [
        server,
        f"{start.median:.2f} ({start.lowest:.2f} to {start.highest:.2f})",
        f"{found['ready']:.0f} ({found['ready_shared']:.0f})",
        f"{found['loaded']:.0f} ({found['loaded_shared']:.0f})",
    ]


def _cache(section: Section) -> Iterator[str]:
    yield from _served("Answers from memory", CACHED, section)
    if section.values("key", KEELWAY, "key") is not None:
        key = _of(section, "key", KEELWAY, "key")
        verdict = "met" if key.median <= KEY_MICROSECONDS else "missed"
        yield (
            f"The key of one row of 50 packed features takes {key.median:.2f} µs ({key.lowest:.2f} to "
            f"{key.highest:.2f}); at most {KEY_MICROSECONDS} µs: **{verdict}**."
        )


def _guard(section: Section) -> Iterator[str]:
    yield from _served("Guarding the door", GUARDED, section)
    if any(section.values(scenario, GUARDS, "added") is None for scenario in ARRIVALS):
        return
    yield (
        f"On the line in one process, one row of {FEATURES} packed features, key check, rate limit in memory, "
        "constraints on every feature and anomaly tag together (two classes told apart) add to a request:"
    )
    rows = []
    for scenario, (_, most) in ARRIVALS.items():
        added, on, off = (_of(section, scenario, GUARDS, name) for name in ("added", "on", "off"))
        verdict = "met" if added.median <= most else "missed"
        spans = f"{added.median:.1f} µs ({added.lowest:.1f} to {added.highest:.1f})"
        rows.append(
            [scenario, spans, f"{on.median:.1f} µs", f"{off.median:.1f} µs", f"at most {most:g} µs: **{verdict}**"]
        )
    yield _table(["requests", "added", "with them", "without", "bound"], rows)


def _python(section: Section) -> Iterator[str]:
    yield "## One row: the converted model against scikit-learn"
    rows = []
    for figures in section.figures:
        theirs, ours = figures.values["sklearn"], figures.values["converted"]
        faster = ratios(theirs, ours)
        spans = f"{faster.median:,.0f} × ({faster.lowest:,.0f} to {faster.highest:,.0f})"
        rows.append([figures.scenario, f"{spread(theirs).median:,.0f}", f"{spread(ours).median:.1f}", spans])
    yield _table(["model", "scikit-learn `predict_proba`, µs", "converted, µs", "faster by"], rows)


def _overload(section: Section) -> Iterator[str]:
    """Promises of ``benchmarks.overload``, with what was found."""

    def values(scenario: str, name: str) -> tuple[float, ...]:
        return section.values(scenario, KEELWAY, name) or ()

    full = ratios(values("saturation", "rate"), values("saturation", "capacity"))
    good = ratios(values("overload", "good"), values("overload", "capacity"))
    p99 = spread(values("overload", "p99"))
    capacity, rate = (spread(values("saturation", name)).median for name in ("capacity", "rate"))
    shares = [f"{name} {spread(values('overload', name)).median:.1%}" for name in ("refused", "late", "unsent")]
    yield "## At the limit and beyond"
    yield (
        f"The model does {capacity:,.0f} rows a second in runs of {overload.BATCH}, in a bare loop without a server. "
        f"Served on all cores with one slot, over {overload.SATURATION.connections} connections: {rate:,.0f} requests "
        "a second."
    )
    offered = (
        f"Of {overload.TIMES:g} × as many requests as it can answer, each with {overload.ALLOWED_MS} ms, at least "
        f"{overload.GOODPUT:.0%} of the capacity is answered in time"
    )
    late = f"The 99th percentile of those answers, from when a request was due, is at most {overload.P99_MS:g} ms"
    verdict = "met" if p99.median <= overload.P99_MS else "missed"
    lines = [
        _promise(f"At saturation at least {overload.SATURATED:.0%} of that", full, full.median >= overload.SATURATED),
        _promise(offered, good, good.median >= overload.GOODPUT),
        f"- {late}: **{verdict}**, {p99.median:.1f} ms ({p99.lowest:.1f} to {p99.highest:.1f}).",
        f"- Of all requests: {', '.join(shares)}.",
    ]
    yield "\n".join(lines)


def _promise(what: str, found: Spread, met: bool) -> str:
    return f"- {what}: **{'met' if met else 'missed'}**, {_ratio(found)}."


def _command(section: Section) -> Iterator[str]:
    cpu = _of(section, "help", KEELWAY, "cpu")
    yield "## The command"
    yield f"`keelway --help` takes {cpu.median:.2f} s of CPU ({cpu.lowest:.2f} to {cpu.highest:.2f})."


def _workers(section: Section) -> Iterator[str]:
    yield "## Memory of several workers"
    rows = [
        [
            f"{count}",
            *(f"{_of(section, 'workers', f'{count}, {kind}', 'pss').median:,.0f}" for kind in ("own", "shared")),
        ]
        for count in (1, WORKERS)
    ]
    yield f"An ONNX model of {MEGABYTES} MB of dense weights; MiB of the whole process tree, proportional."
    yield _table(["workers", "weights of their own", "shared (`runtime.share_weights`)"], rows)
    shared = [section.values("workers", f"{count}, shared", "pss") or () for count in (WORKERS, 1)]
    found = ratios(*shared)
    verdict = "met" if found.median <= SHARED_AT_MOST else "missed"
    yield (
        f"{WORKERS} workers that share take {found.median:.2f} × the memory of one; at most {SHARED_AT_MOST:g} ×: "
        f"**{verdict}**."
    )
    if section.values("workers", f"{WORKERS}, shared", "row") is not None:
        row, own = (_of(section, "workers", f"{WORKERS}, shared", name).median for name in ("row", "row_own"))
        yield (
            f"A run of one row takes {row:.1f} ms, and {own:.1f} ms with weights of its own, as measured and logged by "
            "the server."
        )


def _growth(section: Section) -> Iterator[str]:
    requests, before, after = (_of(section, "growth", KEELWAY, name).median for name in ("requests", "before", "after"))
    yield "## Memory over many requests"
    yield (
        f"{requests:,.0f} requests of one row: {before:.1f} MiB before, {after:.1f} MiB after, "
        f"{(after - before) / before * 100:+.2f} %. A tenth as many went before the first figure."
    )


# Where, when and how


def _provenance(section: Section) -> str:
    machine = section.machine
    return (
        f"*Measured {section.measured_at} at commit {section.commit}: {machine.processor}, {machine.cores} cores, "
        f"{machine.memory_gib:g} GiB, {machine.kernel}, {machine.python}; load average {machine.load:.2f} before; "
        f"{section.rounds} round{'s' if section.rounds > 1 else ''} of {section.seconds:g} s.*"
    )


def _settings(sections: Sections) -> Iterator[str]:
    yield "## Servers, versions and settings"
    lines: list[str] = []
    for name, lineup in LINEUPS.items():
        if name not in sections:
            continue
        versions = sections[name].versions
        for server in lineup.servers:
            if server.name in versions:
                line = f"- **{server.name}** ({versions[server.name]}): {server.settings}."
                lines += [] if line in lines else [line]
    for name in ("overload", "python", "command", "workers", "growth"):
        if name in sections:
            lines += [f"- Section `{name}`: {said}." for said in sections[name].versions.values()]
    yield "\n".join(lines)


def _counting() -> str:
    return ", ".join(sorted(server.name for server in GRPC.servers if server.counter))


# Cells


def _of(section: Section, scenario: str, server: str, value: str) -> Spread:
    found = section.values(scenario, server, value)
    if found is None:
        raise KeyError(f"{section.name}: no {value} of {server} in {scenario}")
    return spread(found)


def _ratio(found: Spread) -> str:
    return f"{found.median:.2f} × ({found.lowest:.2f} to {found.highest:.2f})"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    ruler = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ruler, *rows))
