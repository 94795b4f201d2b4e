"""Rows that a sample does not hold and a proof must: resampled, missing, unseen, extreme, and beside decision steps.

Everything is drawn from one seed, so that the same model and sample are always proved on the same rows. A step is
found without looking into the model: two rows that differ in one number and in their answer are bisected on the grid of
float32 until they are neighbours there. A converted model that rounds otherwise answers otherwise on one side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from keelway.publish.rows import Rows, joined
from keelway.types import Array

#: At least this many perturbed rows are made.
ROWS: Final = 5_000

#: Pairs of rows bisected between two labels, and between two values.
_PAIRS: Final = 500

#: Nodes of trees whose thresholds are tried, three float32 values around each.
NODES: Final = 1_000

_SPECIAL: Final = 500

#: Asks the original: what it answers, [n] or [n, k], and which rows it accepts, [n].
Ask = Callable[[Rows], tuple[Array, Array]]


class Nodes(NamedTuple):
    """Nodes of trees: for each a row of the sample (position), a column (position) and a threshold, all [n]."""

    rows: Array
    columns: Array
    thresholds: Array


class Perturbation:
    """Draws rows around ``sample``. ``nullable`` names the columns in which a value may be missing."""

    def __init__(self, sample: Rows, nullable: frozenset[str], seed: int = 0) -> None:
        self._sample = sample
        self._nullable = [name for name in sample.columns if name in nullable]
        self._numbers = [name for name in sample.columns if sample.is_number(name)]
        self._texts = [name for name in sample.columns if sample.is_text(name)]
        self._random = np.random.default_rng(seed)

    def rows(self, labels: Ask | None, values: Ask, nodes: Nodes | None = None) -> list[tuple[str, Rows]]:
        """At least ``ROWS`` rows by kind. ``labels`` and ``values`` ask the original; ``nodes`` are of trees that read
        the sample's columns directly."""
        resampled = self.resampled(3 * _SPECIAL)
        parts = [
            ("resampled", resampled),
            ("missing values", self.missing(_SPECIAL)),
            ("unseen values", self.unseen(_SPECIAL)),
            ("extreme values", self.extreme(_SPECIAL)),
        ]
        if nodes is not None:
            parts.append(("beside a threshold", self.beside(nodes)))
        # Numbers arrive as float32, so only on its grid can two models be told apart beside a step.
        pool = _on_grid(joined([self._sample, resampled]))
        if labels is not None:
            parts.append(("beside a step between labels", self.label_steps(pool, labels)))
        parts.append(("beside a step between values", self.value_steps(pool, values)))
        rest = ROWS - sum(len(part) for _, part in parts)
        if rest > 0:
            parts.insert(0, ("resampled", self.resampled(rest)))
        return parts

    def resampled(self, count: int) -> Rows:
        """Sample rows in which some columns, from one to all, hold the value of another row."""
        base = self._base(count)
        share = self._random.random(count)
        for name in base.columns:
            changed = self._random.random(count) <= share
            base.columns[name][changed] = self._drawn(name, int(changed.sum()))
        return base

    def missing(self, count: int) -> Rows:
        """Rows with missing values in nullable columns; none if no column is nullable."""
        base = self._base(count if self._nullable else 0)
        for name in self._nullable:
            gone = self._random.random(len(base)) < 0.3
            base.columns[name][gone] = None if self._sample.is_text(name) else np.nan
        return base

    def unseen(self, count: int) -> Rows:
        """Rows with categories the sample does not hold: new texts, and numbers between and beyond those of columns
        that hold few different ones."""
        few = {name: values for name in self._numbers if len(values := self._distinct(name)) <= 50}
        base = self._base(count if self._texts or few else 0)
        for name in self._texts:
            changed = self._random.random(len(base)) < 0.3
            base.columns[name][changed] = self._random.choice(self._new_texts(name), int(changed.sum()))
        for name, values in few.items():
            changed = self._random.random(len(base)) < 0.15
            near = np.concatenate([values + 0.5, values + 1e-3, [values[0] - 1, values[-1] + 1, values[-1] + 1000]])
            base.columns[name][changed] = self._random.choice(_single(near), int(changed.sum()))
        return base

    def extreme(self, count: int) -> Rows:
        """Rows with one number far outside the sample, zero, or next to nothing."""
        base = self._base(count if self._numbers else 0)
        for position in range(len(base)):
            name = self._numbers[position % len(self._numbers)]
            values = self._distinct(name)
            low, high = (values[0], values[-1]) if len(values) else (0.0, 1.0)
            width = max(high - low, 1.0)
            choices = [low - width, high + width, low - 100 * width, high + 100 * width, 0.0, -0.0, 1e-30, -1e-30]
            choices += [1e6, -1e6, 1e12, -1e12, 3e38, -3e38]
            base.columns[name][position] = _single(np.array(choices))[self._random.integers(len(choices))]
        return base

    def label_steps(self, pool: Rows, ask: Ask) -> Rows:
        """Pairs of rows that differ in one value and in their label; where it is a number, neighbours in float32."""
        labels, accepted = ask(pool)
        pool, labels = pool.take(accepted), labels[accepted]
        classes = np.unique(labels)
        if labels.ndim != 1 or len(classes) < 2:
            return pool.take(np.zeros(0, np.int64))
        members = [np.flatnonzero(labels == label) for label in classes]
        one, other = self._two_of(len(classes), _PAIRS)
        first = np.array([self._random.choice(members[label]) for label in one])
        second = np.array([self._random.choice(members[label]) for label in other])
        before, after, column = self._one_column_apart(pool.take(first), pool.take(second), ask)
        return self._bisected(before, after, column, ask)

    def value_steps(self, pool: Rows, ask: Ask) -> Rows:
        """The same between values, for pairs that differ in one number."""
        if not self._numbers:
            return pool.take(np.zeros(0, np.int64))
        before = pool.take(self._random.integers(len(pool), size=4 * _PAIRS))
        after = pool.take(self._random.integers(len(pool), size=4 * _PAIRS))
        names = list(pool.columns)
        column = np.array([names.index(name) for name in self._random.choice(self._numbers, len(before))])
        after = _with_column_of(before, after, column)
        (one, here), (other, there) = ask(before), ask(after)
        differ = np.flatnonzero(here & there & _differ(one, other))[:_PAIRS]
        return self._bisected(before.take(differ), after.take(differ), column[differ], ask)

    def beside(self, nodes: Nodes) -> Rows:
        """Rows that reach a node of a tree, their value there its threshold in float32, or a neighbour of that."""
        base = _on_grid(self._sample.take(np.repeat(nodes.rows, 3)))
        near = nodes.thresholds.astype(np.float32)
        with np.errstate(over="ignore"):  # beside the largest number of all lies an infinity
            around = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
        values = np.stack(around, axis=1).ravel().astype(np.float64)
        return _with_values(base, list(base.columns), np.repeat(nodes.columns, 3), values)

    # Drawing

    def _base(self, count: int) -> Rows:
        return self._sample.take(self._random.integers(len(self._sample), size=count))

    def _drawn(self, name: str, count: int) -> Array:
        return self._sample.columns[name][self._random.integers(len(self._sample), size=count)]

    def _distinct(self, name: str) -> Array:
        values = self._sample.columns[name]
        return np.unique(values[np.isfinite(values)])

    def _new_texts(self, name: str) -> Array:
        known = {value for value in self._sample.columns[name] if value is not None}
        new = ["unseen", "?", " ", "0", "nan", "None", "zzzz" * 8, "Ünïcödé"]
        new += [value.upper() for value in list(known)[:5]] + [f"{value} " for value in list(known)[:5]]
        # An empty text is how a missing one arrives, where one may be missing.
        new += [] if name in self._nullable else [""]
        return np.array([value for value in dict.fromkeys(new) if value not in known], dtype=object)

    def _two_of(self, count: int, pairs: int) -> tuple[Array, Array]:
        one = self._random.integers(count, size=pairs)
        return one, (one + self._random.integers(1, count, size=pairs)) % count

    # Steps

    def _one_column_apart(self, first: Rows, second: Rows, ask: Ask) -> tuple[Rows, Rows, Array]:
        """From pairs of rows with different labels to pairs that differ in one column only, labels still different:
        the columns of ``first`` are replaced by those of ``second`` in a random order until the label changes."""
        names = list(first.columns)
        pairs = len(first)
        turn = np.argsort(self._random.random((pairs, len(names))), axis=1).argsort(axis=1)  # when each column changes

        def mixed(changed: Array) -> Rows:
            columns = {
                name: np.where(turn[:, position] < changed, second.columns[name], first.columns[name])
                for position, name in enumerate(names)
            }
            return Rows(columns, first.dtypes)

        start, usable = ask(first)
        low, high = np.zeros(pairs, np.int64), np.full(pairs, len(names))
        while (high - low > 1).any():
            middle = (low + high) // 2
            found, accepted = ask(mixed(middle))
            same = found == start
            usable &= accepted
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        column = np.argmax(turn == low[:, None], axis=1)
        return mixed(low).take(usable), mixed(high).take(usable), column[usable]

    def _bisected(self, before: Rows, after: Rows, column: Array, ask: Ask) -> Rows:
        """Both rows of each pair, moved towards each other in ``column`` until they are neighbours in float32.

        Pairs that differ in something else than two present numbers are kept as they are."""
        if not len(before):
            return before
        names = list(before.columns)
        low, high = (_values_at(rows, names, column) for rows in (before, after))
        movable = np.isfinite(low) & np.isfinite(high)
        kept = joined([before.take(~movable), after.take(~movable)])
        before, after, column = before.take(movable), after.take(movable), column[movable]
        left, right = _to_grid(low[movable]), _to_grid(high[movable])
        if not len(before):
            return kept
        start, usable = ask(_with_values(before, names, column, _from_grid(left)))
        for _ in range(33):  # the grid of float32 has fewer than 2**32 steps
            middle = left + (right - left) // 2
            found, accepted = ask(_with_values(before, names, column, _from_grid(middle)))
            moved = _differ(start, found)
            left, right = np.where(moved, left, middle), np.where(moved, middle, right)
            # What the original refuses in between has no step that can be compared: such pairs are given up.
            usable &= accepted
            if not usable.all():
                before, column, start = before.take(usable), column[usable], start[usable]
                left, right, usable = left[usable], right[usable], usable[usable]
            if not len(before):
                return kept
        sides = [_with_values(before, names, column, _from_grid(side)) for side in (left, right)]
        return joined([kept, *sides])


def _differ(one: Array, other: Array) -> Array:
    """Which rows of two answers differ in anything, NaN being equal to itself. Shape [n]."""
    if one.shape != other.shape:  # one of the batches was refused as a whole
        return np.ones(len(one), bool)
    unequal = one != other
    if one.dtype.kind == "f":
        unequal &= ~(np.isnan(one) & np.isnan(other))
    rows: Array = unequal if unequal.ndim == 1 else unequal.any(axis=1)
    return rows


def _single(values: Array) -> Array:
    return values.astype(np.float32).astype(np.float64)


def _on_grid(rows: Rows) -> Rows:
    columns = {name: _single(values) if values.dtype.kind == "f" else values for name, values in rows.columns.items()}
    return Rows(columns, rows.dtypes)


def _to_grid(values: Array) -> Array:
    """float32 values as integers in the same order, one apart for neighbours."""
    bits = values.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(2**31) - bits, bits)


def _from_grid(places: Array) -> Array:
    bits = np.where(places < 0, -(2**31) - places, places).astype(np.int32)
    return bits.view(np.float32).astype(np.float64)


def _values_at(rows: Rows, names: Sequence[str], column: Array) -> Array:
    """The number that each row holds in its column; NaN where that is missing or no number."""
    found = np.full(len(rows), np.nan)
    for position, name in enumerate(names):
        chosen = column == position
        if rows.is_number(name):
            found[chosen] = rows.columns[name][chosen]
    return found


def _with_values(rows: Rows, names: Sequence[str], column: Array, values: Array) -> Rows:
    changed = rows.take(np.arange(len(rows)))
    for position, name in enumerate(names):
        chosen = column == position
        if chosen.any():
            changed.columns[name][chosen] = values[chosen]
    return changed


def _with_column_of(rows: Rows, others: Rows, column: Array) -> Rows:
    changed = rows.take(np.arange(len(rows)))
    for position, name in enumerate(rows.columns):
        chosen = column == position
        changed.columns[name][chosen] = others.columns[name][chosen]
    return changed
