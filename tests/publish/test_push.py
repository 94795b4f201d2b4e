"""``prepare``: what it takes, what it refuses and in which words, and what foreign code can and cannot reach."""

from __future__ import annotations

import gzip
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import sklearn
import skops.io
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from tests.publish.conftest import Push

from keelway.contract.signature import validate_signature
from keelway.errors import (
    ConversionRefused,
    CorruptArtifact,
    FailedPrecondition,
    InvalidInput,
    KeelwayError,
    UntrustedArtifact,
)
from keelway.ports import RuntimeOptions
from keelway.publish import sklearn_file
from keelway.publish.apart import run_apart
from keelway.publish.report import Prepared
from keelway.publish.rows import rows_of, tensors
from keelway.runtimes.skops import load as load_skops
from keelway.types import Array

Table = tuple[pd.DataFrame, Array]


def served(prepared: Prepared, sample: pd.DataFrame) -> dict[str, Array]:
    """What the stored ONNX model answers to ``sample``, asked without keelway."""
    session = onnxruntime.InferenceSession(prepared.file("model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    packed = tensors(rows_of(sample), prepared.signature.inputs)
    return dict(zip(names, session.run(names, packed), strict=True))


# What comes out


def test_a_pickled_classifier_becomes_one_packed_onnx_model(push: Push, table: Table) -> None:
    sample, target = table
    estimator = RandomForestClassifier(10, random_state=0).fit(sample, target)
    prepared = push(estimator, sample.assign(bought=target), "bought")
    signature = prepared.signature
    validate_signature(signature)
    assert [spec.columns for spec in signature.inputs] == [("a", "b", "c", "d")]
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.outputs] == [
        ("label", "INT64", (-1,)),
        ("probabilities", "FP32", (-1, 2)),
    ]
    assert (signature.task, signature.labels, signature.label_output, signature.probability_output) == (
        "classification",
        (0, 1),
        "label",
        "probabilities",
    )
    answered = served(prepared, sample)
    assert (answered["label"] == estimator.predict(sample)).all()
    assert np.array_equal(answered["probabilities"], estimator.predict_proba(sample).astype(np.float32))
    assert [path.name for path in prepared.folder.iterdir()] == ["model.onnx"]
    assert prepared.baseline is not None
    assert prepared.baseline.rows == len(sample)


def test_the_report_says_what_was_proved_and_how(push: Push, table: Table) -> None:
    sample, target = table
    report = push(RandomForestClassifier(10, random_state=0).fit(sample, target), sample).report
    assert (report.format, report.framework, report.estimator) == ("onnx", "scikit-learn", "RandomForestClassifier")
    assert report.sample_rows == 300
    assert report.perturbed_rows >= 5_000
    assert (report.labels_equal, report.beyond, report.tolerance) == (1.0, 0.0, 1e-5)
    assert report.versions["scikit-learn"] == sklearn.__version__
    assert report.speedup is not None
    assert report.size > 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("classes", "datatype", "labels"),
    [
        (["no", "yes"], "BYTES", ("no", "yes")),
        ([False, True], "BOOL", (False, True)),
        ([3.0, 8.0], "INT64", (3, 8)),
    ],
)
def test_class_labels_keep_their_kind(
    push: Push, table: Table, classes: list[Any], datatype: str, labels: tuple[Any, ...]
) -> None:
    sample, target = table
    estimator = DecisionTreeClassifier(max_depth=3).fit(sample, np.array(classes)[target])
    prepared = push(estimator, sample)
    assert prepared.signature.outputs[0].datatype == datatype
    assert prepared.signature.labels == labels
    assert (served(prepared, sample)["label"] == estimator.predict(sample)).all()


@pytest.mark.usefixtures("quick")
def test_a_regressor_of_several_targets_answers_all_of_them(push: Push, table: Table) -> None:
    sample, target = table
    prepared = push(LinearRegression().fit(sample, np.stack([target, 2.0 * target], axis=1)), sample)
    assert prepared.signature.outputs[0].shape == (-1, 2)
    assert prepared.signature.task == "regression"


@pytest.mark.usefixtures("quick")
def test_columns_are_taken_by_the_names_the_model_knows_in_its_order(push: Push, table: Table) -> None:
    sample, target = table
    estimator = DecisionTreeClassifier(max_depth=4).fit(sample, target)
    prepared = push(estimator, sample[["d", "c", "b", "a"]])
    assert prepared.signature.inputs[0].columns == ("a", "b", "c", "d")


@pytest.mark.usefixtures("quick")
def test_a_model_fitted_on_bare_arrays_takes_the_columns_as_they_stand(push: Push, table: Table) -> None:
    sample, target = table
    prepared = push(DecisionTreeClassifier(max_depth=4).fit(sample.to_numpy(), target), sample)
    assert prepared.report.format == "onnx"
    assert prepared.signature.inputs[0].columns == ("a", "b", "c", "d")


@pytest.mark.usefixtures("quick")
def test_the_same_push_twice_makes_the_same_files_and_the_same_proof(push: Push, table: Table) -> None:
    sample, target = table
    estimator = GradientBoostingClassifier(n_estimators=5, random_state=0).fit(sample, target)
    first, second = push(estimator, sample), push(estimator, sample)
    assert (first.folder / "model.onnx").read_bytes() == (second.folder / "model.onnx").read_bytes()
    assert first.report.attempts == second.report.attempts


@pytest.mark.usefixtures("quick")
def test_rounding_at_the_door_is_part_of_the_proof(push: Push, table: Table) -> None:
    """HistGradientBoosting compares with values of the sample itself: float32 inputs fall on the other side."""
    sample, target = table
    prepared = push(HistGradientBoostingClassifier(max_iter=20).fit(sample, target), sample)
    assert prepared.signature.inputs[0].datatype == "FP64"
    assert [bool(attempt.reason) for attempt in prepared.report.attempts] == [True, True, False]
    assert prepared.report.attempts[0].comparison is not None


@pytest.mark.usefixtures("quick")
def test_a_looser_tolerance_is_recorded(push: Push, table: Table) -> None:
    sample, target = table
    prepared = push(LinearRegression().fit(sample, target), sample, tolerance=0.01)
    assert prepared.report.tolerance == 0.01


@pytest.mark.usefixtures("quick")
def test_rows_that_the_original_refuses_are_told(push: Push) -> None:
    sample = pd.DataFrame({"city": ["Oslo", "Rome", "Lima"] * 20, "age": np.arange(60)})
    encode = ColumnTransformer([("city", OneHotEncoder(), ["city"])], remainder="passthrough")
    estimator = make_pipeline(encode, LogisticRegression()).fit(sample, np.arange(60) > 30)
    report = push(estimator, sample).report
    assert report.format == "onnx"
    assert report.refused_rows > 0
    assert "refuses" in report.warnings[0]


# Kept as it is


class Doubled(LogisticRegression):
    """A subclass may change anything, so it is never taken for what it derives from."""

    def predict(self, x: Any) -> Any:
        return 1 - super().predict(x)


@pytest.mark.usefixtures("quick")
def test_a_subclass_is_not_converted_as_if_it_were_its_base(push: Push, table: Table) -> None:
    sample, target = table
    prepared = push(Doubled().fit(sample, target), sample)
    assert prepared.runtime == "skops"
    assert all(attempt.reason for attempt in prepared.report.attempts)


@pytest.mark.usefixtures("quick")
def test_what_is_kept_is_not_rounded_and_says_which_types_it_needs(push: Push, table: Table) -> None:
    sample, _ = table
    prepared = push(KMeans(3, n_init=1, random_state=0).fit(sample), sample)
    assert prepared.runtime == "skops"
    assert prepared.signature.task == "other"
    assert {feature.datatype for feature in prepared.signature.features} == {"FP64"}
    assert [path.name for path in prepared.folder.iterdir()] == ["model.skops"]
    assert prepared.options["columns"][0] == {"name": "a", "dtype": "float64"}
    assert set(prepared.report.untrusted_types) == set(
        skops.io.get_untrusted_types(file=prepared.folder / "model.skops")
    )


@pytest.mark.usefixtures("quick")
def test_a_model_of_documents_takes_one_column_of_text(push: Push) -> None:
    sample = pd.DataFrame({"text": ["good day", "bad day", "good night", "bad night"] * 10})
    estimator = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(sample["text"], [1, 0] * 20)
    prepared = push(estimator, sample)
    assert prepared.runtime == "skops"
    assert prepared.options["given"] == "texts"
    assert prepared.report.labels_equal == 1.0
    with pytest.raises(InvalidInput, match="takes one column of text, the sample has 2"):
        push(estimator, sample.assign(more=1))


@pytest.mark.usefixtures("quick")
def test_a_classifier_of_several_targets_is_refused(push: Push, table: Table) -> None:
    sample, target = table
    estimator = RandomForestClassifier(3).fit(sample, np.stack([target, target], axis=1))
    with pytest.raises(ConversionRefused, match="several targets"):
        push(estimator, sample)


# Samples that do not fit


@pytest.mark.usefixtures("quick")
def test_missing_and_extra_columns_are_named(push: Push, table: Table) -> None:
    sample, target = table
    estimator = DecisionTreeClassifier(max_depth=2).fit(sample, target)
    with pytest.raises(InvalidInput, match="lacks columns the model was trained on: b") as missing:
        push(estimator, sample.drop(columns="b"))
    assert missing.value.field == "b"
    with pytest.raises(InvalidInput, match="not trained on: bought") as extra:
        push(estimator, sample.assign(bought=target))
    assert extra.value.hint == "say --target bought if it is what is predicted"


@pytest.mark.usefixtures("quick")
def test_a_wrong_number_of_columns_is_said_with_both_numbers(push: Push, table: Table) -> None:
    sample, target = table
    with pytest.raises(InvalidInput, match="takes 4 columns, the sample has 3"):
        push(DecisionTreeClassifier(max_depth=2).fit(sample.to_numpy(), target), sample.drop(columns="a"))


def test_a_scikit_learn_model_without_a_sample_is_refused(push: Push, table: Table) -> None:
    with pytest.raises(InvalidInput, match="cannot be proved") as refused:
        push(DecisionTreeClassifier(max_depth=2).fit(*table), None)
    assert refused.value.hint is not None
    assert "--sample" in refused.value.hint


def test_a_target_without_a_sample_is_refused(push: Push, table: Table) -> None:
    with pytest.raises(InvalidInput, match="no table"):
        push(DecisionTreeClassifier(max_depth=2).fit(*table), None, "bought")


@pytest.mark.usefixtures("quick")
def test_a_sample_the_model_refuses_from_end_to_end_is_one_line(push: Push, table: Table) -> None:
    sample, target = table
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(sample.to_numpy(), target)
    with pytest.raises(InvalidInput, match="refuses every row"):
        push(estimator, sample.assign(a="text"))


# Files that are no models


def test_other_files_are_named_for_what_they_are(push: Push, tmp_path: Path) -> None:
    files = {
        "picture.pkl": (b"\x89PNG\r\n\x1a\n" + bytes(64), "a PNG image"),
        "empty.onnx": (b"", "an empty file"),
        "table.pkl": (b"a,b\n1,2\n3,4\n", "a table in text form"),
    }
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInput, match=words) as refused:
            push(tmp_path / name, None)
        assert refused.value.hint
    with pytest.raises(InvalidInput, match="a folder"):
        push(tmp_path, None)


def test_a_pickle_cut_short_is_said_to_be(push: Push, table: Table, tmp_path: Path) -> None:
    whole = pickle.dumps(DecisionTreeClassifier().fit(*table))
    (tmp_path / "cut.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptArtifact, match="damaged or cut short"):
        push(tmp_path / "cut.pkl", table[0])


@pytest.mark.usefixtures("quick")
def test_a_compressed_joblib_file_is_opened(push: Push, table: Table, tmp_path: Path) -> None:
    model = DecisionTreeClassifier(max_depth=2).fit(*table)
    (tmp_path / "model.joblib").write_bytes(gzip.compress(pickle.dumps(model)))
    assert push(tmp_path / "model.joblib", table[0]).report.format == "onnx"


def test_a_pickle_of_an_absent_module_names_the_module(push: Push, table: Table, tmp_path: Path) -> None:
    module = types.ModuleType("boosted_elsewhere")
    exec("class Booster: pass", module.__dict__)
    module.Booster.__module__ = "boosted_elsewhere"
    sys.modules["boosted_elsewhere"] = module
    try:
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(module.Booster()))
    finally:
        del sys.modules["boosted_elsewhere"]
    with pytest.raises(FailedPrecondition, match="'boosted_elsewhere', which is not installed"):
        push(tmp_path / "model.pkl", table[0])


def test_a_class_of_a_notebook_is_explained(push: Push, table: Table, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04c__main__\nHousePrices\n.")
    with pytest.raises(FailedPrecondition, match="class or function that does not exist here") as refused:
        push(tmp_path / "model.pkl", table[0])
    assert refused.value.hint is not None
    assert "notebook" in refused.value.hint


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 1}, "no scikit-learn model but builtins's dict"),
        (StandardScaler(), "cannot predict"),
        (LogisticRegression(), "saved before it was trained"),
    ],
)
def test_a_pickle_of_something_else_is_named(push: Push, table: Table, value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        push(value, table[0])
    assert refused.value.hint


@pytest.mark.usefixtures("quick")
def test_a_file_from_another_version_of_scikit_learn_is_warned_about(push: Push, table: Table, tmp_path: Path) -> None:
    estimator = DecisionTreeClassifier(max_depth=2).fit(*table)
    state = pickle.dumps(estimator).replace(sklearn.__version__.encode(), b"1.0.1")
    assert state != pickle.dumps(estimator)
    (tmp_path / "old.pkl").write_bytes(state)
    report = push(tmp_path / "old.pkl", table[0]).report
    assert report.saved_with == "1.0.1"
    assert any("written with scikit-learn 1.0.1" in warning for warning in report.warnings)


# Trust


class Spy:
    """What a malicious pickle does when it is opened: here, it writes down what it can see of the environment."""

    def __init__(self, note: Path) -> None:
        self.note = note

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"env > {self.note}; echo stdin=$(cat) >> {self.note}",)


def test_a_pickle_is_not_opened_without_consent(push: Push, table: Table, tmp_path: Path) -> None:
    note = tmp_path / "note"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Spy(note)))
    with pytest.raises(UntrustedArtifact) as refused:
        push(tmp_path / "evil.pkl", table[0], trust_pickle=False)
    assert refused.value.hint is not None
    assert "--trust-pickle" in refused.value.hint
    assert not note.exists()


def test_with_consent_it_runs_and_sees_no_secret(
    push: Push, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-look")
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:do-not-look@host")
    monkeypatch.setenv("KEELWAY_KEY_PEPPER", "do-not-look")
    note = tmp_path / "note"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Spy(note)))
    with pytest.raises(KeelwayError):  # what it unpickles to is no model
        push(tmp_path / "evil.pkl", table[0])
    seen = note.read_text()
    assert "PATH=" in seen  # it did run
    assert "do-not-look" not in seen
    assert f"HOME={os.environ.get('HOME', 'nowhere')}\n" not in seen
    assert seen.endswith("stdin=\n")


class Exit:
    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (7,)


def test_a_pickle_that_ends_its_process_ends_only_that(push: Push, table: Table, tmp_path: Path) -> None:
    (tmp_path / "exit.pkl").write_bytes(pickle.dumps(Exit()))
    with pytest.raises(FailedPrecondition, match="ended with status 7"):
        push(tmp_path / "exit.pkl", table[0])


class Sleep:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("sleep 60",)


def test_a_pickle_that_takes_for_ever_is_stopped(
    push: Push, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sklearn_file, "run_apart", lambda workspace: run_apart(workspace, limit=2.0))
    (tmp_path / "sleep.pkl").write_bytes(pickle.dumps(Sleep()))
    with pytest.raises(KeelwayError, match="longer than 2 seconds"):
        push(tmp_path / "sleep.pkl", table[0])


@pytest.mark.usefixtures("quick")
def test_a_skops_file_needs_no_consent(push: Push, table: Table, tmp_path: Path) -> None:
    skops.io.dump(LogisticRegression().fit(*table), tmp_path / "model.skops")
    prepared = push(tmp_path / "model.skops", table[0], trust_pickle=False)
    assert prepared.report.format == "onnx"
    assert prepared.report.source == "a scikit-learn model in a skops file"


def test_a_skops_file_with_types_nobody_trusts_names_them(push: Push, table: Table, tmp_path: Path) -> None:
    skops.io.dump(DecisionTreeClassifier(max_depth=2).fit(*table), tmp_path / "model.skops")
    with pytest.raises(UntrustedArtifact, match=r"sklearn\.tree\._tree\.Tree"):
        push(tmp_path / "model.skops", table[0])


@pytest.mark.usefixtures("quick")
def test_a_trusted_type_of_a_skops_file_is_opened(push: Push, table: Table, tmp_path: Path) -> None:
    skops.io.dump(DecisionTreeClassifier(max_depth=2).fit(*table), tmp_path / "model.skops")
    prepared = push(tmp_path / "model.skops", table[0], trusted_types=frozenset({"sklearn.tree._tree.Tree"}))
    assert prepared.report.format == "onnx"


TEXTS = [" ".join(np.random.default_rng(seed).choice(["good", "bad", "room", "food"], 6)) for seed in range(80)]


def test_a_kept_classifier_is_asked_once_for_label_and_probabilities(push: Push) -> None:
    target = np.array(["yes" if text.count("good") > 1 else "no" for text in TEXTS])
    estimator = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, target)
    prepared = push(estimator, pd.DataFrame({"text": TEXTS}))
    assert prepared.runtime == "skops"
    assert prepared.options["most_probable"] == ("no", "yes")
    runtime = load_skops(prepared.folder, "", prepared.options, RuntimeOptions(), lambda digest: runtime)
    given = {"input": np.array(TEXTS, object).reshape(-1, 1)}
    labels, shares = runtime.run(given, ["label", "probabilities"])
    assert labels.tolist() == estimator.predict(TEXTS).tolist()
    assert np.array_equal(shares, estimator.predict_proba(TEXTS))
    assert runtime.run(given, ["label"])[0].tolist() == labels.tolist()


@pytest.mark.filterwarnings("ignore:The `probability` parameter:FutureWarning")
def test_a_label_that_is_not_the_most_probable_one_is_asked_for(push: Push) -> None:
    """Its probabilities are calibrated apart from its decision, so that the two may disagree."""
    from sklearn.svm import SVC

    target = np.random.default_rng(0).integers(0, 2, len(TEXTS))
    estimator = make_pipeline(TfidfVectorizer(), SVC(probability=True, random_state=0)).fit(TEXTS, target)
    prepared = push(estimator, pd.DataFrame({"text": TEXTS}))
    labels, shares = estimator.predict(TEXTS), estimator.predict_proba(TEXTS)
    assert (labels != shares.argmax(axis=1)).any()
    assert prepared.runtime == "skops"
    assert prepared.options["most_probable"] == ()
