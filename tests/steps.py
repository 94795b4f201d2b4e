"""Pictures, a tokenizer and the two small ONNX models behind them, made by the tests themselves.

``colour_model`` answers the mean of each channel of a picture and which is the largest; ``mood_model`` the mean over a
text of two numbers for each token, by a table, and which is larger.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from keelway.types import Array


def photo(height: int = 40, width: int = 60, seed: int = 0) -> Array:
    """A smooth picture, UINT8 [height, width, 3], no two of whose corners are alike."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    third = (across + down + 40 * seed) / 3 % 256
    return np.stack([across, down, third], axis=-1).astype(np.uint8)


def encoded(picture: Array | Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **how)
    return file.getvalue()


def objects(*elements: Any) -> Array:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


WORDS = ("good", "bad", "room", "the", "was", "and", "very", "##ly", "food", "!")


def write_tokenizer(path: Path, **padding: Any) -> Path:
    """A small WordPiece tokenizer as BERT's: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, then ``WORDS``."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if padding:
        tokenizer.enable_padding(**padding)
    tokenizer.save(str(path))
    return path


def write_model(path: Path, nodes: Any, inputs: Any, outputs: Any, constants: Any = ()) -> Path:
    """An ONNX file; ``inputs`` and ``outputs`` are (name, element type, shape)."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def colour_model(path: Path, height: Any = "height", width: Any = "width") -> Path:
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["means"], keepdims=0),
        helper.make_node("ArgMax", ["means"], ["label"], axis=1, keepdims=0),
    ]
    inputs = [("input", TensorProto.FLOAT, ["rows", 3, height, width])]
    outputs = [("label", TensorProto.INT64, ["rows"]), ("means", TensorProto.FLOAT, ["rows", 3])]
    return write_model(path, nodes, inputs, outputs, [("axes", np.array([2, 3]))])


#: For each token of ``write_tokenizer`` how bad and how good it is.
MOODS = np.random.default_rng(7).normal(size=(4 + len(WORDS), 2)).astype(np.float32)


def mood_model(path: Path) -> Path:
    nodes = [
        helper.make_node("Gather", ["moods", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["counted"]),
        helper.make_node("Mul", ["each", "counted"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "second"], ["sums"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "second"], ["lengths"], keepdims=1),
        helper.make_node("Div", ["sums", "lengths"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    taken = ["input_ids", "attention_mask"]
    inputs = [(name, TensorProto.INT64, ["rows", "length"]) for name in taken]
    outputs = [("label", TensorProto.INT64, ["rows"]), ("scores", TensorProto.FLOAT, ["rows", 2])]
    return write_model(
        path, nodes, inputs, outputs, [("moods", MOODS), ("last", np.array([2])), ("second", np.array([1]))]
    )
