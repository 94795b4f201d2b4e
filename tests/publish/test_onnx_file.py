"""ONNX files that are pushed: what is checked, what is rewritten, and how a sample gives names to columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from tests.publish.conftest import Push

from keelway.artifacts.blobs import BlobStore
from keelway.contract.signature import validate_signature
from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput, KeelwayError
from keelway.publish import onnx_file
from keelway.publish.onnx_signature import describe

Shape = list[int | str | None]
Tensors = dict[str, tuple[int, Shape]]


def saved(folder: Path, nodes: list[Any], inputs: Tensors, outputs: Tensors, *initializers: Any) -> Path:
    """A model of these nodes; the domains they use are declared."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        list(initializers),
    )
    domains = {"com.example", *(node.domain for node in nodes)} - {""}
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "model.onnx")
    return folder / "model.onnx"


def matrix(name: str) -> Tensors:
    return {name: (TensorProto.FLOAT, ["n", 2])}


def doubler(folder: Path, shape: Shape, kind: int = TensorProto.FLOAT) -> Path:
    """y = x + x"""
    return saved(folder, [helper.make_node("Add", ["x", "x"], ["y"])], {"x": (kind, shape)}, {"y": (kind, shape)})


@pytest.fixture
def classifier(tmp_path: Path, table: tuple[pd.DataFrame, Any]) -> Path:
    """A classifier as skl2onnx exports it by default, with a ZipMap."""
    sample, target = table
    model = to_onnx(
        LogisticRegression().fit(sample.to_numpy(), target), sample.to_numpy(np.float32)[:1], target_opset=18
    )
    onnx.save(model, tmp_path / "classifier.onnx")
    return tmp_path / "classifier.onnx"


def test_a_zipmap_becomes_a_tensor_of_probabilities(
    push: Push, classifier: Path, table: tuple[pd.DataFrame, Any]
) -> None:
    sample, _ = table
    prepared = push(classifier, sample)
    signature = prepared.signature
    validate_signature(signature)
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.outputs] == [
        ("output_label", "INT64", (-1,)),
        ("probabilities", "FP32", (-1, 2)),
    ]
    assert (signature.labels, signature.task) == ((0, 1), "classification")
    assert (signature.label_output, signature.probability_output) == ("output_label", "probabilities")
    session = onnxruntime.InferenceSession(prepared.file("model.onnx"), providers=["CPUExecutionProvider"])
    before = onnxruntime.InferenceSession(classifier, providers=["CPUExecutionProvider"])
    given = sample.to_numpy(np.float32)[:5]
    maps = before.run(None, {"X": given})[1]
    assert session.run(["probabilities"], {"X": given})[0] == pytest.approx(
        np.array([[row[0], row[1]] for row in maps])
    )


def test_one_packed_tensor_keeps_its_name_and_gets_the_names_of_the_columns(
    push: Push, classifier: Path, table: tuple[pd.DataFrame, Any]
) -> None:
    sample, target = table
    prepared = push(classifier, sample.assign(bought=target), "bought")
    (spec,) = prepared.signature.inputs
    assert (spec.name, spec.columns) == ("X", ("a", "b", "c", "d"))
    assert [feature.nullable for feature in prepared.signature.features] == [False] * 4
    assert prepared.baseline is not None
    assert prepared.report.micros_after is not None


def test_without_a_sample_the_tensors_are_the_features(push: Push, tmp_path: Path) -> None:
    prepared = push(doubler(tmp_path, ["n", 3]), None)
    assert [(f.name, f.shape, f.nullable) for f in prepared.signature.features] == [("x", (3,), True)]
    assert prepared.signature.batched
    assert prepared.baseline is None
    assert prepared.file("model.onnx") == tmp_path / "model.onnx"
    assert list(prepared.folder.iterdir()) == []


def test_a_fixed_batch_of_one_stays_unbatched_and_may_have_columns(push: Push, tmp_path: Path) -> None:
    prepared = push(doubler(tmp_path, [1, 2]), pd.DataFrame({"a": [1.0], "b": [2.0]}))
    assert not prepared.signature.batched
    assert prepared.signature.inputs[0].columns == ("a", "b")
    validate_signature(prepared.signature)


def test_a_sample_of_another_width_is_said_with_both_numbers(push: Push, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="takes 3 columns, the sample has 2"):
        push(doubler(tmp_path, ["n", 3]), pd.DataFrame({"a": [1.0], "b": [2.0]}))


def test_text_for_a_tensor_of_numbers_is_refused_by_its_column(push: Push, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="column 'b' holds text, the input 'x' is FP32") as refused:
        push(doubler(tmp_path, ["n", 2]), pd.DataFrame({"a": [1.0], "b": ["text"]}))
    assert refused.value.field == "b"


def test_a_picture_takes_no_columns(push: Push, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"the input 'x' has the shape \[-1, 3, 8, 8\]"):
        push(doubler(tmp_path, ["n", 3, 8, 8]), pd.DataFrame({"a": [1.0]}))


def test_inputs_of_one_value_are_found_by_the_names_of_the_columns(push: Push, tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        [helper.make_node("Add", ["a", "b"], ["y"])],
        {"a": (TensorProto.FLOAT, ["n", 1]), "b": (TensorProto.FLOAT, ["n", 1])},
        {"y": (TensorProto.FLOAT, ["n", 1])},
    )
    prepared = push(path, pd.DataFrame({"b": [1.0, np.nan], "a": [2.0, 3.0]}))
    assert [(f.name, f.nullable) for f in prepared.signature.features] == [("a", False), ("b", True)]
    validate_signature(prepared.signature)
    with pytest.raises(InvalidInput, match="3 columns, the model 2 inputs; the sample has 'c'"):
        push(path, pd.DataFrame({"b": [1.0], "a": [2.0], "c": [0.0]}))
    with pytest.raises(InvalidInput, match="lacks 'b'"):
        push(path, pd.DataFrame({"a": [2.0], "c": [0.0]}))


def test_numbers_and_texts_go_to_their_own_tensors(push: Push, tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["numbers"], ["y"]), helper.make_node("Identity", ["texts"], ["z"])]
    path = saved(
        tmp_path,
        nodes,
        {"numbers": (TensorProto.DOUBLE, ["n", 2]), "texts": (TensorProto.STRING, ["n", 1])},
        {"y": (TensorProto.DOUBLE, ["n", 2]), "z": (TensorProto.STRING, ["n", 1])},
    )
    sample = pd.DataFrame({"a": [1, 2], "city": ["Oslo", None], "ok": [True, False]})
    prepared = push(path, sample)
    assert [(f.name, f.datatype, f.nullable) for f in prepared.signature.features] == [
        ("a", "FP64", False),
        ("city", "BYTES", True),
        ("ok", "FP64", False),
    ]
    assert [spec.columns for spec in prepared.signature.inputs] == [("a", "ok"), ("city",)]
    validate_signature(prepared.signature)


def test_a_batch_axis_that_is_only_said_to_be_free_is_refused(push: Push, tmp_path: Path) -> None:
    """y is the first row of x, whatever x holds: right for one row by accident."""
    bounds = [numpy_helper.from_array(np.array([value]), name) for name, value in (("from", 0), ("to", 1), ("axis", 0))]
    path = saved(
        tmp_path, [helper.make_node("Slice", ["x", "from", "to", "axis"], ["y"])], matrix("x"), matrix("y"), *bounds
    )
    with pytest.raises(InvalidInput, match="any number of rows, and fails on several"):
        push(path, pd.DataFrame({"a": np.ones(3), "b": np.ones(3)}))


# External data


def external(folder: Path, location: str) -> Path:
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    path = saved(
        folder,
        [helper.make_node("Add", ["x", "w"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
        weight,
    )
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_comes_along(push: Push, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    prepared = push(external(tmp_path, "weights.bin"), None)
    assert prepared.in_place is not None
    stored = prepared.in_place.store(BlobStore.open(tmp_path / "artifacts"))
    assert [(entry.path, entry.size) for entry in stored if entry.path != "model.onnx"] == [("weights.bin", 16)]
    assert prepared.report.size == sum(entry.size for entry in stored) > 16


def test_a_model_that_is_written_to_while_it_is_pushed_is_refused(push: Push, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    prepared = push(external(tmp_path, "weights.bin"), None)
    assert prepared.in_place is not None
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    with pytest.raises(FailedPrecondition, match="written to while it was pushed"):
        prepared.in_place.store(BlobStore.open(tmp_path / "artifacts"))


def test_external_data_called_as_the_model_will_be_is_refused(push: Push, tmp_path: Path) -> None:
    weights = tmp_path / "other" / "model.onnx"
    weights.parent.mkdir()
    path = external(tmp_path, "model.onnx").rename(weights.parent / "mine.onnx")
    weights.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    with pytest.raises(InvalidInput, match=r"external data of the model is called model\.onnx"):
        push(path, None)


@pytest.mark.parametrize("zipmap", [False, True])
def test_large_weights_are_not_read_to_check_a_model(
    push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipmap: bool
) -> None:
    """Of a model that is stored as it is; one that is rewritten is read, and answers as before."""
    scores = "map" if zipmap else "y"
    weights = numpy_helper.from_array(np.full((2, 20_000), 0.5, np.float32), "weights")
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["wide"])]
    nodes += [helper.make_node("ReduceSum", ["wide"], ["y"], keepdims=1)]
    outputs: Tensors = {"y": (TensorProto.FLOAT, [1, 1])}
    if zipmap:
        nodes += [helper.make_node("ZipMap", ["y"], ["map"], domain="ai.onnx.ml", classlabels_strings=["yes"])]
    path = saved(tmp_path, nodes, {"x": (TensorProto.FLOAT, [1, 2])}, outputs, weights)
    model = onnx.load(path)
    if zipmap:
        kind = helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        )
        model.graph.output[0].CopyFrom(helper.make_value_info(scores, kind))
    onnx.save(model, path)
    read: list[int] = []
    whole = onnx.load

    def load(file: str, **options: Any) -> Any:
        read.append(Path(file).stat().st_size)
        return whole(file, **options)

    monkeypatch.setattr(onnx, "load", load)
    prepared = push(path, None)
    assert read[0] < 2_000
    assert len(read) == 1 + zipmap
    assert prepared.report.size > weights.ByteSize()
    session = onnxruntime.InferenceSession(prepared.file("model.onnx"), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((1, 2), np.float32)})[0].ravel() == pytest.approx([20_000.0])


def test_weights_that_are_too_short_are_told_of_the_file_that_was_pushed(push: Push, tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.full((2, 20_000), 0.5, np.float32), "weights")
    weights.raw_data = weights.raw_data[:100_000]
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["y"])]
    tensors: Tensors = {"y": (TensorProto.FLOAT, [1, 20_000])}
    path = saved(tmp_path, nodes, {"x": (TensorProto.FLOAT, [1, 2])}, tensors, weights)
    with pytest.raises(CorruptArtifact, match=r"cannot load mine\.onnx: .* weights .*size mismatch"):
        push(path.rename(tmp_path / "mine.onnx"), None)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", "absent.bin"])
def test_external_data_outside_the_models_folder_is_refused(push: Push, tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(CorruptArtifact):
        push(external(folder, location), None)


# Models that cannot be served


def test_an_unknown_operator_domain_is_refused_by_name(push: Push, tmp_path: Path) -> None:
    node = helper.make_node("Magic", ["x"], ["y"], domain="com.example")
    path = saved(tmp_path, [node], matrix("x"), matrix("y"))
    with pytest.raises(InvalidInput, match=r"'com\.example', which ONNX Runtime does not know") as refused:
        push(path, None)
    assert refused.value.hint


def test_an_unknown_domain_in_a_subgraph_is_found(push: Push, tmp_path: Path) -> None:
    output = helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["n", 2])
    inner = helper.make_graph([helper.make_node("Magic", ["x"], ["inner"], domain="com.example")], "then", [], [output])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner)
    path = saved(
        tmp_path,
        [node],
        {**matrix("x"), "flag": (TensorProto.BOOL, [])},
        matrix("y"),
    )
    with pytest.raises(InvalidInput, match="com.example"):  # noqa: RUF043
        push(path, None)


def test_a_model_optimised_for_one_machine_is_refused(push: Push, tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x"], ["y"], domain="com.microsoft.nchwc")
    path = saved(tmp_path, [node], matrix("x"), matrix("y"))
    with pytest.raises(InvalidInput, match="optimised by ONNX Runtime"):
        push(path, None)


def test_a_sequence_as_an_output_is_refused(push: Push, tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [sequence],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(InvalidInput, match="'y' is a sequence, a map or an optional value"):
        push(tmp_path / "m.onnx", None)


def test_an_operator_that_does_not_exist_is_refused(push: Push, tmp_path: Path) -> None:
    path = saved(tmp_path, [helper.make_node("Nonsense", ["x"], ["y"])], matrix("x"), matrix("y"))
    with pytest.raises(CorruptArtifact, match="no valid ONNX model"):
        push(path, None)


def test_damaged_bytes_never_end_in_anything_but_one_line(push: Push, classifier: Path, tmp_path: Path) -> None:
    whole = classifier.read_bytes()
    for number, cut in enumerate((10, len(whole) // 2, len(whole) - 3)):
        (tmp_path / f"cut_{number}.onnx").write_bytes(whole[:cut])
        with pytest.raises(KeelwayError):
            push(tmp_path / f"cut_{number}.onnx", None)


def test_a_file_beyond_the_cap_is_refused(push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_MODEL_BYTES", 10)
    with pytest.raises(KeelwayError, match="larger than 2 GiB"):
        push(doubler(tmp_path, ["n", 2]), None)


def test_a_file_is_described_without_the_onnx_package(tmp_path: Path) -> None:
    signature = describe(doubler(tmp_path, ["n", 2]))
    assert [(spec.name, spec.shape) for spec in signature.inputs] == [("x", (-1, 2))]


def test_a_file_with_a_zipmap_is_described_with_the_advice_to_push_it(classifier: Path) -> None:
    with pytest.raises(CorruptArtifact) as refused:
        describe(classifier)
    assert refused.value.hint is not None
    assert "push" in refused.value.hint
