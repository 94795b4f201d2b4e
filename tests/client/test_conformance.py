"""The client against a real server: the same results and errors over both protocols, for threads and asyncio. # G0"""

from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.client.callers import WAYS, Way, every_way
from tests.conformance.cases import CASES, VALUES, Case
from tests.serving import Server, forest

import keelway
from keelway.client import Client, Inference
from keelway.errors import InvalidInput, KeelwayError, ModelFailed, NotFound, Unsupported
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

IRIS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


def rows_of_iris(samples: Array) -> list[dict[str, Any]]:
    return [dict(zip(IRIS, row, strict=True)) for row in samples.tolist()]


def same_numbers(one: Any, other: Any) -> bool:
    """Equal as FP32: JSON writes the digits of an FP32 and no more."""
    return bool(np.array_equal(np.asarray(one, np.float32), np.asarray(other, np.float32)))


@every_way
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_tensors_come_back_as_the_protocol_promises(way: Way, url: str, case: Case) -> None:
    with way.client(url) as client:
        inputs = {sent.name: sent.array for sent in case.inputs}
        answer = client.infer(case.model, inputs, outputs=case.outputs, version=case.version or None, id="a-1")
    assert (answer.model, answer.version, answer.id) == (case.model, case.answered_by, "a-1")
    assert answer.digest == f"sha256:{case.model}-{case.answered_by}"
    assert answer.request_id
    assert list(answer.outputs) == [got.name for got in case.answer]
    for got in case.answer:
        array = answer.outputs[got.name]
        if got.datatype == "BYTES":
            assert array.ravel().tolist() == [
                text.encode() if isinstance(text, str) else text for text in np.ravel(np.array(got.values, object))
            ]
        else:
            assert array.dtype == NUMPY_DTYPES[got.datatype]
            assert np.array_equal(array, np.array(got.values, array.dtype), equal_nan=array.dtype.kind == "f")


@every_way
def test_predictions_carry_labels_probabilities_confidence_and_what_answered(way: Way, url: str) -> None:
    _, _, samples, labels, probabilities = forest()
    with way.client(url) as client:
        answer = client.predict("forest", rows_of_iris(samples[::10]))
    assert (answer.model, answer.version, answer.digest) == ("forest", "1.0.0", "sha256:forest-1.0.0")
    assert answer.predictions == tuple(labels[::10].tolist())
    assert answer.labels == (0, 1, 2)
    assert np.allclose(answer.probabilities, probabilities[::10], atol=1e-6)
    assert same_numbers(answer.confidence, np.max(np.asarray(answer.probabilities), axis=1))
    assert answer.request_id
    assert answer.time.endswith("Z")
    assert (answer.errors, answer.flags) == ({}, ())


@every_way
def test_bad_rows_are_errors_at_their_places_beside_the_good_ones(way: Way, url: str) -> None:
    good, bad = rows_of_iris(np.ones((1, 4)))[0], {"sepal_length": "long"}
    with way.client(url) as client:
        answer = client.predict("forest", [good, good | bad, {"unknown": 1.0}])
    assert answer.predictions[1:] == (None, None)
    assert answer.probabilities[1:] == (None, None)
    assert answer.confidence[1:] == (None, None)
    assert answer.predictions[0] is not None
    assert sorted(answer.errors) == [1, 2]
    error = answer.errors[1]
    assert type(error) is InvalidInput
    assert (error.message, error.field) == ("'sepal_length' must be a number, not text", "sepal_length")


@every_way
def test_one_mapping_is_one_row_and_a_version_or_alias_can_be_asked_for(way: Way, url: str) -> None:
    with way.client(url) as client:
        answers = [client.predict("sums", {"a": 1.0, "b": 2.0}, version=name) for name in (None, "2.0.0", "challenger")]
    assert [answer.version for answer in answers] == ["1.0.0", "2.0.0", "2.0.0"]
    assert [answer.predictions for answer in answers] == [({"sum": s, "product": 2.0},) for s in (3.0, 103.0, 103.0)]


@every_way
def test_rows_of_every_kind_of_value_are_understood(way: Way, url: str) -> None:
    with way.client(url) as client:
        mixed = client.predict("mixed", [{"count": np.int64(2), "text": "Zürich ", "loud": np.True_}])
        fixed = client.predict("fixed", {"x": np.array([1.0, 2.0, 3.0])})
        large = client.predict("identity-uint64", {"x": [2**64 - 1, 2**63]})
        strange = client.predict("strange", [{"x": 1}])
    assert mixed.predictions == ({"out": "ZÜRICH ZÜRICH ", "length": 14},)
    assert fixed.predictions == ([[6.0, 1.0], [3.0, 2.0]],)
    assert large.predictions == ([2**64 - 1, 2**63],)
    assert strange.predictions == ([None, None, None, 1.0],)


@every_way
def test_nan_is_a_missing_value_and_an_infinite_one_is_refused(way: Way, url: str) -> None:
    with way.client(url) as client:
        with pytest.raises(InvalidInput, match="'a' is missing"):
            client.predict("sums", {"a": math.nan, "b": 1.0})
        with pytest.raises(InvalidInput, match="'a' is infinite"):
            client.predict("sums", {"a": math.inf, "b": 1.0})


@every_way
def test_metadata_and_health_say_the_same(way: Way, url: str) -> None:
    with way.client(url) as client:
        metadata = client.metadata("sums")
        one_version = client.metadata("sums", "challenger")
        assert (client.live(), client.ready(), client.ready("sums"), client.ready("sums", "challenger")) == (True,) * 4
        assert (client.ready("nobody"), client.ready("sums", "9.9.9")) == (False, False)
        served_by = client.server_metadata()
    assert metadata.inputs == (TensorSpec("input", "FP32", (-1, 2), ("a", "b")),)
    assert metadata.outputs == (TensorSpec("sum", "FP32", (-1,)), TensorSpec("product", "FP32", (-1,)))
    assert (metadata.name, metadata.versions, metadata.digest) == ("sums", ("1.0.0", "2.0.0"), "sha256:sums-1.0.0")
    assert (one_version.versions, one_version.digest) == (("2.0.0",), "sha256:sums-2.0.0")
    assert (served_by.name, served_by.version) == ("keelway", keelway.__version__)
    assert "model_repository" in served_by.extensions


@every_way
@pytest.mark.parametrize(
    ("kind", "message", "call"),
    [
        (NotFound, "no such model", lambda client: client.predict("nobody", {"a": 1.0})),
        (NotFound, "no such model", lambda client: client.infer("nobody", {"x": np.ones(1)})),
        (NotFound, "no such model", lambda client: client.metadata("sums", "9.9.9")),
        (InvalidInput, "there are no rows", lambda client: client.predict("sums", [])),
        (InvalidInput, "'a' must be a number", lambda client: client.predict("sums", {"a": "1", "b": 1})),
        (InvalidInput, "is FP32, not FP64", lambda client: client.infer("sums", {"input": np.ones((1, 2))})),
        (
            InvalidInput,
            "output",
            lambda client: client.infer("sums", {"input": np.ones((1, 2), "f4")}, outputs=["nothing"]),
        ),
        (ModelFailed, "could not answer", lambda client: client.predict("broken", {"a": 1.0, "b": 1.0})),
    ],
)
def test_a_refusal_is_the_error_of_its_code_with_the_servers_words(
    way: Way, url: str, kind: type[KeelwayError], message: str, call: Any
) -> None:
    with way.client(url) as client, pytest.raises(kind, match=message) as refused:
        call(client)
    assert type(refused.value) is kind
    assert refused.value.__notes__[0].startswith("request id: ")


def test_bytes_that_are_no_text_are_sent_either_way_and_answered_over_grpc_alone(server: Server) -> None:
    row = {"x": [b"\xff", b"text"]}
    with Client(f"grpc://{server.grpc}") as client:
        assert client.predict("identity-bytes", row).predictions == ([b"\xff", "text"],)
    with Client(server.url) as client, pytest.raises(Unsupported, match="an output is not UTF-8 text"):
        client.predict("identity-bytes", row)


def elements(datatype: str) -> st.SearchStrategy[Array]:
    shape = st.tuples(st.integers(1, 5), st.just(2))
    if datatype == "BYTES":
        return shape.flatmap(lambda s: arrays.arrays(object, s, elements=st.binary(max_size=20), fill=st.nothing()))
    finite = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
    dtype = NUMPY_DTYPES[datatype]
    return shape.flatmap(lambda s: arrays.arrays(dtype, s, elements=arrays.from_dtype(dtype, **finite)))


@pytest.fixture(scope="module", params=["rest", "grpc"])
def client(request: pytest.FixtureRequest, server: Server) -> Any:
    with Client(server.url if request.param == "rest" else f"grpc://{server.grpc}") as made:
        yield made


@pytest.mark.parametrize("datatype", sorted(VALUES))
@hypothesis_settings(max_examples=15)
@given(data=st.data())
def test_arrays_of_every_datatype_survive_the_round_trip(client: Client, datatype: str, data: st.DataObject) -> None:
    array = data.draw(elements(datatype))
    layout = data.draw(st.sampled_from([np.ascontiguousarray, np.asfortranarray, big_endian]))
    answer: Inference = client.infer(f"identity-{datatype.lower()}", {"x": layout(array)})
    back = answer.outputs["y"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()
    if array.dtype.kind == "f":
        assert np.array_equal(np.signbit(back), np.signbit(array))


def big_endian(array: Array) -> Array:
    return array if array.dtype.kind == "O" else array.astype(array.dtype.newbyteorder(">"))


@pytest.mark.parametrize(
    "texts", [np.array([["a", "längst"]]), np.array([[b"a", b"bc"]]), np.array([["a", b"b"]], object)]
)
def test_text_of_any_dtype_is_bytes(client: Client, texts: Array) -> None:
    back = client.infer("identity-bytes", {"x": texts}).outputs["y"]
    assert back.tolist() == [[text if isinstance(text, bytes) else text.encode() for text in texts[0].tolist()]]


def test_the_suite_runs_over_both_protocols_and_both_kinds_of_client() -> None:
    assert len({(way.scheme, way.asynchronous) for way in WAYS}) == 4
