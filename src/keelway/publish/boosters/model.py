"""What publishing needs to know of a model of gradient boosting, whichever library made it; and rows in its form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from keelway.contract.signature import Feature, Task
from keelway.errors import ConversionRefused, InvalidInput
from keelway.publish.convert.boosted import Boosted
from keelway.publish.opening import check_count, named_columns
from keelway.publish.rows import Rows
from keelway.runtimes.boosters import NAMES, BoosterColumn, Library
from keelway.types import Array

if TYPE_CHECKING:
    import pandas as pd

PYTHON_CLASS: Final = "push a Python class that does what it does: keelway push NAME model.py"


@dataclass(frozen=True, slots=True)
class BoosterModel:
    """``columns`` are the features in the model's order; with ``positional`` their names are the library's own and mean
    nothing. ``dtypes`` are the types of whole numbers that categories had, empty elsewhere.

    ``predict`` and ``probabilities`` are the library's own, given rows in the form of ``in_form``. ``read`` brings the
    trees into the form of the translators, and may raise ``NotTranslated``; it is given the sample. ``save`` writes the
    model in its own format, to be served as it is under the name ``file``.
    """

    library: Library
    description: str
    task: Task
    labels: tuple[str | int | float | bool, ...]
    columns: tuple[BoosterColumn, ...]
    positional: bool
    predict: Callable[[Any], Array]
    probabilities: Callable[[Any], Array] | None
    read: Callable[..., Boosted]
    save: Callable[[Path], None]
    file: str
    dtypes: tuple[str, ...] = ()
    missing: float | None = None
    prediction_type: str = "RawFormulaVal"

    def for_sample(self, features: Sequence[Feature]) -> BoosterModel:
        """The same, its columns named as those of the sample that they are.

        Raises ``InvalidInput`` naming columns that are missing, too many, or of another kind."""
        sample = tuple(feature.name for feature in features)
        named = tuple(column.name for column in self.columns)
        if self.positional:
            check_count(len(named), sample)
            names = sample
        else:
            names = named_columns(named, sample)
        known = {feature.name: feature for feature in features}
        for name, column in zip(names, self.columns, strict=True):
            _check_kind(known[name], column)
        columns = tuple(
            BoosterColumn(name, column.categories, column.as_text)
            for name, column in zip(names, self.columns, strict=True)
        )
        return replace(self, columns=columns)

    def in_form(self, frame: pd.DataFrame) -> Any:
        """Rows of ``frame`` as the library takes them: a frame with categories, or an array for a model without names."""
        import pandas as pd

        dtypes = self.dtypes or ("",) * len(self.columns)
        made = {
            column.name: _values(frame[column.name], column, dtype)
            for column, dtype in zip(self.columns, dtypes, strict=True)
        }
        found = pd.DataFrame(made, index=frame.index)
        return found.to_numpy() if self.positional else found


def custom_objective(library: Library) -> ConversionRefused:
    return ConversionRefused(
        f"the {NAMES[library]} model was trained with an objective of its own, so the file does not say what its sums mean",
        hint=PYTHON_CLASS,
    )


def category_codes(rows: Rows, column: str) -> Array:
    """The different categories of a column as CatBoost takes them: texts, or whole numbers."""
    values = rows.columns[column]
    if rows.is_text(column):
        return np.array(sorted({value for value in values if value is not None}), object)
    numbers = np.unique(np.asarray(values, np.float64))
    return np.array([int(value) for value in numbers if np.isfinite(value) and value == int(value)], object)


def _check_kind(feature: Feature, column: BoosterColumn) -> None:
    if column.as_text:
        return
    text = feature.datatype == "BYTES"
    if column.categories is None:
        if text:
            raise InvalidInput(
                f"the column '{feature.name}' holds text, and the model was trained on numbers there",
                field=feature.name,
                hint="give the sample as the model was trained, encoded in the same way; --target names what is predicted",
            )
    elif column.categories and isinstance(column.categories[0], str) != text:
        held, known = ("text", "numbers") if text else ("numbers", "text")
        raise InvalidInput(
            f"the column '{feature.name}' holds {held}, and the model knows its categories as {known}",
            field=feature.name,
            hint="give the sample with the types the model was trained on; Parquet keeps them, CSV does not",
        )


def _values(values: pd.Series[Any], column: BoosterColumn, dtype: str) -> Any:
    if column.as_text:
        return _categories_as_they_are(values)
    if column.categories is None:
        return values
    return _categorical(values, text=bool(column.categories) and isinstance(column.categories[0], str), dtype=dtype)


def _categorical(values: pd.Series[Any], *, text: bool, dtype: str) -> Any:
    """The values as categories, of the type the model was trained on; what it does not know stays among them."""
    import pandas as pd

    if text:
        texts = values.astype(object)
        return pd.Categorical(texts.where(texts.notna(), None))
    numbers = values.astype(np.float64).to_numpy()
    missing = np.isnan(numbers)
    known: Array = np.unique(numbers[~missing])
    codes = np.where(missing, -1, np.searchsorted(known, np.where(missing, 0.0, numbers)))
    # Numbers that are not whole are no categories of a model that was trained on whole ones: it is to see them.
    whole = bool((known == np.rint(known)).all()) and bool((np.abs(known) < 2**31).all())
    return pd.Categorical.from_codes(codes, categories=pd.Index(known.astype(dtype or np.int64) if whole else known))


def _categories_as_they_are(values: pd.Series[Any]) -> Array:
    found = np.empty(len(values), object)
    found[:] = [
        int(value) if isinstance(value, bool | np.bool_) or (isinstance(value, float) and value.is_integer()) else value
        for value in values.astype(object)
    ]
    return found
