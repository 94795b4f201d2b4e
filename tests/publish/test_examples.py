"""Examples of tensors: read, chosen, varied in every batch of a proof, and handed over without pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of_numbers

from keelway.errors import InvalidInput, NotFound
from keelway.publish.examples import (
    Batch,
    arrays_of,
    batches,
    chosen,
    load_batches,
    read_arrays,
    save_batches,
)

DTYPES = st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_])


def counted(made: list[Batch], kind: str) -> list[int]:
    return [len(batch) for batch in made if batch.kind == kind]


def test_arrays_are_read_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.ones((3, 2)), b=np.zeros(3, np.int64))
    assert {name: array.shape for name, array in read_arrays(tmp_path / "two.npz").items()} == {"a": (3, 2), "b": (3,)}
    np.save(tmp_path / "one.npy", np.ones((3, 2, 2)))
    assert list(read_arrays(tmp_path / "one.npy")) == ["input"]


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"a": np.ones((3, 2)), "b": np.ones(4)},
        {"a": np.ones(())},
        {"a": np.ones((0, 2))},
        {"a": np.array(["x", "y"])},
        {"a": np.array([1 + 2j])},
    ],
)
def test_what_are_no_examples_is_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InvalidInput) as raised:
        read_arrays(tmp_path / "a.npz")
    assert raised.value.field


@pytest.mark.parametrize("content", [b"", b"no arrays", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_refused_and_a_missing_one_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"a\.npz holds no arrays"):
        read_arrays(tmp_path / "a.npz")
    with pytest.raises(NotFound, match=r"b\.npz"):
        read_arrays(tmp_path / "b.npz")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{"x": 1}], object))
    with pytest.raises(InvalidInput):
        read_arrays(tmp_path / "a.npz")


def test_a_table_becomes_one_tensor_in_the_order_of_its_columns() -> None:
    made = arrays_of(pd.DataFrame({"b": [1, 2], "a": [0.5, None]}))["input"]
    assert made.dtype == np.float32
    assert np.array_equal(made, np.array([[1, 0.5], [2, np.nan]], np.float32), equal_nan=True)
    with pytest.raises(InvalidInput, match="holds text"):
        arrays_of(pd.DataFrame({"b": ["x"]}))


def test_no_more_examples_are_chosen_than_a_proof_can_hold_and_the_last_is_among_them() -> None:
    many = chosen({"a": np.arange(10_000)})["a"]
    assert len(many) == 256
    assert many[-1] == 9_999
    large = chosen({"a": np.zeros((40, 3, 1024, 1024), np.float32)})["a"]
    assert 1 <= len(large) < 40


def test_the_batches_hold_the_sample_first_and_single_examples_and_other_values() -> None:
    array = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    made = batches({"a": array}, {}, None)
    assert made[0].kind == "sample"
    assert np.array_equal(np.concatenate([b.arrays["a"] for b in made if b.kind == "sample"]), array)
    assert counted(made, "one by one") == [1] * 16
    assert {batch.kind for batch in made} >= {"noise", "exchanged", "zeros", "large"}
    noise = np.concatenate([b.arrays["a"] for b in made if b.kind == "noise"])
    assert 0 < np.abs(noise - array).max() < 1


def test_a_network_for_two_examples_gets_two_each_time() -> None:
    made = batches({"a": np.zeros((5, 3), np.float32)}, {}, 2)
    assert {len(batch) for batch in made} == {2}
    assert {len(batch) for batch in batches({"a": np.zeros((1, 3))}, {}, 2)} == {2}


def test_free_axes_get_other_lengths_in_every_input_alike() -> None:
    arrays = {"a": np.ones((4, 6)), "mask": np.ones((4, 6), bool), "b": np.ones((4, 2))}
    made = [b for b in batches(arrays, {"a": [1], "mask": [1]}, None) if b.kind == "other lengths"]
    assert [batch.arrays["a"].shape for batch in made] == [(4, 3), (4, 1), (4, 12)]
    assert all(batch.arrays["mask"].shape == batch.arrays["a"].shape for batch in made)
    assert all(batch.arrays["b"].shape == (4, 2) for batch in made)


@given(data=st.data(), rows=st.integers(1, 40))
def test_varied_examples_keep_their_datatype_and_ids_stay_ids(data: st.DataObject, rows: int) -> None:
    shape = (rows, *data.draw(arrays_of_numbers.array_shapes(min_dims=0, max_dims=3, max_side=4)))
    array = data.draw(arrays_of_numbers.arrays(data.draw(DTYPES), shape))
    for batch in batches({"a": array}, {}, None):
        made = batch.arrays["a"]
        assert made.dtype == array.dtype
        assert made.shape[1:] == array.shape[1:]
        if array.dtype == np.int64:
            assert np.isin(made, array).all()


def test_batches_come_back_as_they_were_handed_over(tmp_path: Path) -> None:
    made = [Batch("sample", {"a/b": np.ones((2, 3)), "c": np.zeros(2, bool)}), Batch("noise", {"a/b": np.ones((1, 3))})]
    save_batches(tmp_path / "made.npz", made)
    found = load_batches(tmp_path / "made.npz")
    assert [batch.kind for batch in found] == ["sample", "noise"]
    assert [list(batch.arrays) for batch in found] == [["a/b", "c"], ["a/b"]]
    assert np.array_equal(found[0].arrays["a/b"], made[0].arrays["a/b"])
