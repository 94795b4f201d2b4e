"""The little of a server that the command line calls, with the standard library: it starts faster than any client."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from keelway.errors import InvalidInput, KeelwayError, Unavailable

Rows = list[Any]


class Server:
    """A server at ``base`` (``http://host:port``). ``timeout`` in seconds holds for each call; ``key`` is the API key
    that goes with it, to this server alone and to none that it may lead to."""

    def __init__(self, base: str, timeout: float, key: str = "") -> None:
        if not key.isascii() or not key.isprintable():
            raise InvalidInput("the API key is none", field="api-key")
        self._key = key
        if not base.startswith(("http://", "https://")):
            raise InvalidInput("an address starts with http:// or https://", hint="such as http://127.0.0.1:8080")
        self._base = base.rstrip("/")
        self._timeout = timeout

    def healthy(self, kind: str) -> bool:
        """Whether ``/health/<kind>`` says yes. A server that is not there is not healthy."""
        try:
            with urlopen(f"{self._base}/health/{kind}", timeout=self._timeout) as answer:  # noqa: S310 - checked above
                return bool(answer.status == 200)
        except (OSError, ValueError):
            return False

    def get(self, path: str) -> Any:
        return self._call(Request(self._base + path))  # noqa: S310 - checked above

    def post(self, path: str, document: Any) -> Any:
        """POST ``document`` as JSON. ``Unavailable`` if there is no server, ``KeelwayError`` with its words if it
        refuses."""
        body = json.dumps(document).encode()
        return self._call(Request(self._base + path, body, {"Content-Type": "application/json"}))  # noqa: S310

    def _call(self, request: Request) -> Any:
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        try:
            with urlopen(request, timeout=self._timeout) as answer:  # noqa: S310 - checked above
                return json.load(answer)
        except HTTPError as error:
            hint = "set KEELWAY_API_KEY, or --api-key-file" if error.code == HTTPStatus.UNAUTHORIZED else None
            raise KeelwayError(f"the server refused ({error.code}): {_detail(error)}", hint=hint) from None
        except (URLError, OSError) as error:
            raise Unavailable(
                f"no server answers at {self._base}", hint="start one with keelway serve, or check the address"
            ) from error
        except ValueError:
            raise Unavailable(f"{self._base} does not answer in JSON", hint="is it a keelway server?") from None


def _detail(error: HTTPError) -> str:
    try:
        document = json.load(error)
        return str(document.get("detail") or document.get("error") or error.reason)
    except (ValueError, AttributeError):
        return str(error.reason)
