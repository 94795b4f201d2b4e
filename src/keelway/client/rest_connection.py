"""Sending calls over REST: httpx, with a pool of kept connections. Blocking and awaiting."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import httpx
import orjson

from keelway.client.exchange import Call, Reply
from keelway.client.options import Options
from keelway.client.refusals import connection_broke, no_server, refusal, time_is_over
from keelway.clock import Clock
from keelway.errors import ErrorCode, KeelwayError

#: What a status means where the body does not say.
_CODES: Mapping[int, ErrorCode] = {
    400: ErrorCode.INVALID_ARGUMENT,
    401: ErrorCode.UNAUTHENTICATED,
    403: ErrorCode.PERMISSION_DENIED,
    404: ErrorCode.NOT_FOUND,
    408: ErrorCode.DEADLINE_EXCEEDED,
    409: ErrorCode.FAILED_PRECONDITION,
    413: ErrorCode.OUT_OF_RANGE,
    429: ErrorCode.RESOURCE_EXHAUSTED,
    499: ErrorCode.CANCELLED,
    501: ErrorCode.UNIMPLEMENTED,
    502: ErrorCode.UNAVAILABLE,
    503: ErrorCode.UNAVAILABLE,
    504: ErrorCode.DEADLINE_EXCEEDED,
}


class RestConnection:
    """``address`` is the URL of the server. Threads may share it."""

    def __init__(self, address: str, options: Options, clock: Clock) -> None:
        self._address = address
        self._clock = clock
        self._client = httpx.Client(**_arguments(address, options))

    def send(self, call: Call[Any], timeout: float) -> Reply:
        """The reply, within ``timeout`` seconds. A server that goes on sending a little at a time is cut off between
        two parts of its answer."""
        deadline = self._clock.monotonic() + timeout
        try:
            with self._client.stream(**_request(call, timeout)) as response:
                parts = []
                for part in response.iter_bytes():
                    parts.append(part)
                    if self._clock.monotonic() > deadline:
                        return Reply(error=time_is_over(self._address))
                return _reply(response, b"".join(parts))
        except httpx.HTTPError as error:
            return _failed(error, self._address)

    def close(self) -> None:
        self._client.close()


class AsyncRestConnection:
    """The same, to be awaited."""

    def __init__(self, address: str, options: Options, clock: Clock) -> None:
        self._address = address
        self._client = httpx.AsyncClient(**_arguments(address, options))

    async def send(self, call: Call[Any], timeout: float) -> Reply:
        try:
            response = await self._client.request(**_request(call, timeout))
            return _reply(response, response.content)
        except httpx.HTTPError as error:
            return _failed(error, self._address)

    async def close(self) -> None:
        await self._client.aclose()


def _arguments(address: str, options: Options) -> dict[str, Any]:
    return {
        "base_url": address,
        "headers": options.sent_headers(),
        "verify": _tls(options) if address.startswith("https://") else True,
        "limits": httpx.Limits(
            max_connections=options.max_connections, max_keepalive_connections=options.max_connections
        ),
        # A proxy from the environment is no place for predictions: it would see every row.
        "trust_env": False,
    }


def _tls(options: Options) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.ca_certificate)
    if options.certificate is not None:
        context.load_cert_chain(options.certificate, options.private_key)
    return context


def _request(call: Call[Any], timeout: float) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": call.path,
        "content": call.body or None,
        "headers": {**call.headers, "x-request-timeout": f"{timeout:.3f}"},
        "timeout": timeout,
    }


def _reply(response: httpx.Response, body: bytes) -> Reply:
    headers = dict(response.headers)
    if response.status_code < 300:
        return Reply(body, headers)
    return Reply(body, headers, _refusal(response.status_code, body, headers))


def _refusal(status: int, body: bytes, headers: Mapping[str, str]) -> KeelwayError:
    """The error in a reply, in whichever form its route has."""
    try:
        document = orjson.loads(body)
        message = str(document.get("detail") or document["error"])
        code, field = document.get("code"), document.get("field")
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        message, code, field = f"the server answered with status {status}", None, None
    known = code in ErrorCode.__members__
    fallback = ErrorCode.INTERNAL if status >= 500 else ErrorCode.INVALID_ARGUMENT
    retry_after = headers.get("retry-after", "")
    return refusal(
        ErrorCode(code) if known else _CODES.get(status, fallback),
        message,
        str(field) if field else None,
        float(retry_after) if retry_after.isdigit() else None,
    )


def _failed(error: httpx.HTTPError, address: str) -> Reply:
    if isinstance(error, httpx.ConnectError):
        return Reply(error=no_server(address))
    if isinstance(error, httpx.TimeoutException):
        return Reply(error=time_is_over(address))
    return Reply(error=connection_broke(address), broken=True)
