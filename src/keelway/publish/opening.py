"""Opening a pickled or skops estimator, in the child process: the object, or one line that says why there is none.

A booster out of a pickle is handed on as it is; ``boosters`` knows what it is.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any, Literal

from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput
from keelway.runtimes.boosters import EXTRAS, NAMES
from keelway.runtimes.skops import Given, load_estimator

_EXPORT = "export it to ONNX with the library that made it and push that"


def open_estimator(path: Path, form: Literal["pickle", "skops"], trusted: frozenset[str]) -> tuple[Any, str]:
    """The fitted estimator in ``path``, and the scikit-learn version it was saved with if that is another one.

    Raises ``KeelwayError`` for files that are damaged, need modules that are absent, or hold something else.
    """
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        estimator = load_estimator(path, trusted) if form == "skops" else _unpickled(path)
    check_estimator(estimator)
    versions = [str(found) for w in raised if (found := getattr(w.message, "original_sklearn_version", ""))]
    return estimator, versions[0] if versions else ""


def _unpickled(path: Path) -> Any:
    import joblib

    try:
        return joblib.load(path)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        raise FailedPrecondition(
            f"the pickle needs the module '{module}', which is not installed",
            field="file",
            hint=f'pip install "keelway[{EXTRAS[module]}]"'
            if module in EXTRAS
            else "install what the model was trained with, or put its folder on PYTHONPATH",
        ) from error
    except AttributeError as error:
        raise FailedPrecondition(
            "the pickle names a class or function that does not exist here",
            field="file",
            hint="functions and classes of a notebook or script must live in a module that can be imported; and the "
            "libraries must have the versions the model was trained with",
        ) from error
    except (EOFError, pickle.UnpicklingError, ValueError, IndexError, KeyError, OSError) as error:
        raise CorruptArtifact(
            "the pickle is damaged or cut short", field="file", hint="save the model again, and copy it in binary mode"
        ) from error
    except MemoryError:
        raise
    except BaseException as error:  # foreign code may raise anything, SystemExit included
        raise FailedPrecondition(
            f"opening the pickle raised {type(error).__name__}",
            field="file",
            hint="open it where it was made: the versions of its libraries may differ",
        ) from error


def is_booster(model: Any) -> bool:
    """Whether it is of XGBoost, LightGBM or CatBoost."""
    return type(model).__module__.partition(".")[0] in NAMES


def check_estimator(estimator: Any) -> None:
    """Raise ``InvalidInput`` unless it is a fitted estimator that predicts; ``boosters`` looks at those it knows."""
    if is_booster(estimator):
        return
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    kind = f"{type(estimator).__module__.partition('.')[0]}'s {type(estimator).__name__}"
    if not isinstance(estimator, BaseEstimator):
        raise InvalidInput(f"the file holds no scikit-learn model but {kind}", field="file", hint=_EXPORT)
    if not hasattr(estimator, "predict"):
        raise InvalidInput(
            f"the file holds {type(estimator).__name__}, which cannot predict",
            field="file",
            hint="push the whole pipeline, the model at its end",
        )
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise InvalidInput(
            f"the {type(estimator).__name__} was saved before it was trained", field="file", hint="fit it, then save it"
        ) from error


def describe(estimator: Any) -> str:
    """The class, with what it is made of in brackets: ``Pipeline(ColumnTransformer, LogisticRegression)``."""
    inner: list[Any] = [step for _, step in getattr(estimator, "steps", None) or ()]
    inner = inner or [part for _, part in getattr(estimator, "estimators", None) or () if not isinstance(part, tuple)]
    inner = inner or [found for name in ("best_estimator_", "regressor_") if (found := getattr(estimator, name, None))]
    names = [describe(part) for part in inner if part is not None and not isinstance(part, str)]
    return type(estimator).__name__ + (f"({', '.join(names)})" if names else "")


def feature_columns(estimator: Any, sample: tuple[str, ...]) -> tuple[tuple[str, ...], Given]:
    """The model's features in its own order, as columns of the sample, and in which form it takes them.

    Raises ``InvalidInput`` naming columns that are missing or too many.
    """
    names = getattr(estimator, "feature_names_in_", None)
    if names is None and _takes_documents(estimator):
        if len(sample) != 1:
            raise InvalidInput(
                f"the model takes one column of text, the sample has {len(sample)} columns",
                hint="give that column alone; --target names the column that is predicted",
            )
        return sample, "series"
    if names is None:
        check_count(getattr(estimator, "n_features_in_", len(sample)), sample)
        return sample, "array"
    return named_columns(tuple(str(name) for name in names), sample), "frame"


def check_count(count: int, sample: tuple[str, ...]) -> None:
    """Raise ``InvalidInput`` unless the sample has ``count`` columns, for a model that knows no names."""
    if count != len(sample):
        raise InvalidInput(
            f"the model takes {count} columns, the sample has {len(sample)}",
            hint="give exactly its features, in its order; --target names the column that is predicted",
        )


def named_columns(columns: tuple[str, ...], sample: tuple[str, ...]) -> tuple[str, ...]:
    """``columns``, which are the model's. Raises ``InvalidInput`` naming those that ``sample`` lacks or has beyond."""
    missing = [name for name in columns if name not in sample]
    extra = [name for name in sample if name not in columns]
    if missing:
        raise InvalidInput(
            f"the sample lacks columns the model was trained on: {_listed(missing)}",
            field=missing[0],
            hint=f"it also has {_listed(extra)}, which the model does not know" if extra else "add them to the sample",
        )
    if extra:
        raise InvalidInput(
            f"the sample has columns the model was not trained on: {_listed(extra)}",
            field=extra[0],
            hint=f"say --target {extra[0]} if it is what is predicted" if len(extra) == 1 else "leave them out",
        )
    return columns


def _takes_documents(estimator: Any) -> bool:
    """Whether the model reads texts one by one, as a pipeline does that begins with a vectorizer."""
    from sklearn.utils import get_tags

    while hasattr(estimator, "steps"):
        estimator = estimator.steps[0][1]
    if not hasattr(estimator, "__sklearn_tags__"):  # "passthrough"
        return False
    tags = get_tags(estimator).input_tags
    return bool(tags.string and not tags.two_d_array)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
