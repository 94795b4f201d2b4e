"""Native files of gradient boosting: opened without trust, answered like the library, refused with a next step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import xgboost
from tests.publish.boosting import LIBRARIES, NUMBERS, SUFFIXES, classes, classifier, rows, saved, target
from tests.publish.conftest import Push

from keelway.errors import ConversionRefused, CorruptArtifact, FailedPrecondition, InvalidInput, KeelwayError
from keelway.publish import push as push_module
from keelway.publish.report import Prepared
from keelway.publish.rows import rows_of, tensors
from keelway.types import Array

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.filterwarnings("ignore:Failed to import numba:UserWarning")]


def answered(prepared: Prepared, sample: pd.DataFrame) -> dict[str, Array]:
    """What the stored ONNX model answers to ``sample``, asked without keelway."""
    session = onnxruntime.InferenceSession(prepared.file("model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    packed = tensors(rows_of(sample), prepared.signature.inputs)
    return dict(zip(names, session.run(names, packed), strict=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One classifier of two classes of each library, on ``NUMBERS``, in its own file."""
    folder = tmp_path_factory.mktemp("boosters")
    frame = rows()
    fitted = {library: classifier(library).fit(frame[NUMBERS], classes(frame)) for library in LIBRARIES}
    return {library: saved(model, folder / f"model{SUFFIXES[library]}") for library, model in fitted.items()}


# What comes out


@pytest.mark.parametrize(
    ("library", "suffix"),
    [("xgboost", ".ubj"), ("xgboost", ".json"), ("lightgbm", ".txt"), ("catboost", ".cbm"), ("catboost", ".json")],
)
@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_native_file_needs_no_trust_and_answers_like_its_library(
    push: Push, tmp_path: Path, library: str, suffix: str, count: int
) -> None:
    frame = rows()
    model = classifier(library).fit(frame[NUMBERS], classes(frame, count))
    prepared = push(saved(model, tmp_path / f"model{suffix}"), frame[NUMBERS], trust_pickle=False)
    assert prepared.runtime == "onnx"
    assert prepared.signature.labels == tuple(range(count))
    fresh = rows(seed=1)[NUMBERS]
    found = answered(prepared, fresh)
    assert np.array_equal(found["label"], np.ravel(model.predict(fresh)))
    assert np.abs(found["probabilities"] - model.predict_proba(fresh)).max() < 1e-5
    assert (
        prepared.report.source == f"{'an XGBoost' if library == 'xgboost' else _named(library)} model in its own format"
    )


def _named(library: str) -> str:
    return {"lightgbm": "a LightGBM", "catboost": "a CatBoost"}[library]


def test_a_booster_of_the_training_api_answers_what_its_objective_means(push: Push, tmp_path: Path) -> None:
    frame = rows()
    matrix = xgboost.DMatrix(frame[NUMBERS], classes(frame, 3))
    booster = xgboost.train({"objective": "multi:softmax", "num_class": 3, "nthread": 1}, matrix, 5)
    booster.save_model(tmp_path / "model.ubj")
    found = answered(push(tmp_path / "model.ubj", frame[NUMBERS]), frame[NUMBERS])
    assert np.array_equal(found["label"], booster.predict(xgboost.DMatrix(frame[NUMBERS])).astype(int))
    assert found["probabilities"].shape == (len(frame), 3)


def test_text_labels_out_of_a_pickle_are_kept(push: Push) -> None:
    frame = rows()
    model = classifier("lightgbm").fit(frame[NUMBERS], np.array(["no", "yes"])[classes(frame)])
    prepared = push(model, frame[NUMBERS])
    assert prepared.signature.labels == ("no", "yes")
    assert (answered(prepared, frame[NUMBERS])["label"] == model.predict(frame[NUMBERS])).all()


def test_an_early_stop_counts_as_the_estimator_counts_it(push: Push, tmp_path: Path) -> None:
    frame = rows()
    model = xgboost.XGBRegressor(n_estimators=60, early_stopping_rounds=2, n_jobs=1)
    model.fit(frame[NUMBERS], target(frame), eval_set=[(frame[NUMBERS], -target(frame))], verbose=False)
    assert model.best_iteration < 59
    model.save_model(tmp_path / "model.json")
    for source in (model, tmp_path / "model.json"):
        found = answered(push(source, frame[NUMBERS]), frame[NUMBERS])["prediction"]
        assert np.abs(found - model.predict(frame[NUMBERS])).max() < 1e-5


def test_columns_are_taken_by_the_names_in_the_file(push: Push, files: dict[str, Path]) -> None:
    for library in LIBRARIES:
        prepared = push(files[library], rows()[["age", "size"]])
        assert prepared.signature.inputs[0].columns == ("size", "age"), library


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_model_trained_on_an_array_takes_columns_as_they_stand(push: Push, tmp_path: Path, library: str) -> None:
    frame = rows()
    model = classifier(library).fit(frame[NUMBERS].to_numpy(), classes(frame))
    prepared = push(saved(model, tmp_path / f"m{SUFFIXES[library]}"), frame[NUMBERS])
    assert (prepared.runtime, prepared.signature.inputs[0].columns) == ("onnx", ("size", "age"))
    with pytest.raises(InvalidInput, match=r"takes 2 columns, the sample has 4"):
        push(saved(model, tmp_path / f"m{SUFFIXES[library]}"), frame)


# Refusals: one line, and what to do next


def cut(data: bytes) -> bytes:
    return data[: len(data) * 3 // 5]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_truncated_file_is_damaged(push: Push, tmp_path: Path, files: dict[str, Path], library: str) -> None:
    (tmp_path / "cut").write_bytes(cut(files[library].read_bytes()))
    with pytest.raises(CorruptArtifact, match="cut short") as raised:
        push(tmp_path / "cut", rows()[NUMBERS])
    assert "again" in str(raised.value.hint)


@pytest.mark.parametrize("library", ["xgboost", "catboost"])
def test_truncated_json_is_damaged_although_catboost_would_take_it(push: Push, tmp_path: Path, library: str) -> None:
    frame = rows()
    saved(classifier(library).fit(frame[NUMBERS], classes(frame)), tmp_path / "model.json")
    (tmp_path / "cut.json").write_bytes(cut((tmp_path / "model.json").read_bytes()))
    with pytest.raises(CorruptArtifact, match="cut short"):
        push(tmp_path / "cut.json", frame[NUMBERS])


def test_categories_of_lightgbm_that_are_cut_off_are_missed(push: Push, tmp_path: Path) -> None:
    frame = rows().astype({"city": "category"})
    saved(classifier("lightgbm").fit(frame, classes(frame)), tmp_path / "model.txt")
    text = (tmp_path / "model.txt").read_text()
    (tmp_path / "cut.txt").write_text(text[: text.index("pandas_categorical") + 25])
    with pytest.raises(CorruptArtifact, match="cut short"):
        push(tmp_path / "cut.txt", frame)


def newer(library: str, data: bytes) -> bytes:
    if library == "lightgbm":
        return data.replace(b"version=v4", b"version=v5")
    if library == "catboost":
        return data.replace(b"CatBoost release 1.", b"CatBoost release 9.")
    start = data.rindex(b"version") + 7
    return data[:start] + data[start:].replace(b"i\x03", b"i\x63", 1) if data[start - 8 :][:1] != b'"' else data


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_file_of_a_newer_library_is_refused(push: Push, tmp_path: Path, files: dict[str, Path], library: str) -> None:
    if library == "xgboost":
        frame = rows()
        saved(classifier(library).fit(frame[NUMBERS], classes(frame)), tmp_path / "model.json")
        text = (tmp_path / "model.json").read_text()
        start = text.rindex('"version":[') + len('"version":[')
        (tmp_path / "newer.json").write_text(f"{text[:start]}9{text[start + 1 :]}")
        with pytest.raises(FailedPrecondition, match=r"saved by XGBoost 9\.\d+, newer than the"):
            push(tmp_path / "newer.json", frame[NUMBERS])
    path = tmp_path / "newer"
    path.write_bytes(newer(library, files[library].read_bytes()))
    with pytest.raises(FailedPrecondition, match="newer than") as raised:
        push(path, rows()[NUMBERS])
    assert "install" in str(raised.value.hint)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_sample_that_does_not_fit_is_refused_by_column(push: Push, files: dict[str, Path], library: str) -> None:
    frame = rows()[NUMBERS]
    with pytest.raises(InvalidInput, match="lacks columns the model was trained on: size") as raised:
        push(files[library], frame.rename(columns={"size": "width"}))
    assert (raised.value.field, raised.value.hint) == ("size", "it also has width, which the model does not know")
    with pytest.raises(InvalidInput, match="was not trained on: bought") as raised:
        push(files[library], frame.assign(bought=1))
    assert raised.value.hint == "say --target bought if it is what is predicted"
    with pytest.raises(InvalidInput, match="the column 'age' holds text") as raised:
        push(files[library], frame.assign(age="old"))
    assert raised.value.field == "age"
    with pytest.raises(InvalidInput, match="cannot be proved without rows") as raised:
        push(files[library], None)
    assert "--sample" in str(raised.value.hint)


def own_objective(truth: Array, predicted: Array) -> tuple[Array, Array]:
    return predicted - truth, np.ones_like(predicted)


@pytest.mark.parametrize("make", [xgboost.XGBRegressor, lightgbm.LGBMRegressor])
def test_an_objective_of_ones_own_is_refused(push: Push, make: Callable[..., Any]) -> None:
    frame = rows()
    model = make(objective=own_objective, n_estimators=3, n_jobs=1).fit(frame[NUMBERS], target(frame))
    with pytest.raises(ConversionRefused, match="objective of its own") as raised:
        push(model, frame[NUMBERS])
    assert "push a Python class" in str(raised.value.hint)


def test_a_lightgbm_file_without_an_objective_is_refused(push: Push, tmp_path: Path) -> None:
    frame = rows()
    model = lightgbm.LGBMRegressor(objective=own_objective, n_estimators=3, n_jobs=1, verbose=-1)
    saved(model.fit(frame[NUMBERS], target(frame)), tmp_path / "model.txt")
    with pytest.raises(ConversionRefused, match="objective of its own"):
        push(tmp_path / "model.txt", frame[NUMBERS])


@pytest.mark.parametrize(
    ("library", "extra"), [("xgboost", "boosters"), ("lightgbm", "boosters"), ("catboost", "catboost")]
)
def test_an_absent_library_is_named_with_the_extra(
    push: Push, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, library: str, extra: str
) -> None:
    there = push_module.find_spec
    monkeypatch.setattr(push_module, "find_spec", lambda name: None if name == library else there(name))
    with pytest.raises(FailedPrecondition, match=library) as raised:
        push(files[library], rows()[NUMBERS])
    assert raised.value.hint == f'pip install "keelway[{extra}]"'


def test_a_pickle_that_needs_an_absent_library_names_the_extra(
    push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = rows()
    model = classifier("lightgbm").fit(frame[NUMBERS], classes(frame))
    import joblib

    joblib.dump(model, tmp_path / "model.joblib")
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightgbm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without("lightgbm"), *sys.meta_path])
    with pytest.raises(FailedPrecondition, match="needs the module 'lightgbm'") as raised:
        push(tmp_path / "model.joblib", frame[NUMBERS])
    assert raised.value.hint == 'pip install "keelway[boosters]"'


class _Without:
    """An import system in which one package is not there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, name: str, path: Any = None, module: Any = None) -> None:
        if name.partition(".")[0] == self._name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("data", "hint"),
    [(b"binf" + bytes(99), "save it as JSON"), (b'{"name": "tree", "version": "v4"}', "booster.save_model")],
)
def test_forms_that_no_library_reads_any_more_get_a_way_out(push: Push, tmp_path: Path, data: bytes, hint: str) -> None:
    (tmp_path / "model").write_bytes(data)
    with pytest.raises(KeelwayError) as raised:
        push(tmp_path / "model", rows()[NUMBERS])
    assert hint in str(raised.value.hint)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_estimator_that_was_not_fitted_is_refused(push: Push, library: str) -> None:
    with pytest.raises(InvalidInput, match="saved before it was trained"):
        push(classifier(library), rows()[NUMBERS])
