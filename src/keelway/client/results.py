"""What the client answers with: the same over REST and gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from keelway.errors import ErrorCode
from keelway.types import Array, TensorSpec


class RowError(msgspec.Struct, frozen=True):
    """Why one row was refused. ``field`` is the feature at fault, empty where none is known."""

    code: ErrorCode
    message: str
    field: str = ""


class Predictions(msgspec.Struct, frozen=True):
    """The answer to rows. Everything by row is in the order of the rows that were sent.

    ``predictions`` holds a class label or number for each row; the value of the only output, or a mapping of all, for a
    model whose outputs have no such meaning; ``None`` for a refused row, whose error stands in ``errors`` by position.
    ``probabilities`` are in the order of ``labels``, empty for a model without any; ``confidences`` are those of the
    predicted labels. ``time`` is RFC 3339, UTC.
    """

    model: str
    version: str
    digest: str
    policy_revision: int
    request_id: str
    time: str
    predictions: Sequence[Any]
    labels: Sequence[Any] = ()
    probabilities: Sequence[Sequence[float] | None] = ()
    confidences: Sequence[float | None] = ()
    errors: Mapping[int, RowError] = {}
    flags: Sequence[str] = ()


class Inference(msgspec.Struct, frozen=True):
    """The answer to tensors. ``outputs`` in the order asked for; BYTES are object arrays of ``bytes``."""

    model: str
    version: str
    digest: str
    policy_revision: int
    request_id: str
    id: str
    outputs: Mapping[str, Array]
    tags: Sequence[str] = ()


class ModelMetadata(msgspec.Struct, frozen=True):
    """What a model takes and gives. A packed input names its columns."""

    name: str
    versions: Sequence[str]
    platform: str
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    digest: str
    policy_revision: int


class ServerMetadata(msgspec.Struct, frozen=True):
    name: str
    version: str
    extensions: Sequence[str]


def confidence(label: Any, labels: Sequence[Any], probabilities: Sequence[float] | None) -> float | None:
    """The probability of ``label``; ``None`` where there is none."""
    if probabilities is None or label not in labels or len(labels) != len(probabilities):
        return None
    return probabilities[list(labels).index(label)]
