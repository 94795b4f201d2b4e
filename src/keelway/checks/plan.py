"""What is checked, as people write it: a small TOML file. Pure: text in, a plan out.

    positive = "Yes"

    [metrics]
    roc_auc = 0.70

    [champion]
    margin = 0.02

    [slices]
    columns = ["region"]

What is left out has the defaults below, and a family whose bounds only a person can know is then not checked.
"""

from __future__ import annotations

import tomllib
from typing import Any, Literal

import msgspec

from keelway.errors import InvalidInput

_HINT = "see docs/how-to/check-a-model.md for how it is written"


class ChampionRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much worse than the version it is compared with a new one may be: ``margin`` of a score such as ``roc_auc``,
    or of a loss relative to that of the other (0.02: two per cent more). ``metric`` empty is that of the task."""

    metric: str = ""
    margin: float = 0.02
    slice_margin: float = 0.10


class SliceRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Slices by ``columns`` of the sample, features or not: one for each value, or ``bins`` groups of equally many rows
    where numbers have more values. Smaller ones than ``min_rows`` are left out, and said. ``metrics`` are bounds as in
    the whole. ``prove``: what cannot be decided about a slice is then no pass."""

    columns: tuple[str, ...] = ()
    bins: int = 4
    min_rows: int = 100
    metrics: dict[str, float] = {}
    prove: bool = False


class CalibrationRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of observed by expected events, and of the slope of recalibration; both are 1 of perfect probabilities."""

    ratio: tuple[float, float] = (0.67, 1.5)
    slope: tuple[float, float] = (0.5, 2.0)


class RobustnessRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``noise``: standard deviations of each number added to it at random. ``missing``: the share of values taken away
    where they may be missing. The metric may lose ``margin``, as in ``ChampionRule``; of a number, errors may grow by
    that share of a constant answer's. ``exclude`` names features that are left alone, such as codes."""

    noise: float = 0.01
    missing: float = 0.01
    margin: float = 0.02
    exclude: tuple[str, ...] = ()


class Invariance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer does not depend on ``feature``: set to each of ``values``, or else shuffled among the rows, it moves
    no probability by more than ``tolerance`` (of a number: that many standard deviations of the answers), but in a
    share of ``at_most`` of rows."""

    feature: str
    values: tuple[str | int | float | bool, ...] = ()
    tolerance: float = 0.01
    at_most: float = 0.02


class Direction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With ``change`` added to ``feature`` the score, or the number, does not move against what is expected, by more
    than ``tolerance``, but in a share of ``at_most`` of rows."""

    feature: str
    change: float
    expect: Literal["increase", "decrease"]
    tolerance: float = 1e-6
    at_most: float = 0.05


class Budgets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``latency_ms`` of one row, kept in a share of ``quantile`` of requests on the machine that checks; ``size_mb`` of
    the files of the version, in millions of bytes. ``None``: not checked."""

    latency_ms: float | None = None
    quantile: float = 0.95
    size_mb: float | None = None


class LeakageRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``single_feature``: the share of the model's score at which one feature alone is suspect. ``duplicates``: the
    share of test rows that may be among the training rows. ``accept`` names features that a person has looked at."""

    single_feature: float = 0.98
    duplicates: float = 0.01
    accept: tuple[str, ...] = ()


class SkewRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``column`` of the sample holds what the model said where it was trained: the probability of the positive class,
    or the predicted value. What is served differs by ``tolerance`` at most, of a number relative to its own size."""

    column: str = ""
    tolerance: float = 1e-4


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``alpha`` bounds the probability of either error: see ``keelway.checks.gate``. ``positive`` is the class whose
    probability is the score of two classes; empty is the second label. ``metrics``: a score is at least, and a loss at
    most, what stands there. ``declared`` are the families that the file names: they have to be proved."""

    alpha: float = 0.05
    seed: int = 0
    positive: str | int | float | bool = ""
    metrics: dict[str, float] = {}
    champion: ChampionRule = ChampionRule()
    slices: SliceRule = SliceRule()
    calibration: CalibrationRule = CalibrationRule()
    robustness: RobustnessRule = RobustnessRule()
    invariance: tuple[Invariance, ...] = ()
    direction: tuple[Direction, ...] = ()
    budgets: Budgets = Budgets()
    leakage: LeakageRule = LeakageRule()
    skew: SkewRule = SkewRule()
    declared: frozenset[str] = frozenset()


def parse_plan(text: str) -> Plan:
    """The plan in ``text``. Raises ``InvalidInput`` naming what cannot be read."""
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(f"the checks are not valid TOML: {error}", hint=_HINT) from None
    if "declared" in document:
        raise InvalidInput("the checks cannot be read: 'declared' is no part of them", hint=_HINT)
    try:
        plan = msgspec.convert({**document, "declared": list(document)}, Plan)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the checks cannot be read: {error}", hint=_HINT) from None
    _check_numbers(plan)
    return plan


def _check_numbers(plan: Plan) -> None:
    """What would be no test, or one that nothing can pass."""
    shares = {
        "alpha": plan.alpha,
        "budgets.quantile": plan.budgets.quantile,
        **{f"invariance {rule.feature}.at_most": rule.at_most for rule in plan.invariance},
        **{f"direction {rule.feature}.at_most": rule.at_most for rule in plan.direction},
    }
    for name, share in shares.items():
        if not 0 < share < 1:
            raise InvalidInput(f"{name} must be above 0 and below 1", field=name, hint=_HINT)
    if plan.alpha > 0.5:
        raise InvalidInput("alpha above 0.5 decides by less than chance", field="alpha", hint="0.05 is usual")
    if plan.slices.bins < 1:
        raise InvalidInput("slices.bins must be 1 or more", field="slices.bins", hint=_HINT)
    negative = {
        "champion.margin": plan.champion.margin,
        "champion.slice_margin": plan.champion.slice_margin,
        "robustness.margin": plan.robustness.margin,
        "robustness.noise": plan.robustness.noise,
    }
    for name, number in negative.items():
        if number < 0:
            raise InvalidInput(f"{name} must not be negative", field=name, hint=_HINT)
    for name, (low, high) in (("ratio", plan.calibration.ratio), ("slope", plan.calibration.slope)):
        if not low < 1 < high:
            raise InvalidInput(f"calibration.{name} must hold 1 between its ends", field=f"calibration.{name}")
