"""Folders of MLflow: their files, columns and examples are used, and nothing in them is run or believed. # S5"""

from __future__ import annotations

import contextlib
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keelway.errors import CorruptArtifact, InvalidInput, KeelwayError, NotFound
from keelway.publish.mlflow_import import read_folder, sample_of

COLUMNS = [
    {"type": "long", "name": "age", "required": True},
    {"type": "double", "name": "income", "required": True},
]


def description(**changes: Any) -> dict[str, Any]:
    """As MLflow 3 writes it."""
    return {
        "flavors": {
            "python_function": {"data": "model.ubj", "loader_module": "mlflow.xgboost", "python_version": "3.11.7"},
            "xgboost": {"code": None, "data": "model.ubj", "model_class": "xgboost.sklearn.XGBClassifier"},
        },
        "is_signature_from_type_hint": False,
        "mlflow_version": "3.17.2",
        "model_uuid": "f8329fa48f9848d6bfd5b202cc897d00",
        "saved_input_example_info": {"artifact_path": "input_example.json", "type": "dataframe"},
        "signature": {"inputs": json.dumps(COLUMNS), "outputs": "[]", "params": None},
        "utc_time_created": "2026-11-27 12:31:33.141388",
    } | changes


def write(folder: Path, described: dict[str, Any] | str) -> Path:
    folder.mkdir(exist_ok=True)
    text = described if isinstance(described, str) else yaml.safe_dump(described)
    (folder / "MLmodel").write_text(text)
    (folder / "model.ubj").write_bytes(b"{}")
    (folder / "input_example.json").write_text('{"columns": ["income", "age"], "data": [[1, 40], [2.5, 41]]}')
    return folder


def test_what_mlflow_says_of_a_model_is_read(tmp_path: Path) -> None:
    model = read_folder(write(tmp_path / "m", description()))
    assert (model.file, model.flavour) == (tmp_path / "m" / "model.ubj", "xgboost")
    assert model.columns == {"age": "int64", "income": "float64"}
    assert model.facts == {
        "flavour": "xgboost",
        "mlflow_version": "3.17.2",
        "model_uuid": "f8329fa48f9848d6bfd5b202cc897d00",
    }


def test_rows_have_the_declared_columns_in_their_order_and_of_their_types(tmp_path: Path) -> None:
    model = read_folder(write(tmp_path / "m", description()))
    rows = sample_of(model, None)
    assert rows is not None
    assert {str(name): str(dtype) for name, dtype in rows.dtypes.items()} == {"age": "int64", "income": "float64"}
    assert rows["income"].tolist() == [1.0, 2.5]
    given = tmp_path / "rows.csv"
    pd.DataFrame({"bought": [1], "income": [3], "age": [30]}).to_csv(given, index=False)
    rows = sample_of(model, given)
    assert rows is not None
    assert (list(rows.columns), str(rows["income"].dtype)) == (["age", "income"], "float64")


def test_without_a_signature_or_an_example_there_is_none(tmp_path: Path) -> None:
    model = read_folder(write(tmp_path / "m", description(signature=None, saved_input_example_info=None)))
    assert (model.columns, sample_of(model, None)) == ({}, None)
    tensors = {"inputs": '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]'}
    assert read_folder(write(tmp_path / "m", description(signature=tensors))).columns == {}


def test_a_flavour_says_where_its_file_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", description(flavors={"pytorch": {"model_data": "data"}}))
    (folder / "data").mkdir()
    (folder / "data" / "model.pth").write_bytes(b"")
    assert read_folder(folder).file == folder / "data" / "model.pth"
    flavours = {"sklearn": {"pickled_model": "model.ubj"}, "onnx": {"data": "model.ubj"}}
    assert read_folder(write(folder, description(flavors=flavours))).flavour == "onnx"
    flavours["python_function"] = {"loader_module": "mlflow.sklearn"}
    assert read_folder(write(folder, description(flavors=flavours))).flavour == "sklearn"


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "", ".", "model.ubj/x", "\0"]
)
def test_no_path_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("secret")
    for described in (
        description(flavors={"xgboost": {"data": path}}),
        description(saved_input_example_info={"type": "dataframe", "artifact_path": path}),
    ):
        with pytest.raises((CorruptArtifact, NotFound)):
            read_folder(write(tmp_path / "m", described))


@pytest.mark.parametrize("what", ["file", "folder", "description", "example", "pipe"])
def test_no_link_is_followed_and_no_pipe_waited_for(tmp_path: Path, what: str) -> None:
    folder = write(tmp_path / "m", description())
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model.ubj").write_bytes(b"{}")
    if what == "folder":
        (folder / "data").symlink_to(outside)
        (folder / "MLmodel").write_text(yaml.safe_dump(description(flavors={"xgboost": {"data": "data/model.ubj"}})))
    else:
        names = {"description": "MLmodel", "example": "input_example.json"}
        target = folder / names.get(what, "model.ubj")
        target.rename(outside / "moved")
        os.mkfifo(target) if what == "pipe" else target.symlink_to(outside / "moved")
    with pytest.raises((CorruptArtifact, InvalidInput)):
        read_folder(folder)


BOMB = "a: &a [1]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrstu"))
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b}\n  <<: [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmno")
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "flavors: 3",
        "flavors: {xgboost: [1]}",
        "flavors: !!python/object/apply:os.system ['touch ran']",
        "!!python/name:os.system ''",
        "a: &a [*a]",
        "[" * 5000,
        "x: 2026-99-99",
        "\0",
        "flavors: {1: {data: x}}",
        BOMB,
        MERGES,
        "x" * (1024 * 1024 + 1),
    ],
)
def test_odd_yaml_is_refused_in_one_line_and_runs_nothing(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput) as refused:
        read_folder(write(tmp_path / "m", text))
    assert "\n" not in refused.value.message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("bomb", [BOMB, MERGES])
def test_a_few_lines_do_not_fill_the_memory(tmp_path: Path, bomb: str) -> None:
    folder = write(tmp_path / "m", bomb + "flavors: {xgboost: {data: model.ubj}}")
    assert read_folder(folder).flavour == "xgboost"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=60))
def test_whatever_the_description_is_it_is_read_or_refused(tmp_path: Path, text: str) -> None:
    with contextlib.suppress(KeelwayError):
        read_folder(write(tmp_path / "m", text.encode(errors="replace").decode()))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"flavors": {"python_function": {"loader_module": "mlflow.pyfunc.model"}}}, InvalidInput, "no flavour"),
        ({"flavors": {"xgboost": {"data": "gone.ubj"}}}, NotFound, "missing"),
        ({"flavors": {"xgboost": {}}}, InvalidInput, "does not say where"),
        ({"signature": {"inputs": "[{"}}, InvalidInput, "cannot be read"),
        ({"signature": {"inputs": 3}}, InvalidInput, "cannot be read"),
        ({"signature": {"inputs": '[{"type": "datetime", "name": "at"}]'}}, InvalidInput, "no feature can be"),
    ],
)
def test_what_cannot_be_taken_over_is_said(
    tmp_path: Path, changes: dict[str, Any], error: type[KeelwayError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_folder(write(tmp_path / "m", description(**changes)))


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ('{"columns": ["age"], "data": [[1]]}', "lacks the column 'income'"),
        ('{"columns": ["age", "income"], "data": [["old", 2]]}', "'age' of the sample does not fit"),
        ('{"columns": ["age", "income"], "data": [[null, 2]]}', "'age' of the sample does not fit"),
        ('{"columns": ["age", "income"], "data": [[1]]}', "cannot be read"),
        ("[1, 2]", "cannot be read"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(tmp_path: Path, example: str, words: str) -> None:
    folder = write(tmp_path / "m", description())
    (folder / "input_example.json").write_text(example)
    with pytest.raises(InvalidInput, match=words):
        sample_of(read_folder(folder), None)


def test_a_folder_without_a_description_is_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFound, match="no MLflow model"):
            read_folder(path)
