"""Whether an answer is the one that a case demands, in the last bit."""

from __future__ import annotations

import numpy as np
from tests.conformance.cases import Case, Sent
from tests.conformance.clients import Answered
from tests.conformance.ways import Way

from keelway.types import Array


def assert_exact(answered: Answered, case: Case, way: Way, request_id: str) -> None:
    # KServe's client does not read the version of an answer over REST.
    version = None if (way.client, way.transport) == ("kserve", "REST") else case.answered_by
    assert (answered.model, answered.version, answered.id) == (case.model, version, request_id)
    assert [(output.name, output.datatype) for output in answered.outputs] == [got[:2] for got in case.answer]
    for output, got in zip(answered.outputs, case.answer, strict=True):
        values = got.values if way.encoding != "json" or got.in_json is None else got.in_json
        expected = Sent(got.name, got.datatype, values).array
        if got.datatype == "BYTES":
            assert texts(output.array).tolist() == texts(expected).tolist()
        else:
            assert (output.array.dtype, output.array.shape) == (expected.dtype, expected.shape)
            # Bit for bit, so that the sign of zero and the last digit count; NaN has many bit patterns.
            assert np.array_equal(output.array, expected, equal_nan=expected.dtype.kind == "f")
            assert np.array_equal(np.signbit(output.array), np.signbit(expected)) or expected.dtype.kind != "f"


def texts(array: Array) -> Array:
    """BYTES as bytes, whichever way they came."""
    flat = [value if isinstance(value, bytes) else value.encode() for value in array.ravel().tolist()]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(array.shape)
