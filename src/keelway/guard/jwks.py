"""An issuer's public keys, fetched from where it publishes them: off the event loop, rarely, and kept while that fails.

One task fetches, so that however many tokens name an unknown key, it is asked once; those tokens wait for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from keelway.access import JwtSettings
from keelway.clock import Clock
from keelway.errors import InvalidInput

log = logging.getLogger("keelway.auth")

_LARGEST: Final = 256 * 1024
_MOST_KEYS: Final = 100
LEAST_RSA_BITS: Final = 2048


class PublishedKeys:
    """``by_id`` is replaced whole when the issuer's keys have changed; ``changed`` is called then."""

    def __init__(
        self,
        settings: JwtSettings,
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
        fetch: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        check_url(settings.jwks_url)
        self._settings = settings
        self._clock = clock
        self.changed = changed
        self._fetch = fetch or self._download
        self.by_id: Mapping[str, Any] = {}
        self.fetched = False
        self._tried_at = float("-inf")
        self._wanted: asyncio.Event | None = None
        #: One that has taken too long, and goes on: a thread cannot be stopped.
        self._late: asyncio.Task[Mapping[str, Any]] | None = None
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def may_help(self) -> bool:
        """Whether asking the issuer now could bring a key that is not known: it has not been asked just before."""
        return bool(self._waiting) or self._clock.monotonic() - self._tried_at >= self._settings.jwks_pause

    async def renewed(self) -> None:
        """Until the issuer has been asked, once for all who wait. Without ``follow`` nobody asks."""
        if not self.may_help or self._wanted is None:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._wanted.set()
        try:
            await waiter
        finally:  # who has given up is not kept until the issuer answers
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    async def follow(self) -> None:
        """Fetch the keys now, when they grow old, and when somebody waits for some; until cancelled."""
        self._wanted = wanted = asyncio.Event()
        try:
            while True:
                await self._try()
                wanted.clear()  # whoever has come meanwhile was served by that
                age = self._settings.jwks_ttl if self.fetched else self._settings.jwks_pause
                try:
                    await asyncio.wait_for(wanted.wait(), age)
                except TimeoutError:
                    continue
        finally:
            self._release()

    async def _try(self) -> None:
        fetching, self._late = self._late or asyncio.create_task(asyncio.to_thread(self._fetch)), None
        try:
            done, _ = await asyncio.wait((fetching,), timeout=self._settings.jwks_timeout)
            if not done:
                self._late = fetching
                raise TimeoutError
            keys = fetching.result()
        except asyncio.CancelledError:
            fetching.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the keys that there are go on
            log.warning("the keys of the tokens' issuer cannot be fetched: %s", type(error).__name__)
        else:
            self.fetched = True
            if _told(keys) != _told(self.by_id):
                self.by_id = keys
                self.changed()
        finally:
            self._tried_at = self._clock.monotonic()
            self._release()

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _download(self) -> Mapping[str, Any]:
        """Blocks. ``OSError`` or ``ValueError`` if there are no keys to be had."""
        request = Request(self._settings.jwks_url, headers={"Accept": "application/json"})  # noqa: S310 - checked
        timeout, now, body = self._settings.jwks_timeout, self._clock.monotonic, b""
        ends = now() + timeout
        try:
            answer = _opener().open(request, timeout=timeout)
        except HTTPError as error:
            error.close()
            raise
        with answer:
            # The timeout of a socket is for each piece of the answer, however small.
            while len(body) <= _LARGEST and (piece := answer.read1(_LARGEST)):
                body += piece
                if now() > ends:
                    raise TimeoutError
        if len(body) > _LARGEST:
            raise ValueError("more than the keys of an issuer")
        return parse_keys(json.loads(body))


class NamedKey:
    """One of the issuer's keys, and the signatures that it may be used for."""

    __slots__ = ("algorithm", "document", "key")

    def __init__(self, key: Any, algorithm: str, document: Mapping[str, Any]) -> None:
        self.key = key
        self.algorithm = algorithm
        self.document = document


def parse_keys(document: Any) -> Mapping[str, NamedKey]:
    """The keys of a JSON Web Key Set that signatures are checked by; a key without a ``kid`` has an empty one. What is
    no public key, or for something else, is left out. ``ValueError`` if it is no key set."""
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("no key set")
    found: dict[str, NamedKey] = {}
    for entry in document["keys"][:_MOST_KEYS]:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or "d" in entry:
            continue
        if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
            continue
        try:
            key = PyJWK(entry)
        except (PyJWTError, ValueError, TypeError, KeyError):
            continue
        if getattr(key.key, "key_size", LEAST_RSA_BITS) < LEAST_RSA_BITS and entry["kty"] == "RSA":
            continue
        found[str(entry.get("kid", ""))] = NamedKey(key.key, str(entry.get("alg", "")), entry)
    return found


def check_url(url: str) -> None:
    """``InvalidInput`` unless ``url`` is https, or http on this machine: who can change the keys on their way can make
    tokens."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        secure = parts.scheme == "https" and bool(host)
        local = parts.scheme == "http" and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        secure = local = False
    if not (secure or local):
        raise InvalidInput("jwt.jwks_url must begin with https://, or with http:// on loopback", field="jwt.jwks_url")


class _StaysWhereItIs(HTTPRedirectHandler):
    """Follows a redirect only to where the keys may be fetched from."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        try:
            check_url(newurl)
        except InvalidInput:
            raise URLError("a redirect to where no keys are fetched from") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    return build_opener(_StaysWhereItIs)


def _told(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: key.document for name, key in keys.items()}
