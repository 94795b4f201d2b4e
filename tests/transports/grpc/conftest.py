"""A bare connection to the gRPC port of whatever ``server`` a module starts."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from tests.serving import Server

from keelway.edge.http2.frames import PREFACE, settings_frame


@pytest.fixture
def peer(server: Server) -> Iterator[socket.socket]:
    host, _, port = server.grpc.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as opened:
        opened.sendall(PREFACE + settings_frame(()))
        yield opened
