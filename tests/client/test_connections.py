"""Connections are kept, shared, counted and given back; and they are trusted only for a reason. # G0"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from tests.certificates import Authority
from tests.client.callers import Way, every_way
from tests.client.fakes import SLOW, Fake, FakeRest, FakeRpc
from tests.serving import wait_until

from keelway.client import AsyncClient, Client
from keelway.client.over_grpc import _Channels
from keelway.errors import DeadlineExceeded, FailedPrecondition, Unavailable

Files = tuple[Path, Path]


@every_way
def test_calls_one_after_another_share_a_connection(way: Way, fake: Fake) -> None:
    with way.client(fake.url) as client:
        for _ in range(5):
            client.server_metadata()
    assert len({seen.peer for seen in fake.seen}) == 1


@pytest.mark.parametrize("way", [Way("rest", False), Way("grpc", False)], ids=["rest", "grpc"])
def test_threads_share_a_client_and_open_no_more_connections_than_allowed(way: Way, fake: Fake) -> None:
    with way.client(fake.url, max_connections=2) as client, ThreadPoolExecutor(16) as threads:
        assert len(list(threads.map(lambda _: client.server_metadata(), range(200)))) == 200
    assert len(fake.seen) == 200
    assert len({seen.peer for seen in fake.seen}) <= 2


@pytest.mark.parametrize("way", [Way("rest", True), Way("grpc", True)], ids=["rest", "grpc"])
def test_tasks_share_a_client_and_open_no_more_connections_than_allowed(way: Way, fake: Fake) -> None:
    async def main() -> None:
        async with AsyncClient(fake.url, max_connections=2) as client:
            await asyncio.gather(*(client.server_metadata() for _ in range(64)))

    asyncio.run(main())
    assert len(fake.seen) == 64
    assert len({seen.peer for seen in fake.seen}) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("way", [Way("rest", False)], ids=["rest"])
def test_a_call_that_finds_no_connection_free_ends_at_its_deadline(way: Way, fake: Fake) -> None:
    fake.script = ["slow"]
    with way.client(fake.url, max_connections=1) as client:
        first = threading.Thread(target=client.server_metadata)
        first.start()
        wait_until(lambda: fake.seen, "the slow call")
        with pytest.raises(DeadlineExceeded, match="became free in time"):
            client.server_metadata(timeout=0.2)
        first.join()
    assert len(fake.seen) == 1


@pytest.mark.parametrize("way", [Way("rest", True), Way("grpc", True)], ids=["rest", "grpc"])
def test_a_cancelled_call_gives_its_connection_back_and_is_not_tried_again(way: Way, fake: Fake) -> None:
    async def main() -> float:
        async with AsyncClient(fake.url, max_connections=1) as client:
            call = asyncio.create_task(client.server_metadata())
            await asyncio.to_thread(wait_until, lambda: fake.seen, "the slow call")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            before = time.monotonic()
            await client.server_metadata(timeout=1.0)
            return time.monotonic() - before

    fake.script = ["slow"]
    assert asyncio.run(main()) < SLOW / 2
    assert len(fake.seen) == 2


def test_another_channel_is_opened_when_all_are_busy_up_to_the_limit() -> None:
    opened: list[str] = []

    def channel() -> str:
        opened.append(f"channel {len(opened)}")
        return opened[-1]

    channels = _Channels(channel, most=2)
    with ExitStack() as calls:
        taken = [calls.enter_context(channels.taken()) for _ in range(300)]
        assert taken[:100] == ["channel 0"] * 100
        assert taken[100:200] == ["channel 1"] * 100
        assert sorted(taken[200:]) == ["channel 0"] * 50 + ["channel 1"] * 50
    with channels.taken() as again:
        assert again == "channel 0"
    assert channels.all() == opened


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@contextmanager
def secure_server(way: Way, files: Files, clients: Path | None = None) -> Iterator[Fake]:
    """A fake that speaks TLS; with ``clients``, to clients of that authority alone."""
    made: Fake
    certificate, key = files
    if way.scheme == "rest":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        made = FakeRest(context)
    else:
        pair = (key.read_bytes(), certificate.read_bytes())
        authorities = clients.read_bytes() if clients is not None else None
        made = FakeRpc(grpc.ssl_server_credentials([pair], authorities, require_client_auth=clients is not None))
    try:
        yield made
    finally:
        made.close()


@every_way
def test_a_server_is_trusted_by_its_authority_and_not_otherwise(
    way: Way, authority: Authority, stranger: Authority
) -> None:
    with secure_server(way, authority.sign("server")) as fake:
        with way.client(fake.url, ca_certificate=authority.certificate) as client:
            assert client.server_metadata().name == "fake"
        for untrusting in ({}, {"ca_certificate": stranger.certificate}):
            with (
                way.client(fake.url, **untrusting) as client,
                pytest.raises(Unavailable, match="no trusted connection"),
            ):
                client.server_metadata(timeout=5.0)
    assert len(fake.seen) == 1


@pytest.mark.slow
@every_way
def test_a_client_shows_its_own_certificate_to_a_server_that_asks(way: Way, authority: Authority) -> None:
    certificate, key = authority.sign("client")
    with secure_server(way, authority.sign("server"), authority.certificate) as fake:
        trusting = {"ca_certificate": authority.certificate}
        with way.client(fake.url, certificate=certificate, private_key=key, **trusting) as client:
            assert client.server_metadata().name == "fake"
        with way.client(fake.url, **trusting) as client, pytest.raises(Unavailable):
            client.server_metadata(timeout=5.0)
    assert len(fake.seen) == 1


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_file_of_tls_that_cannot_be_read_is_said_before_any_call(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="ca_certificate"):
        Client(f"{scheme}://127.0.0.1:1", ca_certificate=tmp_path / "nothing.pem")
