"""Clients in bad times: no server, a slow one, one that breaks off, one that is none. # G0 R5"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import numpy as np
import pytest
from tests.certificates import Authority
from tests.serving import Server, Shelf, free_port, score, wait_until

from keelway.client import AsyncClient, Client
from keelway.errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable

ROW = {"age": 1.0, "income": 2.0}
GRPC = {"address": "127.0.0.1:0"}
Peer = Callable[[socket.socket], None]


@contextmanager
def peers(*behaviours: Peer) -> Iterator[tuple[str, list[bytes]]]:
    """A server whose connections behave as said, one after another. Its URL, and the first bytes each was sent."""
    received: list[bytes] = []

    def serve() -> None:
        for behave in behaviours:
            connection, _ = listener.accept()
            with closing(connection):
                connection.settimeout(10.0)
                received.append(connection.recv(65536))
                behave(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10.0)
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", received
        thread.join(10.0)
        assert not thread.is_alive()


def answers(body: bytes, status: str = "200 OK", *headers: str) -> Peer:
    lines = [f"HTTP/1.1 {status}", *headers, f"content-length: {len(body)}", "connection: close", "", ""]
    return lambda connection: connection.sendall("\r\n".join(lines).encode() + body)


def breaks_off(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")


def resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


SERVER = answers(b'{"name": "keelway", "version": "1", "extensions": []}')


@pytest.mark.parametrize("fault", [breaks_off, resets], ids=lambda fault: fault.__name__)
def test_a_call_whose_connection_breaks_is_made_again(fault: Peer) -> None:
    with peers(fault, SERVER) as (url, received), Client(url) as client:
        assert client.server_metadata().name == "keelway"
    assert len(received) == 2


def test_it_is_not_where_that_is_unwanted() -> None:
    with (
        peers(breaks_off) as (url, _),
        Client(url, retry_broken=False) as client,
        pytest.raises(Unavailable, match="broke before the answer was whole"),
    ):
        client.server_metadata()


def test_a_server_that_says_when_to_come_again_is_given_that_time() -> None:
    busy = answers(b'{"error": "busy"}', "503 Service Unavailable", "retry-after: 1")
    with peers(busy, SERVER) as (url, _), Client(url) as client:
        began = time.monotonic()
        assert client.server_metadata().name == "keelway"
        assert time.monotonic() - began >= 1.0


def test_what_is_no_answer_of_keelways_is_said_to_be_none() -> None:
    for body in (b"<html>", b"[]", b"{}", b'{"name": 1}', b"\xff", b""):
        with (
            peers(answers(body)) as (url, _),
            Client(url) as client,
            pytest.raises(Unavailable, match="no answer of keelway's"),
        ):
            client.server_metadata()


def test_a_status_without_words_is_an_error_all_the_same() -> None:
    with (
        peers(answers(b"<html>", "400 Bad Request")) as (url, _),
        Client(url) as client,
        pytest.raises(InvalidInput, match="status 400"),
    ):
        client.server_metadata()


def test_a_server_that_says_nothing_costs_no_more_than_the_time_of_the_call() -> None:
    over = threading.Event()
    with peers(lambda connection: bool(over.wait(10.0)) and None) as (url, received), Client(url) as client:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="did not answer in the time"):
            client.server_metadata(timeout=0.2)
        assert time.monotonic() - began < 2.0
        over.set()
    (timeout,) = [line for line in received[0].split(b"\r\n") if line.lower().startswith(b"x-request-timeout")]
    assert 0.1 < float(timeout.partition(b":")[2]) <= 0.2


def test_a_server_that_drips_is_cut_off() -> None:
    def drips(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        try:
            for _ in range(100):
                connection.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            pass

    with peers(drips) as (url, _), Client(url) as client:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.server_metadata(timeout=0.3)
        assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_server_that_comes_back_is_found_again(protocol: str) -> None:
    ports = {"http": {"address": f"127.0.0.1:{free_port()}"}, "grpc": {"address": f"127.0.0.1:{free_port()}"}}
    scheme, section = ("http", "http") if protocol == "rest" else ("grpc", "grpc")
    with Client(f"{scheme}://{ports[section]['address']}", timeout=10.0) as client:
        for _ in range(2):
            with Server(Shelf().serve("m", score), **ports):
                # gRPC's library waits up to half a second before it looks again for a server that was gone.
                wait_until(lambda: answers_again(client), "the server to be found")
            with pytest.raises(Unavailable):
                client.predict("m", ROW, timeout=0.5)


def answers_again(client: Client) -> bool:
    try:
        return list(client.predict("m", ROW).predictions) == [3.0]
    except Unavailable:
        return False


def test_a_kept_connection_that_the_server_has_closed_is_replaced() -> None:
    with Server(Shelf().serve("m", score), http={"keep_alive_timeout": 0.2}) as server, Client(server.url) as client:
        assert list(client.predict("m", ROW).predictions) == [3.0]
        time.sleep(0.6)
        assert list(client.predict("m", ROW).predictions) == [3.0]


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_deadline_reaches_the_server(protocol: str) -> None:
    with Server(Shelf().serve("later", lambda: score(delay=5.0)), grpc=GRPC) as server:
        address = server.url if protocol == "rest" else f"grpc://{server.grpc}"
        with Client(address) as client, pytest.raises(DeadlineExceeded):
            client.predict("later", ROW, timeout=0.2)
        wait_until(lambda: server.in_flight() == 0, "the work to be dropped")


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_busy_server_is_asked_again_and_then_believed(protocol: str) -> None:
    with Server(Shelf().serve("later", lambda: score(delay=5.0)), grpc=GRPC, limits={"max_in_flight": 1}) as server:
        address = server.url if protocol == "rest" else f"grpc://{server.grpc}"

        async def scene() -> None:
            async with AsyncClient(address, retries=1) as client:
                first = asyncio.create_task(client.predict("later", ROW))
                await asyncio.to_thread(wait_until, server.in_flight, "the call")
                with pytest.raises(Unavailable) as refusal:
                    await client.predict("later", ROW, timeout=3.0)
                assert refusal.value.code == Overloaded.code
                first.cancel()

        asyncio.run(scene())
        assert server.metric("ml_requests_shed_total") == 2


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_cancelled_call_gives_its_connection_back(protocol: str) -> None:
    shelf = Shelf().serve("m", score).serve("later", lambda: score(delay=5.0))
    with Server(shelf, grpc=GRPC) as server:
        address = server.url if protocol == "rest" else f"grpc://{server.grpc}"

        async def scene() -> Sequence[float]:
            async with AsyncClient(address, max_connections=1) as client:
                call = asyncio.create_task(client.predict("later", ROW))
                await asyncio.to_thread(wait_until, server.in_flight, "the call")
                call.cancel()
                return (await client.predict("m", ROW, timeout=3.0)).predictions

        assert list(asyncio.run(scene())) == [3.0]
        wait_until(lambda: server.in_flight() == 0, "the cancelled call to end")


def test_threads_share_a_client_and_its_pool() -> None:
    with Server(Shelf().serve("m", score), grpc=GRPC) as server:
        for address in (server.url, f"grpc://{server.grpc}"):
            with Client(address, max_connections=2) as client:
                wrong: list[object] = []

                def ask(number: int, client: Client = client, wrong: list[object] = wrong) -> None:
                    for step in range(20):
                        row = np.array([[number, step]], np.float32)
                        if client.infer("m", {"input": row}).outputs["score"].tolist() != [number + step]:
                            wrong.append((number, step))

                threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(20.0)
                assert wrong == []


# Encrypted


def test_grpc_over_tls_with_a_certificate_of_the_clients_own(authority: Authority) -> None:
    certificate, key = authority.sign("server")
    files = {"tls_certificate": certificate, "tls_private_key": key, "tls_client_ca": authority.certificate}
    own, own_key = authority.sign("client")
    ca = str(authority.certificate)
    with Server(Shelf().serve("m", score), grpc={**GRPC, **{n: str(f) for n, f in files.items()}}) as server:
        address = f"grpcs://{server.grpc}"
        with Client(address, ca_certificate=ca, certificate=str(own), private_key=str(own_key)) as client:
            assert list(client.predict("m", ROW).predictions) == [3.0]
        with Client(address, ca_certificate=ca, retries=0) as stranger, pytest.raises(Unavailable):
            stranger.predict("m", ROW, timeout=2.0)


def test_rest_over_tls_trusts_the_authority_it_was_given_and_no_other(authority: Authority) -> None:
    certificate, key = authority.sign("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def encrypted(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(65536)
            SERVER(secure)

    def accept(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            try:
                encrypted(connection)
            except ssl.SSLError:
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        with Client(url, ca_certificate=str(authority.certificate)) as client:
            assert client.server_metadata().name == "keelway"
        with Client(url, retries=0) as stranger, pytest.raises(Unavailable):
            stranger.server_metadata()
        thread.join(10.0)


def test_a_token_and_headers_go_with_every_call() -> None:  # U1
    with peers(SERVER) as (url, received), Client(url, token="t0ken", headers={"X-Team": "risk"}) as client:
        client.server_metadata()
    head = received[0].lower()
    assert b"authorization: bearer t0ken\r\n" in head
    assert b"x-team: risk\r\n" in head
