"""POST /v1/models/NAME/predict and keelway.v1.ModelService answer the same rows alike. # R2 R3 G1"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from tests.conformance import ways as clients
from tests.conformance.clients import CODES, Addresses
from tests.conformance.row_cases import ROW_CASES, ROW_REFUSALS, Row, RowCase, RowError, RowRefusal

from keelway.errors import ErrorCode
from keelway.wire import model_service_pb2 as wire

PATIENCE = 20.0


class Said(NamedTuple):
    """An answer, whichever transport brought it."""

    model: str
    version: str
    digest: str
    policy_revision: int
    predictions: Sequence[Any]
    probabilities: Sequence[Sequence[float] | None]
    labels: Sequence[Any]
    errors: Sequence[RowError]
    flags: Sequence[str]


class Refused(Exception):
    def __init__(self, code: ErrorCode, message: str, field: str) -> None:
        super().__init__(message)
        self.said = (code, message, field)


class OverRest:
    def __init__(self, addresses: Addresses) -> None:
        self._client = httpx.Client(base_url=addresses.http, timeout=PATIENCE)

    def predict(self, model: str, version: str, rows: Sequence[Row]) -> Said:
        path = f"/v1/models/{model}/versions/{version}/predict" if version else f"/v1/models/{model}/predict"
        said = [{name: in_json(item) for name, item in row.items()} for row in rows]
        reply = self._client.post(path, json={"instances": said})
        said = reply.json()
        if reply.status_code != 200:
            assert CODES[reply.status_code].name == said["code"]
            raise Refused(CODES[reply.status_code], said["detail"], said.get("field", ""))
        return Said(
            said["model"],
            said["model_version"],
            said["model_digest"],
            said["policy_revision"],
            said["predictions"],
            said.get("probabilities", []),
            said.get("labels", []),
            [RowError(e["row"], e["code"], e["message"], e.get("field", "")) for e in said.get("errors", [])],
            said.get("flags", []),
        )

    def close(self) -> None:
        self._client.close()


def in_json(item: Any) -> Any:
    """A value as JSON; bytes as TensorFlow Serving has them."""
    if isinstance(item, list):
        return [in_json(inner) for inner in item]
    return {"b64": base64.b64encode(item).decode()} if isinstance(item, bytes) else item


class OverGrpc:
    """``BatchPredict``; if ``single``, ``Predict`` for the only row there is."""

    def __init__(self, addresses: Addresses, *, single: bool = False) -> None:
        self._single = single
        self._channel = grpc.insecure_channel(addresses.grpc)

    def predict(self, model: str, version: str, rows: Sequence[Row]) -> Said:
        features = [wire.Row(features={name: value(item) for name, item in row.items()}) for row in rows]
        if self._single:
            (row,) = features
            asked = wire.PredictRequest(model=model, version=version, features=row.features)
            reply = self._call("Predict", asked, wire.PredictResponse)
            return heard(reply.served, [wire.RowResult(prediction=reply.prediction)])
        asked = wire.BatchPredictRequest(model=model, version=version, rows=features)
        reply = self._call("BatchPredict", asked, wire.BatchPredictResponse)
        return heard(reply.served, reply.results)

    def _call(self, method: str, asked: Any, kind: Any) -> Any:
        call = self._channel.unary_unary(
            f"/keelway.v1.ModelService/{method}", type(asked).SerializeToString, kind.FromString
        )
        try:
            return call(asked, timeout=PATIENCE)
        except grpc.RpcError as error:
            field = dict(error.trailing_metadata()).get("keelway-error-field", "")
            raise Refused(ErrorCode[error.code().name], error.details(), field) from None

    def close(self) -> None:
        self._channel.close()


def value(item: Any) -> wire.Value:
    """A value of a row as a message."""
    if item is None:
        return wire.Value(null=wire.NULL)
    if isinstance(item, list):
        return wire.Value(list=wire.List(values=map(value, item)))
    if isinstance(item, int) and not isinstance(item, bool) and item >= 2**63:
        return wire.Value(unsigned=item)
    kinds = {bool: "flag", int: "integer", float: "number", str: "text", bytes: "data"}
    return wire.Value(**{kinds[type(item)]: item})


def item(message: wire.Value) -> Any:
    """The other way round."""
    kind = message.WhichOneof("kind")
    if kind == "list":
        return [item(inner) for inner in message.list.values]
    return None if kind in (None, "null") else getattr(message, kind)


def heard(served: wire.Served, results: Sequence[wire.RowResult]) -> Said:
    predictions: list[Any] = []
    probabilities: list[Any] = []
    errors = []
    for row, result in enumerate(results):
        if result.HasField("error"):
            code = next(status.name for status in grpc.StatusCode if status.value[0] == result.error.code)
            errors.append(RowError(row, code, result.error.message, result.error.field))
            predictions.append(None)
            probabilities.append(None)
            continue
        answer = result.prediction
        outputs: Mapping[str, Any] = {name: item(output) for name, output in answer.outputs.items()}
        # REST says the only output without its name, and several with theirs.
        predictions.append(next(iter(outputs.values())) if len(outputs) == 1 else outputs or item(answer.value))
        probabilities.append(list(answer.probabilities))
        if answer.HasField("confidence"):
            labels = [item(label) for label in served.labels]
            assert answer.confidence == answer.probabilities[labels.index(predictions[-1])]
    return Said(
        served.model,
        served.version,
        served.digest,
        served.policy_revision,
        predictions,
        probabilities if any(probabilities) else [],
        [item(label) for label in served.labels],
        errors,
        list(served.flags),
    )


WAYS: Mapping[str, Callable[[Addresses], Any]] = {
    "REST": OverRest,
    "BatchPredict": OverGrpc,
    "Predict": partial(OverGrpc, single=True),
}


@pytest.fixture(scope="module")
def ways(server: Addresses) -> Iterator[Mapping[str, Any]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(contextlib.closing(way(server))) for name, way in WAYS.items()}


def each(cases: Sequence[Any]) -> pytest.MarkDecorator:
    """A test over each case over each way; ``Predict`` takes one row."""
    pairs = [(way, case) for way in WAYS for case in cases if way != "Predict" or len(case.rows) == 1]
    return pytest.mark.parametrize(
        ("way", "case"), [pytest.param(*pair, id=f"{pair[0]}-{pair[1].id}") for pair in pairs]
    )


def plain(answer: Any) -> str:
    """For comparison: NaN is no equal of itself, and the order of names says nothing."""
    return json.dumps(answer, sort_keys=True)


@each(ROW_CASES)
def test_the_same_rows_get_the_same_answer(ways: Mapping[str, Any], way: str, case: RowCase) -> None:
    predictions = case.over_rest if way == "REST" and case.over_rest is not None else case.predictions
    expected = Said(
        case.model,
        case.answered_by,
        f"sha256:{case.model}-{case.answered_by}",
        case.policy_revision,
        predictions,
        case.probabilities,
        case.labels,
        case.errors,
        case.flags,
    )
    assert plain(ways[way].predict(case.model, case.version, case.rows)) == plain(expected)


@each(ROW_REFUSALS)
def test_the_same_rows_get_the_same_refusal(ways: Mapping[str, Any], way: str, case: RowRefusal) -> None:
    with pytest.raises(Refused) as refusal:
        ways[way].predict(case.model, case.version, case.rows)
    assert refusal.value.said == (case.code, case.message, case.field)


@clients.each([way for way in clients.WAYS if (way.client, way.encoding) == ("@grpc/grpc-js", "typed")])
def test_javascript_gets_the_same_rows(client: Any) -> None:
    """The classifier's cases: their values are those that JavaScript has."""
    cases = [case for case in ROW_CASES if case.model == "loan"]
    assert len(cases) > 5
    for case in cases:
        answer = client.ask("batch_predict", model=case.model, version=case.version, rows=case.rows)
        assert (answer["labels"], answer["flags"]) == (list(case.labels), list(case.flags))
        errors = {error.row: {"error": [error.code, error.message, error.field]} for error in case.errors}
        assert answer["results"] == [
            errors.get(row, {"value": value, "probabilities": share})
            for row, (value, share) in enumerate(zip(case.predictions, case.probabilities, strict=True))
        ]


def test_a_value_of_bytes_is_a_text(ways: Mapping[str, Any]) -> None:
    """Only a message can say it; what is no text comes back as bytes."""
    for row in ([b"\xff\xfe", "text"], [b"text", b""]):
        (prediction,) = ways["BatchPredict"].predict("identity-bytes", "", [{"x": row}]).predictions
        assert [part if isinstance(part, bytes) else part.encode() for part in prediction] == [
            part if isinstance(part, bytes) else part.encode() for part in row
        ]
