"""The little of a server that the command line calls, with the standard library: it starts faster than any client."""

from __future__ import annotations

import json
import ssl
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from keelway.errors import FailedPrecondition, InvalidInput, KeelwayError, Unavailable

Rows = list[Any]


class Tls(NamedTuple):
    """Whom to trust, and what to show: files, or ``None`` for the system's authorities and for nothing. ``pinned``: the
    server has to show this very certificate, whatever its name; for the server that has it in its settings."""

    ca_certificate: str | None = None
    certificate: str | None = None
    private_key: str | None = None
    pinned: str | None = None

    def context(self) -> ssl.SSLContext:
        """``FailedPrecondition`` if a file cannot be used."""
        if bool(self.certificate) != bool(self.private_key):
            raise InvalidInput("--certificate and --private-key go together")
        try:
            context = ssl.create_default_context(cafile=self.ca_certificate or self.pinned or None)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.private_key)
        except OSError as error:
            raise FailedPrecondition(
                f"the files for TLS cannot be used: {error.strerror}", hint="they are PEM files"
            ) from None
        if self.pinned and not self.ca_certificate:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


class Server:
    """A server at ``base`` (``http://host:port``). ``timeout`` in seconds holds for each call, ``tls`` for https;
    ``key`` is the API key that goes with it, to this server alone and to none that it may lead to."""

    def __init__(self, base: str, timeout: float, tls: Tls, key: str = "") -> None:
        if not key.isascii() or not key.isprintable():
            raise InvalidInput("the API key is none", field="api-key")
        self._key = key
        if not base.startswith(("http://", "https://")):
            raise InvalidInput("an address starts with http:// or https://", hint="such as http://127.0.0.1:8080")
        self._base = base.rstrip("/")
        self._timeout = timeout
        self._context = tls.context() if base.startswith("https://") else None

    def healthy(self, kind: str) -> bool:
        """Whether ``/health/<kind>`` says yes. A server that is not there is not healthy. ``Unavailable`` if it is not
        trusted."""
        try:
            with self._open(f"{self._base}/health/{kind}") as answer:
                return bool(answer.status == 200)
        except URLError as error:
            self._check_trust(error)
            return False
        except (OSError, ValueError):
            return False

    def get(self, path: str) -> Any:
        return self._call(Request(self._base + path))  # noqa: S310 - checked above

    def post(self, path: str, document: Any) -> Any:
        """POST ``document`` as JSON. ``Unavailable`` if there is no server, ``KeelwayError`` with its words if it
        refuses."""
        body = json.dumps(document).encode()
        return self._call(Request(self._base + path, body, {"Content-Type": "application/json"}))  # noqa: S310

    def _open(self, request: Request | str) -> Any:
        return urlopen(request, timeout=self._timeout, context=self._context)  # noqa: S310 - checked above

    def _check_trust(self, error: OSError) -> None:
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise Unavailable(
                f"the certificate of {self._base} is not trusted",
                hint="name the file of its authority with --ca-certificate, and the server as its certificate does",
            ) from None

    def _call(self, request: Request) -> Any:
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        try:
            with self._open(request) as answer:
                return json.load(answer)
        except HTTPError as error:
            hint = "set KEELWAY_API_KEY, or --api-key-file" if error.code == HTTPStatus.UNAUTHORIZED else None
            raise KeelwayError(f"the server refused ({error.code}): {_detail(error)}", hint=hint) from None
        except (URLError, OSError) as error:
            self._check_trust(error)
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
