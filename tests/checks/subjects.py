"""A version that is a function, and customers that are known through and through: nothing has to be trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from keelway.checks.asking import Subject
from keelway.checks.case import Case
from keelway.checks.findings import Finding
from keelway.checks.gate import Report, check
from keelway.checks.plan import Plan, parse_plan
from keelway.clock import SystemClock
from keelway.contract.signature import Feature, ModelSignature, pack
from keelway.errors import InvalidInput
from keelway.statistics.estimates import Floats
from keelway.types import TensorSpec

LABELS = ("No", "Yes")

Score = Callable[[pd.DataFrame], Floats]


def customers(rows: int = 4_000, seed: int = 0) -> pd.DataFrame:
    """``age``, ``income`` and ``visits`` are numbers, ``region`` is text, and ``bought`` is drawn with the probability
    that ``truth`` says."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": random.normal(50.0, 12.0, rows),
            "income": random.normal(40.0, 10.0, rows),
            "visits": random.poisson(2.0, rows).astype(float),
            "region": random.choice(["north", "south", "east", "west"], rows),
        }
    )
    return frame.assign(bought=np.where(random.random(rows) < truth(frame), "Yes", "No"))


def truth(frame: pd.DataFrame) -> Floats:
    """The probability of buying: what a perfect model says."""
    odds = -1.5 + 0.05 * (frame["age"] - 50) + 0.06 * (frame["income"] - 40) + 0.3 * (frame["visits"] - 2)
    return 1 / (1 + np.exp(-odds.to_numpy(dtype=float)))


def on_log_odds(change: Callable[[Floats], Floats], of: Score = truth) -> Score:
    def score(frame: pd.DataFrame) -> Floats:
        probabilities = of(frame)
        return 1 / (1 + np.exp(-change(np.log(probabilities / (1 - probabilities)))))

    return score


def noisy(by: float, where: Callable[[pd.DataFrame], Any] = lambda frame: True, seed: int = 1) -> Score:
    """A worse model: what it says moves at random, though always in the same way for the same customer."""

    def score(frame: pd.DataFrame) -> Floats:
        odd = np.array([np.random.default_rng([seed, hash(age) % 2**32]).normal() for age in frame["age"]])
        return on_log_odds(lambda odds: odds + by * odd * np.asarray(where(frame), dtype=float))(frame)

    return score


def subject(
    score: Score = truth,
    features: Sequence[Feature] | None = None,
    *,
    version: str = "1.0.0",
    labels: Sequence[str] = LABELS,
    refuses: Callable[[dict[str, Any]], bool] = lambda row: False,
    answers: Callable[[pd.DataFrame], dict[str, Any]] | None = None,
) -> Subject:
    """A version that answers with ``score``, the probability of Yes, or with what ``answers`` makes of all rows."""
    features = features or (
        *(Feature(name, "FP64") for name in ("age", "income", "visits")),
        Feature("region", "BYTES", nullable=True),
    )
    names = [feature.name for feature in features]
    outputs = (TensorSpec("label", "BYTES", (-1,)), TensorSpec("probabilities", "FP32", (-1, len(labels))))
    task: Any = "classification" if answers is None or labels else "regression"
    signature = ModelSignature(tuple(features), pack(features), outputs, task, tuple(labels), "label", "probabilities")

    def answer(body: bytes) -> bytes:
        rows = [dict(zip(names, row, strict=True)) for row in json.loads(body)["instances"]]
        bad = [place for place, row in enumerate(rows) if refuses(row)]
        if len(bad) == len(rows):
            raise InvalidInput("every row is refused", field="age")
        frame = pd.DataFrame(rows)
        document = answers(frame) if answers else classified(score(frame), labels)
        for place in bad:
            for values in (document["predictions"], document.get("probabilities", [])):
                if values:
                    values[place] = None
        document["errors"] = [{"row": place, "message": "refused", "field": "age"} for place in bad]
        return json.dumps(document).encode()

    return Subject("leads", version, "sha256:" + version[0] * 64, signature, answer)


def classified(probabilities: Floats, labels: Sequence[str] = LABELS) -> dict[str, Any]:
    return {
        "predictions": [labels[int(p > 0.5)] for p in probabilities],
        "labels": list(labels),
        "probabilities": [[1 - p, p] for p in probabilities.tolist()],
    }


def checked(
    new: Subject,
    frame: pd.DataFrame | None = None,
    plan: str | Plan = "",
    *,
    old: Subject | None = None,
    train: pd.DataFrame | None = None,
    target: str = "bought",
) -> Report:
    frame = customers() if frame is None else frame
    made = parse_plan(plan) if isinstance(plan, str) else plan
    return check(Case(new, frame, made, target, train, old), SystemClock())


def found(report: Report, family: str, name: str = "", *, number: int = 0) -> Finding:
    """The finding of ``family`` and no slice whose name begins with ``name``; ``number`` counts from 0."""
    fitting = [f for f in report.findings if f.family == family and f.name.startswith(name) and not f.slice]
    assert len(fitting) > number, [f.name for f in report.findings if f.family == family]
    return fitting[number]


def failures(report: Report) -> set[str]:
    """The families in which something failed."""
    return {finding.family for finding in report.findings if finding.verdict == "failed"}
