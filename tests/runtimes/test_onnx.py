"""ONNX Runtime behind the runtime protocol: every datatype, outputs by name, and files that are not what they seem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from keelway.errors import CorruptArtifact, FailedPrecondition
from keelway.ports import Runtime, RuntimeOptions
from keelway.runtimes import onnx as onnx_runtime
from keelway.runtimes.onnx import DATATYPES, OnnxRuntime, load
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

#: Open Inference Protocol datatype -> ONNX element type.
ELEMENTS: Mapping[str, int] = {
    "BYTES": TensorProto.STRING,
    **{name: helper.np_dtype_to_tensor_dtype(dtype) for name, dtype in NUMPY_DTYPES.items() if name != "BYTES"},
}
Shape = Sequence[int | str | None]


def save(path: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Path:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def value(name: str, datatype: str, shape: Shape) -> Any:
    return helper.make_tensor_value_info(name, ELEMENTS[datatype], shape)


def identity(path: Path, datatype: str = "FP32", shape: Shape = ("rows", 2)) -> Path:
    return save(
        path,
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", datatype, shape)],
        [value("y", datatype, shape)],
    )


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., OnnxRuntime]:
    return lambda *args: OnnxRuntime(identity(tmp_path / "model.onnx", *args), RuntimeOptions())


def test_every_datatype_of_the_protocol_has_its_element_type() -> None:
    assert sorted(DATATYPES.values()) == sorted(NUMPY_DTYPES)


@pytest.mark.parametrize("datatype", sorted(set(NUMPY_DTYPES) - {"BYTES"}))
def test_numbers_and_booleans_pass_through_a_model_unchanged(datatype: str, opened: Callable[..., OnnxRuntime]) -> None:
    # R1
    runtime: Runtime = opened(datatype)
    assert runtime.inputs == (TensorSpec("x", datatype, (-1, 2)),)
    assert runtime.outputs == (TensorSpec("y", datatype, (-1, 2)),)
    dtype = NUMPY_DTYPES[datatype]
    limits = (
        [False, True] if dtype.kind == "b" else [0, np.finfo(dtype).max if dtype.kind == "f" else np.iinfo(dtype).max]
    )
    sent = np.array([limits, limits[::-1]], dtype)
    (answer,) = runtime.run({"x": sent}, ["y"])  # type: ignore[misc]
    assert (answer.dtype, answer.tolist()) == (dtype, sent.tolist())


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ([["a", "ü"], ["", "a b"]], [["a", "ü"], ["", "a b"]]),
        ([[b"a", "ü".encode()], [b"", b"\xff"]], [["a", "ü"], ["", "\ufffd"]]),
        ([[None, "a"]], [["", "a"]]),
        ([["nan", "a" * 100_000]], [["nan", "a" * 100_000]]),
    ],
)
def test_texts_reach_the_model_as_utf8_and_a_missing_one_is_empty(
    sent: Any, received: Any, opened: Callable[..., OnnxRuntime]
) -> None:
    # R1
    given = np.array(sent, object)
    before = given.tolist()
    (answer,) = opened("BYTES").run({"x": given}, ["y"])
    assert (answer.dtype, answer.tolist()) == (np.dtype(object), received)
    assert given.tolist() == before  # the caller's array is his


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        (("rows", 3), (-1, 3)),
        ((None, 3), (-1, 3)),
        ((1, 3, "height", 8), (1, 3, -1, 8)),
        ((30,), (30,)),
        ((), ()),
    ],
)
def test_an_axis_without_a_number_is_free(shape: Shape, spec: tuple[int, ...], tmp_path: Path) -> None:
    runtime = OnnxRuntime(identity(tmp_path / "m.onnx", "FP32", shape), RuntimeOptions())
    assert runtime.inputs[0].shape == spec


def several(path: Path) -> Path:
    return save(
        path,
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
            helper.make_node("Cast", ["sum"], ["text"], to=TensorProto.STRING),
        ],
        [value("a", "FP32", ["n"]), value("b", "FP32", ["n"])],
        [value("sum", "FP32", ["n"]), value("difference", "FP32", ["n"]), value("text", "BYTES", ["n"])],
    )


def test_the_outputs_asked_for_come_in_the_order_asked_for(tmp_path: Path) -> None:
    # R1
    runtime = OnnxRuntime(several(tmp_path / "m.onnx"), RuntimeOptions())
    inputs = {"b": np.array([1], "<f4"), "a": np.array([3], "<f4")}
    for names, expected in (
        (["difference", "sum"], [[2.0], [4.0]]),
        (["sum"], [[4.0]]),
        (["text", "difference"], [["4"], [2.0]]),
    ):
        assert [array.tolist() for array in runtime.run(inputs, names)] == expected


def test_arrays_that_are_views_of_a_request_are_taken(opened: Callable[..., OnnxRuntime]) -> None:
    # R1: binary tensors are read-only views into the body, columns may lie in any order.
    body = np.arange(5, dtype="<f4").tobytes()
    view = np.frombuffer(memoryview(body)[4:], "<f4").reshape(2, 2)
    assert not view.flags.writeable
    for array in (view, np.asfortranarray(view), view[::-1], view.T):
        (answer,) = opened().run({"x": array}, ["y"])
        assert answer.tolist() == array.tolist()


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"z": np.ones((1, 2), "<f4")},
        {"x": np.ones((1, 3), "<f4")},
        {"x": np.ones((1, 2))},
        {"x": np.ones(2, "<f4")},
    ],
    ids=["nothing", "another name", "another width", "another dtype", "another rank"],
)
def test_what_does_not_fit_the_model_raises_and_never_crashes(
    inputs: Mapping[str, Array], opened: Callable[..., OnnxRuntime]
) -> None:
    # R3: binding has checked all this; a model of wrong metadata must not take the process with it.
    with pytest.raises(Exception, match=r"."):
        opened().run(inputs, ["y"])


def test_one_session_answers_several_threads_at_once(tmp_path: Path) -> None:
    # T3
    runtime = OnnxRuntime(several(tmp_path / "m.onnx"), RuntimeOptions(threads=1))
    assert runtime.thread_safe

    def ask(number: int) -> list[Any]:
        inputs = {"a": np.full(50, number, "<f4"), "b": np.ones(50, "<f4")}
        return [array.tolist() for array in runtime.run(inputs, ["sum", "difference"])]

    with ThreadPoolExecutor(4) as executor:
        answers = list(executor.map(ask, range(200)))
    assert answers == [[[number + 1.0] * 50, [number - 1.0] * 50] for number in range(200)]


def test_a_closed_runtime_answers_no_more(opened: Callable[..., OnnxRuntime]) -> None:
    runtime = opened()
    runtime.close()
    with pytest.raises(AttributeError):
        runtime.run({"x": np.ones((1, 2), "<f4")}, ["y"])


# Files that are not what they seem


def never(model_digest: str) -> Runtime:
    raise AssertionError("an ONNX model has no members")


def load_from(folder: Path, **options: Any) -> OnnxRuntime:
    return load(folder, "sha256:d", options, RuntimeOptions(), never)


def test_the_model_file_is_model_onnx_unless_the_manifest_names_another(tmp_path: Path) -> None:
    identity(tmp_path / "model.onnx", "FP32")
    (tmp_path / "sub").mkdir()
    identity(tmp_path / "sub" / "other.onnx", "INT64")
    assert load_from(tmp_path).inputs[0].datatype == "FP32"
    assert load_from(tmp_path, file="sub/other.onnx").inputs[0].datatype == "INT64"


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    # R3: what lies elsewhere was verified by nobody.
    folder = tmp_path / "artifact"
    folder.mkdir()
    outside = identity(tmp_path / "outside.onnx")
    identity(folder / "model.onnx")
    for file in ("../outside.onnx", str(outside), "./model.onnx", "", 7, None, "none.onnx", "."):
        with pytest.raises(CorruptArtifact) as refused:
            load_from(folder, file=file)
        assert str(tmp_path) not in refused.value.message


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08" * 50, b"\0" * 1000])
def test_a_file_that_is_no_model_is_corrupt_and_said_so_without_its_path(content: bytes, tmp_path: Path) -> None:
    # R3
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"^ONNX Runtime cannot load model\.onnx: .+") as refused:
        load_from(tmp_path)
    assert str(tmp_path) not in refused.value.message


def test_a_truncated_model_is_corrupt(tmp_path: Path) -> None:
    whole = several(tmp_path / "model.onnx").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "model.onnx").write_bytes(whole[:length])
        with pytest.raises(CorruptArtifact):
            load_from(tmp_path)


def test_a_model_that_names_an_unknown_operator_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save(path, [helper.make_node("Nothing", ["x"], ["y"])], [value("x", "FP32", ["n"])], [value("y", "FP32", ["n"])])
    with pytest.raises(CorruptArtifact, match=r"cannot load model\.onnx: .*Nothing"):
        load_from(tmp_path)


def test_outputs_that_are_no_tensors_are_refused_with_the_way_out(tmp_path: Path) -> None:
    # R1: scikit-learn converters write probabilities as a list of maps.
    zipmap = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    pair = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    output = helper.make_value_info("y", helper.make_sequence_type_proto(pair))
    save(tmp_path / "model.onnx", [zipmap], [value("x", "FP32", ["n", 2])], [output])
    with pytest.raises(CorruptArtifact, match="the tensor 'y' is a seq") as refused:
        load_from(tmp_path)
    assert "keelway push" in (refused.value.hint or "")


def test_a_provider_that_is_not_there_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    options = RuntimeOptions(providers=("CPUExecutionProvider", "QuantumExecutionProvider"))
    with pytest.raises(FailedPrecondition, match="no provider 'QuantumExecutionProvider' here") as refused:
        OnnxRuntime(tmp_path / "none.onnx", options)
    assert "CPUExecutionProvider" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from /secret/m.onnx failed:Protobuf parsing failed.",
         "Protobuf parsing failed."),
        ("Load model from /secret/m.onnx failed:", "RuntimeError"),
        ("", "RuntimeError"),
        ("two\nlines", "two"),
        ("a" * 500, "a" * 200),
    ],
)  # fmt: skip
def test_the_reason_is_the_engines_own_in_short(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # R3
    def fail(*args: Any, **rest: Any) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(onnx_runtime.onnxruntime, "InferenceSession", fail)
    with pytest.raises(CorruptArtifact) as refused:
        OnnxRuntime(tmp_path / "m.onnx", RuntimeOptions())
    assert refused.value.message == f"ONNX Runtime cannot load m.onnx: {reason}"
