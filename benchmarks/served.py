"""Runs a line-up: starts each server, checks one answer, measures every scenario, weighs it; round after round.

Servers take turns within a round, and each round begins with another, so that a machine that grows slower is slow for
all. A peer that does not start is noted with the reason; a wrong answer or a failed request ends the run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import bodies, peers
from benchmarks.lineup import KEELWAY, Counter, Lineup, Scenario, Server
from benchmarks.load import Load, Refused, h2load, wrk
from benchmarks.models import KEELWAY_COMMAND, Model
from benchmarks.peers import ROOT
from benchmarks.processes import NotStarted, Running, cores, server, weight
from benchmarks.results import PROCESS, Notebook

TOLERANCE = 1e-5
COUNTED_REQUESTS, COUNTED_CONNECTIONS = 400, 4


class Reply(NamedTuple):
    content: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Bench:
    """Where the models lie, what the servers write, and how long each measurement takes."""

    models: Mapping[str, Model]
    scratch: Path
    rounds: int
    seconds: float


def measure(lineup: Lineup, bench: Bench) -> tuple[Notebook, dict[str, str], dict[str, str]]:
    """The values of every scenario, the versions of every server, and why a server is absent.

    Values are ``rate`` (requests a second), ``p50`` and ``p99`` (milliseconds); under the scenario ``process``:
    ``start`` (seconds), ``ready`` and ``loaded`` (MiB resident), ``ready_shared`` and ``loaded_shared`` (MiB
    proportional)."""
    notebook, absent, versions = Notebook(), dict[str, str](), dict[str, str]()
    for turn in range(bench.rounds):
        for one in rotated(lineup.servers, turn):
            if one.name in absent:
                continue
            print(f"round {turn + 1} of {bench.rounds}: {one.name}", file=sys.stderr, flush=True)
            try:
                python = peers.environment(one.peer) if one.peer else Path(sys.executable)
                versions[one.name] = peers.versions(python, one.packages)
                _measure_one(one, python, lineup, bench, notebook)
            except (NotStarted, peers.NotMade) as error:
                if one.required or turn:
                    raise SystemExit(f"bench: {one.name} did not start:\n{error}") from None
                absent[one.name] = str(error).replace(f"{ROOT}/", "")
                print(f"{one.name} is left out:\n{error}", file=sys.stderr, flush=True)
            except Refused as error:
                raise SystemExit(f"bench: {one.name}: {error}") from None
    return notebook, versions, absent


def rotated(servers: Sequence[Server], turn: int) -> list[Server]:
    start = turn % len(servers)
    return [*servers[start:], *servers[:start]]


def _measure_one(one: Server, python: Path, lineup: Lineup, bench: Bench, notebook: Notebook) -> None:
    model = bench.models[lineup.model]
    with started(one, python, model, bench.scratch) as running:
        ready = weight(running.process)
        asked = [scenario for scenario in lineup.scenarios if scenario.rows <= one.most_rows]
        replies = {rows: check(one, running, model, rows) for rows in sorted({scenario.rows for scenario in asked})}
        check_count(one, running, model, bench, replies[1])
        check_header(one, running, model)
        warm = Scenario(1, min(16, max(scenario.connections for scenario in asked)))
        apply(one, running, model, bench, warm, replies[1], seconds=min(1.0, bench.seconds))
        for scenario in asked:
            load = apply(one, running, model, bench, scenario, replies[scenario.rows], bench.seconds)
            notebook.add(scenario.name, one.name, rate=load.rate, p50=load.p50, p99=load.p99)
        loaded = weight(running.process)
    notebook.add(
        PROCESS,
        one.name,
        start=running.started_in,
        ready=ready.resident,
        ready_shared=ready.proportional,
        loaded=loaded.resident,
        loaded_shared=loaded.proportional,
    )


@contextmanager
def started(
    one: Server,
    python: Path,
    model: Model,
    scratch: Path,
    on: str = "",
    settings: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """``one``, running in a folder of its own (keelway: beside its registry) until it has given a good answer. ``on``
    other cores than the server's one, and with ``settings`` in its environment, where that is said."""
    words = {"python": str(python), "keelway": str(KEELWAY_COMMAND)}
    command = [words.get(word.strip("{}"), word) for word in one.command]
    folder = model.registry if "{keelway}" in one.command else scratch / "".join(filter(str.isalnum, one.name))
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"BENCH_MODEL": str(model.onnx), "BENCH_PIPELINE": str(model.pipeline), "PYTHONPATH": str(ROOT)}
    environment |= {"BENTOML_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", **dict(one.environment)}
    environment |= settings or {}
    if one.needs_library_path:
        environment |= peers.library_path(python)
    body = one.format.write(model.rows.iloc[:1])

    def answers(ports: Mapping[str, int]) -> bool:
        try:
            ask(one, ports, body)
        except (OSError, grpc.RpcError):
            return False
        return True

    with server(command, on or cores()[0], folder, environment, answers) as running:
        yield running


def ask(one: Server, ports: Mapping[str, int], body: bodies.Body) -> Reply:
    """One answer, over a connection of its own; gRPC by grpcio, which sees the status. Raises what the client does."""
    if one.is_grpc:
        with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            call = channel.unary_unary(one.path)
            return Reply(call(body.content, timeout=5), {})
    request = Request(f"http://127.0.0.1:{ports['http']}{one.path}", body.content, dict(body.headers))
    with urlopen(request, timeout=5) as answer:
        return Reply(answer.read(), {name.lower(): value for name, value in answer.headers.items()})


def check(one: Server, running: Running, model: Model, rows: int) -> Reply:
    """A reply whose probabilities are the trained model's own. ``Refused`` if they are not."""
    asked = model.rows.iloc[:rows]
    try:
        reply = ask(one, running.ports, one.format.write(asked))
    except (HTTPError, grpc.RpcError) as error:
        raise Refused(f"{rows} rows were not answered: {error}") from None
    if one.format.read is None:
        return reply
    found, expected = one.format.read(*reply), model.probabilities[:rows]
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=TOLERANCE):
        raise Refused(f"the answer to {rows} rows is not the model's own within {TOLERANCE}")
    return reply


def check_count(one: Server, running: Running, model: Model, bench: Bench, reply: Reply) -> None:
    """For gRPC: what h2load counts as successes is what the server itself counts. ``Refused`` otherwise."""
    if not one.is_grpc or one.counter is None:
        return
    before = counted(one.counter, running)
    done = apply(one, running, model, bench, Scenario(1, COUNTED_CONNECTIONS), reply, 30, COUNTED_REQUESTS)
    grown = counted(one.counter, running) - before
    if grown != done.requests:
        raise Refused(f"h2load counted {done.requests} successes, the server {grown:g}")


def check_header(one: Server, running: Running, model: Model) -> None:
    """A reply to a body that was sent before carries the header that it has to. ``Refused`` otherwise."""
    if one.says is not None:
        name, value = one.says
        found = ask(one, running.ports, one.format.write(model.rows.iloc[:1])).headers.get(name)
        if found != value:
            raise Refused(f"a reply says {name}: {found}, and not {value}")


def counted(counter: Counter, running: Running) -> float:
    """The server's own count of successes now; 0 before the first."""
    with urlopen(f"http://127.0.0.1:{running.ports[counter.port]}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    # The parser gives a counter that lacks the usual ending one.
    names = {counter.metric, f"{counter.metric}_total"}
    samples = [sample for family in families for sample in family.samples if sample.name in names]
    return sum(sample.value for sample in samples if counter.labels <= set(sample.labels.items()))


def apply(
    one: Server,
    running: Running,
    model: Model,
    bench: Bench,
    scenario: Scenario,
    reply: Reply,
    seconds: float,
    requests: int | None = None,
) -> Load:
    """Load on ``running`` as ``scenario`` says, for ``seconds`` or, over gRPC, exactly ``requests`` times."""
    body = one.format.write(model.rows.iloc[: scenario.rows])
    file, core = bench.scratch / "body", cores()[1]
    if one.is_grpc:
        file.write_bytes(bodies.framed(body.content))
        url, size = f"http://127.0.0.1:{running.ports['grpc']}{one.path}", len(reply.content)
        return h2load(
            url, file, body.headers, scenario.connections, seconds, core, bench.scratch, size, requests=requests
        )
    file.write_bytes(body.content)
    url = f"http://127.0.0.1:{running.ports['http']}{one.path}"
    return wrk(url, file, body.headers, scenario.connections, seconds, core, bench.scratch)


def keelway_of(lineup: Lineup) -> Server:
    return next(one for one in lineup.servers if one.name == KEELWAY)
