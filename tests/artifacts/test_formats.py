from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
import skops.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from sklearn.linear_model import LinearRegression

from keelway.artifacts.formats import Format, describe, detect
from keelway.errors import InvalidInput, NotFound

MODEL = LinearRegression().fit(np.arange(6.0).reshape(3, 2), [0.0, 1.0, 2.0])


def onnx_bytes() -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [value("x", TensorProto.FLOAT, [None])],
        [value("y", TensorProto.FLOAT, [None])],
    )
    return helper.make_model(graph).SerializeToString()


def zip_of(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name in names:
            opened.writestr(name, b"")
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        opened.addfile(tarfile.TarInfo("model.onnx"))
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a-file-whose-name-says-nothing"


def found(path: Path, data: bytes) -> Format:
    path.write_bytes(data)
    return detect(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [MODEL, {"a": [1, 2.5, None]}, OrderedDict(a=1), np.zeros(200_000)],
    ids=["estimator", "plain", "ordered", "large"],
)
def test_a_pickle_of_every_protocol_is_one(path: Path, protocol: int, value: Any) -> None:
    assert found(path, pickle.dumps(value, protocol)) is Format.PICKLE


@pytest.mark.parametrize("compress", [0, 1, 9, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_a_joblib_file_is_one_compressed_or_not(path: Path, compress: Any) -> None:
    joblib.dump(MODEL, path, compress=compress)
    assert detect(path) is Format.JOBLIB
    assert "joblib" in describe(path)


def test_no_pickle_is_run_to_be_told(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return sys.exit, ("the pickle was loaded",)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for data in (pickle.dumps(Trap(), protocol), gzip.compress(pickle.dumps(Trap(), protocol))):
            assert found(path, data) in (Format.PICKLE, Format.JOBLIB)


def test_a_skops_file_is_one(path: Path) -> None:
    skops.io.dump(MODEL, path)
    assert detect(path) is Format.SKOPS


def test_an_onnx_model_is_one(path: Path) -> None:
    assert found(path, onnx_bytes()) is Format.ONNX
    onnx.load(path)


@pytest.mark.parametrize(
    ("data", "expected", "words"),
    [
        (zip_of("config.json", "metadata.json", "model.weights.h5"), Format.KERAS, "a Keras model"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), Format.HDF5, "an HDF5 file, as old Keras models are"),
        (zip_of("model/data.pkl", "model/version", "model/data/0"), Format.TORCH, "a PyTorch file"),
        (zip_of("model.onnx"), Format.ZIP, "a zip archive"),
        (zip_of("a.npy", "b.npy"), Format.UNKNOWN, "NumPy arrays (.npz)"),
        (zip_of("[Content_Types].xml", "xl/workbook.xml"), Format.UNKNOWN, "an Office document"),
        (b"PK\x03\x04broken", Format.ZIP, "a damaged zip archive"),
        (tar(), Format.TAR, "a tar archive"),
        (gzip.compress(tar()), Format.TAR, "a tar archive compressed with gzip"),
        (gzip.compress(b"text"), Format.UNKNOWN, "a file compressed with gzip"),
        (b"\x1f\x8bbroken", Format.UNKNOWN, "a file compressed with gzip"),
        (b"import numpy as np\n\ndef predict(rows):\n    return rows\n", Format.PYTHON, "Python source code"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), Format.UNKNOWN, "a PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(100), Format.UNKNOWN, "a JPEG image"),
        (b"PAR1" + bytes(100), Format.UNKNOWN, "a Parquet table"),
        (struct.pack("<Q", 99) + json.dumps({"w": {}}).encode(), Format.UNKNOWN, "a safetensors file"),
        (b"\x1c\0\0\0TFL3" + bytes(90), Format.LITERT, "a LiteRT (TensorFlow Lite) model"),
        (b"\x1c\0\0\0ORTM" + bytes(90), Format.UNKNOWN, "a model in ONNX Runtime's own format (.ort)"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            Format.UNKNOWN,
            "a Git LFS pointer, not the file itself",
        ),
        (b"<!DOCTYPE html><p>Sign in", Format.UNKNOWN, "a web page, perhaps an error or a login"),
        (b"tree\nversion=v4\nnum_class=1\n", Format.LIGHTGBM, "a LightGBM model in text form"),
        (b"tree\nversion=v4\nfeature_names=a\nimport os\n", Format.LIGHTGBM, "a LightGBM model in text form"),
        (b'{"learner":{"attributes":{}}}', Format.XGBOOST, "an XGBoost model in JSON form"),
        (b"{L" + bytes(7) + b"\x07learner{L", Format.XGBOOST, "an XGBoost model in UBJSON form"),
        (b"binf" + bytes(90), Format.UNKNOWN, "an XGBoost model in its old binary form"),
        (b"CBM1" + bytes(90), Format.CATBOOST, "a CatBoost model"),
        (b'{\n"features_info":\n{}}', Format.CATBOOST, "a CatBoost model in JSON form"),
        (
            b'{"name": "tree", "version": "v4"}',
            Format.UNKNOWN,
            "a dump of a LightGBM model, which cannot be loaded again",
        ),
        (b'{"a": 1}', Format.UNKNOWN, "a JSON document"),
        (b"age,income\n31,2\n", Format.UNKNOWN, "a table in text form (CSV)"),
        ("Grüße, no model.".encode(), Format.UNKNOWN, "a text file"),
        (b"", Format.UNKNOWN, "an empty file"),
        (bytes(range(128, 256)) * 9, Format.UNKNOWN, "a file of no known format"),
        (bytes(5000), Format.UNKNOWN, "a file of no known format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_is_named_for_what_it_is(path: Path, data: bytes, expected: Format, words: str) -> None:
    assert found(path, data) is expected
    assert describe(path) == words


@pytest.mark.parametrize(
    "text",
    [
        b"import os\nimport sys\n",
        b"from sklearn import svm\n",
        b"def f(x):\n    return x.\n",
        b"# notes.\nclass Model:\n    pass\n",
        b"age,income\n1,2.",
        b"Nothing.",
        b"I.",
        b".",
        b"(lp0.",
    ],
)
def test_text_is_not_taken_for_an_old_pickle(path: Path, text: bytes) -> None:
    assert found(path, text) not in (Format.PICKLE, Format.JOBLIB)


def test_text_cut_within_a_character_by_the_look_is_still_text(path: Path) -> None:
    assert found(path, b"import os\n#" + "ü".encode() * 600_000) is Format.PYTHON


def test_a_link_is_followed_a_folder_is_one_and_a_device_is_not_read(path: Path, tmp_path: Path) -> None:
    path.write_bytes(onnx_bytes())
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert detect(tmp_path / "link") is Format.ONNX
    assert detect(tmp_path) is Format.FOLDER
    with pytest.raises(InvalidInput):
        detect(Path("/dev/zero"))
    with pytest.raises(InvalidInput):
        detect(tmp_path / "loop")
    with pytest.raises(NotFound):
        detect(tmp_path / "missing")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from(
        [b"", b"PK\x03\x04", b"\x1f\x8b", b"\x78\x9c", b"BZh9", b"\xfd7zXZ\0", b"]\0\0", b"\x80\x04", b"c", b"\x08\x07"]
    ),
    rest=st.binary(max_size=800),
)
def test_any_bytes_get_an_answer(tmp_path: Path, start: bytes, rest: bytes) -> None:
    path = tmp_path / "any"
    assert isinstance(found(path, start + rest), Format)
    assert describe(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_model_gets_an_answer(tmp_path: Path, data: st.DataObject) -> None:
    sound = data.draw(st.sampled_from([onnx_bytes(), tar(), pickle.dumps(MODEL, 0), zip_of("schema.json")]))
    changed = bytearray(sound)
    changed[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(sound)))
    assert isinstance(found(tmp_path / "damaged", bytes(changed[:cut])), Format)
