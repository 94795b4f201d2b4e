"""What the clients for threads and for asyncio share: arguments checked, the protocol of the address, the retry budget.

It makes the steps of a call; the clients take them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

from keelway.client.attempts import Call, Steps, attempts
from keelway.client.options import Options, check_timeout, endpoint_of
from keelway.client.protocol import WireProtocol
from keelway.client.results import Inference, ModelMetadata, Predictions, ServerMetadata
from keelway.client.retries import RetryBudget, RetryPolicy
from keelway.client.values import check_name, check_texts, plain_rows, tensors_of
from keelway.clock import Clock, SystemClock
from keelway.errors import FailedPrecondition
from keelway.types import Array

Result = TypeVar("Result")
Rows = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Calling:
    """``draw`` is random, from 0 to 1."""

    def __init__(
        self,
        url: str,
        options: Options,
        clock: Clock | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.options = options
        self.endpoint = endpoint_of(url, options)
        self._clock = clock or SystemClock()
        self._draw = draw
        self._policy = RetryPolicy(options.retries, options.resend)
        self._budget = RetryBudget()
        self._protocol = self._make_protocol()

    def connections(self, kind: str) -> Any:
        """``Connections`` or ``AsyncConnections`` of the address's protocol."""
        module = _module("over_httpx" if self.endpoint.is_rest else "over_grpc")
        return getattr(module, kind)(self.endpoint, self.options, self._clock)

    def predict(self, model: str, rows: Rows, version: str | None, timeout: float | None) -> Steps[Predictions]:
        return self._steps(
            self._protocol.predict(check_name(model, "model"), plain_rows(rows), _version(version)), timeout
        )

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None,
        version: str | None,
        id: str,
        timeout: float | None,
    ) -> Steps[Inference]:
        wanted = check_texts(outputs or (), "outputs")
        check_texts((id,), "id")
        call = self._protocol.infer(check_name(model, "model"), tensors_of(inputs), wanted, _version(version), id)
        return self._steps(call, timeout)

    def metadata(self, model: str, version: str | None, timeout: float | None) -> Steps[ModelMetadata]:
        return self._steps(self._protocol.metadata(check_name(model, "model"), _version(version)), timeout)

    def ready(self, model: str | None, version: str | None, timeout: float | None) -> Steps[bool]:
        name = "" if model is None else check_name(model, "model")
        return self._steps(self._protocol.ready(name, _version(version)), timeout)

    def live(self, timeout: float | None) -> Steps[bool]:
        return self._steps(self._protocol.live(), timeout)

    def server_metadata(self, timeout: float | None) -> Steps[ServerMetadata]:
        return self._steps(self._protocol.server_metadata(), timeout)

    def _steps(self, call: Call[Result], timeout: float | None) -> Steps[Result]:
        seconds = self.options.timeout if timeout is None else check_timeout(timeout)
        return attempts(call, self.endpoint.text, seconds, self._policy, self._budget, self._clock, self._draw)

    def _make_protocol(self) -> WireProtocol:
        address = self.endpoint.text
        if self.endpoint.is_rest:
            made: WireProtocol = _module("rest").RestProtocol(address)
        else:
            made = _module("rpc").RpcProtocol(address, self.options.max_answer_bytes)
        return made


def _version(version: str | None) -> str:
    return "" if version is None else check_name(version, "version")


def _module(name: str) -> Any:
    """A module of this package, imported when its protocol is used: each has a library of its own."""
    try:
        return import_module(f"keelway.client.{name}")
    except ModuleNotFoundError as error:
        raise FailedPrecondition(f"the client needs {error.name}", hint='pip install "keelway[client]"') from None
