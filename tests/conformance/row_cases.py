"""What the people's routes promise, as data: rows, and the predictions, errors and flags they must get over REST and
over gRPC alike. # R2 R3 G1"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keelway.errors import ErrorCode

Row = Mapping[str, Any]


class RowError(NamedTuple):
    row: int
    code: str
    message: str
    field: str


class RowCase(NamedTuple):
    """Rows and their answer. ``predictions`` are values, or outputs by name where a model has several without a
    meaning; ``None`` where a row was refused. ``over_rest`` are those of JSON where they differ: it has no word for
    some numbers."""

    id: str
    model: str
    rows: Sequence[Row]
    predictions: Sequence[Any]
    probabilities: Sequence[Sequence[float] | None] = ()
    labels: Sequence[Any] = ()
    errors: Sequence[RowError] = ()
    flags: Sequence[str] = ()
    version: str = ""
    answered_by: str = "1.0.0"
    policy_revision: int = 1
    over_rest: Sequence[Any] | None = None


class RowRefusal(NamedTuple):
    """Rows that are refused as a whole."""

    id: str
    model: str
    rows: Sequence[Row]
    code: ErrorCode
    message: str
    field: str = ""
    version: str = ""


GOOD = {"age": 40.0, "income": 100.0, "city": "Zürich", "member": True}


def loan(**changes: Any) -> Row:
    """A good row of the model ``loan``, changed; ``...`` leaves a value out."""
    return {name: value for name, value in (GOOD | changes).items() if value is not ...}


def decisions(id: str, rows: Sequence[Row], predictions: Sequence[Any], shares: Sequence[Any], **more: Any) -> RowCase:
    """A case of the model ``loan``; ``shares`` are the probabilities of "yes"."""
    probabilities = [None if share is None else [1 - share, share] for share in shares]
    return RowCase(id, "loan", rows, predictions, probabilities, ["no", "yes"], policy_revision=3, **more)


def bad(row: int, field: str, message: str) -> RowError:
    return RowError(row, "INVALID_ARGUMENT", message, field)


OUTSIDE = "'age' is outside its declared range"
ONES = "the data begin with two bytes of ones"
STRANGER = "this model has no such feature; this model takes age, income, city, member"

ROW_CASES: Sequence[RowCase] = [
    decisions("one row", [loan()], ["yes"], [0.875]),
    decisions(
        "several rows",
        [loan(), loan(member=False), loan(city="Basel")],
        ["yes", "no", "yes"],
        [0.875, 0.375, 0.875],
    ),
    decisions("an integer for a number", [loan(age=40, income=100)], ["yes"], [0.875]),
    decisions("null where a value may be missing", [loan(income=None)], ["yes"], [0.75]),
    decisions("a value left out where it may be missing", [loan(income=...)], ["yes"], [0.75]),
    decisions("a value outside what the sample showed", [loan(age=95.0)], ["yes"], [0.875], flags=["out_of_range:age"]),
    decisions(
        "bad rows beside good ones",
        [
            loan(),
            loan(age=130.0),
            loan(city="Genf"),
            loan(member=False),
            loan(age=None),
            loan(age="old"),
            loan(city=...),
            loan(more=1),
        ],
        ["yes", None, None, "no", None, None, None, None],
        [0.875, None, None, 0.375, None, None, None, None],
        errors=[
            bad(1, "age", OUTSIDE),
            bad(2, "city", "'city' is not one of its declared categories"),
            bad(4, "age", "'age' is missing and may not be"),
            bad(5, "age", "'age' must be a number, not text"),
            bad(6, "city", "'city' is missing and may not be"),
            bad(7, "", STRANGER),
        ],
        flags=["out_of_range:age"],
    ),
    decisions(
        "flags beside errors",
        [loan(income=900.0), loan(member=None)],
        ["yes", None],
        [0.875, None],
        errors=[bad(1, "member", "'member' is missing and may not be")],
        flags=["out_of_range:income"],
    ),
    RowCase(
        "a regressor",
        "price",
        [{"rooms": 3, "area": 70.5}, {"rooms": 2**40, "area": 0.25}],
        [3070.5, 2**40 * 1000.0 + 0.25],
    ),
    RowCase(
        "several outputs without a meaning",
        "sums",
        [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}],
        [{"sum": 3.0, "product": 2.0}, {"sum": 7.0, "product": 12.0}],
    ),
    RowCase(
        "a version by number",
        "sums",
        [{"a": 1.0, "b": 2.0}],
        [{"sum": 103.0, "product": 2.0}],
        version="2.0.0",
        answered_by="2.0.0",
    ),
    RowCase(
        "a version by alias",
        "sums",
        [{"a": 1.0, "b": 2.0}],
        [{"sum": 103.0, "product": 2.0}],
        version="challenger",
        answered_by="2.0.0",
    ),
    RowCase(
        "a feature that is a tensor",
        "identity-int64",
        [{"x": [1, -(2**63)]}, {"x": [2**53 + 1, 2**63 - 1]}],
        [[1, -(2**63)], [2**53 + 1, 2**63 - 1]],
    ),
    RowCase("integers above the signed range", "identity-uint64", [{"x": [0, 2**64 - 1]}], [[0, 2**64 - 1]]),
    RowCase("texts", "identity-bytes", [{"x": ["", "Zürich → 東京"]}], [["", "Zürich → 東京"]]),
    RowCase("bytes that are no text", "lengths", [{"data": b"\xff\xd8"}, {"data": b""}, {"data": "ü"}], [2, 0, 2]),
    RowCase(
        "rows that the model itself refuses",
        "lengths",
        [{"data": None}, {"data": b"\xff\xff\0"}, {"data": "abc"}, {"data": b"\xff\xff"}, {"data": b"\xff"}],
        [None, None, 3, None, 1],
        errors=[
            bad(0, "data", "'data' is missing and may not be"),
            bad(1, "data", ONES),
            bad(3, "data", ONES),
        ],
    ),
    RowCase("booleans", "identity-bool", [{"x": [True, False]}], [[True, False]]),
    RowCase(
        "features of several datatypes",
        "mixed",
        [{"count": 2, "text": "ü", "loud": True}],
        [{"out": "ÜÜ", "length": 2}],
    ),
    RowCase(
        "a model without a batch axis",
        "fixed",
        [{"x": [1.0, 2.0, 4.0]}],
        [[[7.0, 1.0], [4.0, 3.0]]],
    ),
    RowCase(
        "numbers that JSON has no word for",
        "strange",
        [{"x": 1.0}],
        [[math.nan, math.inf, -math.inf, 1.0]],
        over_rest=[[None, None, None, 1.0]],
    ),
]

NOBODY = (ErrorCode.NOT_FOUND, "no such model or version is served here")
WRONG = ErrorCode.INVALID_ARGUMENT

ROW_REFUSALS: Sequence[RowRefusal] = [
    RowRefusal("an unknown model", "nobody", [loan()], *NOBODY),
    RowRefusal("an unknown version", "loan", [loan()], *NOBODY, version="9.9.9"),
    RowRefusal("an unknown alias", "loan", [loan()], *NOBODY, version="nothing"),
    RowRefusal("no rows", "loan", [], WRONG, "there are no rows"),
    RowRefusal("an empty row", "loan", [{}], WRONG, "'age' is missing and may not be", "age"),
    RowRefusal("a value outside its declared range", "loan", [loan(age=130.0)], WRONG, OUTSIDE, "age"),
    RowRefusal("bad rows only", "loan", [loan(age=130.0), loan(city="Genf")], WRONG, OUTSIDE, "age"),
    RowRefusal("a feature nobody asked for", "loan", [loan(more=1)], WRONG, STRANGER),
    RowRefusal(
        "a feature of another name",
        "loan",
        [loan(agee=1)],
        WRONG,
        "this model has no such feature; did you mean 'age'?",
    ),
    RowRefusal(
        "a boolean for a number", "loan", [loan(age=True)], WRONG, "'age' must be a number, not a boolean", "age"
    ),
    RowRefusal("a number for a text", "loan", [loan(city=1)], WRONG, "'city' must be text, not a number", "city"),
    RowRefusal(
        "a number for a boolean", "loan", [loan(member=1)], WRONG, "'member' must be a boolean, not a number", "member"
    ),
    RowRefusal("a list for a number", "loan", [loan(age=[1.0])], WRONG, "'age' must be a number, not a list", "age"),
    RowRefusal(
        "a float for an integer",
        "price",
        [{"rooms": 1.5, "area": 1.0}],
        WRONG,
        "'rooms' holds a number with a fraction or exponent, which is no INT64",
        "rooms",
    ),
    RowRefusal(
        "an integer out of range",
        "price",
        [{"rooms": 2**63, "area": 1.0}],
        WRONG,
        "'rooms' holds a number out of the range of INT64",
        "rooms",
    ),
    RowRefusal("a scalar for a tensor", "identity-int64", [{"x": 1}], WRONG, "'x' must be a list", "x"),
    RowRefusal(
        "a tensor of another shape", "identity-int64", [{"x": [1]}], WRONG, "'x' has shape [2] in a row, not [1]", "x"
    ),
    RowRefusal(
        "many rows for a model without a batch axis",
        "fixed",
        [{"x": [1.0, 2.0, 4.0]}] * 2,
        WRONG,
        "this model has no batch axis: it takes one row a request",
    ),
    RowRefusal("rows that the model itself refuses alone", "lengths", [{"data": b"\xff\xff"}], WRONG, ONES, "data"),
    RowRefusal("too many rows", "loan", [loan()] * 2001, ErrorCode.OUT_OF_RANGE, "more than 2000 rows in one request"),
    RowRefusal(
        "a model that fails",
        "broken",
        [{"a": 1.0, "b": 1.0}],
        ErrorCode.INTERNAL,
        "the model could not answer this request",
    ),
]
