"""Keras models of every kind pushed with the real TensorFlow: what is served is what Keras answers.

Slow: TensorFlow is installed into an environment of its own, under ``.cache``, and started twice for each push.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.conformance.environments import keras_python

from keelway.contract.signature import validate_signature
from keelway.errors import CorruptArtifact, InvalidInput, KeelwayError, ModelFailed, UntrustedArtifact
from keelway.plugins import runtime_loader
from keelway.ports import Runtime, RuntimeOptions
from keelway.publish.push import prepare
from keelway.publish.report import Prepared
from keelway.types import Array

pytestmark = pytest.mark.slow

Push = Callable[..., Prepared]


@pytest.fixture(scope="session")
def python() -> Path:
    return keras_python()


@pytest.fixture(scope="session")
def models(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    script = Path(__file__).with_name("keras_models.py")
    made = subprocess.run([python, script, folder], capture_output=True, text=True, timeout=600, check=False)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def push(python: Path, models: Path, tmp_path: Path) -> Push:
    def pushed(name: str, sample: Any = None, suffix: str = ".keras", **settings: Any) -> Prepared:
        given = models / f"{name}.sample.npz" if sample is None else sample
        workspace = tmp_path / name
        workspace.mkdir()
        wanted = {"trust_pickle": False, **settings}
        return prepare(models / f"{name}{suffix}", given, None, python=python, workspace=workspace, **wanted)

    return pushed


@pytest.fixture
def served() -> Iterator[Callable[[Prepared], Runtime]]:
    """The stored files, loaded as a server loads them."""
    opened: list[Runtime] = []

    def load(prepared: Prepared) -> Runtime:
        loader = runtime_loader(prepared.runtime)
        opened.append(loader(prepared.folder, "digest", prepared.options, RuntimeOptions(), None))  # type: ignore[arg-type]
        return opened[-1]

    yield load
    for runtime in opened:
        runtime.close()


def expected(models: Path, name: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs that no push has seen, and what Keras answered to them when the model was made."""
    with np.load(models / f"{name}.expected.npz") as arrays:
        given = {key.removeprefix("in/"): arrays[key] for key in arrays.files if key.startswith("in/")}
        answered = {key.removeprefix("out/"): arrays[key] for key in arrays.files if key.startswith("out/")}
    return given, answered


#: Model, suffix, the formats that hold for it, and its outputs in Keras's order.
BOTH, ONNX = ("LiteRT", "ONNX"), ("ONNX",)
FAMILIES = [
    ("classifier", ".keras", BOTH, ["shares"]),
    ("regression", ".keras", BOTH, [None]),
    ("pictures", ".h5", BOTH, [None]),
    ("raw_bytes", ".keras", BOTH, [None]),
    ("two_and_two", ".h5", BOTH, ["kind", "amount"]),
    ("mapped", ".keras", BOTH, ["class", "worth"]),
    ("sequences", ".keras", ONNX, [None]),
    ("tokens", ".keras", ONNX, [None]),
    ("columns", ".keras", BOTH, [None]),
]


@pytest.mark.parametrize(("name", "suffix", "formats", "outputs"), FAMILIES, ids=lambda value: str(value))
def test_what_is_served_is_what_keras_answers(
    name: str,
    suffix: str,
    formats: tuple[str, ...],
    outputs: list[str | None],
    push: Push,
    models: Path,
    served: Callable[[Prepared], Runtime],
) -> None:
    prepared = push(name, suffix=suffix)
    validate_signature(prepared.signature)
    report = prepared.report
    assert prepared.signature.batched
    assert [attempt.name for attempt in report.attempts] == ["LiteRT", "ONNX"]
    assert tuple(attempt.name for attempt in report.attempts if not attempt.reason) == formats
    assert report.worst_difference is not None
    assert report.worst_difference < 1e-4
    assert report.micros_before is not None
    given, answers = expected(models, name)
    if len(given) == 1:  # a single input may be called anything
        given = {prepared.signature.inputs[0].name: next(iter(given.values()))}
    names = [spec.name for spec in prepared.signature.outputs]
    runtime = served(prepared)
    for rows in (7, 1, 3):
        asked = {key: array[:rows] for key, array in given.items()}
        found = dict(zip(names, runtime.run(asked, names), strict=True))  # type: ignore[arg-type]
        for place, output in enumerate(outputs):
            wanted = answers.get(output or "", answers.get(str(place)))
            assert wanted is not None
            array = found[output] if output else next(iter(found.values()))
            np.testing.assert_allclose(array, wanted[:rows], rtol=1e-4, atol=1e-4)


def test_sequences_are_proved_and_served_at_other_lengths(
    push: Push, models: Path, served: Callable[[Prepared], Runtime]
) -> None:
    prepared = push("sequences")
    assert prepared.signature.inputs[0].shape == (-1, -1, 5)
    runtime = served(prepared)
    for length in (1, 4, 30):
        [answer] = runtime.run({"steps": np.ones((2, length, 5), np.float32)}, [prepared.signature.outputs[0].name])  # type: ignore[misc]
        assert answer.shape == (2, 2)


def test_the_columns_of_a_table_are_named_in_one_input_or_are_inputs_of_their_own(push: Push, models: Path) -> None:
    with np.load(models / "columns.sample.npz") as arrays:
        table = pd.DataFrame({name: arrays[name][:, 0] for name in arrays.files})
    prepared = push("columns", table)
    assert {feature.name for feature in prepared.signature.features} == {"age", "income", "rooms"}
    assert prepared.baseline is not None
    rows = pd.DataFrame(np.random.default_rng(0).normal(50, 20, size=(80, 4)), columns=list("abcd"))
    assert [spec.columns for spec in push("regression", rows).signature.inputs] == [tuple("abcd")]


def test_a_lambda_layer_is_opened_only_with_consent(
    push: Push, models: Path, served: Callable[[Prepared], Runtime]
) -> None:
    with pytest.raises(UntrustedArtifact, match="Lambda layer") as refused:
        push("doubled")
    assert "--trust-pickle" in str(refused.value.hint)
    (models / "trusted.keras").write_bytes((models / "doubled.keras").read_bytes())
    prepared = push("trusted", models / "doubled.sample.npz", trust_pickle=True)
    given, answers = expected(models, "doubled")
    names = [prepared.signature.outputs[0].name]
    np.testing.assert_allclose(served(prepared).run(given, names)[0], answers["0"], rtol=1e-6)  # type: ignore[index]


REFUSED = [
    ("in_company", ".keras", InvalidInput, "otherwise alone than among others", "whole batch"),
    ("remembering", ".keras", InvalidInput, "stateful=True", "stateful=False"),
    ("fixed", ".keras", InvalidInput, r"the shape \[8, 3\]", "without batch_size"),
    ("own_layer", ".keras", InvalidInput, "uses 'Own'", "model.export"),
    ("own_layer", ".h5", InvalidInput, "uses 'Own'", "model.export"),
    ("only", ".weights.h5", InvalidInput, "weights without a model", "model.save"),
]


@pytest.mark.parametrize(("name", "suffix", "kind", "words", "hint"), REFUSED)
def test_what_cannot_be_served_is_refused_with_what_to_do(
    name: str, suffix: str, kind: type[KeelwayError], words: str, hint: str, push: Push, models: Path
) -> None:
    sample = models / "own_layer.sample.npz" if name == "only" else None
    with pytest.raises(kind, match=words) as refused:
        push(name, sample, suffix, trust_pickle=name == "in_company")
    assert hint in str(refused.value.hint)


def test_a_damaged_file_says_which_version_of_keras_did_not_open_it(push: Push, models: Path) -> None:
    import zipfile

    with (
        zipfile.ZipFile(models / "classifier.keras") as whole,
        zipfile.ZipFile(models / "damaged.keras", "w") as damaged,
    ):
        for name in ("metadata.json", "config.json"):
            damaged.writestr(name, whole.read(name))
        damaged.writestr("model.weights.h5", b"nothing")
    with pytest.raises(CorruptArtifact, match=r"it was saved by Keras 3\.\d+") as refused:
        push("damaged", models / "classifier.sample.npz")
    assert "--python" in str(refused.value.hint)


def test_a_sample_that_the_model_does_not_take_is_refused(push: Push, tmp_path: Path) -> None:
    np.savez(tmp_path / "named.npz", left=np.zeros((5, 4)), other=np.zeros((5, 2, 3)))
    with pytest.raises(InvalidInput, match="holds 'left', 'other', the model takes 'left', 'right'"):
        push("two_and_two", tmp_path / "named.npz", ".h5")
    np.save(tmp_path / "ids.npy", np.full((5, 4), 99))
    with pytest.raises(ModelFailed, match="on the sample"):  # the embedding has 50
        push("tokens", tmp_path / "ids.npy")
