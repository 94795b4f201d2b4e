"""What it costs to guard the door: keelway with everything of it on, and with everything off that can be.

Each server has a registry of its own, since what is declared of a model stands there.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import bodies, served
from benchmarks.bodies import Body, Format
from benchmarks.lineup import KEELWAY, OWN, SERVE, Lineup, Scenario, Server
from benchmarks.models import FOREST, KEELWAY_COMMAND, Model, make_models
from benchmarks.results import Notebook
from benchmarks.served import Bench

OFF = "keelway, nothing on"
#: Beyond what is asked for here: what is measured is the counting, not the refusal.
_RULES = "1000000000 requests/minute per address, 1000000000 rows/minute per principal and model"
_SECRET = "a secret that is good for nothing but a benchmark"
_DECLARED = '[anomaly]\naction = "tag"\n{constraints}'
_OFF = '[anomaly]\naction = "off"\n'
_REGISTRIES = ((KEELWAY, "guarded", _DECLARED), (OFF, "open", _OFF))

GUARDED = Lineup(
    servers=(
        Server(
            KEELWAY,
            SERVE,
            bodies.V2,
            packages=OWN,
            settings="every default (runs shared in a turn, anomalies tagged), an API key, two rules of rate limits, a "
            "limit of requests at once by principal, and constraints on all 30 features. The cache is off, since all "
            "requests are the same",
            environment=(
                ("KEELWAY_AUTH_KEY_SECRET", _SECRET),
                ("KEELWAY_RATE_LIMITS_RULES", _RULES),
                ("KEELWAY_LIMITS_MAX_IN_FLIGHT_PER_PRINCIPAL", "1000"),
            ),
        ),
        Server(
            OFF,
            SERVE,
            bodies.V2,
            packages=OWN,
            settings="no credentials, limits or constraints, anomalies not looked for, no shared runs, no adaptive "
            "limit",
            environment=(
                ("KEELWAY_RUNTIME_MICRO_BATCH_ROWS", "1"),
                ("KEELWAY_LIMITS_ADAPTIVE_CONCURRENCY", "false"),
            ),
        ),
    ),
    scenarios=(Scenario(1, 1), Scenario(1, 16), Scenario(1, 64)),
)


def measure(bench: Bench, lineup: Lineup) -> tuple[Notebook, dict[str, str], dict[str, str]]:
    """``lineup``, or a part of ``GUARDED``, as ``served.measure`` measures: each server with its own registry."""
    registries = {name: _registry(bench.scratch / folder, policy) for name, folder, policy in _REGISTRIES}
    key = _key(registries[KEELWAY].registry)
    servers = [
        replace(one, format=_with_key(one.format, key)) if one.name == KEELWAY else one for one in lineup.servers
    ]
    notebook, versions = Notebook(), dict[str, str]()
    for turn in range(bench.rounds):
        for one in served.rotated(servers, turn):
            alone = Lineup((one,), lineup.scenarios, lineup.model)
            once = replace(bench, models={lineup.model: registries[one.name]}, rounds=1)
            found, known, _ = served.measure(alone, once)
            for figures in found.figures():
                notebook.add(figures.scenario, figures.server, **{name: one for name, (one,) in figures.values.items()})
            versions |= known
    return notebook, versions, {}


def _registry(folder: Path, policy: str) -> Model:
    """The forest in a registry of its own, with ``policy`` declared; ``{constraints}`` in it are those of all features,
    between bounds that hold every row."""
    model = make_models(folder, (FOREST,))[FOREST]
    constraints = "".join(f"[features.{name}]\nminimum = -1e6\nmaximum = 1e6\n" for name in model.rows)
    (model.registry / "policy.toml").write_text(policy.format(constraints=constraints))
    _keelway(model.registry, "constraints", "edit", FOREST, "--file", "policy.toml", "--yes", "--why", "to measure it")
    return model


def _key(registry: Path) -> str:
    """A new API key for all models, as often as this is measured."""
    count = sum(1 for line in _keelway(registry, "keys", "list").splitlines() if line)
    return _keelway(registry, "keys", "create", f"bench-{count}", "--scope", "predict:*").strip()


def _keelway(registry: Path, *words: str) -> str:
    done = subprocess.run(
        [str(KEELWAY_COMMAND), *words],
        cwd=registry,
        check=True,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        env={"KEELWAY_AUTH_KEY_SECRET": _SECRET, "PATH": "/usr/bin:/bin"},
    )
    return done.stdout


def _with_key(format: Format, key: str) -> Format:
    def write(rows: object) -> Body:
        body = format.write(rows)  # type: ignore[arg-type]
        return Body(body.content, {**body.headers, "X-API-Key": key})

    return Format(write, format.read)
