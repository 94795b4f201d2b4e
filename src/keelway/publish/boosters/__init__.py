"""Models of XGBoost, LightGBM and CatBoost, opened in the child process: native files, and objects out of a pickle.

``open_file`` and ``of_object`` answer a ``BoosterModel`` (``model.py``), whichever library it is of; one file beside
this for each library. Libraries are imported when a model of theirs is there, never before.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from keelway.publish.boosters.model import BoosterModel
from keelway.runtimes.boosters import NAMES, Library


def open_file(path: Path, library: Library) -> BoosterModel:
    """The model in a file of the library's own format.

    Raises ``CorruptArtifact`` for a damaged file, ``FailedPrecondition`` for one of a newer version or an absent
    library, ``ConversionRefused`` for what cannot be served.
    """
    found: BoosterModel = import_module(f"keelway.publish.boosters.{library}_model").open_file(path)
    return found


def of_object(opened: Any) -> BoosterModel | None:
    """The model that ``opened`` is, a booster or a library's own estimator; None for anything else.

    Raises as ``open_file``, and ``InvalidInput`` for an estimator that was not fitted.
    """
    library = type(opened).__module__.partition(".")[0]
    if library not in NAMES:
        return None
    found: BoosterModel | None = import_module(f"keelway.publish.boosters.{library}_model").of_object(opened)
    return found
