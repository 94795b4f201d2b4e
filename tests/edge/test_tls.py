"""TLS on both ports: what is agreed on, who is let in, who is cut off, and files that change. # R1 U1"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.certificates import Authority
from tests.serving import Server, Shelf, Wire, predict_bytes, request_bytes, score, wait_until
from tests.transports.grpc.test_server import INFER, Asker, infer_bytes
from tests.wire import PATIENCE

from keelway.access import TlsSettings
from keelway.edge import tls
from keelway.edge.http2.frames import PREFACE
from keelway.edge.tls import Certificates
from keelway.errors import FailedPrecondition

SETTINGS_FRAME = b"\0\0\0\x04\0\0\0\0\0"
#: Settings of a test that waits for new files to be seen.
SOON = 0.05


def trusting(authority: Authority, *protocols: str, show: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """A client's context that trusts ``authority``, offers ``protocols`` and shows the certificate ``show``."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if show is not None:
        context.load_cert_chain(*show)
    return context


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> dict[str, Any]:
    """The section ``tls`` with files of this test's own."""
    certificate, key = authority.sign("server", to=tmp_path)
    return {"certificate": str(certificate), "private_key": str(key), "poll_interval": SOON}


@pytest.fixture
def server(authority: Authority, files: dict[str, Any]) -> Iterator[Server]:
    http = {"header_timeout": 0.4, "max_connections": 8}
    with Server(Shelf().serve("m", score), trusting(authority), http=http, tls=files) as running:
        running.grpc = f"127.0.0.1:{running.port}"
        yield running


def credentials(authority: Authority, show: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
    certificate, key = (file.read_bytes() for file in show) if show else (None, None)
    return grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, certificate)


# What is agreed on


def test_both_protocols_are_spoken_over_tls_on_one_port(server: Server, authority: Authority) -> None:
    with server.wire() as wire:
        for _ in range(3):
            assert wire.ask(predict_bytes()).json["predictions"] == [3.0]
    with Asker(server, credentials(authority)) as asker:
        assert asker.infer().model_name == "m"


def test_a_port_of_grpcs_own_speaks_tls_too(authority: Authority, files: dict[str, Any]) -> None:
    with Server(Shelf().serve("m", score), trusting(authority), grpc={"address": "127.0.0.1:0"}, tls=files) as server:
        with Asker(server, credentials(authority)) as asker:
            assert asker.infer().model_name == "m"
        with Asker(server) as plain:
            assert plain.refusal(INFER, infer_bytes("m"), 2.0).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(("h2",), "h2"), (("http/1.1",), "http/1.1"), (("h2", "http/1.1"), "http/1.1"), (("spdy/1",), None)],
)
def test_what_the_greeting_agrees_on_is_spoken(
    server: Server, authority: Authority, offered: tuple[str, ...], agreed: str | None
) -> None:
    with Wire(server.port, context=trusting(authority, *offered)) as wire:
        assert isinstance(wire.socket, ssl.SSLSocket)
        assert wire.socket.selected_alpn_protocol() == agreed
        if agreed == "h2":
            wire.send(PREFACE + SETTINGS_FRAME)
            assert wire.socket.recv(1000)[3] == 4  # SETTINGS
        else:
            assert wire.ask(predict_bytes()).status == 200


def test_without_an_agreement_the_first_bytes_decide(server: Server) -> None:
    with server.wire() as wire:
        wire.send(PREFACE + SETTINGS_FRAME)
        assert wire.socket.recv(1000)[3] == 4


def test_who_agrees_on_one_and_speaks_the_other_is_refused_in_the_words_of_the_first(
    server: Server, authority: Authority
) -> None:
    with Wire(server.port, context=trusting(authority, "http/1.1")) as wire:
        wire.send(PREFACE + SETTINGS_FRAME)
        reply = wire.reply()
        assert reply is not None
        assert reply.status == 400
        assert wire.closed()
    with Wire(server.port, context=trusting(authority, "h2")) as wire:
        wire.send(predict_bytes())
        said = b"".join(iter(lambda: wire.socket.recv(1000), b""))
        assert b"HTTP/1.1" not in said
        assert said[-17 + 3 : -17 + 4] == b"\x07"  # GOAWAY, as the last frame
        assert said[-4:] == b"\0\0\0\x01"  # PROTOCOL_ERROR


def test_old_versions_of_tls_are_not_spoken(server: Server, authority: Authority) -> None:
    old = trusting(authority)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Wire(server.port, context=old)


def test_a_reply_that_comes_before_its_body_is_read_over_tls_too(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection has no half that could be closed: it is read on, and closed when the body has come."""
    with server.wire() as wire:
        wire.send(request_bytes("POST", "/v1/models/m/predict", b"", ("Content-Length", "999999999"), length=False))
        wire.send(b"x" * 1000)
        reply = wire.reply()
        assert reply is not None
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        for _ in range(10):
            wire.send(b"x" * 1000)
    assert server.get("/health/live").status == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# Who is cut off


def test_a_handshake_that_never_ends_is_cut_off(server: Server) -> None:  # R3
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as peer:
        begun = time.monotonic()
        assert peer.recv(10) == b""
        assert 0.3 < time.monotonic() - begun < 5.0


@pytest.mark.parametrize(
    "said", [predict_bytes(), PREFACE + SETTINGS_FRAME, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 512]
)
def test_who_does_not_speak_tls_is_closed_and_not_kept(server: Server, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as peer:
        peer.sendall(said)
        begun = time.monotonic()
        try:
            while peer.recv(1000):
                pass
        except ConnectionError:
            pass
        assert time.monotonic() - begun < 0.3
    assert server.get("/health/live").status == 200


def test_handshakes_under_way_count_as_connections(server: Server) -> None:  # R3
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(8)]
    time.sleep(0.1)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.wire()
    for peer in silent:
        peer.close()
    wait_until(lambda: _answers(server), "room for others")


def _answers(server: Server) -> bool:
    try:
        return server.get("/health/live").status == 200
    except OSError:
        return False


def test_a_handshake_under_way_does_not_hold_up_the_end(authority: Authority, files: dict[str, Any]) -> None:
    with (
        Server(Shelf().serve("m", score), trusting(authority), tls=files) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as peer,
    ):
        time.sleep(0.1)
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 3.0
        assert peer.recv(10) == b""


def test_idle_and_closed_connections_leave_nothing_open(server: Server) -> None:
    for _ in range(4):
        with server.wire() as wire:
            assert wire.ask(predict_bytes()).status == 200
    assert server.app._server is not None
    connections = server.app._server.server_state.connections
    wait_until(lambda: not connections, "the connections to be forgotten")


# Who is let in


def let_in(server: Server, context: ssl.SSLContext) -> bool:
    """Whether a request is answered. Of TLS 1.3 a client hears with its first answer that it is not trusted."""
    try:
        with Wire(server.port, context=context) as wire:
            wire.send(predict_bytes())
            return wire.reply() is not None
    except OSError:
        return False


def test_only_clients_of_the_authority_come_in_where_it_is_required(
    authority: Authority, files: dict[str, Any]
) -> None:
    files["client_ca"] = str(authority.certificate)
    known = authority.sign("client")
    context = trusting(authority, show=known)
    with Server(Shelf().serve("m", score), context, tls=files) as server:
        server.grpc = f"127.0.0.1:{server.port}"
        with server.wire() as wire:
            assert wire.ask(predict_bytes()).status == 200
        with Asker(server, credentials(authority, known)) as asker:
            assert asker.infer().model_name == "m"
        with Asker(server, credentials(authority)) as stranger:
            assert stranger.refusal(INFER, infer_bytes("m"), 2.0).code() is grpc.StatusCode.UNAVAILABLE
        assert not let_in(server, trusting(authority))


def test_where_it_is_optional_others_come_in_too_but_not_with_another_certificate(
    authority: Authority, files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    files |= {"client_ca": str(authority.certificate), "client_certificates": "optional"}
    other = Authority(tmp_path_factory.mktemp("other"))
    with Server(Shelf().serve("m", score), trusting(authority), tls=files) as server:
        with server.wire() as wire:
            assert wire.ask(predict_bytes()).status == 200
        assert not let_in(server, trusting(authority, show=other.sign("client")))


# Files


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"private_key": "nowhere.key"}, "tls.private_key cannot be read: No such file"),
        ({"certificate": "nowhere.pem"}, "tls.certificate cannot be read"),
        ({"private_key": ""}, "tls.certificate needs its key"),
        ({"certificate": ""}, "tls.private_key needs a certificate"),
        ({"client_ca": "nowhere.pem"}, "tls.client_ca cannot be read"),
        ({"client_ca": __file__}, "tls.client_ca holds no certificates"),
        ({"certificate": __file__}, "tls.certificate holds no certificate"),
        ({"private_key": __file__}, "do not go together"),
    ],
)
def test_files_that_cannot_be_used_stop_the_start_and_say_which(
    files: dict[str, Any], change: dict[str, str], words: str
) -> None:
    server = Server(Shelf().serve("m", score), tls={**files, **change})
    with pytest.raises(FailedPrecondition, match=words), server:
        pass


def test_a_key_with_a_passphrase_stops_the_start_and_asks_nobody(files: dict[str, Any], tmp_path: Path) -> None:
    import subprocess

    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "pkey", "-in", files["private_key"], "-out", locked, "-aes256", "-passout", "pass:secret"],
        check=True,
    )
    with pytest.raises(FailedPrecondition) as refusal, Server(Shelf(), tls={**files, "private_key": str(locked)}):
        pass
    assert "passphrase" in (refusal.value.hint or "")


def shown(server: Server) -> bytes:
    """The certificate that a new connection gets."""
    with server.wire() as wire:
        assert isinstance(wire.socket, ssl.SSLSocket)
        certificate = wire.socket.getpeercert(binary_form=True)
        assert certificate
        return certificate


def test_new_connections_get_a_new_certificate_and_those_there_are_stay(
    server: Server, authority: Authority, files: dict[str, Any], tmp_path: Path
) -> None:
    before = shown(server)
    expired = server.metric("ml_tls_certificate_expiry_timestamp_seconds", certificate="server")
    assert 0 < expired - time.time() <= 86400
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    certificate, key = authority.sign("server", days=30, to=fresh)
    with server.wire() as old, Asker(server, credentials(authority)) as asker:
        assert old.ask(predict_bytes()).status == 200
        asker.infer()
        # As a chain and its key are renewed by most: one after the other, by renaming.
        key.rename(files["private_key"])
        time.sleep(2 * SOON)
        assert shown(server) == before
        certificate.rename(files["certificate"])
        wait_until(lambda: shown(server) != before, "the new certificate")
        assert old.ask(predict_bytes()).status == 200
        asker.infer()
    wait_until(
        lambda: server.metric("ml_tls_certificate_expiry_timestamp_seconds") > expired + 86400 * 20, "its expiry"
    )


def test_a_broken_file_keeps_the_certificate_in_use_and_is_said_once(
    server: Server, files: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "keelway.edge")
    before, key = shown(server), Path(files["private_key"])
    kept = tmp_path / "kept"
    shutil.copy(key, kept)
    key.write_text("sentinel-4711")
    wait_until(lambda: "the certificate in use stays" in caplog.text, "the words of it")
    time.sleep(4 * SOON)
    assert shown(server) == before
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "\n" not in errors[0].getMessage()
    assert "sentinel" not in caplog.text
    key.unlink()
    wait_until(lambda: "cannot be read" in caplog.text, "the words of a file that is gone")
    kept.rename(key)
    wait_until(lambda: "again those of the certificate in use" in caplog.text, "the end of it")


def test_without_tls_no_expiry_is_shown() -> None:
    with Server(Shelf().serve("m", score)) as server:
        assert b"ml_tls_certificate_expiry_timestamp_seconds{" not in server.get("/metrics").body


# Headers


@pytest.mark.parametrize(("host", "said"), [("models.internal", True), ("localhost", False), ("127.0.0.1", False)])
def test_browsers_are_told_to_stay_with_tls_where_the_host_has_a_name_of_its_own(
    authority: Authority, files: dict[str, Any], host: str, said: bool
) -> None:
    http = {"allowed_hosts": ["models.internal"]}
    with Server(Shelf().serve("m", score), trusting(authority), http=http, tls=files) as server:
        page = server.get("/docs", Host=host)
        assert page.status == 200
        assert ("strict-transport-security" in page.headers) is said
        assert "strict-transport-security" not in server.get("/v1/models", Host=host).headers


def test_every_reply_says_that_its_type_is_what_it_says() -> None:
    with Server(Shelf().serve("m", score)) as server, server.wire() as wire:
        page = wire.ask(request_bytes("GET", "/docs"))
        assert "strict-transport-security" not in page.headers
        replies = [
            page,
            wire.ask(predict_bytes()),  # the fast lane
            wire.ask(predict_bytes(path="/v1/models/nobody/predict")),
            wire.ask(predict_bytes(("Content-Type", "text/plain"))),
            wire.ask(request_bytes("GET", "/nowhere")),
            wire.ask(request_bytes("GET", "/health/live")),
            wire.ask(b"GET / HTTP/9.9\r\n\r\n"),
        ]
    assert {reply.status for reply in replies} == {200, 400, 404, 415}
    assert all(reply.headers["x-content-type-options"] == "nosniff" for reply in replies)


class Renewals:
    """``Certificates`` that are looked at by hand. ``taken`` has the expiry of each certificate."""

    def __init__(self, files: dict[str, Any]) -> None:
        self.taken: list[float] = []
        self.certificates = Certificates(TlsSettings(**files), self.taken.append)

    def looked(self, times: int = 2) -> int:
        """Look, and how often a certificate was taken since the start."""
        for _ in range(times):
            self.certificates.look()
        return len(self.taken) - 1


def test_a_file_of_the_same_time_and_size_in_the_same_place_is_a_new_one(
    authority: Authority, files: dict[str, Any], tmp_path: Path
) -> None:
    # As a backup that is written over it, by whoever keeps times.
    # Signatures differ in length by a byte or two, so that it takes a few to find two of one size.
    pairs: dict[tuple[int, ...], tuple[Path, Path]] = {}
    while True:
        one = authority.sign("server", to=_made(tmp_path / str(len(pairs))))
        other = pairs.setdefault(_sizes(one), one)
        if other is not one:
            break
    places = [Path(files["certificate"]), Path(files["private_key"])]
    for source, place in zip(one, places, strict=True):
        place.write_bytes(source.read_bytes())
    renewals = Renewals(files)
    for source, place in zip(other, places, strict=True):
        before = place.stat()
        place.write_bytes(source.read_bytes())
        os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert renewals.looked() == 1


def test_a_folder_that_a_link_leads_to_is_changed_as_a_secret_of_kubernetes_is(
    authority: Authority, files: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("..first", "..second"):
        authority.sign("tls", to=_made(tmp_path / "secret" / name))
    data = tmp_path / "secret" / "..data"
    data.symlink_to("..first")
    for end in ("pem", "key"):
        (tmp_path / "secret" / f"tls.{end}").symlink_to(f"..data/tls.{end}")
    files |= {"certificate": str(tmp_path / "secret/tls.pem"), "private_key": str(tmp_path / "secret/tls.key")}
    renewals = Renewals(files)
    assert renewals.looked() == 0
    (tmp_path / "secret" / "..next").symlink_to("..second")
    (tmp_path / "secret" / "..next").rename(data)
    assert renewals.looked() == 1
    assert renewals.looked() == 1


def test_files_are_taken_when_they_are_as_they_were_at_the_last_look(
    authority: Authority, files: dict[str, Any], tmp_path: Path
) -> None:
    # A file of authorities, half written, is one of fewer authorities.
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(authority.certificate.read_bytes())
    renewals = Renewals({**files, "client_ca": str(bundle)})
    for _ in range(3):
        bundle.write_bytes(bundle.read_bytes() + authority.certificate.read_bytes())
        assert renewals.looked(1) == 0
    assert renewals.looked(1) == 1


def test_files_that_change_while_they_are_read_are_not_taken(
    authority: Authority, files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewals = Renewals(files)
    certificate, key = authority.sign("server", to=_made(tmp_path / "fresh"))
    certificate.rename(files["certificate"])
    key.rename(files["private_key"])
    contexts_of = tls.contexts_of

    def changed(settings: TlsSettings) -> tls.Contexts:
        contexts = contexts_of(settings)
        Path(settings.certificate).write_text("half of it")
        return contexts

    monkeypatch.setattr(tls, "contexts_of", changed)
    before = renewals.certificates.http()
    assert renewals.looked(3) == 0
    assert renewals.certificates.http() is before


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _sizes(pair: tuple[Path, Path]) -> tuple[int, ...]:
    return tuple(file.stat().st_size for file in pair)
