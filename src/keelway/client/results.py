"""What the calls answer: frozen values, the same over REST and gRPC. They compute nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from keelway.errors import KeelwayError
from keelway.types import Array, TensorSpec


class Predictions(msgspec.Struct, frozen=True, kw_only=True):
    """One entry for each row, in the order they were sent.

    ``predictions`` holds the predicted label or number, or the output of a model without such a meaning (an object by
    output name where it has several). It is ``None`` where ``errors``, by position, says why there is none.
    ``probabilities`` are in the order of ``labels``; they and ``confidence``, the probability of the prediction, are
    empty for a model that gives none. A number that is not finite is ``None``: ``infer`` carries those.

    ``digest`` is that of the model that answered. ``time`` is RFC 3339 in UTC. ``flags`` name what lies outside of what
    the sample showed, such as ``out_of_range:age``.
    """

    model: str
    version: str
    digest: str
    policy_revision: int
    request_id: str
    time: str
    predictions: tuple[Any, ...]
    labels: tuple[Any, ...] = ()
    probabilities: tuple[Sequence[float | None] | None, ...] = ()
    confidence: tuple[float | None, ...] = ()
    errors: Mapping[int, KeelwayError] = {}
    flags: tuple[str, ...] = ()


class Inference(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Tensors by output name, in the order asked for; BYTES are object arrays of ``bytes``.

    The arrays may be views into the answer and are then not writable; copy one to change it. ``id`` is the caller's,
    ``request_id`` the server's; the rest is as in ``Predictions``.
    """

    model: str
    version: str
    digest: str
    policy_revision: int
    request_id: str
    outputs: Mapping[str, Array]
    id: str = ""
    flags: tuple[str, ...] = ()


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The tensors of a model, the versions of it that are served, and the digest that answers."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    digest: str
    policy_revision: int


class ServerMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """``extensions`` of the Open Inference Protocol: each transport names its own."""

    name: str
    version: str
    extensions: tuple[str, ...]


def confidence_of(
    predictions: Sequence[Any], labels: Sequence[Any], probabilities: Sequence[Sequence[float | None] | None]
) -> tuple[float | None, ...]:
    """The probability of each predicted label; ``None`` where the two do not belong together."""
    places = {label: place for place, label in enumerate(labels) if not isinstance(label, list)}
    return tuple(
        row[places[label]]
        if row is not None and len(row) == len(places) and not isinstance(label, list) and label in places
        else None
        for label, row in zip(predictions, probabilities, strict=True)
    )
