"""LiteRT behind the runtime protocol: datatypes, names, changing shapes, memory between runs, and files that are not
what they seem."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tests.tflite import Given, Step, doubler, same, save

from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput, KeelwayError
from keelway.plugins import runtime_loader
from keelway.ports import RuntimeOptions
from keelway.runtimes.litert import LiteRTRuntime, load
from keelway.types import NUMPY_DTYPES, TensorSpec


def opened(path: Path, **options: Any) -> LiteRTRuntime:
    return load(path.parent, "digest", {"file": path.name}, RuntimeOptions(**options), None)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.tflite"


@pytest.mark.parametrize("datatype", sorted(set(NUMPY_DTYPES) - {"BYTES"}))
def test_numbers_and_booleans_pass_through_a_model_unchanged(datatype: str, path: Path) -> None:
    # R1
    runtime = opened(same(path, datatype))
    given = np.array([[0, 1], [1, 1], [1, 0]], NUMPY_DTYPES[datatype])
    [answered] = runtime.run({"x": given}, ["y"])
    assert (runtime.inputs, runtime.outputs) == (
        (TensorSpec("x", datatype, (-1, 2)),),
        (TensorSpec("y", datatype, (-1, 2)),),
    )
    assert answered.dtype == given.dtype
    np.testing.assert_array_equal(answered, given)


def test_texts_pass_as_utf_8_and_a_missing_one_is_empty(path: Path) -> None:
    runtime = opened(same(path, "BYTES"))
    [answered] = runtime.run({"x": np.array([["é", b"raw"], [None, ""]], object)}, ["y"])
    assert answered.tolist() == [["é".encode(), b"raw"], [b"", b""]]


def test_a_run_takes_any_number_of_rows_one_after_another(path: Path) -> None:
    runtime = opened(doubler(path))
    for rows in (1, 5, 2, 2, 0, 1, 700):
        given = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        [answered] = runtime.run({"x": given}, ["y"])
        np.testing.assert_array_equal(answered, given * 2)


def test_memory_is_planned_again_only_when_shapes_change(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = opened(doubler(path))
    planned: list[object] = []
    original = runtime._interpreter.allocate_tensors
    monkeypatch.setattr(runtime._interpreter, "allocate_tensors", lambda: (planned.append(1), original())[1])
    for rows in (1, 1, 1, 3, 3, 1):
        runtime.run({"x": np.ones((rows, 2), np.float32)}, ["y"])
    assert len(planned) == 2


def test_what_a_run_answered_is_not_changed_by_the_next(path: Path) -> None:
    runtime = opened(doubler(path))
    [first] = runtime.run({"x": np.ones((1, 2), np.float32)}, ["y"])
    runtime.run({"x": np.zeros((1, 2), np.float32)}, ["y"])
    assert first.tolist() == [[2, 2]]


def test_a_run_after_one_that_failed_answers(path: Path) -> None:
    runtime = opened(doubler(path))
    with pytest.raises(RuntimeError):
        runtime.run({"x": np.ones((4, 3), np.float32)}, ["y"])
    with pytest.raises(ValueError, match="FLOAT64"):
        runtime.run({"x": np.ones((4, 2))}, ["y"])
    [answered] = runtime.run({"x": np.ones((4, 2), np.float32)}, ["y"])
    assert answered.shape == (4, 2)


def test_shapes_that_fit_no_operator_do_not_spoil_those_that_did(path: Path) -> None:
    # Nothing but the addition itself knows that the open axis has to be 5 long.
    tensors = [Given("x", shape=(-1, -1)), Given("five", shape=(1, 5), value=np.ones((1, 5), np.float32))]
    steps = [Step("ADD", ["x", "five"], ["y"], schema.AddOptionsT())]
    runtime = opened(save(path, [*tensors, Given("y", shape=(-1, -1))], steps, ["x"], ["y"]))
    for _ in range(2):
        [answered] = runtime.run({"x": np.ones((2, 5), np.float32)}, ["y"])
        assert answered.tolist() == [[2] * 5] * 2
        with pytest.raises(RuntimeError):
            runtime.run({"x": np.ones((2, 3), np.float32)}, ["y"])


def test_any_open_axis_may_change_its_length(path: Path) -> None:
    runtime = opened(doubler(path, (-1, -1, 2)))
    assert runtime.inputs == (TensorSpec("x", "FP32", (-1, -1, 2)),)
    for rows, length in ((1, 1), (2, 7), (2, 3)):
        [answered] = runtime.run({"x": np.ones((rows, length, 2), np.float32)}, ["y"])
        assert answered.shape == (rows, length, 2)


def test_a_model_of_one_fixed_shape_says_so(path: Path) -> None:
    runtime = opened(doubler(path, (1, 2)))
    assert runtime.inputs == (TensorSpec("x", "FP32", (1, 2)),)
    assert runtime.run({"x": np.ones((1, 2), np.float32)}, ["y"])[0].tolist() == [[2, 2]]
    with pytest.raises(RuntimeError):
        runtime.run({"x": np.ones((2, 2), np.float32)}, ["y"])


def test_quantised_tensors_are_served_as_the_integers_they_are(path: Path) -> None:
    tensors = [Given("x", "INT8", scale=0.5, zero=-4), Given("y", "INT8", scale=1.0, zero=3)]
    runtime = opened(save(path, tensors, [Step("QUANTIZE", ["x"], ["y"])], ["x"], ["y"]))
    assert [spec.datatype for spec in (*runtime.inputs, *runtime.outputs)] == ["INT8", "INT8"]
    # (6 + 4) * 0.5 is 5, and 5 / 1.0 + 3 is 8.
    assert runtime.run({"x": np.array([[6, -4]], np.int8)}, ["y"])[0].tolist() == [[8, 3]]


def two_inputs(path: Path, signature: Mapping[str, Mapping[str, str]] | None) -> Path:
    tensors = [Given("t0"), Given("t1"), Given("sum"), Given("product")]
    steps = [
        Step("ADD", ["t0", "t1"], ["sum"], schema.AddOptionsT()),
        Step("MUL", ["t0", "t1"], ["product"], schema.MulOptionsT()),
    ]
    return save(path, tensors, steps, ["t0", "t1"], ["sum", "product"], signature)


def test_tensors_are_called_as_the_signature_calls_them(path: Path) -> None:
    signature = {"inputs": {"price": "t1", "rate": "t0"}, "outputs": {"both": "sum", "worth": "product"}}
    runtime = opened(two_inputs(path, signature))
    assert {spec.name for spec in runtime.inputs} == {"price", "rate"}
    given = {"price": np.full((1, 2), 3, np.float32), "rate": np.full((1, 2), 5, np.float32)}
    answered = runtime.run(given, ["worth", "both"])
    assert [array.tolist() for array in answered] == [[[15, 15]], [[8, 8]]]


def test_without_a_signature_they_are_called_as_in_the_graph(path: Path) -> None:
    runtime = opened(two_inputs(path, None))
    assert [spec.name for spec in runtime.inputs] == ["t0", "t1"]
    assert [spec.name for spec in runtime.outputs] == ["sum", "product"]


def test_nameless_tensors_are_numbered(path: Path) -> None:
    tensors = [Given("x"), Given("y")]
    save(path, tensors, [Step("ADD", ["x", "x"], ["y"], schema.AddOptionsT())], ["x"], ["y"])
    path.write_bytes(path.read_bytes().replace(b"\x01\0\0\0x\0\0\0", b"\0\0\0\0\0\0\0\0"))
    runtime = opened(path)
    assert (runtime.inputs[0].name, runtime.outputs[0].name) == ("input_0", "y")


def test_a_recurrent_layer_remembers_nothing_of_the_run_before(path: Path) -> None:
    # An SVDF cell of one unit and no filter but its memory: it answers the sum of what it was given lately.
    options = schema.SVDFOptionsT()
    options.rank = 1
    tensors = [
        Given("x", shape=(1, 1)),
        Given("feature", shape=(1, 1), value=np.ones((1, 1), np.float32)),
        Given("time", shape=(1, 3), value=np.ones((1, 3), np.float32)),
        Given("memory", shape=(1, 3), variable=True),
        Given("y", shape=(1, 1)),
    ]
    step = Step("SVDF", ["x", "feature", "time", "", "memory"], ["y"], options)
    runtime = opened(save(path, tensors, [step], ["x"], ["y"]))
    given = {"x": np.ones((1, 1), np.float32)}
    assert [runtime.run(given, ["y"])[0].item() for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ("custom:FlexErf", "operators of TensorFlow"),
        ("custom:MyOwn", "the custom operator MyOwn"),
    ],
)
def test_operators_that_litert_does_not_have_are_refused_with_what_to_do(
    path: Path, operator: str, message: str
) -> None:
    save(path, [Given("x"), Given("y")], [Step(operator, ["x"], ["y"])], ["x"], ["y"])
    with pytest.raises(InvalidInput, match=message) as refused:
        opened(path)
    assert "convert it" in str(refused.value.hint)


def test_a_damaged_file_is_refused_wherever_the_damage_is(path: Path) -> None:
    whole = doubler(path).read_bytes()
    chance = random.Random(0)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 4])):
            data[chance.randrange(8, len(data))] = chance.randrange(256)
        path.write_bytes(data if chance.random() < 0.6 else data[: chance.randrange(8, len(data))])
        try:
            opened(path).close()
        except (CorruptArtifact, InvalidInput):
            refused += 1
    assert refused > 100


def test_a_file_that_is_missing_or_outside_the_artifact_is_refused(path: Path) -> None:
    for name in ("other.tflite", "../model.tflite"):
        with pytest.raises(KeelwayError):
            load(path.parent, "digest", {"file": name}, RuntimeOptions(), None)  # type: ignore[arg-type]


def test_without_litert_it_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubler(path)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(FailedPrecondition) as refused:
        opened(path)
    assert refused.value.hint == 'pip install "keelway[litert]"'


def test_it_is_found_by_its_name_and_promises_no_threads(path: Path) -> None:
    doubler(path)
    runtime = runtime_loader("litert")(path.parent, "digest", {}, RuntimeOptions(threads=2), None)  # type: ignore[arg-type]
    assert runtime.thread_safe is False
    runtime.close()
