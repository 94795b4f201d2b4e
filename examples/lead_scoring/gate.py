"""What ``keelway check`` says of a good model, a leaky, a worse, a miscalibrated and a slice-broken one. ``make gate``
runs it.

All are trained on one half of the customers and judged on the other, against the champion. Everything is written to
``.cache/gate``; a registry of your own is neither read nor changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from train import BOUGHT, CODES, TARGET, load_leads  # noqa: E402 - a script beside this one

SCRATCH = HERE.parents[1] / ".cache" / "gate"
KEELWAY = Path(sys.executable).with_name("keelway")
NAME = "lead_scoring"
#: Of whom a sales person has heard already, entered after the sale: a column that knows the answer.
LEAK = "CONTRACTS_SENT"
#: The customer type whose answers went wrong in one of the training sets.
BROKEN_TYPE = 3


class Candidate(NamedTuple):
    """A model, and in which family of checks it has to fail; in none if it is good."""

    what: str
    train: Callable[[pd.DataFrame], Pipeline]
    fails_in: str = ""


def forest(rows: pd.DataFrame, *, leaf: int = 10, trees: int = 100, seed: int = 0, balanced: bool = False) -> Pipeline:
    columns = ColumnTransformer([("codes", OneHotEncoder(handle_unknown="ignore"), CODES)], remainder="passthrough")
    model = RandomForestClassifier(
        trees, min_samples_leaf=leaf, random_state=seed, n_jobs=1, class_weight="balanced" if balanced else None
    )
    return Pipeline([("columns", columns), ("forest", model)]).fit(rows.drop(columns=TARGET), rows[TARGET])


def honest(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop(columns=LEAK)


def mixed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with answers that belong to others, as after a join by the wrong key."""
    return rows.assign(**{TARGET: rows[TARGET].sample(frac=1.0, random_state=0).to_numpy()})


def broken(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the answers of one type at the wrong end: its worst leads stand as its buyers."""
    own = rows[TARGET].copy()
    of_type = rows.index[rows["MOSHOOFD"] == BROKEN_TYPE]
    scores = forest(rows).predict_proba(rows.loc[of_type].drop(columns=TARGET))[:, 1]
    worst = of_type[np.argsort(scores)[: 3 * int((own[of_type] == BOUGHT).sum())]]
    own[of_type] = "No"
    own[worst] = BOUGHT
    return rows.assign(**{TARGET: own})


CANDIDATES: Mapping[str, Candidate] = {
    "1.0.0": Candidate("the champion", lambda rows: forest(honest(rows))),
    "1.1.0": Candidate("good: more trees, larger leaves", lambda rows: forest(honest(rows), leaf=20, trees=150)),
    "1.2.0": Candidate(
        "worse: has learned other customers' answers", lambda rows: forest(mixed(honest(rows))), "champion"
    ),
    "1.3.0": Candidate(
        "miscalibrated: balanced classes", lambda rows: forest(honest(rows), balanced=True), "calibration"
    ),
    "1.4.0": Candidate("broken in one slice", lambda rows: forest(broken(honest(rows)), leaf=3), "champion"),
    "2.0.0": Candidate("leaky: knows a column that is filled after the sale", forest, "leakage"),
}


def split() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Half to train on and half to judge by; identical customers on one side. With the column that knows."""
    leads = load_leads()
    random = np.random.default_rng(0)
    told = (leads[TARGET] == BOUGHT) ^ (random.random(len(leads)) < 0.01)
    leads = leads.assign(**{LEAK: told.astype(int)})
    twins = pd.util.hash_pandas_object(leads.drop(columns=[TARGET, LEAK]), index=False)
    folds = StratifiedGroupKFold(n_splits=2, shuffle=True, random_state=0)
    train, test = next(folds.split(leads, leads[TARGET], twins))
    return leads.iloc[train], leads.iloc[test]


def keelway(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in the scratch folder, without settings of keelway of the caller."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEELWAY_")}
    return subprocess.run(
        [KEELWAY, *words], cwd=SCRATCH, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def push(version: str, candidate: Candidate, train: pd.DataFrame) -> None:
    print(f"· training and pushing {version}: {candidate.what}", flush=True)
    joblib.dump(candidate.train(train), SCRATCH / "model.joblib")
    seen = train if candidate.fails_in == "leakage" else honest(train)
    seen.head(500).to_parquet(SCRATCH / "sample.parquet", index=False)
    options = ("--sample", "sample.parquet", "--target", TARGET, "--trust-pickle", "--version", version)
    ran = keelway("push", NAME, "model.joblib", *options)
    if ran.returncode != 0:
        raise SystemExit(f"gate: the push failed:\n{ran.stderr}")


def check(version: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and the report; the page and the JUnit file lie in the scratch folder."""
    files = ("--junit", f"{version}.xml", "--html", f"{version}.html")
    rows = ("--sample", "test.parquet", "--target", TARGET, "--train", "train.parquet")
    ran = keelway(
        "check", f"{NAME}@{version}", *rows, "--against", "champion", "--checks", HERE / "checks.toml", *files, "--json"
    )
    try:
        return ran.returncode, json.loads(ran.stdout)
    except ValueError:
        raise SystemExit(f"gate: the check did not run:\n{ran.stderr}") from None


def judge(version: str, candidate: Candidate) -> bool:
    """Check and print; whether it came out as it has to."""
    code, report = check(version)
    failed = [finding for finding in report["findings"] if finding["verdict"] == "failed"]
    print(f"\n{version}  {candidate.what}\n  {report['outcome']}, exit code {code}")
    for finding in failed:
        place = f" [{finding['slice']}]" if finding.get("slice") else ""
        interval = f" ({finding['low']:.3f} to {finding['high']:.3f})" if "low" in finding else ""
        print(f"  ✗ {finding['family']}: {finding['name']}{place} {finding.get('figure', 0):.3f}{interval}")
    if not candidate.fails_in:
        return code == 0
    sliced = "slice" in candidate.what
    return code == 1 and any(f["family"] == candidate.fails_in and bool(f.get("slice")) >= sliced for f in failed)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    train, test = split()
    train.to_parquet(SCRATCH / "train.parquet", index=False)
    test.to_parquet(SCRATCH / "test.parquet", index=False)
    for version, candidate in CANDIDATES.items():
        push(version, candidate, train)
    print(f"\nchecked on {len(test):,} customers, {(test[TARGET] == BOUGHT).sum()} of them buyers, against 1.0.0")
    wrong = [v for v, candidate in CANDIDATES.items() if v != "1.0.0" and not judge(v, candidate)]
    if wrong:
        raise SystemExit(f"gate: {', '.join(wrong)} came out otherwise than it should")
    print(f"\nonly the good one may become champion; the pages are in {SCRATCH.relative_to(HERE.parents[1])}")


if __name__ == "__main__":
    main()
