"""Categories and patterns of tensors of text, per column. Called by ``validation.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keelway.contract.baseline import ObservedFeature
from keelway.contract.constraints import Constraint
from keelway.contract.patterns import Pattern
from keelway.contract.signature import Feature
from keelway.errors import InvalidInput
from keelway.guard.numbers import Limits
from keelway.types import Array, TensorSpec


class TextCheck:
    """Categories and patterns of a tensor of text."""

    def __init__(self, spec: TensorSpec, columns: Sequence[Feature], limits: Limits) -> None:
        known = [limits.of_feature(column.name) for column in columns]
        self._columns = [_TextColumn(column, *one) for column, one in zip(columns, known, strict=True)]

    def passes(self, array: Array) -> bool:
        """Whether every value is a text that no list or pattern says anything about."""
        columns = self._columns
        if len(columns) == 1:
            return all(map(columns[0].is_plain, array.ravel().tolist()))
        return all(column.is_plain(value) for row in array.tolist() for value, column in zip(row, columns, strict=True))

    def inspect(self, rows: Array, errors: dict[int, InvalidInput], tags: list[str]) -> None:
        """Add the first error of each bad row to ``errors``, and the tags of the batch to ``tags``."""
        columns = self._columns if len(self._columns) > 1 else self._columns * rows.shape[1]
        for row, values in enumerate(rows.tolist()):
            for column, value in zip(columns, values, strict=True):
                column.inspect(row, _text(value), errors, tags)
        for column, texts in zip(columns, rows.T.tolist(), strict=True):
            if column.seen and not column.seen.issuperset(_text(value) for value in texts if value is not None):
                tags.append(f"unseen:{column.name}")


class _TextColumn:
    """The rules of one feature."""

    def __init__(self, feature: Feature, declared: Constraint, observed: ObservedFeature) -> None:
        self.name = feature.name
        self.seen = frozenset() if observed.categories_cut else frozenset(observed.categories)
        self._nullable = feature.nullable
        self._declared = declared
        self._categories = frozenset(declared.categories)
        self._pattern = Pattern(declared.pattern, feature.name) if declared.pattern else None
        # What needs no second look: a text that is in every list there is, or any text where there is none.
        lists = [one for one in (self._categories, self.seen) if one]
        self._plain: frozenset[str] | None = frozenset.intersection(*lists) if lists else None
        if self._plain is not None and self._pattern is not None:
            self._plain = frozenset(filter(self._pattern.matches, self._plain))

    def is_plain(self, value: Any) -> bool:
        # Bytes are looked at only where something says what they may be: a picture is not worth decoding as text.
        if self._plain is not None:
            return type(value) is str and value in self._plain
        if self._pattern is not None:
            return type(value) is str and self._pattern.matches(value)
        return type(value) is str or type(value) is bytes

    def inspect(self, row: int, text: str | None, errors: dict[int, InvalidInput], tags: list[str]) -> None:
        problem = self._problem(text)
        if problem is None:
            return
        if self._declared.on_violation == "flag" and not (text is None and not self._nullable):
            tags.append(f"outside:{self.name}")
        else:
            errors.setdefault(row, InvalidInput(f"{self.name!r} {problem}", field=self.name))

    def _problem(self, text: str | None) -> str | None:
        if text is None:
            return None if self._nullable and self._declared.nullable else "is missing and may not be"
        if self._categories and text not in self._categories:
            return "is not one of its declared categories"
        if self._pattern is not None and not self._pattern.matches(text):
            return "does not match its declared pattern"
        return None


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return bytes(value).decode(errors="replace")
