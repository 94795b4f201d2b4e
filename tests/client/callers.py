"""The four ways to call: (REST, gRPC) x (threads, asyncio), behind one interface, so that each test runs over all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from keelway.client import AsyncClient, Client


class Blocking:
    """An ``AsyncClient`` on a loop of its own, called as a ``Client``."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self.client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return lambda *arguments, **keywords: self._runner.run(method(*arguments, **keywords))

    def close(self) -> None:
        self._runner.run(self.client.aclose())
        self._runner.close()


class Way(NamedTuple):
    """``rest`` or ``grpc``, and whether asyncio."""

    scheme: str
    asynchronous: bool

    @contextmanager
    def client(self, url: str, **options: Any) -> Iterator[Any]:
        client = Blocking(url, **options) if self.asynchronous else Client(url, **options)
        try:
            yield client
        finally:
            client.close()


WAYS = [Way(scheme, asynchronous) for scheme in ("rest", "grpc") for asynchronous in (False, True)]


def name_of(way: Way) -> str:
    return f"{way.scheme}-{'async' if way.asynchronous else 'sync'}"


every_way = pytest.mark.parametrize("way", WAYS, ids=name_of)
