"""What every client of the conformance suite is: an interface, what it answers, and how the datatypes travel as bytes.

The clients themselves, which nobody here wrote, are behind it in ``rest_clients.py``, ``grpc_clients.py`` and
``process_clients.py``; ``ways.py`` lists them. A new transport joins the suite as one more ``Client``.
"""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from tests.conformance.cases import DTYPES, Case

from keelway.errors import ErrorCode
from keelway.types import Array

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the client's own
    from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

#: How tensors travel: as JSON, as bytes behind JSON, in typed lists, as raw bytes beside a message.
Encoding = Literal["json", "binary", "typed", "raw"]

#: What an HTTP status stands for. A gRPC status has the name of the code.
CODES: Mapping[int, ErrorCode] = {
    400: ErrorCode.INVALID_ARGUMENT,
    403: ErrorCode.PERMISSION_DENIED,
    404: ErrorCode.NOT_FOUND,
    413: ErrorCode.OUT_OF_RANGE,
    500: ErrorCode.INTERNAL,
    501: ErrorCode.UNIMPLEMENTED,
}


class Addresses(NamedTuple):
    """Where the server is: a URL, and host and port. Over TLS there is a file of authorities to trust."""

    http: str
    grpc: str
    trust: Path | None = None

    def context(self) -> ssl.SSLContext | None:
        """What a client in Python needs for TLS."""
        return ssl.create_default_context(cafile=str(self.trust)) if self.trust else None

    def secured(self, *protocols: str) -> ssl.SSLContext | None:
        """The same, offering ``protocols``."""
        context = self.context()
        if context is not None:
            context.set_alpn_protocols(protocols)
        return context


class Output(NamedTuple):
    name: str
    datatype: str
    array: Array


class Answered(NamedTuple):
    model: str
    version: str
    id: str
    outputs: Sequence[Output]


class Refused(Exception):
    """The server said no. ``message`` is the text in the transport's form of an error."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Options(NamedTuple):
    """What a call may have besides its message. ``timeout`` in seconds; binary metadata is ``bytes`` under a name that
    ends in ``-bin``; ``gzip``: the request is compressed."""

    timeout: float = 20.0
    metadata: Sequence[tuple[str, str | bytes]] = ()
    gzip: bool = False


PLAIN = Options()


class Client(Protocol):
    """One that infers."""

    def infer(self, case: Case, request_id: str) -> Answered: ...

    def close(self) -> None: ...


class Caller(Client, Protocol):
    """One over gRPC."""

    def infer(self, case: Case, request_id: str, options: Options = PLAIN) -> Answered: ...


class Beginner(Caller, Protocol):
    """One that can leave a call under way, and follow a stream."""

    def begin(self, case: Case) -> Callable[[], None]:
        """Begin a call; what is returned cancels it."""

    def at_once(self, case: Case, count: int) -> Sequence[Answered]:
        """The answers to ``count`` calls under way at the same time, on one connection."""

    def watch(self, service: str) -> Iterator[str]:
        """The statuses that ``grpc.health.v1.Health/Watch`` says, as they come; closed, it cancels the call."""


class Described(NamedTuple):
    """A model's metadata; a tensor is its name, datatype and shape."""

    name: str
    versions: Sequence[str]
    inputs: Sequence[tuple[str, str, Sequence[int]]]
    outputs: Sequence[tuple[str, str, Sequence[int]]]


class Operator(Client, Protocol):
    """One that asks about the server too. A model that is not there is not ready, however a transport says so."""

    def live(self) -> bool: ...

    def ready(self) -> bool: ...

    def model_ready(self, model: str, version: str) -> bool: ...

    def server(self) -> tuple[str, str, Sequence[str]]:
        """Name, version and extensions."""

    def model(self, model: str, version: str) -> Described: ...

    def index(self) -> Sequence[tuple[str, str, str]]:
        """Name, version and state of each model."""

    def load(self, model: str) -> None: ...

    def unload(self, model: str) -> None: ...


def raw(array: Array) -> bytes:
    if array.dtype == np.object_:
        return serialize_byte_tensor(array).item() if array.size else b""  # type: ignore[no-any-return]
    return array.tobytes()


def from_raw(data: bytes, datatype: str) -> Array:
    if datatype == "BYTES":
        return deserialize_bytes_tensor(data)  # type: ignore[no-any-return]
    return np.frombuffer(data, dtype=DTYPES[datatype])


def described(document: Mapping[str, Any]) -> Described:
    """A model's metadata as JSON has it. Some clients write 64-bit numbers as text."""
    tensors = [
        [(tensor["name"], tensor["datatype"], [int(size) for size in tensor["shape"]]) for tensor in document[side]]
        for side in ("inputs", "outputs")
    ]
    return Described(document["name"], document["versions"], *tensors)
