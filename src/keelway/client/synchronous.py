"""The client for threads. Every decision is made elsewhere (``calling.py``); this takes the steps and waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from keelway.client.attempts import Send, Steps
from keelway.client.calling import Calling, Rows
from keelway.client.options import ClientOptions, Options
from keelway.client.results import Inference, ModelMetadata, Predictions, ServerMetadata
from keelway.errors import FailedPrecondition
from keelway.types import Array

Result = TypeVar("Result")


class Client:
    """Calls one server, at ``http://``, ``https://``, ``grpc://`` or ``grpcs://``. Make one and keep it: it holds the
    connections. Any number of threads may use it. ``with`` or ``close`` gives them back. For the options see
    ``ClientOptions``.

    One deadline holds for a whole call; each attempt tells the server what is left of it. Tried again is what is safe:
    a server that was not reached, or that said it is busy or not ready (REST 429 and 503, gRPC RESOURCE_EXHAUSTED and
    UNAVAILABLE), and, unless ``resend=False``, a request whose connection broke: no call here changes anything on the
    server, but a prediction may be made, and counted, twice. Never tried again is anything else. Pauses grow and are
    random, follow what the server asks for, and never pass the deadline; when most calls fail, retries stop.

    Errors are the server's, as classes of ``keelway.errors``: ``InvalidInput``, ``NotFound``, ``RateLimited``,
    ``Unavailable`` (busy, not ready or not there) and others. ``DeadlineExceeded``: the time is up. ``InvalidInput`` is
    also raised for arguments that cannot be sent.
    """

    def __init__(self, url: str, **options: Unpack[ClientOptions]) -> None:
        self._calling = Calling(url, Options(**options))
        self._connections = self._calling.connections("Connections")
        self._pause: Callable[[float], None] = time.sleep
        self._closed = False

    def predict(
        self, model: str, rows: Rows, *, version: str | None = None, timeout: float | None = None
    ) -> Predictions:
        """The predictions for ``rows``: mappings from feature name to value, or one of them for one row.

        Rows succeed or fail one by one; ``InvalidInput`` if all fail. ``version`` is a version or an alias, by default
        the model's default. NaN and ``None`` are missing values.
        """
        return self._run(self._calling.predict(model, rows, version, timeout))

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        id: str = "",
        timeout: float | None = None,
    ) -> Inference:
        """The output tensors for ``inputs``, by the Open Inference Protocol: arrays of the model's own shapes and
        dtypes, as ``metadata`` names them. Text and ``bytes`` are BYTES. It succeeds or fails as a whole.

        ``outputs`` are the names wanted, by default all. ``id`` comes back with the answer.
        """
        return self._run(self._calling.infer(model, inputs, outputs, version, id, timeout))

    def metadata(self, model: str, version: str | None = None, *, timeout: float | None = None) -> ModelMetadata:
        """The tensors of ``model``, and what of it is served."""
        return self._run(self._calling.metadata(model, version, timeout))

    def ready(self, model: str | None = None, version: str | None = None, *, timeout: float | None = None) -> bool:
        """Whether the server, or one model of it, can answer. ``False`` too where nobody does; asked once."""
        return self._run(self._calling.ready(model, version, timeout))

    def live(self, *, timeout: float | None = None) -> bool:
        """Whether there is a server. ``False`` where nobody answers; asked once."""
        return self._run(self._calling.live(timeout))

    def server_metadata(self, *, timeout: float | None = None) -> ServerMetadata:
        """Name, version and protocol extensions of the server."""
        return self._run(self._calling.server_metadata(timeout))

    def close(self) -> None:
        """Close every connection. Calls after it raise ``FailedPrecondition``."""
        self._closed = True
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Steps[Result]) -> Result:
        if self._closed:
            raise FailedPrecondition("the client is closed")
        reply: Any = None
        try:
            while True:
                step = steps.send(reply)
                if isinstance(step, Send):
                    reply = self._connections.send(step.request, step.seconds)
                else:
                    reply = None
                    self._pause(step.seconds)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
