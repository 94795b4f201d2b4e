"""Helpers of the publish tests: models saved to files, and the whole of publishing run in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_classification
from threadpoolctl import threadpool_limits

from keelway.publish import child, exchange, sklearn_file
from keelway.publish.push import prepare
from keelway.publish.report import Prepared

Push = Callable[..., Prepared]


def in_this_process(workspace: Path, limit: float = 0.0) -> None:
    """What ``run_apart`` does, without a process: the models of these tests are made by them."""
    if child.main(workspace):
        raise exchange.error_of(exchange.read(workspace, exchange.FAILURE, exchange.Failure))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """As in the child: several threads would fight with the other workers of a test run."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn_file, "run_apart", in_this_process)


@pytest.fixture
def push(tmp_path: Path) -> Push:
    """``prepare`` of an estimator or a file, in a workspace of its own; a pickle is trusted unless said otherwise."""
    count = iter(range(100))

    def pushed(model: Any, sample: pd.DataFrame | None, target: str | None = None, **settings: Any) -> Prepared:
        folder = tmp_path / f"push_{next(count)}"
        folder.mkdir()
        file = model
        if not isinstance(model, Path):
            file = folder / "model.joblib"
            joblib.dump(model, file)
        workspace = folder / "workspace"
        workspace.mkdir()
        return prepare(file, sample, target, **{"trust_pickle": True, "workspace": workspace, **settings})

    return pushed


@pytest.fixture(scope="session")
def table() -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    """Four numeric columns of 300 rows, and two classes."""
    x, y = make_classification(300, 4, n_informative=3, n_redundant=0, random_state=7)
    return pd.DataFrame(x, columns=["a", "b", "c", "d"]), y
