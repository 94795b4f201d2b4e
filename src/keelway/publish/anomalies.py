"""Learning what the rows of a sample look like together, when a version is pushed. ``release.py`` calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from keelway.contract.anomaly import MIN_HELD_OUT, Detector, Grow, fit
from keelway.contract.constraints import AnomalyRule
from keelway.contract.sample import column_names, numbers
from keelway.contract.signature import ModelSignature
from keelway.types import NUMPY_DTYPES

if TYPE_CHECKING:
    import pandas as pd


#: Rows of a sample that are looked at, chosen by chance: more would change nothing but the time and memory of a push.
MAX_ROWS: Final = 100_000


def learn(
    frame: pd.DataFrame, signature: ModelSignature, target: pd.Series[Any] | None = None, grow: Grow | None = None
) -> Detector | None:
    """A detector on the numeric features that the sample ``frame`` has columns for, rounded as the model sees them;
    ``None`` where ``contract.anomaly.fit`` makes none. If ``target`` takes few values they are classes. ``grow``
    adds a forest."""
    positions = {name: position for position, name in enumerate(column_names(frame.columns))}
    chosen = [
        feature
        for feature in signature.features
        if feature.name in positions and not feature.shape and feature.datatype not in ("BOOL", "BYTES")
    ]
    if not chosen:
        return None
    if len(frame) > MAX_ROWS:
        some = np.sort(np.random.default_rng(0).choice(len(frame), MAX_ROWS, replace=False))
        frame, target = frame.iloc[some], None if target is None else target.iloc[some]
    rows = np.empty((len(frame), len(chosen)))
    with np.errstate(over="ignore"):
        for place, feature in enumerate(chosen):
            values = numbers(frame.iloc[:, positions[feature.name]].rename(feature.name))
            dtype = NUMPY_DTYPES[feature.datatype]
            rows[:, place] = values.astype(dtype) if dtype.kind == "f" else values
    return fit(rows, tuple(feature.name for feature in chosen), None if target is None else _classes(target), grow)


def _classes(target: pd.Series[Any]) -> npt.NDArray[np.int64]:
    """The number of each value, from 0; -1 where it is missing."""
    return target.astype("string").factorize()[0].astype(np.int64)


def described(detector: Detector | None, rows: int) -> dict[str, Any]:
    """What the report of a push says about it: ``rate`` is the one in force where ``asked`` is, the default."""
    if detector is None:
        return {"rows": rows, "needed": 2 * MIN_HELD_OUT}
    asked = AnomalyRule().false_positive_rate
    return {
        "rows": rows,
        "features": len(detector.features),
        "detectors": detector.names,
        "classes": len(detector.volumes),
        "held_out": detector.held_out,
        "asked": asked,
        "rate": detector.thresholds(asked).rate,
    }


def anomaly_lines(found: dict[str, Any]) -> list[str]:
    """The same for people."""
    if "features" not in found:
        if found["rows"] >= found["needed"]:
            return ["no anomaly detector: no feature is a number with more than two values"]
        return [f"no anomaly detector: the sample has {found['rows']} rows, it takes {found['needed']}"]
    words = f"anomaly detector on {found['features']} features"
    if found.get("classes"):
        words += f", {found['classes']} classes apart"
    if "isolation_forest" in found.get("detectors", ()):
        words += ", with an isolation forest"
    if found["rate"] > 1.5 * found["asked"]:
        support = f"{found['held_out']:,} rows held out support a false-positive rate of {found['rate']:.2g}"
        return [f"{words}; {support}, not of {found['asked']:g}"]
    return [f"{words}, false-positive rate {found['rate']:.2g}"]
