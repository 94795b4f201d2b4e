"""LiteRT files that are pushed: copied as they are, named by a sample, tried on it, refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ai_edge_litert import schema_py_generated as schema
from tests.publish.conftest import Push
from tests.tflite import Given, Step, doubler, same, save

from keelway.contract.signature import validate_signature
from keelway.errors import CorruptArtifact, InvalidInput, KeelwayError
from keelway.plugins import runtime_loader
from keelway.ports import RuntimeOptions
from keelway.publish.report import Prepared, report_lines
from keelway.types import Array


def arrays(folder: Path, **given: Any) -> Path:
    np.savez(folder / "sample.npz", **given)
    return folder / "sample.npz"


def answers(prepared: Prepared, **given: Array) -> list[Any]:
    """What the stored files answer, loaded as a server loads them."""
    load = runtime_loader(prepared.runtime)
    runtime = load(prepared.folder, "digest", prepared.options, RuntimeOptions(), None)  # type: ignore[arg-type]
    names = [spec.name for spec in prepared.signature.outputs]
    return [array.tolist() for array in runtime.run(given, names)]  # type: ignore[union-attr]


def test_a_file_is_kept_byte_for_byte_and_served_by_litert(push: Push, tmp_path: Path) -> None:
    path = doubler(tmp_path / "double.tflite")
    prepared = push(path, None)
    validate_signature(prepared.signature)
    assert [file.name for file in prepared.folder.iterdir()] == ["model.tflite"]
    assert (prepared.folder / "model.tflite").read_bytes() == path.read_bytes()
    assert (prepared.runtime, prepared.report.format, prepared.report.micros_after) == ("litert", "litert", None)
    assert prepared.signature.batched
    assert answers(prepared, x=np.ones((3, 2), np.float32)) == [[[2, 2]] * 3]


def test_the_columns_of_a_table_become_features_with_a_baseline(push: Push, tmp_path: Path) -> None:
    sample = pd.DataFrame({"width": [1.0, 2.0, 3.0], "height": [4.0, 5.0, 7.0]})
    prepared = push(doubler(tmp_path / "double.tflite"), sample)
    assert [spec.columns for spec in prepared.signature.inputs] == [("width", "height")]
    assert prepared.baseline is not None
    assert [feature.name for feature in prepared.baseline.features] == ["width", "height"]
    assert prepared.report.sample_rows == 3
    assert prepared.report.micros_after is not None
    assert report_lines(
        {"format": "litert", "source": "a LiteRT model", "reason": "pushed as LiteRT"} | {"tolerance": 0.0, "size": 1}
    ) == ["a LiteRT model", "kept as litert: pushed as LiteRT"]


def test_a_table_of_another_width_is_refused_with_both_numbers(push: Push, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"takes 2 columns, the sample has 1"):
        push(doubler(tmp_path / "double.tflite"), pd.DataFrame({"width": [1.0, 2.0]}))


def test_arrays_are_tried_in_the_shape_of_the_model(push: Push, tmp_path: Path) -> None:
    path = doubler(tmp_path / "double.tflite", (-1, 4, 4, 3))
    prepared = push(path, arrays(tmp_path, picture=np.zeros((5, 4, 4, 3))))
    assert prepared.report.sample_rows == 5
    with pytest.raises(InvalidInput, match=r"have the shape \[5, 4, 4\], the model takes \[-1, 4, 4, 3\]"):
        push(path, arrays(tmp_path, picture=np.zeros((5, 4, 4))))


def test_a_model_of_one_example_is_tried_on_one_and_never_batched(push: Push, tmp_path: Path) -> None:
    prepared = push(doubler(tmp_path / "double.tflite", (1, 4, 3)), arrays(tmp_path, x=np.ones((6, 4, 3))))
    assert not prepared.signature.batched
    assert prepared.signature.features[0].shape == (1, 4, 3)
    assert answers(prepared, x=np.ones((1, 4, 3), np.float32)) == [[[[2] * 3] * 4]]


def test_a_quantised_tensor_is_stated_with_what_it_stands_for(push: Push, tmp_path: Path) -> None:
    tensors = [Given("x", "INT8", scale=0.5, zero=-4), Given("y", "INT8", scale=0.25, zero=3)]
    path = save(tmp_path / "quantised.tflite", tensors, [Step("QUANTIZE", ["x"], ["y"])], ["x"], ["y"])
    prepared = push(path, arrays(tmp_path, x=np.ones((4, 2), np.int8)))
    assert prepared.signature.inputs[0].datatype == "INT8"
    assert prepared.report.warnings == (
        "'x' is quantised: the whole number n in it stands for 0.5 × (n + 4)",
        "'y' is quantised: the whole number n in it stands for 0.25 × (n - 3)",
    )
    with pytest.raises(InvalidInput, match="INT8"):
        push(path, arrays(tmp_path, x=np.full((4, 2), 0.5)))


def test_a_model_that_fails_on_several_rows_is_refused(push: Push, tmp_path: Path) -> None:
    # It says that it takes any number of rows, and makes one row of them.
    path = same(tmp_path / "one.tflite", "FP32", wanted=(1, -1))
    sample = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    with pytest.raises(InvalidInput, match="fails on several") as refused:
        push(path, sample)
    assert "batch axis" in str(refused.value.hint)


def memory(path: Path) -> Path:
    """y = what was added up so far: a variable that every run changes."""
    tensors = [
        Given("x", shape=(1, 2)),
        Given("handle", "RESOURCE", ()),
        Given("before", shape=(1, 2)),
        Given("y", shape=(1, 2)),
        Given("start", shape=(1, 2), value=np.zeros((1, 2), np.float32)),
    ]
    handle = schema.VarHandleOptionsT()
    handle.container, handle.sharedName = "", "total"
    steps = [
        Step("VAR_HANDLE", [], ["handle"], handle),
        Step("READ_VARIABLE", ["handle"], ["before"], schema.ReadVariableOptionsT()),
        Step("ADD", ["x", "before"], ["y"], schema.AddOptionsT()),
        Step("ASSIGN_VARIABLE", ["handle", "y"], [], schema.AssignVariableOptionsT()),
    ]
    return save(path, tensors, steps, ["x"], ["y"])


def test_a_model_that_remembers_is_refused(push: Push, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="when it is asked again"):
        push(memory(tmp_path / "memory.tflite"), arrays(tmp_path, x=np.ones((3, 2), np.float32)))


def test_a_model_that_answers_no_number_is_refused(push: Push, tmp_path: Path) -> None:
    tensors = [Given("x"), Given("nothing", shape=(1, 2), value=np.full((1, 2), np.nan, np.float32)), Given("y")]
    steps = [Step("ADD", ["x", "nothing"], ["y"], schema.AddOptionsT())]
    path = save(tmp_path / "nan.tflite", tensors, steps, ["x"], ["y"])
    with pytest.raises(InvalidInput, match="NaN to every example"):
        push(path, arrays(tmp_path, x=np.ones((3, 2), np.float32)))


def test_a_damaged_file_is_refused(push: Push, tmp_path: Path) -> None:
    path = doubler(tmp_path / "double.tflite")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CorruptArtifact, match="LiteRT cannot load"):
        push(path, None)


def test_an_archive_may_hold_it(tmp_path: Path) -> None:
    import zipfile

    from keelway.publish.release import _unpacked

    doubler(tmp_path / "double.tflite")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.write(tmp_path / "double.tflite", "double.tflite")
    assert _unpacked(tmp_path / "model.zip", tmp_path / "unpacked").name == "double.tflite"


def test_a_target_needs_a_table(push: Push, tmp_path: Path) -> None:
    with pytest.raises(KeelwayError, match="no table"):
        push(doubler(tmp_path / "double.tflite"), arrays(tmp_path, x=np.ones((3, 2))), "y")
