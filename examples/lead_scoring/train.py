"""Trains a model that tells which insurance customers are likely to buy a caravan policy, with scikit-learn alone.

Nothing here knows keelway: this is the part that a data scientist has already. Writes into ``--output`` the model, the
sample that describes its inputs, and held-out customers with the answers of scikit-learn itself to compare with.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import joblib
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

TARGET = "Purchase"
BOUGHT = "Yes"
#: Customer type and customer main type: numbers that stand for a kind, so that 8 is not more than 7.
CODES = ["MOSTYPE", "MOSHOOFD"]
HELD_OUT_ROWS = 200


def load_leads() -> pd.DataFrame:
    """The Caravan data: 5,822 customers, 85 whole-number features, 348 buyers. Read out of the ISLP package, which is
    not imported."""
    try:
        found = [file for file in files("ISLP") or () if file.name == "Caravan.csv"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise SystemExit("the Caravan data is not installed: make demo does it, or pip install --no-deps islp==0.6.0")
    return pd.read_csv(Path(str(found[0].locate())))


def split(leads: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three quarters to train on and one to judge by, with the same share of buyers.

    One customer in ten is the exact twin of another; twins stay on one side, or the model would be asked what it has
    been told. The rows carry no date, so a split in time, which the future deserves, cannot be made.
    """
    features = leads.drop(columns=TARGET)
    twins = pd.util.hash_pandas_object(features, index=False)
    folds = StratifiedGroupKFold(n_splits=4, shuffle=True, random_state=0)
    train, held_out = next(folds.split(features, leads[TARGET], twins))
    return leads.iloc[train], leads.iloc[held_out]


def fit(train: pd.DataFrame) -> Pipeline:
    """A forest without class weights: its leaves then hold real shares of buyers, so its scores are probabilities."""
    columns = ColumnTransformer([("codes", OneHotEncoder(handle_unknown="ignore"), CODES)], remainder="passthrough")
    forest = RandomForestClassifier(n_estimators=200, min_samples_leaf=10, random_state=0, n_jobs=1)
    return Pipeline([("columns", columns), ("forest", forest)]).fit(train.drop(columns=TARGET), train[TARGET])


def probability_of_buying(model: Pipeline, rows: pd.DataFrame) -> list[float]:
    buyers = list(model.classes_).index(BOUGHT)
    return [float(row[buyers]) for row in model.predict_proba(rows)]


def write(folder: Path, model: Pipeline, train: pd.DataFrame, held_out: pd.DataFrame) -> None:
    """``model.joblib``, ``leads.parquet`` (the training rows with the target) and ``held_out.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / "model.joblib", compress=3)
    train.to_parquet(folder / "leads.parquet", index=False)
    rows = held_out.drop(columns=TARGET).head(HELD_OUT_ROWS)
    document = {
        "columns": list(rows.columns),
        "rows": rows.to_numpy().tolist(),
        "probabilities": probability_of_buying(model, rows),
    }
    (folder / "held_out.json").write_text(json.dumps(document))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(), help="folder to write into")
    folder: Path = parser.parse_args().output

    leads = load_leads()
    train, held_out = split(leads)
    model = fit(train)
    bought = held_out[TARGET] == BOUGHT
    scores = probability_of_buying(model, held_out.drop(columns=TARGET))
    write(folder, model, train, held_out)

    print(f"trained on {len(train):,} customers, judged on {len(held_out):,} others, {bought.sum()} of them buyers")
    print(f"ROC AUC            {roc_auc_score(bought, scores):.3f}  (guessing: 0.500)")
    print(f"average precision  {average_precision_score(bought, scores):.3f}  (guessing: {bought.mean():.3f})")


if __name__ == "__main__":
    main()
