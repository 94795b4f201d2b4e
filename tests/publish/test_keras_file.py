"""Keras models that are pushed, as far as keelway itself goes: what is asked, what is proved, what is believed.

TensorFlow is played by ``fake_keras.py``; ``test_keras_families.py`` has the real one, slowly.
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from keelway.config import load_settings
from keelway.contract.signature import validate_signature
from keelway.errors import (
    ConversionRefused,
    CorruptArtifact,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    KeelwayError,
    ModelFailed,
    UntrustedArtifact,
)
from keelway.publish import keras_file, keras_script
from keelway.publish.apart import run_apart
from keelway.publish.keras_file import prepare_keras, reason, unopened
from keelway.publish.push import prepare
from keelway.publish.report import Prepared

ROOT = Path(__file__).parents[2]
WEIGHTS = [[1.0, 2.0], [-3.0, 0.5], [0.25, 4.0]]

Push = Callable[..., Prepared]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An "environment with TensorFlow": a program that takes the place of its interpreter."""
    program = tmp_path / "python"
    fake = Path(__file__).with_name("fake_keras.py")
    program.write_text(f'#!/bin/sh\nexport PYTHONPATH={ROOT}\nexec {sys.executable} {fake} "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    np.savez(tmp_path / "sample.npz", x=np.random.default_rng(0).normal(size=(50, 3)))
    return tmp_path / "sample.npz"


@pytest.fixture
def push(tmp_path: Path, python: Path, sample: Path) -> Push:
    def pushed(given: Any = sample, trusted: bool = False, tolerance: float | None = None, **model: Any) -> Prepared:
        (tmp_path / "model.keras").write_text(json.dumps({"weights": WEIGHTS, **model}))
        (tmp_path / "workspace").mkdir()
        return prepare_keras(
            tmp_path / "model.keras",
            given,
            trusted=trusted,
            python=python,
            tolerance=tolerance,
            workspace=tmp_path / "workspace",
            progress=lambda message: None,
        )

    return pushed


def test_both_formats_are_proved_and_the_report_has_both(push: Push) -> None:
    prepared = push()
    validate_signature(prepared.signature)
    report = prepared.report
    assert report.format == prepared.runtime
    assert [attempt.name for attempt in report.attempts] == ["LiteRT", "ONNX"]
    for attempt in report.attempts:
        assert attempt.reason == ""
        assert attempt.comparison is not None
        assert attempt.comparison.holds
        assert attempt.micros is not None
    fastest = min(report.attempts, key=lambda attempt: attempt.micros or 0)
    assert fastest.name == {"litert": "LiteRT", "onnx": "ONNX"}[report.format]
    assert report.micros_after == fastest.micros
    assert (report.sample_rows, report.framework, report.micros_before) == (50, "Keras", 1e9)
    assert report.perturbed_rows > 50
    assert len(list(prepared.folder.iterdir())) == 1


@pytest.mark.parametrize(("slow", "kept"), [("litert", "onnx"), ("onnx", "litert")])
def test_the_faster_of_two_that_hold_is_kept(push: Push, slow: str, kept: str) -> None:
    # It changes the sign a thousand times: no load of the machine makes that the faster one.
    assert push(**{slow: "slow"}).report.format == kept


@pytest.mark.parametrize(("wrong", "kept"), [("litert", "onnx"), ("onnx", "litert")])
def test_one_that_answers_otherwise_is_not_kept(push: Push, wrong: str, kept: str) -> None:
    report = push(**{wrong: "wrong"}).report
    assert report.format == kept
    [attempt] = [attempt for attempt in report.attempts if attempt.reason]
    assert "of examples differ" in attempt.reason
    assert attempt.comparison is not None
    assert attempt.comparison.worst_difference > 1e-4


def test_a_difference_that_is_allowed_is_no_reason(push: Push) -> None:
    report = push(litert="wrong", onnx="wrong", tolerance=0.5).report
    assert [attempt.reason for attempt in report.attempts] == ["", ""]
    assert report.tolerance == 0.5


def test_a_model_whose_conversions_all_fail_is_refused_with_the_reasons(push: Push) -> None:
    with pytest.raises(ConversionRefused, match="LiteRT lacks operators of the model: Foo") as refused:
        push(litert="ConverterError: needs SELECT_TF_OPS: 'tf.Foo' op is neither", onnx="wrong")
    assert "ONNX: " in str(refused.value)


def test_without_litert_onnx_is_kept_and_the_report_says_why(push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    report = push().report
    assert report.format == "onnx"
    assert "not installed" in report.attempts[0].reason


def test_the_columns_of_a_table_are_one_input(push: Push) -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=["a", "b", "c"])
    prepared = push(table)
    assert [spec.columns for spec in prepared.signature.inputs] == [("a", "b", "c")]
    assert prepared.baseline is not None


def test_an_array_of_fractions_is_no_input_of_whole_numbers(push: Push) -> None:
    with pytest.raises(InvalidInput, match="numbers that INT32 does not"):
        push(dtype="int32")


def test_inputs_of_text_are_refused_with_what_to_do(push: Push) -> None:
    with pytest.raises(InvalidInput, match="of the type string") as refused:
        push(dtype="string")
    assert "caller" in str(refused.value.hint)


def test_a_model_that_fails_on_the_sample_is_refused(push: Push) -> None:
    with pytest.raises(ModelFailed, match="raised InvalidArgumentError on the sample"):
        push(unanswered={"0": "InvalidArgumentError"})


def test_answers_for_fewer_batches_than_were_asked_are_not_believed(push: Push) -> None:
    with pytest.raises(CorruptArtifact, match="other examples"):
        push(answered=1)


def test_the_proof_is_on_the_examples_that_were_asked_whatever_the_child_leaves(push: Push) -> None:
    report = push(examples_changed=True, litert="wrong").report
    assert (report.format, report.sample_rows) == ("onnx", 50)


def test_consent_reaches_the_child_and_a_version_that_differs_the_report(push: Push) -> None:
    report = push(trusted=True, saved_with="3.1").report
    assert (report.estimator, report.saved_with) == ("Fake, trusted: True", "3.1")


def test_without_a_sample_it_says_what_a_sample_is(push: Push) -> None:
    with pytest.raises(InvalidInput) as refused:
        push(given=None)
    assert ".npz" in str(refused.value.hint)


SAID = {
    "Could not locate class 'Mine'. Make sure custom classes are decorated with": (InvalidInput, "uses 'Mine'"),
    "Unknown layer: 'package>Mine'. Please ensure": (InvalidInput, "uses 'Mine'"),
    "Requested the deserialization of a `Lambda` layer whose": (UntrustedArtifact, "Lambda layer"),
    "No model config found in the file at": (InvalidInput, "weights without a model"),
    "Unrecognized keyword arguments passed to Dense": (CorruptArtifact, "cannot open"),
}


@pytest.mark.parametrize("said", SAID)
def test_what_keras_says_becomes_what_to_do(push: Push, said: str) -> None:
    kind, words = SAID[said]
    with pytest.raises(kind, match=words):
        push(said=said)


def test_with_consent_a_lambda_is_no_longer_the_reason() -> None:
    error = CorruptArtifact("Keras cannot open the file")
    assert unopened(error, "bad marshal data in the `Lambda` layer", True) is error


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ModuleNotFoundError: No module named 'tf2onnx'", "tf2onnx is not installed in that environment"),
        ("ConverterError: 'tf.TensorListReserve' op requires", "LiteRT has no loop over a sequence"),
        ("ConverterError: TF Select ops: Erfinv\n\ttf.Erfinv(tensor)", "LiteRT lacks operators of the model: Erfinv"),
        ("ValueError: first\n\nlast line ", "the converter raised ValueError: last line"),
        ("ValueError: ", "the converter raised ValueError"),
        ("", "the converter raised "),
    ],
)
def test_what_a_converter_says_becomes_a_line(said: str, expected: str) -> None:
    assert reason(said).startswith(expected)


def test_without_tensorflow_it_says_how_to_make_an_environment(python: Path, sample: Path) -> None:
    file = python.with_name("model.keras")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
    workspace = python.with_name("workspace")
    workspace.mkdir()
    with pytest.raises(FailedPrecondition, match="needs TensorFlow") as refused:
        prepare(file, sample, None, trust_pickle=False, workspace=workspace)
    assert "--python keras-env/bin/python" in str(refused.value.hint)


def test_an_interpreter_that_is_none_is_refused(tmp_path: Path, sample: Path) -> None:
    for python in (tmp_path / "missing", sample, tmp_path):
        with pytest.raises(FailedPrecondition, match="no program that can be run"):
            keras_file._interpreter(python)


def test_an_environment_is_found_beside_the_link_to_its_interpreter(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    assert keras_file._interpreter(tmp_path / "python") == tmp_path / "python"


def test_a_program_that_answers_nothing_or_never_is_ended(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="with status 3"):
        run_apart(tmp_path, command=["/bin/sh", "-c", "exit 3"])
    with pytest.raises(DeadlineExceeded):
        run_apart(tmp_path, limit=0.2, command=["/bin/sh", "-c", "sleep 60"])


def test_a_file_that_is_no_program_is_an_error_of_keelways(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("not a program")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(KeelwayError, match="cannot be started"):
        run_apart(tmp_path, command=[str(tmp_path / "python")])


def test_the_script_runs_in_any_environment_with_tensorflow() -> None:
    tree = ast.parse(Path(keras_script.__file__).read_text(), feature_version=(3, 10))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    assert found - sys.stdlib_module_names == {"h5py", "keras", "numpy", "tensorflow", "tf2onnx"}


def test_the_setting_names_the_interpreter() -> None:
    settings = load_settings(environment={"KEELWAY_PUBLISH_KERAS_PYTHON": "/opt/keras/bin/python"})
    assert settings.publish.keras_python == "/opt/keras/bin/python"
