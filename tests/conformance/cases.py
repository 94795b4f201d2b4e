"""What the Open Inference Protocol promises, as data: requests, and the answers or refusals they must get. # R1 G1

Nothing here knows a client; those of ``ways.py`` send these, ``models.py`` serves what they ask for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keelway.errors import ErrorCode
from keelway.types import Array

#: Two values that every datatype must carry through unharmed, its extremes among them.
VALUES: Mapping[str, Sequence[Sequence[Any]]] = {
    "BOOL": [[True, False], [False, False]],
    "UINT8": [[0, 255], [1, 128]],
    "UINT16": [[0, 65535], [1, 256]],
    "UINT32": [[0, 2**32 - 1], [1, 2**31]],
    "UINT64": [[0, 2**64 - 1], [2**53 + 1, 2**63]],
    "INT8": [[-128, 127], [0, -1]],
    "INT16": [[-(2**15), 2**15 - 1], [0, -1]],
    "INT32": [[-(2**31), 2**31 - 1], [0, -1]],
    "INT64": [[-(2**63), 2**63 - 1], [2**53 + 1, -1]],
    "FP16": [[0.0, 65504.0], [-1.5, 6e-8]],
    "FP32": [[0.1, 3.4028235e38], [-0.0, 1e-45]],
    "FP64": [[0.1, 1.7976931348623157e308], [-0.0, 5e-324]],
    "BYTES": [["", "text"], ["Zürich → 東京", 'quotes " and \\ and \n and \x00']],
}

DTYPES: Mapping[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}


class Sent(NamedTuple):
    """An input tensor."""

    name: str
    datatype: str
    values: Any

    @property
    def array(self) -> Array:
        return np.array(self.values, dtype=DTYPES[self.datatype])


class Got(NamedTuple):
    """An output tensor. ``in_json`` are its values where JSON has no word for them."""

    name: str
    datatype: str
    values: Any
    in_json: Any = None


class Case(NamedTuple):
    """A request and its answer. ``outputs`` are those asked for, ``None`` for all. ``refused``: the code and the text
    that it must get instead."""

    id: str
    model: str
    inputs: Sequence[Sent]
    answer: Sequence[Got]
    outputs: Sequence[str] | None = None
    version: str = ""
    answered_by: str = "1.0.0"
    refused: tuple[ErrorCode, str] | None = None


IDENTITY = [
    Case(
        f"identity of {datatype}",
        f"identity-{datatype.lower()}",
        [Sent("x", datatype, values)],
        [Got("y", datatype, values)],
    )
    for datatype, values in VALUES.items()
]


def sums(id: str, *tensors: Sent, outputs: Sequence[str] | None = None, **more: Any) -> Case:
    """A case of the model ``sums``: the sum and the product of each row; its version 2.0.0 adds 100 to the sum."""
    columns = {sent.name: np.ravel(sent.values) for sent in tensors}
    rows = np.asarray(tensors[0].values) if "input" in columns else np.stack([columns["a"], columns["b"]], axis=1)
    offset = 100.0 if more.get("answered_by") == "2.0.0" else 0.0
    answer = {"sum": rows.sum(axis=1) + offset, "product": rows.prod(axis=1)}
    names = ("sum", "product") if outputs is None else outputs
    return Case(id, "sums", tensors, [Got(name, "FP32", answer[name].tolist()) for name in names], outputs, **more)


ROWS = Sent("input", "FP32", [[1.0, 2.0], [3.0, 4.0], [-1.0, 0.5]])

CASES: Sequence[Case] = [
    *IDENTITY,
    sums("a packed tensor", ROWS),
    sums("its columns as tensors", Sent("a", "FP32", [1.0, 3.0]), Sent("b", "FP32", [2.0, 4.0])),
    sums("its columns as matrices", Sent("a", "FP32", [[1.0], [3.0]]), Sent("b", "FP32", [[2.0], [4.0]])),
    sums("its columns in another order", Sent("b", "FP32", [2.0, 4.0]), Sent("a", "FP32", [1.0, 3.0])),
    sums("one output of two", ROWS, outputs=["product"]),
    sums("outputs in the order asked for", ROWS, outputs=["product", "sum"]),
    sums("many rows", Sent("input", "FP32", [[1.0, 2.0]] * 1000)),
    sums("a version by number", ROWS, version="2.0.0", answered_by="2.0.0"),
    sums("a version by alias", ROWS, version="challenger", answered_by="2.0.0"),
    sums("the default by alias", ROWS, version="champion"),
    Case(
        "inputs of several datatypes",
        "mixed",
        [Sent("count", "INT64", [2, 3]), Sent("text", "BYTES", ["ab", "ü"]), Sent("loud", "BOOL", [True, False])],
        [Got("out", "BYTES", ["ABAB", "üüü"]), Got("length", "INT32", [4, 3])],
    ),
    Case(
        "a model without a batch axis",
        "fixed",
        [Sent("x", "FP64", [1.0, 2.0, 4.0])],
        [Got("y", "FP64", [[7.0, 1.0], [4.0, 3.0]])],
    ),
    Case(
        "numbers that JSON has no word for",
        "strange",
        [Sent("x", "FP32", [1.0])],
        [Got("y", "FP32", [[np.nan, np.inf, -np.inf, 1.0]], [[np.nan, np.nan, np.nan, 1.0]])],
    ),
    Case(
        "bytes that are no text",
        "identity-bytes",
        [Sent("x", "BYTES", [[b"\xff\xfe", b"\x00"]])],
        [Got("y", "BYTES", [[b"\xff\xfe", b"\x00"]])],
    ),
]


def mistake(id: str, code: ErrorCode, message: str, *tensors: Sent, model: str = "sums", **more: Any) -> Case:
    """A case that is refused, and that every client can be made to send."""
    return Case(id, model, tensors or [ROWS], [Got("sum", "FP32", [])], refused=(code, message), **more)


NOBODY = (ErrorCode.NOT_FOUND, "no such model or version is served here")

MISTAKES: Sequence[Case] = [
    mistake("an unknown model", *NOBODY, model="nobody"),
    mistake("an unknown version", *NOBODY, version="9.9.9"),
    mistake("an unknown alias", *NOBODY, version="nothing"),
    mistake(
        "another datatype",
        ErrorCode.INVALID_ARGUMENT,
        "input 'input' is FP32, not FP64",
        Sent("input", "FP64", [[1.0, 2.0]]),
    ),
    mistake(
        "other columns",
        ErrorCode.INVALID_ARGUMENT,
        "input 'input' has shape [-1, 2], not [1, 3]",
        Sent("input", "FP32", [[1.0, 2.0, 3.0]]),
    ),
    mistake(
        "another name",
        ErrorCode.INVALID_ARGUMENT,
        "this model has no such input; did you mean 'input'?",
        Sent("inputs", "FP32", [[1.0, 2.0]]),
    ),
    mistake("one column of two", ErrorCode.INVALID_ARGUMENT, "input 'b' is missing", Sent("a", "FP32", [1.0])),
    mistake(
        "an output nobody has",
        ErrorCode.INVALID_ARGUMENT,
        "this model has no such output; it has sum, product",
        outputs=["nothing"],
    ),
    mistake(
        "too many rows",
        ErrorCode.OUT_OF_RANGE,
        "more than 2000 rows in one request",
        Sent("input", "FP32", [[1.0, 2.0]] * 2001),
    ),
    mistake("a model that fails", ErrorCode.INTERNAL, "the model could not answer this request", model="broken"),
]


class Refusal(NamedTuple):
    """A request that must be refused. ``body`` is JSON; ``names`` is what the message must name, so that its reader
    knows where to look."""

    id: str
    body: Any
    status: int
    names: str = ""
    model: str = "sums"
    version: str = ""


def tensor(**changes: Any) -> dict[str, Any]:
    """A good input of the model ``sums``, changed; ``None`` leaves a field out."""
    good = {"name": "input", "shape": [2, 2], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}
    return {name: value for name, value in (good | changes).items() if value is not None}


def x(datatype: str, *values: Any) -> dict[str, Any]:
    """The input of an identity model, of shape [2, 2]."""
    return tensor(name="x", datatype=datatype, data=list(values))


def inputs(*tensors: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": list(tensors), **more}


#: What JSON and a message can both say, and must both be refused in the same words.
REFUSALS: Sequence[Refusal] = [
    Refusal("an empty list of inputs", inputs(), 400),
    Refusal("a datatype nobody knows", inputs(tensor(datatype="FP31")), 400, "input"),
    Refusal("another datatype", inputs(tensor(datatype="FP64")), 400, "FP32"),
    Refusal("too few values", inputs(tensor(data=[1.0])), 400, "input"),
    Refusal("too many values", inputs(tensor(data=[1.0] * 5)), 400, "input"),
    Refusal("a shape of other columns", inputs(tensor(shape=[1, 4])), 400, "input"),
    Refusal("a shape of one axis", inputs(tensor(shape=[4])), 400, "input"),
    Refusal("a shape of three axes", inputs(tensor(shape=[1, 2, 2])), 400, "input"),
    Refusal("a negative axis", inputs(tensor(shape=[-2, -2])), 400, "input"),
    Refusal("an open axis", inputs(tensor(shape=[-1, 2])), 400, "input"),
    Refusal("a huge shape", inputs(tensor(shape=[2**62, 2])), 400, "input"),
    Refusal("no rows", inputs(tensor(shape=[0, 2], data=[])), 400, "input"),
    Refusal("a number too large for the datatype", inputs(tensor(data=[1e39, 2.0, 3.0, 4.0])), 400, "'a'"),
    Refusal("an input nobody asked for", inputs(tensor(), tensor(name="more")), 400),
    Refusal("another name", inputs(tensor(name="inputs")), 400, "input"),
    Refusal("the same input twice", inputs(tensor(), tensor()), 400),
    Refusal("one column of two", inputs(tensor(name="a", shape=[2], data=[1.0, 2.0])), 400, "'b'"),
    Refusal("an output nobody has", inputs(tensor(), outputs=[{"name": "nothing"}]), 400, "sum"),
    Refusal("an unknown model", inputs(tensor()), 404, model="nobody"),
    Refusal("an unknown version", inputs(tensor()), 404, version="9.9.9"),
    Refusal("an unknown alias", inputs(tensor()), 404, version="nothing"),
    Refusal("too many rows", inputs(tensor(shape=[2001, 2], data=[1.0] * 4002)), 413, "2000"),
    Refusal("shared memory", inputs(tensor(data=None, parameters={"shared_memory_region": "r"})), 501),
    Refusal("classification", inputs(tensor(), outputs=[{"name": "sum", "parameters": {"classification": 1}}]), 501),
    Refusal("a model that fails", inputs(tensor()), 500, model="broken"),
    Refusal("an integer out of range", inputs(x("INT8", 128, 1, 1, 1)), 400, "x", "identity-int8"),
    Refusal(
        "rows that differ between inputs",
        inputs(
            tensor(name="count", shape=[1], datatype="INT64", data=[1]),
            tensor(name="text", shape=[2], datatype="BYTES", data=["", ""]),
            tensor(name="loud", shape=[1], datatype="BOOL", data=[True]),
        ),
        400,
        "",
        "mixed",
    ),
]

#: What only JSON can say, and what is missing from JSON alone: a message has a default for every field.
JSON_REFUSALS: Sequence[Refusal] = [
    Refusal("no inputs", {}, 400, "inputs"),
    Refusal("inputs that are no list", {"inputs": 1}, 400, "inputs"),
    Refusal("an input without a name", inputs(tensor(name=None)), 400, "name"),
    Refusal("an input without a shape", inputs(tensor(shape=None)), 400, "shape"),
    Refusal("an input without a datatype", inputs(tensor(datatype=None)), 400, "datatype"),
    Refusal("an input without data", inputs(tensor(data=None)), 400, "input"),
    Refusal("nested data of another shape", inputs(tensor(data=[[1.0, 2.0, 3.0, 4.0]])), 400, "input"),
    Refusal("ragged data", inputs(tensor(data=[[1.0, 2.0, 3.0], [4.0]])), 400, "input"),
    Refusal("a text for a number", inputs(tensor(data=["1", 2.0, 3.0, 4.0])), 400, "input"),
    Refusal("a boolean for a number", inputs(tensor(data=[True, 2.0, 3.0, 4.0])), 400, "input"),
    Refusal("null where nothing may be missing", inputs(tensor(data=[None, 2.0, 3.0, 4.0])), 400, "'a'"),
    Refusal("an id that is no text", inputs(tensor(), id=7), 400, "id"),
    Refusal("a float for an integer", inputs(x("INT8", 1.5, 1, 1, 1)), 400, "x", "identity-int8"),
    Refusal("a negative unsigned", inputs(x("UINT64", -1, 1, 1, 1)), 400, "x", "identity-uint64"),
    Refusal("an integer beyond 64 bits", inputs(x("UINT64", 2**64, 1, 1, 1)), 400, "", "identity-uint64"),
    Refusal("a number for a boolean", inputs(x("BOOL", 1, 0, 0, 0)), 400, "x", "identity-bool"),
    Refusal("a number for a text", inputs(x("BYTES", 1, "", "", "")), 400, "x", "identity-bytes"),
]


class BinaryRefusal(NamedTuple):
    """A JSON head, the bytes behind it and the header length that is claimed (``None``: the true one)."""

    id: str
    head: Any
    tail: bytes
    status: int
    header_length: str | None = None
    model: str = "sums"


def binary(size: Any, **changes: Any) -> dict[str, Any]:
    return inputs(tensor(data=None, parameters={"binary_data_size": size}, **changes))


X = {"name": "x", "shape": [2, 2]}
TEXTS = binary(6, name="x", datatype="BYTES", shape=[1, 2])
FOUR = np.arange(4, dtype=np.float32).tobytes()

#: What bytes behind JSON and bytes beside a message can both say, and must both be refused in the same words.
RAW_REFUSALS: Sequence[BinaryRefusal] = [
    BinaryRefusal("a size too small for the shape", binary(12), FOUR[:12], 400),
    BinaryRefusal("a shape too large for the size", binary(16, shape=[2**40, 2]), FOUR, 400),
    BinaryRefusal("a negative shape that fits the size", binary(16, shape=[-2, -2]), FOUR, 400),
    BinaryRefusal("an unknown datatype", binary(16, datatype="FP31"), FOUR, 400),
    BinaryRefusal("a boolean that is 2", binary(4, **X, datatype="BOOL"), b"\2\0\0\0", 400, model="identity-bool"),
    BinaryRefusal("a text longer than the body", TEXTS, b"\xff\xff\xff\x7fab", 400, model="identity-bytes"),
    BinaryRefusal("fewer texts than the shape says", TEXTS, b"\2\0\0\0ab", 400, model="identity-bytes"),
]

#: Where bytes begin and end is said by JSON alone.
BINARY_REFUSALS: Sequence[BinaryRefusal] = [
    BinaryRefusal("a header length beyond the body", binary(16), FOUR, 400, "100000"),
    BinaryRefusal("a header length of more digits than sense", binary(16), FOUR, 400, "9" * 30),
    BinaryRefusal("a negative header length", binary(16), FOUR, 400, "-1"),
    BinaryRefusal("a header length that is no number", binary(16), FOUR, 400, "many"),
    BinaryRefusal("a header length that cuts the JSON", binary(16), FOUR, 400, "10"),
    BinaryRefusal("a size beyond the body", binary(17), FOUR, 400),
    BinaryRefusal("a negative size", binary(-16), FOUR, 400),
    BinaryRefusal("a size that is no number", binary("16"), FOUR, 400),
    BinaryRefusal("bytes that no input accounts for", binary(16), FOUR + b"more", 400),
    BinaryRefusal("data and bytes at once", inputs(tensor(parameters={"binary_data_size": 16})), FOUR, 400),
    BinaryRefusal("a raw body of half a value", None, FOUR[:-1], 400, "0"),
    BinaryRefusal("a raw body of half a row", None, FOUR[:12], 400, "0"),
    BinaryRefusal("an empty raw body", None, b"", 400, "0"),
]
