"""The golden sample: which rows, how they are kept, and what is made of them for another version. # S2"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from keelway.contract.signature import Feature, ModelSignature, pack
from keelway.errors import CorruptArtifact
from keelway.publish import golden
from keelway.publish.golden import Golden, choose, fitted
from keelway.types import TensorSpec

OUTPUT = (TensorSpec("y", "FP32", (-1,)),)
AGE, CITY, OWNER = (
    Feature("age", "FP32", nullable=True),
    Feature("city", "BYTES", nullable=True),
    Feature("owner", "BOOL"),
)


def signature(*features: Feature) -> ModelSignature:
    return ModelSignature(features, pack(features), OUTPUT)


FRAME = pd.DataFrame(
    {
        "age": [1.0, None, 3.0] * 200,
        "city": ["Bonn", None, "Köln"] * 200,
        "owner": [True, False, True] * 200,
        "unknown": range(600),
    }
)


def test_rows_are_chosen_evenly_and_always_the_same() -> None:
    first, again = choose(FRAME, signature(AGE, CITY, OWNER)), choose(FRAME, signature(AGE, CITY, OWNER))
    assert first is not None
    assert again is not None
    assert list(first) == ["age", "city", "owner"]
    assert {len(column) for column in first.values()} == {golden.MAX_ROWS}
    assert first["age"].dtype == np.float32
    assert set(first["city"]) == {"Bonn", None, "Köln"}
    assert Golden(first, {}).to_bytes() == Golden(again, {}).to_bytes()
    small = choose(FRAME[:3], signature(AGE))
    assert small is not None
    np.testing.assert_array_equal(small["age"], np.array([1, np.nan, 3], np.float32))


def test_a_sample_that_lacks_an_input_makes_none() -> None:
    assert choose(FRAME.drop(columns="age"), signature(AGE, CITY)) is None
    assert choose(FRAME, signature(Feature("city", "FP32"))) is None
    assert choose(FRAME, signature(Feature("age", "INT64"))) is None


def test_large_rows_make_few_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "MAX_BYTES", 4_000)
    image = Feature("image", "FP32", shape=(10, 10))
    np.savez(tmp_path / "sample.npz", image=np.zeros((50, 10, 10), np.float32))
    chosen = choose(tmp_path / "sample.npz", signature(image))
    assert chosen is not None
    assert chosen["image"].shape == (10, 10, 10)
    monkeypatch.setattr(golden, "MAX_BYTES", 399)
    assert choose(tmp_path / "sample.npz", signature(image)) is None


def test_the_only_array_and_a_table_are_the_only_tensor_of_a_network(tmp_path: Path) -> None:
    vector = signature(Feature("x", "FP32", shape=(2,)))
    np.save(tmp_path / "sample.npy", np.ones((5, 2)))
    for sample in (tmp_path / "sample.npy", pd.DataFrame({"a": [1.0] * 5, "b": [1.0] * 5})):
        chosen = choose(sample, vector)
        assert chosen is not None
        assert chosen["x"].tolist() == [[1.0, 1.0]] * 5


def test_what_is_written_is_read() -> None:
    texts = np.array([["a", None], ["ä" * 9, ""]], object)
    numbers = np.array([1.5, np.nan], np.float32)
    kept = Golden({"n": numbers, "t": texts}, {"label": np.array(["no", b"yes"], object), "p": np.ones((2, 3))})
    read = Golden.from_bytes(kept.to_bytes())
    assert len(read) == 2
    np.testing.assert_array_equal(read.rows["n"], numbers)
    assert read.rows["n"].dtype == np.float32
    assert read.rows["t"].tolist() == texts.tolist()
    assert read.answers["label"].tolist() == ["no", "yes"]
    assert read.answers["p"].shape == (2, 3)


def zipped(size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("name_0_0.npy", b"\0" * size)
    return buffer.getvalue()


@pytest.mark.parametrize("data", [b"", b"no archive", zipped(10), zipped(1000)])
def test_anything_else_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptArtifact):
        Golden.from_bytes(data)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "_MAX_UNPACKED", 1_000)
    kept = Golden({"n": np.zeros(10_000)}, {}).to_bytes()
    assert len(kept) < 1_000
    with pytest.raises(CorruptArtifact):
        Golden.from_bytes(kept)


def test_no_pickle_is_read() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, name_0_0=np.frombuffer(b"n", np.uint8), values_0_0=np.array([{}], object))
    with pytest.raises(CorruptArtifact):
        Golden.from_bytes(buffer.getvalue())


def test_rows_fit_a_wider_type_and_an_optional_input_that_is_new_and_no_required_one() -> None:
    rows = choose(FRAME[:3], signature(AGE, CITY))
    assert rows is not None
    wider = fitted(rows, signature(Feature("age", "FP64", nullable=True), Feature("debt", "FP32", nullable=True)))
    assert wider is not None
    assert wider["age"].dtype == np.float64
    assert np.isnan(wider["debt"]).all()
    assert fitted(rows, signature(AGE, Feature("debt", "FP32"))) is None
    assert fitted(rows, signature(Feature("city", "FP32"))) is None
