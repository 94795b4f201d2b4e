"""The command line in this process: as fast as a call, with the exit code and both outputs of the real entry point."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from tests.publish.conftest import in_this_process

from keelway.cli.main import main
from keelway.publish import sklearn_file


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Keelway = Callable[..., Ran]


@pytest.fixture
def keelway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Keelway:
    """Run ``keelway ARGUMENTS`` in an empty folder; ``stdin`` is what it reads."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["keelway", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0 if code is None else 1, captured.out, captured.err)

    return run


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles are opened in this process, which saves seconds. Elsewhere it is tested that they are not."""
    open_here(monkeypatch)


def open_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn_file, "run_apart", in_this_process)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """``model.joblib`` and ``sample.csv`` (columns age, income, bought) in the current folder."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"age": random.integers(18, 90, 80).astype(float), "income": random.normal(50, 10, 80)})
    frame["income"] = frame["income"].astype(np.float32).astype(float)
    bought = (frame["age"] + frame["income"] > 100).astype(int)
    joblib.dump(LogisticRegression().fit(frame, bought), tmp_path / "model.joblib")
    frame.assign(bought=bought).to_csv(tmp_path / "sample.csv", index=False)
    return tmp_path
