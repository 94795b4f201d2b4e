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

    def knows(self, frame: pd.DataFrame) -> Array:
        """Which rows of ``frame`` hold nothing that the library refuses, as far as its rule is known: [n] booleans.

        XGBoost refuses categories it does not know. It says so, but takes one for the next in order if there is such
        (seen in 3.2), so it is not asked. The others know no such rule."""
        known = np.ones(len(frame), bool)
        for column in self.columns if self.library == "xgboost" else ():
            if column.categories is not None:
                values = frame[column.name]
                known &= (values.isna() | values.astype(object).isin(list(column.categories))).to_numpy()
        return known

    def in_form(self, frame: pd.DataFrame) -> Any:
        """Rows of ``frame`` as the library takes them: a frame with categories, or an array if it knows no names."""
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
        f"the {NAMES[library]} model was trained with an objective of its own, and only that says what its sums mean",
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
                hint="encode the sample as for the training; --target names the column that is predicted",
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
    return _categorical(values, column.categories, dtype)


def _categorical(values: pd.Series[Any], categories: tuple[str | int | float, ...], dtype: str) -> Any:
    """The values as categories of the training's type, in another order, so that the library has to look them up."""
    import pandas as pd

    text = bool(categories) and isinstance(categories[0], str)
    given = values.astype(object) if text else values.astype(np.float64)
    present = given.notna().to_numpy()
    known = list(categories) if text else [float(category) for category in categories]
    unknown = sorted(set(given[present]) - set(known))
    order = [*reversed(known), *unknown]
    codes = pd.Index(order, dtype=object if text else np.float64).get_indexer(given.where(present, None))
    codes[~present] = -1
    whole = not text and all(float(number).is_integer() for number in order)
    index = pd.Index(order) if text else pd.Index(order, dtype=(dtype or np.int64) if whole else np.float64)
    return pd.Categorical.from_codes(codes, categories=index)


def _categories_as_they_are(values: pd.Series[Any]) -> Array:
    found = np.empty(len(values), object)
    found[:] = [
        int(value) if isinstance(value, bool | np.bool_) or (isinstance(value, float) and value.is_integer()) else value
        for value in values.astype(object)
    ]
    return found
