"""The reference page of gRPC lists exactly what the server answers."""

from __future__ import annotations

import asyncio
from typing import Any

from keelway.cli.grpc_reference import METHODS, grpc_page, methods
from keelway.config import LimitSettings, Settings
from keelway.guard.auth import OpenToAll
from keelway.observe.request_ids import RequestIds
from keelway.transports.grpc.lane import GrpcLane


def test_every_method_is_described_and_no_other() -> None:
    assert {path for path, _, _ in methods()} == METHODS.keys()
    assert all(f"`{path}`" in grpc_page() for path in METHODS)


def test_the_server_answers_every_method_and_no_other() -> None:
    class Plane:
        """What the calls are made with; none is made here."""

    async def answered() -> set[str]:
        nothing: Any = Plane()
        server = GrpcLane(Settings(limits=LimitSettings()), nothing, nothing, RequestIds(), lambda: True, OpenToAll())
        return {path.removeprefix("/") for path in server.methods}

    alias = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    assert asyncio.run(answered()) == METHODS.keys() | {alias}
