"""What the families judge: a version and perhaps another to hold it against, their answers, and the truth.

Answers are asked for once, here, and shared by the families; those that change rows ask again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from keelway.checks.asking import Answers, Subject, ask
from keelway.checks.plan import Plan
from keelway.checks.scoring import Bools, Scored, main_metric, scored, usable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Case:
    """``frame`` holds the rows to judge by, the target and all, (rows, columns); ``target`` is empty where no truth is
    known. ``train`` are the rows that the version was trained on. ``champion`` is what it is compared with."""

    subject: Subject
    frame: pd.DataFrame
    plan: Plan
    target: str = ""
    train: pd.DataFrame | None = None
    champion: Subject | None = None

    @cached_property
    def answers(self) -> Answers:
        return ask(self.subject, self.frame)

    @cached_property
    def champions_answers(self) -> Answers | None:
        return None if self.champion is None else ask(self.champion, self.frame)

    @cached_property
    def everything(self) -> Scored | None:
        """All rows, those too that were refused; ``None`` without a truth."""
        return self._scored(self.answers)

    @cached_property
    def usable(self) -> Bools:
        """Rows that both versions have answered, and whose truth is known."""
        if self.everything is None:
            return ~self.answers.refused
        mask = usable(self.answers, self.everything)
        if self.champions_answers is not None:
            others = self._scored(self.champions_answers)
            mask &= ~self.champions_answers.refused if others is None else usable(self.champions_answers, others)
        return mask

    @cached_property
    def scored(self) -> Scored | None:
        """The usable rows as the version has answered them."""
        return None if self.everything is None else self.everything.take(self.usable)

    @cached_property
    def champions(self) -> Scored | None:
        """The same rows as the other version has answered them."""
        if self.champions_answers is None:
            return None
        others = self._scored(self.champions_answers)
        return None if others is None else others.take(self.usable)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The usable rows of the sample."""
        return self.frame[self.usable]

    @property
    def classifies(self) -> bool:
        return self.subject.signature.task == "classification"

    @property
    def metric(self) -> str:
        """By what versions are compared; empty without a truth."""
        return self.plan.champion.metric or ("" if self.scored is None else main_metric(self.scored))

    @cached_property
    def positive(self) -> Any:
        """The class that counts as the event, of both versions: what is declared, else the last of this one's two.
        Empty where it does not matter. The order of labels may be another in the other version."""
        labels = self.answers.labels
        return labels[-1] if self.plan.positive == "" and len(labels) == 2 else self.plan.positive

    @property
    def random(self) -> np.random.Generator:
        """A generator of its own for whoever asks, the same in every run."""
        return np.random.default_rng(self.plan.seed)

    def ask_again(self, rows: pd.DataFrame) -> Scored | None:
        """``rows``, made of the usable ones and in their order, as the version answers them; ``None`` if it refuses one
        that it has answered before, or answers it with no number."""
        answers = ask(self.subject, rows)
        again = self._scored(answers, rows)
        return again if again is not None and usable(answers, again).all() else None

    def _scored(self, answers: Answers, frame: pd.DataFrame | None = None) -> Scored | None:
        if not self.target:
            return None
        column: Any = (self.frame if frame is None else frame)[self.target]
        truth = column.astype(object).where(column.notna(), None).tolist()
        return scored(answers, truth, self.positive, classifies=self.classifies)
