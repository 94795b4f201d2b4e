"""Weights moved beside a model: the same bytes, the same answers, and nothing moved that cannot be. # T3

The ``onnx`` package, which a server does not have, is the judge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from keelway.artifacts.external_data import THRESHOLD, move_weights, outline
from keelway.artifacts.onnx_files import external_locations
from keelway.errors import CorruptArtifact, KeelwayError

LARGE = 161  # squared, as float32: 100 KB, and no whole number of pages


def dense(size: int = LARGE, packed: bool = False, dtype: Any = np.float32, layers: int = 2) -> onnx.ModelProto:
    """Layers of matrices; ``packed``: their values stand in the field of their type and not as raw bytes."""
    random = np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes, initializers, last = [], [], "x"
    for layer in range(layers):
        weights = (random.standard_normal((size, size)) / size).astype(dtype)
        bias = random.standard_normal(size).astype(dtype)
        for name, array in ((f"w{layer}", weights), (f"b{layer}", bias)):
            made = (
                helper.make_tensor(name, kind, array.shape, array.ravel().tolist())
                if packed
                else numpy_helper.from_array(array, name)
            )
            initializers.append(made)
        nodes.append(helper.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [f"y{layer}"]))
        last = f"y{layer}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [None, size])],
        [helper.make_tensor_value_info(last, kind, [None, size])],
        initializers,
        doc_string="kept",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"who": "ada"})
    return model


def moved(model: onnx.ModelProto, folder: Path) -> tuple[int, Path]:
    source, target = folder / "model.onnx", folder / "moved.onnx"
    source.write_bytes(model.SerializeToString())
    return move_weights(source, target, folder / "weights"), target


def answers(path: Path, dtype: Any = np.float32) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(1).standard_normal((3, LARGE)).astype(dtype)
    return session.run(None, {"x": rows})[0]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_weights_move_and_the_answers_stay(tmp_path: Path, packed: bool, dtype: Any) -> None:
    model = dense(packed=packed, dtype=dtype)
    size, target = moved(model, tmp_path)
    assert size == 2 * LARGE * LARGE * np.dtype(dtype).itemsize
    assert target.stat().st_size < 20_000
    assert external_locations(target) == ("weights",)
    onnx.checker.check_model(str(target), full_check=True)
    assert (answers(target, dtype) == answers(tmp_path / "model.onnx", dtype)).all()


def test_everything_but_the_place_of_the_weights_is_as_it_was(tmp_path: Path) -> None:
    model = dense()
    _, target = moved(model, tmp_path)
    # With the weights read back in, only the form of the values can differ.
    again = onnx.load(str(target))
    for one, other in zip(again.graph.initializer, model.graph.initializer, strict=True):
        assert (numpy_helper.to_array(one) == numpy_helper.to_array(other)).all()
        one.CopyFrom(other)
    assert again == model


def test_weights_begin_at_pages_so_that_they_can_be_mapped(tmp_path: Path) -> None:
    _, target = moved(dense(), tmp_path)
    model = onnx.load(str(target), load_external_data=False)
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer]
    offsets = [int(place["offset"]) for place in places if place]
    assert len(offsets) == 2
    assert all(offset % 4096 == 0 for offset in offsets)


@pytest.mark.parametrize("packed", [False, True])
def test_an_outline_holds_everything_but_the_weights(tmp_path: Path, packed: bool) -> None:
    model = dense(packed=packed)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    size = outline(tmp_path / "model.onnx", tmp_path / "light.onnx", tmp_path / "light.weights")
    assert size == 2 * LARGE * LARGE * 4
    assert (tmp_path / "light.onnx").stat().st_size < 5_000
    hole = (tmp_path / "light.weights").stat()
    assert (hole.st_size, hole.st_blocks) == ((tmp_path / "model.onnx").stat().st_size, 0)
    onnx.checker.check_model(str(tmp_path / "light.onnx"))
    light = onnx.load(tmp_path / "light.onnx", load_external_data=False)
    assert [tensor.dims for tensor in light.graph.initializer] == [tensor.dims for tensor in model.graph.initializer]
    for one in (light, model):
        del one.graph.initializer[:]
    assert light == model


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(dense(32), id="small"),
        pytest.param(dense(layers=1, packed=False, size=127), id="just below the threshold"),
    ],
)
def test_without_large_weights_nothing_is_written(tmp_path: Path, model: onnx.ModelProto) -> None:
    size, target = moved(model, tmp_path)
    assert size == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert not target.exists()


def test_values_that_do_not_lie_as_in_memory_stay(tmp_path: Path) -> None:
    """Packed integers are of variable length; so is half the width of a float in the field of 32 bits."""
    model = dense()
    count = THRESHOLD
    model.graph.initializer.append(helper.make_tensor("i", TensorProto.INT64, [count], [3] * count))
    model.graph.initializer.append(helper.make_tensor("h", TensorProto.FLOAT16, [count], [0.5] * count))
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [count], [b"some text"] * count))
    _, target = moved(model, tmp_path)
    stayed = {t.name for t in onnx.load(str(target), load_external_data=False).graph.initializer if not t.external_data}
    assert stayed == {"b0", "b1", "i", "h", "s"}
    assert (answers(target) == answers(tmp_path / "model.onnx")).all()


def test_what_lies_beside_the_model_already_stays_there(tmp_path: Path) -> None:
    model = dense()
    onnx.save_model(
        model, str(tmp_path / "model.onnx"), save_as_external_data=True, location="theirs", size_threshold=1024
    )
    assert move_weights(tmp_path / "model.onnx", tmp_path / "moved.onnx", tmp_path / "weights") == 0


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(CorruptArtifact):
        move_weights(tmp_path / "model.onnx", tmp_path / "moved.onnx", tmp_path / "weights")


DENSE = dense().SerializeToString()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(DENSE) - 1), st.integers(0, 255), st.booleans())
def test_a_damaged_model_is_moved_or_refused_and_nothing_else(position: int, byte: int, cut: bool) -> None:
    import tempfile

    damaged = DENSE[:position] if cut else DENSE[:position] + bytes([byte]) + DENSE[position + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.onnx").write_bytes(damaged)
        try:
            move_weights(Path(folder) / "model.onnx", Path(folder) / "moved.onnx", Path(folder) / "weights")
        except KeelwayError:
            return
