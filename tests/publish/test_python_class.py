"""Python classes: found without being run, run once apart, and served as they are."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tests.publish.conftest import Push

from keelway.contract.signature import validate_signature
from keelway.errors import FailedPrecondition, InvalidInput, ModelFailed, UntrustedArtifact
from keelway.ports import RuntimeOptions
from keelway.publish.python_class import class_in
from keelway.publish.rows import rows_of, tensors
from keelway.runtimes.python import load

RULES = '''
import numpy as np

class Rules:
    """Says yes to whoever is 30 or older."""

    def load(self, folder):
        self.limit = 30

    def predict(self, inputs):
        ages = inputs["input_fp64"][:, 0]
        return {"label": np.where(ages >= self.limit, "yes", "no"), "score": ages / 100}

class _Helper:
    def predict(self, inputs): ...
'''


@pytest.fixture
def sample() -> pd.DataFrame:
    return pd.DataFrame({"age": [20, 30, 40], "city": ["Oslo", None, "Rome"]})


def written(folder: Path, source: str) -> Path:
    (folder / "rules.py").write_text(source, encoding="utf-8")
    return folder / "rules.py"


def test_a_class_is_run_on_the_sample_to_learn_its_answers(push: Push, tmp_path: Path, sample: pd.DataFrame) -> None:
    prepared = push(written(tmp_path, RULES), sample)
    signature = prepared.signature
    validate_signature(signature)
    assert prepared.runtime == "python"
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.outputs] == [
        ("label", "BYTES", (-1,)),
        ("score", "FP64", (-1,)),
    ]
    assert signature.label_output == "label"
    runtime = load(prepared.folder, "d", prepared.options, RuntimeOptions(allowed_python=frozenset({"d"})), None)  # type: ignore[arg-type]
    given = tensors(rows_of(sample), signature.inputs)
    assert runtime.run(given, ["label"])[0].tolist() == ["no", "yes", "yes"]  # type: ignore[index]


def test_it_needs_consent(push: Push, tmp_path: Path, sample: pd.DataFrame) -> None:
    with pytest.raises(UntrustedArtifact, match="has to be run"):
        push(written(tmp_path, RULES), sample, trust_pickle=False)


def test_it_needs_a_sample(push: Push, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="says nothing about its inputs"):
        push(written(tmp_path, RULES), None)


def test_the_class_is_found_without_running_the_file(tmp_path: Path) -> None:
    note = tmp_path / "note"
    source = f"open({str(note)!r}, 'w')\nclass Only:\n    async def predict(self, inputs): ...\n"
    assert class_in(written(tmp_path, source)) == "Only"
    assert not note.exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class A:\n    def fit(self): ...\n", "has no class with a predict method"),
        (
            "class A:\n    def predict(self): ...\nclass B:\n    def predict(self): ...\n",
            "several classes that predict: A, B",
        ),
        ("class A:\n    def predict(self: ...\n", "is not valid Python: line 2"),
    ],
)
def test_a_file_without_one_class_is_explained(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        class_in(written(tmp_path, source))
    assert refused.value.hint


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("return 1", ModelFailed, "does not answer a mapping"),
        ("raise KeyError('private')", ModelFailed, "raised KeyError on the sample"),
        ("return {'y': np.zeros(7)}", ModelFailed, "'y' does not have one entry for each row"),
        ("return {}", ModelFailed, "answers no outputs"),
        ("return {'y': np.array([1j] * len(inputs['input_fp64']))}", ModelFailed, "no datatype that can be served"),
        ("import absent_module", ModelFailed, "raised ModuleNotFoundError"),
    ],
)
def test_what_a_class_does_wrong_is_said_without_its_text(
    push: Push, tmp_path: Path, sample: pd.DataFrame, body: str, error: type[Exception], message: str
) -> None:
    source = f"import numpy as np\nclass Wrong:\n    def predict(self, inputs):\n        {body}\n"
    with pytest.raises(error, match=message) as refused:
        push(written(tmp_path, source), sample)
    assert "private" not in str(refused.value)


def test_a_module_that_is_not_installed_is_named(push: Push, tmp_path: Path, sample: pd.DataFrame) -> None:
    source = "import absent_module\nclass A:\n    def predict(self, inputs): ...\n"
    with pytest.raises(FailedPrecondition, match="'absent_module'"):
        push(written(tmp_path, source), sample)
