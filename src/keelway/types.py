"""The values that travel between stages: tensors and their descriptions, requests, responses, principals, records.

Frozen and typed. Nothing here parses, validates or computes; that is the business of the stages. The classes are
``msgspec.Struct`` because some are made once per request and a frozen dataclass costs several times as much; those are
kept from the garbage collector (``gc=False``), as they cannot be part of a cycle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Open Inference Protocol datatype -> NumPy dtype, little-endian where the width allows. BYTES is an object array
#: whose elements are ``bytes`` or ``str``.
NUMPY_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}

_DATATYPES: Final = {dtype: name for name, dtype in NUMPY_DTYPES.items()}


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The Open Inference Protocol datatype of a NumPy dtype; strings of any kind are BYTES. ``KeyError`` if there is
    none (complex, datetime)."""
    if dtype.kind in "OUS":
        return "BYTES"
    return _DATATYPES[dtype.newbyteorder("<")]


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input or output tensor of a model.

    ``shape`` includes the batch axis as -1, and any other axis of variable length as -1 too. ``columns`` names the
    columns of a packed tensor of shape [-1, n], in order; it is empty for a tensor that is not packed.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """A named array. Its shape is the array's; ``datatype`` is the protocol's word for the dtype."""

    name: str
    datatype: str
    data: Array


class Priority(IntEnum):
    """Whose turn it is first. A ``BATCH`` request takes what interactive ones leave, and is refused before them."""

    INTERACTIVE = 0
    BATCH = 1


class WireTensor(msgspec.Struct, frozen=True, gc=False):
    """A tensor as a caller sent it: described, not yet checked against any model.

    ``data`` is a flat or nested list (JSON) or an array of the stated dtype and shape (binary).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any


class RequestedOutput(msgspec.Struct, frozen=True, gc=False):
    """An output the caller named, and whether it wants it as raw bytes."""

    name: str
    binary: bool = False


class TensorRequest(msgspec.Struct, frozen=True, gc=False):
    """A request in tensors (Open Inference Protocol). Atomic: it succeeds or fails as a whole.

    ``outputs`` empty means all. ``binary_outputs`` is the default for outputs that do not say. ``model`` and
    ``selector`` are what the body names, in a format that names the model there (gRPC)."""

    inputs: Sequence[WireTensor]
    outputs: Sequence[RequestedOutput] = ()
    id: str = ""
    binary_outputs: bool = False
    model: str = ""
    selector: str | None = None


class RowRequest(msgspec.Struct, frozen=True, gc=False):
    """A request in rows, for people: each row is a mapping of feature name to value, or a list in the model's order.

    Rows succeed or fail one by one unless ``atomic``. ``model`` and ``selector`` are as in ``TensorRequest``.
    """

    rows: Sequence[Any]
    atomic: bool = False
    model: str = ""
    selector: str | None = None


class ColumnRequest(msgspec.Struct, frozen=True, gc=False):
    """A request in columns (TensorFlow Serving's and MLflow's ``inputs``): name -> list of values, or one bare list."""

    columns: Mapping[str, Any] | Sequence[Any]


InferenceRequest = TensorRequest | RowRequest | ColumnRequest


class BoundRequest(msgspec.Struct, frozen=True, gc=False):
    """A request fitted to one model: what the runtime will be given.

    ``inputs`` maps the model's tensor names to arrays. ``rows`` is the number of rows in them (``None`` for a model
    without a batch axis). ``row_errors`` maps the position of each refused row, in the caller's order, to its error;
    ``positions`` lists the caller's positions of the rows that are in ``inputs`` (``None``: all of them, in order).
    ``tags`` are flags such as ``out_of_range:age`` or ``clipped:age``; they refuse nothing. ``anomalies`` maps a
    detector to the number of rows it has found anomalous, told to the caller or not.
    """

    inputs: Mapping[str, Array]
    rows: int | None
    row_errors: Mapping[int, Exception] = {}
    positions: Sequence[int] | None = None
    tags: Sequence[str] = ()
    anomalies: Mapping[str, int] = {}


class OutputRoles(msgspec.Struct, frozen=True):
    """Which outputs carry the predicted value and the probabilities, and the class labels in the order of the latter.

    All empty for a model whose outputs have no such meaning."""

    label: str = ""
    probabilities: str = ""
    labels: Sequence[Any] = ()


class InferenceResponse(msgspec.Struct, frozen=True, gc=False):
    """What one version of one model answered.

    ``outputs`` are in the order asked for. ``rows``, ``row_errors`` and ``positions`` are as in ``BoundRequest``;
    ``outputs`` hold only the rows that were run. ``served_at`` is in seconds since the Unix epoch, ``latency`` in
    seconds from the whole request read to its outputs there.
    """

    model: str
    version: str
    model_digest: str
    policy_revision: int
    request_id: str
    served_at: float
    outputs: Sequence[Tensor]
    roles: OutputRoles = OutputRoles()
    rows: int | None = None
    row_errors: Mapping[int, Exception] = {}
    positions: Sequence[int] | None = None
    tags: Sequence[str] = ()
    latency: float = 0.0


class Principal(msgspec.Struct, frozen=True):
    """Who is asking. ``name`` says how that was proved too: ``key:nightly``, ``jwt:alice``. ``scopes`` are words such
    as ``predict:*``, ``predict:lead-scoring`` (names with ``_`` as ``-``) or ``admin``, which holds all others.
    Principals of different ``tenant`` never get each other's cached answers."""

    name: str
    scopes: frozenset[str] = frozenset()
    tenant: str | None = None

    def may(self, action: str, model: str) -> bool:
        """Whether ``action`` (``predict``, ``feedback``) is allowed with ``model``, a name as its caller wrote it."""
        scopes = self.scopes
        if f"{action}:*" in scopes or "admin" in scopes:
            return True
        return f"{action}:{model.replace('_', '-')}" in scopes

    def sees(self, model: str) -> bool:
        """Whether it may know that there is ``model``: whoever may do anything with it."""
        return self.may("predict", model) or self.may("feedback", model)

    def holds(self, scope: str) -> bool:
        """Whether it has a scope that is of no model, such as ``metrics``."""
        return scope in self.scopes or "admin" in self.scopes


#: The principal of a server without credentials configured. What it may do beyond asking is up to the settings.
ANONYMOUS: Final = Principal("anonymous", frozenset({"admin"}))


class StoredKey(msgspec.Struct, frozen=True):
    """An API key as it is stored: what it is worth, and not the key. ``id`` is its public part, ``digest`` the keyed
    hash of the whole in hexadecimal digits, ``expires_at`` in seconds since the Unix epoch."""

    id: str
    name: str
    digest: str
    scopes: tuple[str, ...]
    tenant: str | None = None
    expires_at: float | None = None


class AuditEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the audit log. Holds no credential, and no value of the caller's but who it has proved to be.

    ``time`` is seconds since the Unix epoch; ``who`` the principal, empty where nobody was proved; ``peer`` the address
    of the connection; ``action`` what was tried, such as ``authenticate`` or ``load``; ``outcome`` ``done``,
    ``refused`` or ``failed``; ``target`` the model or key; ``suppressed`` how many like it were left out before it.
    """

    time: float
    action: str
    outcome: str
    who: str = ""
    peer: str = ""
    target: str = ""
    reason: str = ""
    suppressed: int = 0


class Peer(msgspec.Struct, frozen=True):
    """The other end of a connection, made once for each. ``address`` is that of its socket, without the port; empty
    where there is none. ``identities`` are those of the certificate that it has proved to hold, such as
    ``DNS:batch.internal`` or, where it has no alternative name, ``CN=batch``; none without one."""

    address: str
    identities: tuple[str, ...] = ()


#: Whoever calls without a network.
NOBODY: Final = Peer("")


class InferenceRecord(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One answered request, as the control plane sees it. Holds no value of the caller's.

    ``time`` is seconds since the Unix epoch; durations are in seconds. ``cached`` says that no run of the model was
    this request's own. ``tags`` are those of the answer, and what detectors have found that it does not say.
    """

    request_id: str
    time: float
    model: str
    version: str
    model_digest: str
    policy_revision: int
    transport: str
    principal: str
    code: str
    rows: int
    duration: float
    tags: Sequence[str] = ()
    cached: bool = False
