"""``keelway import mlflow`` and ``export mlflow``, on folders as MLflow 3 writes and reads them. # S5"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost
import yaml
from sklearn.linear_model import LinearRegression
from tests.cli.conftest import Keelway
from tests.conformance.environments import mlflow_python
from tests.publish.test_mlflow_import import description

pytestmark = pytest.mark.usefixtures("in_one_process")


@pytest.fixture
def folder(trained: Path) -> Path:
    """A model of scikit-learn as MLflow saves it: a pickle, columns of doubles, an example of ten rows."""
    place = trained / "saved"
    place.mkdir()
    shutil.copy(trained / "model.joblib", place / "model.pkl")
    rows = pd.read_csv(trained / "sample.csv").drop(columns="bought").head(10)
    (place / "input_example.json").write_text(json.dumps(rows.to_dict("split", index=False)))
    described("model.pkl", place)
    return place


def described(file: str, place: Path, flavour: str = "sklearn", key: str = "pickled_model", **more: Any) -> None:
    columns = [{"type": "double", "name": name, "required": True} for name in ("age", "income")]
    flavours = {"python_function": {"loader_module": f"mlflow.{flavour}"}, flavour: {key: file, **more}}
    text = yaml.safe_dump(description(flavors=flavours, signature={"inputs": json.dumps(columns)}))
    (place / "MLmodel").write_text(text)


def test_a_pickle_is_taken_over_with_consent_alone(keelway: Keelway, folder: Path) -> None:
    refused = keelway("import", "mlflow", folder, "leads")
    assert (refused.code, "--trust-pickle" in refused.err) == (1, True)
    taken = keelway("import", "mlflow", folder, "leads", "--trust-pickle", "--version", "2.0.0", "--json")
    assert taken.code == 0
    document = json.loads(taken.out)
    assert (document["version"], document["report"]["format"]) == ("2.0.0", "onnx")
    shown = json.loads(keelway("show", "leads", "--json").out)
    assert [feature["name"] for feature in shown["signature"]["features"]] == ["age", "income"]
    assert shown["metadata"]["lineage"]["mlflow"] == {
        "flavour": "sklearn",
        "mlflow_version": "3.17.2",
        "model_uuid": "f8329fa48f9848d6bfd5b202cc897d00",
    }
    predicted = json.loads(keelway("predict", "leads", "--input", folder.parent / "sample.csv", "--json").out)
    rows = pd.read_csv(folder.parent / "sample.csv")
    model = joblib.load(folder.parent / "model.joblib")
    assert predicted["predictions"] == model.predict(rows[["age", "income"]]).tolist()


def test_formats_that_run_nothing_need_no_trust(keelway: Keelway, folder: Path) -> None:
    model = joblib.load(folder / "model.pkl")
    skops.io.dump(model, folder / "model.skops")
    described("model.skops", folder, serialization_format="skops", skops_trusted_types=["os.system"])
    assert keelway("import", "mlflow", folder, "of-skops").code == 0
    rows = pd.read_csv(folder.parent / "sample.csv")
    xgboost.XGBClassifier(n_estimators=3).fit(rows[["age", "income"]], rows["bought"]).save_model(folder / "model.ubj")
    described("model.ubj", folder, "xgboost", "data")
    ran = keelway("import", "mlflow", folder, "of-xgboost", "--sample", folder.parent / "sample.csv")
    assert (ran.code, "an XGBoost model in its own format" in ran.out) == (0, True)


def test_what_is_exported_says_what_it_is_and_holds_the_very_file(keelway: Keelway, folder: Path) -> None:
    keelway("import", "mlflow", folder, "leads", "--trust-pickle")
    ran = keelway("export", "mlflow", "leads", "out", "--json")
    assert ran.code == 0
    out, shown = Path("out"), json.loads(keelway("show", "leads", "--json").out)
    assert {path.name for path in out.iterdir()} == {
        "MLmodel",
        "conda.yaml",
        "model.onnx",
        "python_env.yaml",
        "requirements.txt",
    }
    found = yaml.safe_load((out / "MLmodel").read_text())
    assert found["metadata"]["keelway"] == {
        "model": "leads",
        "version": "1.0.0",
        "model_digest": shown["model_digest"],
    }
    assert (out / "model.onnx").stat().st_size == shown["files"][0]["size"]
    (tensor,) = json.loads(found["signature"]["inputs"])
    assert tensor["tensor-spec"] == {"dtype": "float32", "shape": [-1, 2]}
    # And back again.
    assert keelway("import", "mlflow", "out", "again", "--sample", "sample.csv", "--target", "bought").code == 0
    again = keelway("export", "mlflow", "leads", "out")
    assert (again.code, "not empty" in again.err) == (1, True)


def test_what_mlflow_cannot_load_is_not_exported(keelway: Keelway, trained: Path) -> None:
    code = "class Model:\n    def predict(self, inputs):\n        return {'y': next(iter(inputs.values()))[:, 0]}\n"
    (trained / "model.py").write_text(code)
    pushed = keelway("push", "own", "model.py", "--sample", "sample.csv", "--target", "bought", "--trust-pickle")
    assert pushed.code == 0, pushed.err
    ran = keelway("export", "mlflow", "own", "out")
    assert (ran.code, "only ONNX models are exported" in ran.err, Path("out").exists()) == (1, True, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("import", "mlflow", "nowhere", "leads"), "no MLflow model"),
        (("import", "mlflow", ".", "leads"), "no MLflow model"),
        (("export", "mlflow", "leads", "out"), "no such model"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    keelway: Keelway, trained: Path, arguments: tuple[str, ...], words: str
) -> None:
    ran = keelway(*arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert words in ran.err


@pytest.mark.slow
def test_mlflow_loads_what_is_exported_and_answers_the_same(keelway: Keelway, folder: Path) -> None:
    keelway("import", "mlflow", folder, "leads", "--trust-pickle")
    assert keelway("export", "mlflow", "leads", "out").code == 0
    program = (
        "import json, mlflow, pandas\n"
        "rows = pandas.read_csv('sample.csv')[['age', 'income']]\n"
        "answer = mlflow.pyfunc.load_model('out').predict({'input': rows.to_numpy('float32')})\n"
        "print(json.dumps([answer['label'].tolist(), answer['probabilities'].tolist()]))"
    )
    command = [str(mlflow_python()), "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    labels, probabilities = json.loads(ran.stdout.splitlines()[-1])
    rows = pd.read_csv("sample.csv")[["age", "income"]]
    model = joblib.load("model.joblib")
    assert labels == model.predict(rows).tolist()
    np.testing.assert_allclose(probabilities, model.predict_proba(rows), atol=1e-5)


@pytest.mark.slow
def test_mlflow_answers_a_table_for_a_table_where_the_model_answers_one_value(keelway: Keelway, trained: Path) -> None:
    rows = pd.read_csv("sample.csv")
    model = LinearRegression().fit(rows[["age"]], rows["income"])
    joblib.dump(model, "line.joblib")
    pushed = ("push", "line", "line.joblib", "--sample", "sample.csv", "--target", "income", "--trust-pickle")
    rows[["age", "income"]].to_csv("sample.csv", index=False)
    assert keelway(*pushed).code == 0
    assert keelway("export", "mlflow", "line", "out").code == 0
    program = (
        "import json, mlflow, pandas\n"
        "rows = pandas.read_csv('sample.csv')[['age']]\n"
        "print(json.dumps(mlflow.pyfunc.load_model('out').predict(rows).to_numpy().ravel().tolist()))"
    )
    command = [str(mlflow_python()), "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    np.testing.assert_allclose(json.loads(ran.stdout.splitlines()[-1]), model.predict(rows[["age"]]), rtol=1e-5)
